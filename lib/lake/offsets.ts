/**
 * How far a dataset has landed: one record per partition, true by definition, because it changes in the same minitransaction as
 * the table.
 *
 *   {VOLUME}offsets:<dataset> / <partition>     { "topicId", "next", "leaderEpoch", "lander" } as JSON
 *
 * `next` is the offset of the first record that has not landed; it means something only together with the topic's id. `lander` is who
 * lands the partition (landers.ts): taking a partition writes the record, so that whoever had it before fails in its compares.
 */
import { z } from 'zod';
import { PenstockError } from '../errors.ts';
import type { Compare, Key, MetaEngine, Version, Write } from '../meta/engine.ts';

const recordSchema = z.object({
  topicId: z.string(),
  next: z.int().min(0),
  leaderEpoch: z.int(),
  lander: z.string().optional(),
});

export type LandedOffset = z.output<typeof recordSchema>;

/** What was read, so that a commit can say: only if it is still so. */
export interface StoredOffset {
  readonly partition: number;
  readonly landed: LandedOffset | null;
  readonly version: Version | null;
}

export const offsetsBucket = (volume: string, dataset: string): string => `{${volume}}offsets:${dataset}`;

function offsetKey(volume: string, dataset: string, partition: number): Key {
  return { bucket: offsetsBucket(volume, dataset), field: String(partition) };
}

export async function readOffsets(
  engine: MetaEngine,
  volume: string,
  dataset: string,
  partitions: readonly number[],
): Promise<StoredOffset[]> {
  const stored = await engine.read(partitions.map((partition) => offsetKey(volume, dataset, partition)));
  return partitions.map((partition, index) => {
    const record = stored[index] ?? null;
    if (record === null) return { partition, landed: null, version: null };
    return { partition, landed: parse(record.value, dataset, partition), version: record.version };
  });
}

function parse(value: Buffer, dataset: string, partition: number): LandedOffset {
  try {
    return recordSchema.parse(JSON.parse(value.toString('utf8')));
  } catch (error) {
    throw new PenstockError('corrupt', `the landed offset of ${dataset}, partition ${partition}, is damaged`, {
      cause: error,
    });
  }
}

/** The parts of a minitransaction that move partitions from what was read to `next`. */
export function moveOffsets(
  volume: string,
  dataset: string,
  moves: readonly { readonly from: StoredOffset; readonly to: LandedOffset }[],
): { readonly compare: readonly Compare[]; readonly write: readonly Write[] } {
  return {
    compare: moves.map(({ from }) => ({ key: offsetKey(volume, dataset, from.partition), version: from.version })),
    write: moves.map(({ from, to }) => ({
      key: offsetKey(volume, dataset, from.partition),
      value: Buffer.from(JSON.stringify(to)),
    })),
  };
}
