/**
 * What a dataset's life adds up to, as numbers that every commit adds to in its own minitransaction:
 *
 *   {VOLUME}stats:<dataset> / landed        records taken from the log, quarantined ones included
 *                           / quarantined   records that did not fit
 *                           / lost          records that the log's retention removed before they were taken
 *                           / duplicates    rows that a compaction found to be repeats and left out
 *                           / removed       rows that retention or an erasure took out, or that a compaction left out because others deleted them
 *                           / files         that the lander wrote
 *                           / bytes         of these files
 *
 * Invariant, checked by the tests: landed = live rows + duplicates + quarantined + removed.
 */
import type { Key, MetaEngine, Patch } from '../meta/engine.ts';

const COUNTERS = ['landed', 'quarantined', 'lost', 'duplicates', 'removed', 'files', 'bytes'] as const;
export type Counter = (typeof COUNTERS)[number];

function counterKey(volume: string, dataset: string, counter: Counter): Key {
  return { bucket: `{${volume}}stats:${dataset}`, field: counter };
}

/** Zero amounts are left out. */
export function addToCounters(
  volume: string,
  dataset: string,
  amounts: Readonly<Partial<Record<Counter, number>>>,
): Patch[] {
  return COUNTERS.flatMap((counter) => {
    const amount = amounts[counter] ?? 0;
    return amount === 0 ? [] : [{ number: counterKey(volume, dataset, counter), add: BigInt(amount) }];
  });
}

export async function readCounters(
  engine: MetaEngine,
  volume: string,
  dataset: string,
): Promise<Readonly<Record<Counter, number>>> {
  const values = await engine.readNumbers(COUNTERS.map((counter) => counterKey(volume, dataset, counter)));
  const at = (index: number): number => Number(values[index] ?? 0n);
  return {
    landed: at(0),
    quarantined: at(1),
    lost: at(2),
    duplicates: at(3),
    removed: at(4),
    files: at(5),
    bytes: at(6),
  };
}
