/** A pipeline whose tables are in another program's catalog, and what must be true of it whenever nobody works on it. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'vitest';
import { readQuarantine } from '../../lib/lake/quarantine.ts';
import type { LakeContext } from '../../lib/table/table.ts';
import { ensureHourDirectories } from '../../lib/volume/lake-directories.ts';
import { VolumeKeys } from '../../lib/volume/keys.ts';
import { loadLive } from '../../lib/volume/listing-load.ts';
import { decodePointer } from '../../lib/volume/listing.ts';
import { collect } from '../support/collect.ts';
import {
  DATASET,
  expectAccounts,
  foreignRecord,
  HOUR_MS,
  liveFiles,
  openTestPipeline,
  readRows,
  recordOf,
  type TestPipeline,
} from './pipeline.ts';

const HOUR = HOUR_MS / 3_600_000;
export const PER_LANDING = 20;

/** `rest`: further keys of `catalog`. */
export async function openForeignPipeline(catalog: string, rest = ''): Promise<TestPipeline> {
  const pipeline = await openTestPipeline('', `catalog: { uri: '${catalog}'${rest === '' ? '' : `, ${rest}`} }`);
  writeFileSync(join(pipeline.dir, 'pipeline.yaml'), pipeline.yaml);
  return pipeline;
}

/** Readings of two hours, every tenth one a repeat of the one before, and one record that fits nowhere. */
export function records(from: number): ReturnType<typeof recordOf>[] {
  const readings = Array.from({ length: PER_LANDING }, (_, k) => {
    const seq = from + (k % 10 === 9 ? k - 1 : k);
    return recordOf({ seq, value: { sensor: `s-${seq % 4}`, ts: HOUR_MS + (seq % 2) * 3_600_000 + seq } });
  });
  return [...readings, foreignRecord('?')];
}
const isRepeat = (n: number): boolean => n % 10 === 9;

export async function listedNames(lake: LakeContext): Promise<string[]> {
  const keys = new VolumeKeys(lake.volume);
  const names: string[] = [];
  for (const directory of await ensureHourDirectories(lake.engine, keys, DATASET, [HOUR, HOUR + 1], 0)) {
    const [stored] = await lake.engine.read([keys.listingPointer(directory)]);
    if (stored == null) continue;
    const live = await loadLive(lake.engine, keys, directory, decodePointer(stored.value, directory));
    names.push(...(live ?? []).map(({ name }) => name));
  }
  return names.sort();
}

/** Rows, accounts, dead letters and directories say the same, and nothing is there twice. */
export async function expectWhole(lake: LakeContext, landings: number, compacted: boolean): Promise<void> {
  const sequences = (await readRows(lake)).map((row) => Number(row['_seq'])).sort((a, b) => a - b);
  const all = Array.from({ length: landings * PER_LANDING }, (_, n) => n);
  const expected = compacted ? all.filter((n) => !isRepeat(n)) : all.map((n) => (isRepeat(n) ? n - 1 : n));
  expect(sequences).toEqual(expected);
  await expectAccounts(lake, { landed: landings * (PER_LANDING + 1), quarantined: landings });
  const letters = await collect(readQuarantine(lake.engine, lake.volume, DATASET));
  expect(letters.reduce((sum, [, { records: count }]) => sum + count, 0)).toBe(landings);
  for (const [key] of letters) expect(await lake.store.head(key)).not.toBeNull();
  const names = (await liveFiles(lake)).map((location) => location.slice(location.lastIndexOf('/') + 1));
  expect(await listedNames(lake)).toEqual(names.sort());
}
