/**
 * Fetch v11 of one partition without a fetch session, and ListOffsets v5.
 *
 *    Fetch request   replicaId INT32 -1 | maxWaitMs INT32 | minBytes INT32 | maxBytes INT32 | isolation INT8 0 | sessionId INT32 0
 *                    | sessionEpoch INT32 -1 | 1 topic { name, 1 partition { partition INT32, leaderEpoch INT32, offset INT64,
 *                      logStartOffset INT64 -1, maxBytes INT32 } } | 0 forgotten topics | rackId STRING
 *    answer          throttleMs INT32 | error INT16 | sessionId INT32
 *                    | topics { name, partitions { partition INT32, error INT16, highWatermark INT64, lastStableOffset INT64,
 *                        logStartOffset INT64, abortedTransactions { INT64, INT64 }, preferredReplica INT32, records BYTES } }
 *
 * `records` are whole batches, but for the last, which the broker cuts at maxBytes.
 */
import { THROTTLING_QUOTA_EXCEEDED } from './broker-errors.ts';
import { FETCH, LIST_OFFSETS, readOnlyPartition, readPartitionIfAny, type ApiRequest } from './request.ts';
import { WireWriter } from './wire.ts';

const CONSUMER = -1;
const READ_UNCOMMITTED = 0;
const NO_SESSION = { id: 0, epoch: -1 };

export interface FetchedPartition {
  readonly error: number;
  readonly highWatermark: bigint;
  readonly records: Buffer;
}

export interface PartitionFetch {
  readonly topic: string;
  readonly partition: number;
  readonly leaderEpoch: number;
  readonly offset: bigint;
  readonly maxBytes: number;
  readonly maxWaitMs: number;
}

export function fetchRequest(of: PartitionFetch): ApiRequest<FetchedPartition> {
  const writer = new WireWriter()
    .int32(CONSUMER)
    .int32(of.maxWaitMs)
    .int32(1)
    .int32(of.maxBytes)
    .int8(READ_UNCOMMITTED);
  writer.int32(NO_SESSION.id).int32(NO_SESSION.epoch);
  writer.int32(1).string(of.topic).int32(1).int32(of.partition).int32(of.leaderEpoch).int64(of.offset);
  writer.int64(-1n).int32(of.maxBytes).int32(0).string('');
  return {
    api: FETCH,
    body: [writer.finish()],
    decode: (reader, throttle) => {
      throttle(reader.int32());
      const error = reader.int16();
      reader.int32();
      // An answer about the whole request has no partitions.
      if (error !== 0) return { error, highWatermark: -1n, records: Buffer.alloc(0) };
      const answer = readPartitionIfAny(reader, of.topic, of.partition, () => {
        const partitionError = reader.int16();
        const highWatermark = reader.int64();
        reader.int64();
        reader.int64();
        reader.array(() => [reader.int64(), reader.int64()]);
        reader.int32();
        return { error: partitionError, highWatermark, records: reader.nullableBytes() };
      });
      reader.end();
      // Above the client's quota: the broker answers with the pause that it asks for, and with nothing else (KIP-219).
      return answer ?? { error: THROTTLING_QUOTA_EXCEEDED, highWatermark: -1n, records: Buffer.alloc(0) };
    },
  };
}

export const EARLIEST = -2n;
export const LATEST = -1n;

export interface OffsetAnswer {
  readonly error: number;
  readonly offset: bigint;
}

/**
 * replicaId INT32 -1 | isolation INT8 0 | 1 topic { name, 1 partition { partition INT32, leaderEpoch INT32 -1, timestamp INT64 } }
 * -> throttleMs INT32 | topics { name, partitions { partition INT32, error INT16, timestamp INT64, offset INT64, leaderEpoch INT32 } }
 */
export function listOffsetsRequest(topic: string, partition: number, timestamp: bigint): ApiRequest<OffsetAnswer> {
  const writer = new WireWriter().int32(CONSUMER).int8(READ_UNCOMMITTED);
  writer.int32(1).string(topic).int32(1).int32(partition).int32(-1).int64(timestamp);
  return {
    api: LIST_OFFSETS,
    body: [writer.finish()],
    decode: (reader, throttle) => {
      throttle(reader.int32());
      const answer = readOnlyPartition(reader, topic, partition, () => {
        const error = reader.int16();
        reader.int64();
        const offset = reader.int64();
        reader.int32();
        return { error, offset };
      });
      reader.end();
      return answer;
    },
  };
}
