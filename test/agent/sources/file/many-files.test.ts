import {
  appendFileSync,
  copyFileSync,
  mkdirSync,
  readdirSync,
  readlinkSync,
  renameSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { expect, test, vi } from 'vitest';
import { fileSource } from '../../../../agent/sources/file/file-source.ts';
import { systemClock, type Clock } from '../../../../lib/clock.ts';
import { HANG_MS } from '../../../support/hang.ts';
import { tempDir } from '../../../support/temp.ts';
import type { Spool } from '../../../../agent/spool/spool.ts';
import { readAll, spoolIn } from '../../spool/support.ts';
import { fileConfig, runSource } from '../support.ts';

function manyFiles(count: number): { dir: string; logs: string } {
  const dir = tempDir();
  const logs = join(dir, 'logs');
  mkdirSync(logs);
  for (let n = 0; n < count; n += 1) writeFileSync(join(logs, `${n}.ndjson`), '');
  return { dir, logs };
}

test('a look at many files ends with the signal', async () => {
  const { dir, logs } = manyFiles(300);
  const spool = await spoolIn(join(dir, 'spool'));
  let looks = 0;
  const stopped = Promise.withResolvers<undefined>();
  // Each file that is met asks what time it is.
  const clock: Clock = {
    nowMs: () => systemClock.nowMs(),
    monotonicMs: () => {
      looks += 1;
      if (looks === 20) void running.stop().then(() => stopped.resolve(undefined));
      return systemClock.monotonicMs();
    },
  };
  const running = runSource(await fileSource(fileConfig(`${logs}/*.ndjson`), '/'), spool, dir, clock);
  await stopped.promise;
  expect(looks).toBeLessThan(100);
});

test('of more files than are followed, the status says how many wait, in one problem', async () => {
  const { dir, logs } = manyFiles(2050);
  const spool = await spoolIn(join(dir, 'spool'));
  const { output } = runSource(await fileSource(fileConfig(`${logs}/*.ndjson`), '/'), spool, dir);
  await expect
    .poll(() => output.counters.problem, { timeout: HANG_MS })
    .toMatch(/^2050 files match .*, more than are followed \(2000, 800 of them open\): .*\.ndjson and 49 others wait$/);
});

const OPEN_MAX = 4;
const FILES = 10;
const line = (file: number, n: number): string => `${JSON.stringify({ file, n })}\n`;

async function values(spool: Spool, count: number): Promise<string[]> {
  await vi.waitFor(() => expect(spool.lastSeq('t')).toBe(BigInt(count)), { timeout: HANG_MS, interval: 20 });
  return (await readAll(spool)).map((entry) => (entry.kind === 'reading' ? `${entry.value.toString()}\n` : 'none'));
}

function openIn(folder: string): number {
  return readdirSync('/proc/self/fd').filter((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`).startsWith(`${folder}/`);
    } catch {
      return false;
    }
  }).length;
}

test('more files than may be open are all read, those that rest when they have changed, also under another name', async () => {
  const { dir, logs } = manyFiles(FILES);
  const spool = await spoolIn(join(dir, 'spool'));
  const written: string[] = [];
  const write = (name: string, file: number, n: number): void => {
    appendFileSync(join(logs, name), line(file, n));
    written.push(line(file, n));
  };
  for (let file = 0; file < FILES; file += 1) write(`${file}.ndjson`, file, 0);
  const source = await fileSource(fileConfig(`${logs}/*.ndjson`), '/', Infinity, OPEN_MAX);
  const { output } = runSource(source, spool, dir);
  for (let round = 1; round <= 3; round += 1) {
    expect((await values(spool, written.length)).toSorted()).toEqual(written.toSorted());
    expect(openIn(logs)).toBeLessThanOrEqual(OPEN_MAX);
    for (let file = 0; file < FILES; file += 1) write(`${file}.ndjson`, file, round);
  }
  await values(spool, written.length);
  // Some of them rest.
  for (let file = 0; file < FILES; file += 1) {
    renameSync(join(logs, `${file}.ndjson`), join(logs, `${file}.old`));
    write(`${file}.old`, file, 9);
  }
  expect((await values(spool, written.length)).toSorted()).toEqual(written.toSorted());
  expect(output.counters.problem).toBeNull();
});

test('start: end passes over what all files hold, also those beyond the number that may be open', async () => {
  const { dir, logs } = manyFiles(FILES);
  const spool = await spoolIn(join(dir, 'spool'));
  for (let file = 0; file < FILES; file += 1) appendFileSync(join(logs, `${file}.ndjson`), line(file, 0));
  const source = await fileSource(fileConfig(`${logs}/*.ndjson`, { start: 'end' }), '/', Infinity, OPEN_MAX);
  runSource(source, spool, dir);
  const passed = (): number => spool.checkpointSources('file:').length;
  await vi.waitFor(() => expect(passed()).toBe(FILES), { timeout: HANG_MS, interval: 20 });
  const written = Array.from({ length: FILES }, (_, file) => line(file, 1));
  written.forEach((text, file) => appendFileSync(join(logs, `${file}.ndjson`), text));
  expect((await values(spool, FILES)).toSorted()).toEqual(written.toSorted());
  expect(openIn(logs)).toBeLessThanOrEqual(OPEN_MAX);
});

test('what a resting file held is not read again from the copy that copytruncate made of it', async () => {
  const { dir, logs } = manyFiles(FILES);
  const spool = await spoolIn(join(dir, 'spool'));
  for (let file = 0; file < FILES; file += 1) appendFileSync(join(logs, `${file}.ndjson`), line(file, 0));
  runSource(await fileSource(fileConfig(`${logs}/*.ndjson`), '/', Infinity, OPEN_MAX), spool, dir);
  await values(spool, FILES);
  for (let file = 0; file < FILES; file += 1) {
    copyFileSync(join(logs, `${file}.ndjson`), join(logs, `${file}.1.ndjson`));
    truncateSync(join(logs, `${file}.ndjson`));
    appendFileSync(join(logs, `${file}.ndjson`), line(file, 1));
  }
  const all = await values(spool, 2 * FILES);
  expect(new Set(all).size).toBe(2 * FILES);
});
