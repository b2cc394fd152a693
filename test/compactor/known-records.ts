/**
 * Records that the test knows by their offsets, and a reader that checks a snapshot against them: no gap, no double, whatever is landed,
 * compacted, killed or on its way.
 */
import { expect } from 'vitest';
import { loadTable } from '../../lib/table/table.ts';
import type { TestRecord } from '../support/log-batches.ts';
import { DATASET, foreignRecord, HOUR_MS, readParquet, recordOf, type TestPipeline } from './pipeline.ts';

/** The n-th record of a partition: mostly a new reading, sometimes a repeat or one that fits nowhere. */
export function knownRecord(partition: number, n: number): TestRecord {
  if (n % 50 === 49) return foreignRecord(`bad ${n}`);
  const seq = n % 20 === 19 ? n - 7 : n;
  const value = { sensor: `s-${seq % 5}`, ts: HOUR_MS + (seq % 3) * 3_600_000, rms: seq / 4 };
  return recordOf({ agent: `edge-${partition}`, seq, value });
}

/** Files never change: what was read once need not be read again. */
export type KnownFiles = Map<string, readonly (readonly [partition: number, offset: number])[]>;

async function placesOf(lake: TestPipeline['lake'], location: string): Promise<[number, number][]> {
  const rows = await readParquet(lake, lake.store.keyOf(location) ?? '');
  return rows.map((row) => [Number(row['_log_partition']), Number(row['_offset'])]);
}

/** Every offset of the snapshot at most once, per partition; and what is missing is a repeat that was removed or a bad record. */
export async function checkSnapshot(
  { lake }: Pick<TestPipeline, 'lake'>,
  known: KnownFiles = new Map(),
): Promise<number> {
  const table = await loadTable(lake, DATASET);
  if (table === null) return 0;
  const offsets = new Map<number, number[]>();
  for await (const file of table.liveFiles()) {
    const places = known.get(file.location) ?? (await placesOf(lake, file.location));
    known.set(file.location, places);
    for (const [partition, offset] of places) {
      const found = offsets.get(partition);
      if (found === undefined) offsets.set(partition, [offset]);
      else found.push(offset);
    }
  }
  for (const found of offsets.values()) {
    const present = new Set(found);
    expect(present.size).toBe(found.length);
    const end = Math.max(-1, ...found);
    for (let n = 0; n <= end; n++) {
      if (n % 50 !== 49 && n % 20 !== 19 && !present.has(n)) throw new Error(`offset ${n} of ${end} is missing`);
    }
  }
  return [...offsets.values()].reduce((sum, found) => sum + found.length, 0);
}

/** Records whose identity an earlier record of the partition has, by the definition of `knownRecord`. */
export function countRepeats(count: number): number {
  const seen = new Set<number>();
  let repeats = 0;
  for (let n = 0; n < count; n++) {
    if (n % 50 === 49) continue;
    const seq = n % 20 === 19 ? n - 7 : n;
    if (seen.has(seq)) repeats++;
    seen.add(seq);
  }
  return repeats;
}
