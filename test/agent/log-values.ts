import { join } from 'node:path';
import { decodeRecords } from '../../lib/log/batch-reader.ts';
import type { Log } from '../../lib/log/log.ts';
import { openLog } from '../../lib/registry.ts';

/** The values of a topic of the `file:` log in `dir`, partition by partition. */
export async function valuesIn(dir: string, topic: string): Promise<Record<string, number>[]> {
  const log = await openLog(`file:${join(dir, 'log')}`);
  try {
    return await valuesOf(log, topic);
  } finally {
    await log.close();
  }
}

export async function valuesOf(log: Log, topic: string): Promise<Record<string, number>[]> {
  const found: Record<string, number>[] = [];
  const partitions = (await log.topic(topic))?.partitions ?? 0;
  for (let partition = 0; partition < partitions; partition += 1) {
    let { earliest: offset } = await log.offsets(topic, partition);
    for (;;) {
      const result = await log.fetch({ topic, partition, offset, maxBytes: 1e6, maxWaitMs: 0 });
      if (result.batches.length === 0) break;
      for (const { value } of result.batches.flatMap((batch) => decodeRecords(batch, topic))) {
        found.push(JSON.parse(String(value)) as Record<string, number>);
      }
      offset = result.nextOffset;
    }
  }
  return found;
}
