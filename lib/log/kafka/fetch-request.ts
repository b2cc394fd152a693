/**
 * Fetch v13 of one partition without a fetch session, and ListOffsets v5.
 *
 *    Fetch request   replicaId INT32 -1 | maxWaitMs INT32 | minBytes INT32 | maxBytes INT32 | isolation INT8 | sessionId INT32 0
 *                    | sessionEpoch INT32 -1 | 1 topic { topicId UUID, 1 partition { partition INT32, leaderEpoch INT32, offset INT64,
 *                      lastFetchedEpoch INT32 -1, logStartOffset INT64 -1, maxBytes INT32, tags }, tags } | 0 forgotten topics
 *                    | rackId COMPACT_STRING | tags
 *    answer          throttleMs INT32 | error INT16 | sessionId INT32
 *                    | topics { topicId UUID, partitions { partition INT32, error INT16, highWatermark INT64, lastStableOffset INT64,
 *                        logStartOffset INT64, abortedTransactions { producerId INT64, firstOffset INT64, tags }, preferredReplica INT32,
 *                        records COMPACT_BYTES, tags }, tags } | tags
 *
 * `records` are whole batches, but for the last, which the broker cuts at maxBytes. With isolation 1 (READ_COMMITTED) they end at the last
 * stable offset, and `abortedTransactions` are those that overlap them; else both are absent (-1, null). A topic that was made anew under its name has
 * another id: nothing of it is ever answered to who asks for the one before.
 */
import type { Isolation } from '../log.ts';
import { THROTTLING_QUOTA_EXCEEDED } from './broker-errors.ts';
import type { AbortedTransaction } from './committed-batches.ts';
import { CONSUMER, FETCH, LIST_OFFSETS, readOnlyPartition, type ApiRequest } from './request.ts';
import { WireWriter, type WireReader } from './wire.ts';

const ISOLATION: Readonly<Record<Isolation, number>> = { uncommitted: 0, committed: 1 };
const NO_SESSION = { id: 0, epoch: -1 };
/** Lengths of compact arrays. */
const NONE = 1;
const ONE = 2;

export interface FetchedPartition {
  readonly error: number;
  readonly highWatermark: bigint;
  readonly lastStableOffset: bigint;
  readonly aborted: readonly AbortedTransaction[];
  readonly records: Buffer;
}

const NOTHING = { highWatermark: -1n, lastStableOffset: -1n, aborted: [], records: Buffer.alloc(0) };

export interface PartitionFetch {
  /** As in TopicMetadata. */
  readonly topicId: string;
  readonly partition: number;
  readonly leaderEpoch: number;
  readonly offset: bigint;
  readonly maxBytes: number;
  readonly maxWaitMs: number;
  readonly isolation: Isolation;
}

export function fetchRequest(of: PartitionFetch): ApiRequest<FetchedPartition> {
  const topicId = Buffer.from(of.topicId, 'base64url');
  const writer = new WireWriter()
    .int32(CONSUMER)
    .int32(of.maxWaitMs)
    .int32(1)
    .int32(of.maxBytes)
    .int8(ISOLATION[of.isolation]);
  writer.int32(NO_SESSION.id).int32(NO_SESSION.epoch).uvarint(ONE).bytes(topicId);
  writer
    .uvarint(ONE)
    .int32(of.partition)
    .int32(of.leaderEpoch)
    .int64(of.offset)
    .int32(-1)
    .int64(-1n)
    .int32(of.maxBytes);
  writer.noTaggedFields().noTaggedFields().uvarint(NONE).compactString('').noTaggedFields();
  return {
    api: FETCH,
    body: [writer.finish()],
    decode: (reader, throttle) => {
      throttle(reader.int32());
      const error = reader.int16();
      reader.int32();
      // An answer about the whole request has no partitions.
      if (error !== 0) return { error, ...NOTHING };
      const topics = reader.compactArray(() => {
        const isOurs = reader.uuid().equals(topicId);
        const partitions = reader.compactArray(() => readPartition(reader, of.partition));
        reader.taggedFields();
        return isOurs ? partitions : reader.flaw('it is about another topic');
      });
      reader.taggedFields();
      reader.end();
      const [answer, ...others] = topics.flat();
      if (others.length > 0) reader.flaw('it is about several partitions');
      // Above the client's quota: the broker answers with the pause that it asks for, and with nothing else (KIP-219).
      return answer ?? { error: THROTTLING_QUOTA_EXCEEDED, ...NOTHING };
    },
  };
}

function readPartition(reader: WireReader, partition: number): FetchedPartition {
  if (reader.int32() !== partition) reader.flaw('it is about another partition');
  const error = reader.int16();
  const highWatermark = reader.int64();
  const lastStableOffset = reader.int64();
  reader.int64();
  const aborted = reader.compactArray(() => {
    const [producerId, firstOffset] = [reader.int64(), reader.int64()];
    reader.taggedFields();
    return { producerId, firstOffset };
  });
  reader.int32();
  const records = reader.compactNullableBytes();
  reader.taggedFields();
  return { error, highWatermark, lastStableOffset, aborted, records };
}

export const EARLIEST = -2n;
export const LATEST = -1n;

export interface OffsetAnswer {
  readonly error: number;
  readonly offset: bigint;
}

/**
 * replicaId INT32 -1 | isolation INT8 | 1 topic { name, 1 partition { partition INT32, leaderEpoch INT32 -1, timestamp INT64 } }
 * -> throttleMs INT32 | topics { name, partitions { partition INT32, error INT16, timestamp INT64, offset INT64, leaderEpoch INT32 } }
 *
 * LATEST is the high watermark, or under `committed` the last stable offset.
 */
export function listOffsetsRequest(
  topic: string,
  partition: number,
  timestamp: bigint,
  isolation: Isolation,
): ApiRequest<OffsetAnswer> {
  const writer = new WireWriter().int32(CONSUMER).int8(ISOLATION[isolation]);
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
