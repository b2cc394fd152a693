/**
 * Produce v8 (idempotent, not transactional) for one batch of one partition, and InitProducerId v1.
 *
 *    Produce request   transactionalId STRING null | acks INT16 -1 | timeoutMs INT32
 *                      | 1 topic { name, 1 partition { partition INT32, length INT32, the batch } }
 *    answer            topics { name, partitions { partition INT32, error INT16, baseOffset INT64, logAppendTimeMs INT64, logStartOffset INT64,
 *                               recordErrors { index INT32, message STRING }, message STRING } } | throttleMs INT32
 *
 * One batch a request: a broker answers two batches of one partition with INVALID_RECORD, and the batches of several partitions would
 * share the fate of the slowest.
 */
import { INIT_PRODUCER_ID, PRODUCE, readOnlyPartition, type ApiRequest } from './request.ts';
import { WireWriter } from './wire.ts';

const ALL_IN_SYNC = -1;
/** Kafka bounds transactions by it; an idempotent producer has none, the field must only be valid. */
const TRANSACTION_TIMEOUT_MS = 60_000;

export interface ProduceAnswer {
  readonly error: number;
  readonly baseOffset: bigint;
  /** What the broker says about the batch or its first bad record. */
  readonly message: string | null;
}

export function produceRequest(
  topic: string,
  partition: number,
  batch: Uint8Array,
  timeoutMs: number,
): ApiRequest<ProduceAnswer> {
  const head = new WireWriter().string(null).int16(ALL_IN_SYNC).int32(timeoutMs);
  head.int32(1).string(topic).int32(1).int32(partition).int32(batch.length);
  return {
    api: PRODUCE,
    body: [head.finish(), batch],
    decode: (reader, throttle) => {
      const answer = readOnlyPartition(reader, topic, partition, () => {
        const error = reader.int16();
        const baseOffset = reader.int64();
        reader.int64();
        reader.int64();
        const [record] = reader.array(() => ({ index: reader.int32(), message: reader.nullableString() }));
        const message = reader.nullableString();
        const ofRecord = record === undefined ? null : `record ${record.index}: ${record.message ?? 'refused'}`;
        return { error, baseOffset, message: ofRecord ?? message };
      });
      throttle(reader.int32());
      reader.end();
      return answer;
    },
  };
}

export interface ProducerIdAnswer {
  readonly error: number;
  readonly producerId: bigint;
  readonly producerEpoch: number;
}

/** transactionalId STRING null | transactionTimeoutMs INT32 -> throttleMs INT32 | error INT16 | producerId INT64 | epoch INT16 */
export function initProducerIdRequest(): ApiRequest<ProducerIdAnswer> {
  return {
    api: INIT_PRODUCER_ID,
    body: [new WireWriter().string(null).int32(TRANSACTION_TIMEOUT_MS).finish()],
    decode: (reader, throttle) => {
      throttle(reader.int32());
      const answer = { error: reader.int16(), producerId: reader.int64(), producerEpoch: reader.int16() };
      reader.end();
      return answer;
    },
  };
}
