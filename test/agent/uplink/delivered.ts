import { decodeRecords } from '../../../lib/log/batch-reader.ts';
import type { Log } from '../../../lib/log/log.ts';

export interface Delivered {
  readonly seq: number;
  readonly key: string | null;
  readonly partition: number;
  readonly producerId: bigint;
  readonly headers: Readonly<Record<string, string>>;
}

/** Everything that lies in the topic, partition by partition, in the order of the log. */
export async function delivered(log: Log, topic: string): Promise<Delivered[]> {
  const found: Delivered[] = [];
  const { partitions } = (await log.topic(topic)) ?? { partitions: 0 };
  for (let partition = 0; partition < partitions; partition++) {
    const { earliest, end } = await log.offsets(topic, partition);
    for (let next = earliest; next < end;) {
      const result = await log.fetch({ topic, partition, offset: next, maxBytes: 1 << 20, maxWaitMs: 0 });
      for (const batch of result.batches) {
        for (const record of decodeRecords(batch, topic)) {
          const headers = Object.fromEntries(record.headers.map(([name, value]) => [name, value?.toString() ?? '']));
          const producerId = batch.readBigInt64BE(43);
          found.push({
            seq: Number(headers['seq']),
            key: record.key?.toString() ?? null,
            partition,
            producerId,
            headers,
          });
        }
      }
      next = result.nextOffset;
    }
  }
  return found;
}

/** What is wrong with a delivery of readings 1 to `count`, as one text; empty when each is there once and sensors are in order. */
export function flaws(found: readonly Delivered[], count: number, except: readonly number[] = []): string {
  const seen = new Map<number, number>();
  const lastOf = new Map<string | null, number>();
  const problems: string[] = [];
  for (const { seq, key } of found) {
    seen.set(seq, (seen.get(seq) ?? 0) + 1);
    const last = lastOf.get(key) ?? 0;
    if (seq <= last) problems.push(`${key}: ${seq} behind ${last}`);
    lastOf.set(key, seq);
  }
  for (let seq = 1; seq <= count; seq++) {
    const times = seen.get(seq) ?? 0;
    if (times !== (except.includes(seq) ? 0 : 1)) problems.push(`${seq} is there ${times} times`);
  }
  if (found.length > count) problems.push(`${found.length} records`);
  return problems.slice(0, 10).join('; ');
}

/** The readings that lie behind a later one of their sensor. */
export function outOfOrder(found: readonly Delivered[]): number[] {
  const lastOf = new Map<string | null, number>();
  return found.flatMap(({ seq, key }) => {
    const last = lastOf.get(key) ?? 0;
    lastOf.set(key, Math.max(last, seq));
    return seq < last ? [seq] : [];
  });
}
