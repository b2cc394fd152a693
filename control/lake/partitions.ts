/** The partitions of a dataset's topic: what they hold, how far each has landed, and which lander lands it. */
import { landersBucket, parseLander } from '../../lib/lake/landers.ts';
import { readOffsets } from '../../lib/lake/offsets.ts';
import type { Log } from '../../lib/log/log.ts';
import type { LakeContext } from '../../lib/table/table.ts';

export interface PartitionState {
  readonly partition: number;
  /** The first record that the log still has. */
  readonly earliest: number;
  /** The next one to come. */
  readonly end: number;
  /** The first one that has not landed. */
  readonly landed: number;
  readonly unlanded: number;
  /** null: nobody lands it now. One that was killed stays named until another lander has missed it. */
  readonly lander: { readonly id: string; readonly host: string; readonly pid: number } | null;
}

/** Empty while there is no topic. */
export async function readPartitions(
  { engine, volume }: LakeContext,
  log: Log,
  dataset: { readonly name: string; readonly topic: string },
): Promise<PartitionState[]> {
  const topic = await log.topic(dataset.topic);
  if (topic === null) return [];
  const partitions = Array.from({ length: topic.partitions }, (_, partition) => partition);
  const stored = await readOffsets(engine, volume, dataset.name, partitions);
  const ids = [...new Set(stored.flatMap(({ landed }) => landed?.lander ?? []))];
  const records = await engine.read(ids.map((id) => ({ bucket: landersBucket(volume), field: id })));
  const landers = new Map<string, PartitionState['lander']>();
  for (const [index, id] of ids.entries()) {
    const record = records[index] == null ? null : parseLander(records[index].value);
    if (record !== null) landers.set(id, { id, host: record.host, pid: record.pid });
  }
  return Promise.all(
    stored.map(async ({ partition, landed: known }) => {
      const limits = await log.offsets(topic.name, partition);
      const [earliest, end] = [Number(limits.earliest), Number(limits.end)];
      const landed = known?.topicId === topic.id ? known.next : 0;
      const unlanded = Math.max(0, end - Math.max(landed, earliest));
      return { partition, earliest, end, landed, unlanded, lander: landers.get(known?.lander ?? '') ?? null };
    }),
  );
}
