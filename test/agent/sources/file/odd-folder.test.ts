import { appendFileSync, copyFileSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { fileSource } from '../../../../agent/sources/file/file-source.ts';
import { tempDir } from '../../../support/temp.ts';
import { contentOf, readAll, spoolIn } from '../../spool/support.ts';
import { fileConfig, runSource } from '../support.ts';

const line = (n: number): string => `{"n":${n}}\n`;

test('a name that is not UTF-8 is told of, as long as it is there, and one with a line end is read', async () => {
  const dir = tempDir();
  const unreadable = Buffer.concat([Buffer.from(join(dir, 'a')), Buffer.from([0xff]), Buffer.from('.log')]);
  writeFileSync(unreadable, line(1));
  writeFileSync(join(dir, 'of two\nlines.log'), line(2));
  const spool = await spoolIn(join(dir, 'spool'));
  const { output } = runSource(await fileSource(fileConfig(join(dir, '*.log')), '/'), spool, dir);
  await expect.poll(() => output.counters.problem).toContain('the name of a file is not UTF-8');
  await expect.poll(() => spool.lastSeq('t')).toBe(1n);
  rmSync(unreadable);
  await expect.poll(() => output.counters.problem).toBeNull();
  expect(contentOf(await readAll(spool))).toEqual([line(2).trim()]);
});

test('a pattern that is longer than a name may be is a pattern', async () => {
  const dir = tempDir();
  writeFileSync(join(dir, 'app.log'), line(1));
  const spool = await spoolIn(join(dir, 'spool'));
  const pattern = join(dir, `{${'x'.repeat(300)},app}.log`);
  runSource(await fileSource(fileConfig(pattern), '/'), spool, dir);
  await expect.poll(() => spool.lastSeq('t')).toBe(1n);
});

test('a link to itself in the folder does not keep what was rotated by copytruncate from being found', async () => {
  const dir = tempDir();
  const path = join(dir, 'app.log');
  symlinkSync('loop', join(dir, 'loop'));
  writeFileSync(path, line(1) + line(2));
  const spool = await spoolIn(join(dir, 'spool'));
  const first = runSource(await fileSource(fileConfig(path), '/'), spool, dir);
  await expect.poll(() => spool.lastSeq('t')).toBe(2n);
  await first.stop();
  appendFileSync(path, line(3));
  copyFileSync(path, join(dir, 'app.log.1'));
  truncateSync(path, 0);
  appendFileSync(path, line(4));
  const { output } = runSource(await fileSource(fileConfig(path), '/'), spool, dir);
  await expect.poll(() => spool.lastSeq('t')).toBe(4n);
  expect(contentOf(await readAll(spool))).toEqual([1, 2, 3, 4].map((n) => line(n).trim()));
  expect(output.counters.problem).toBeNull();
});
