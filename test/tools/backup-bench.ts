/** What the tests of backups share. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'vitest';
import type { BackupOptions } from '../../fs-gateway/tools/backup.ts';
import type { Backup } from '../../lib/volume/backups.ts';
import { loadVolume } from '../../fs-gateway/tools/load.ts';
import { fetchBackup, fsckVolume } from '../../fs-gateway/tools/main.ts';
import { systemClock } from '../../lib/clock.ts';
import { openStore } from '../../lib/registry.ts';
import { caller, openTestVolume } from '../support/fs-volume.ts';
import type { TestVolume } from '../support/fs-volume.ts';
import { openBench } from './volume-bench.ts';
import type { VolumeBench } from './volume-bench.ts';
import { lookUp } from './volume-files.ts';

export const OPTIONS = { blockSize: '64KiB', inlineBytes: '100', grace: '0s' };
export const LARGE = Buffer.alloc(200_000, 'large ');

export interface Bench extends VolumeBench {
  readonly options: BackupOptions;
}

export async function bench(volume: TestVolume): Promise<Bench> {
  const all = await openBench(volume);
  const { engine, store } = all;
  const directory = join(volume.base, 'tmp');
  mkdirSync(directory, { recursive: true });
  return { ...all, options: { engine, store, volume: 'lake', clock: systemClock, directory } };
}

/** Loads a backup under another name and returns what a file in it has. */
export async function contentIn(
  { volume, open, engine }: Bench,
  { key }: Backup,
  name: string,
  file: string,
): Promise<Buffer> {
  const path = join(volume.base, name);
  await fetchBackup(open.format.store, key, path);
  await loadVolume({ engine, volume: name, path, openStore });
  const metaUrl = `${volume.metaUrl}${volume.metaUrl.includes('?') ? '&' : '?'}volume=${name}`;
  expect((await fsckVolume({ metaUrl })).findings).toEqual([]);
  const loaded = await openTestVolume({ ...volume, base: join(volume.base, `of-${name}`) }, 'loaded', [], name);
  const { ino, size } = await lookUp(loaded, 1n, file);
  return loaded.operations.read(caller(), ino, 0n, 0n, Number(size), 0);
}
