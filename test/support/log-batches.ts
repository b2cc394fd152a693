import { HeaderBlock, RecordBatchBuilder } from '../../lib/log/batch-builder.ts';
import { decodeRecords } from '../../lib/log/batch-reader.ts';
import type { FetchRequest, Log, LogProducer } from '../../lib/log/log.ts';
import { NO_PRODUCER, type ProducerIdentity } from '../../lib/log/record-batch.ts';

export interface TestRecord {
  readonly timestampMs: number;
  readonly key: Uint8Array | null;
  readonly value: Uint8Array | null;
  readonly headers: readonly (readonly [string, Uint8Array | null])[];
}

export function encodeBatch(
  records: readonly TestRecord[],
  identity: ProducerIdentity = NO_PRODUCER,
  compression: 'none' | 'zstd' = 'none',
): Buffer {
  const builder = new RecordBatchBuilder(2 ** 20);
  const block = new HeaderBlock(2 ** 16);
  const empty = block.mark();
  for (const record of records) {
    block.truncate(empty);
    for (const [name, value] of record.headers) block.add(name, value);
    if (!builder.add(record.timestampMs, record.key, record.value, block)) throw new RangeError('batch full');
  }
  return builder.seal(identity, compression);
}

export function textBatch(
  values: readonly string[],
  producer: Pick<LogProducer, 'producerId' | 'producerEpoch'>,
  baseSequence: number,
): Buffer {
  return encodeBatch(
    values.map((value) => ({ timestampMs: 1_700_000_000_000, key: null, value: Buffer.from(value), headers: [] })),
    { producerId: producer.producerId, producerEpoch: producer.producerEpoch, baseSequence },
  );
}

/** The values of a partition from its start (or `offset`) to its end, checking that offsets have no gaps. */
export async function readValues(log: Log, topic: string, partition: number, offset?: bigint): Promise<string[]> {
  const { earliest, end } = await log.offsets(topic, partition);
  const values: string[] = [];
  let next = offset ?? earliest;
  while (next < end) {
    const request: FetchRequest = { topic, partition, offset: next, maxBytes: 1 << 20, maxWaitMs: 0 };
    const result = await log.fetch(request);
    for (const record of result.batches.flatMap((batch) => decodeRecords(batch, `${topic}/${partition}`))) {
      if (record.offset < next) continue;
      if (record.offset !== next) throw new Error(`offset ${record.offset} where ${next} was expected`);
      values.push(record.value?.toString() ?? '');
      next++;
    }
    if (result.nextOffset !== next) throw new Error(`nextOffset ${result.nextOffset} instead of ${next}`);
  }
  return values;
}
