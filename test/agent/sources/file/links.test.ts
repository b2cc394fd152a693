/** Files that links lead to: where they lie is where they are looked for once the link leads elsewhere. */
import {
  appendFileSync,
  mkdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { expect, test } from 'vitest';
import { fileSource } from '../../../../agent/sources/file/file-source.ts';
import { placeOf } from '../../../../agent/sources/file/tailed-file.ts';
import type { Clock } from '../../../../lib/clock.ts';
import { tempDir } from '../../../support/temp.ts';
import { contentOf, readAll, spoolIn } from '../../spool/support.ts';
import { fileConfig, runSource } from '../support.ts';

const line = (n: number): string => `{"n":${n}}\n`;

function inodeOf(path: string): string {
  const { dev, ino } = statSync(path, { bigint: true });
  return `${dev}:${ino}`;
}

test('a link to a folder is turned to the next release while the agent is down: the log of the one before is read to its end', async () => {
  const dir = realpathSync(tempDir());
  const log = (release: number): string => join(dir, `release-${release}`, 'logs', 'app.log');
  for (const release of [1, 2]) mkdirSync(join(dir, `release-${release}`, 'logs'), { recursive: true });
  const current = join(dir, 'current');
  symlinkSync('release-1', current);
  writeFileSync(log(1), line(1));
  const spool = await spoolIn(join(dir, 'spool'));
  const config = fileConfig(join(current, 'logs', '*.log'), { format: 'ndjson' });
  const first = runSource(await fileSource(config, '/'), spool, dir);
  await expect.poll(() => spool.lastSeq('t')).toBe(1n);
  await first.stop();
  appendFileSync(log(1), line(2));
  rmSync(current);
  symlinkSync('release-2', current);
  writeFileSync(log(2), line(3));
  runSource(await fileSource(config, '/'), spool, dir);
  await expect.poll(() => spool.lastSeq('t')).toBe(3n);
  expect(contentOf(await readAll(spool)).toSorted()).toEqual([1, 2, 3].map((n) => line(n).trim()));
});

test('a link that leads to another file by now says nothing of where the one lies that was opened through it', async () => {
  const dir = realpathSync(tempDir());
  for (const folder of ['old', 'new']) {
    mkdirSync(join(dir, folder));
    writeFileSync(join(dir, folder, 'app.log'), '');
  }
  const link = join(dir, 'app.log');
  symlinkSync('old/app.log', link);
  const inode = inodeOf(link);
  const place = await placeOf(link, inode);
  expect(place).toEqual({ path: link, folder: join(dir, 'old') });
  rmSync(link);
  symlinkSync('new/app.log', link);
  expect(await placeOf(link, inode, place)).toBe(place);
  expect(await placeOf(link, inode)).toEqual({ path: link });
});

test('the compressed form of a file that is open behind a link lies where it is, and not in the folder of that file', async () => {
  const dir = realpathSync(tempDir());
  const [pod, logs] = [join(dir, 'pod'), join(dir, 'logs')];
  mkdirSync(pod);
  mkdirSync(logs);
  writeFileSync(join(pod, '0.log'), line(1));
  symlinkSync(join(pod, '0.log'), join(logs, 'app.log'));
  const spool = await spoolIn(join(dir, 'spool'));
  // Waits of ten seconds take a fifth of one.
  const fastClock: Clock = { nowMs: () => Date.now(), monotonicMs: () => performance.now() * 50 };
  const config = fileConfig(join(logs, 'app.log*'), { format: 'ndjson' });
  runSource(await fileSource(config, '/'), spool, dir, fastClock);
  await expect.poll(() => spool.lastSeq('t')).toBe(1n);
  const archive = join(logs, 'app.log.1.gz');
  writeFileSync(archive, gzipSync(readFileSync(join(pod, '0.log'))));
  const key = (): string | undefined =>
    spool.checkpointSources('file:').find((source) => source.endsWith(`|${inodeOf(archive)}`));
  await expect.poll(key).toBeDefined();
  expect(spool.checkpoint(key() ?? '')).toMatchObject({ path: archive, offset: line(1).length });
  expect(spool.checkpoint(key() ?? '')).not.toHaveProperty('folder');
});
