import fsPromises from 'node:fs/promises';
import {
  appendFileSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import { basename, join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { expect, onTestFinished, test, vi } from 'vitest';
import { fileSource } from '../../../../agent/sources/file/file-source.ts';
import { markOf, type FilePosition } from '../../../../agent/sources/file/tailed-file.ts';
import type { Spool } from '../../../../agent/spool/spool.ts';
import { tempDir } from '../../../support/temp.ts';
import { contentOf, readAll, spoolIn } from '../../spool/support.ts';
import { fileConfig, type RunningSource, runSource } from '../support.ts';

const lines = (name: string, from: number, to: number): string =>
  Array.from({ length: to - from + 1 }, (_, index) => `{"of":"${name}","n":${from + index}}\n`).join('');

/** The position at the end of `content`, as it is stored. */
function positionAfter(path: string, content: string): FilePosition {
  const bytes = Buffer.from(content);
  const [head, tail] = [markOf(bytes.subarray(0, 256)), markOf(bytes.subarray(-256))];
  return { path, offset: bytes.length, skipping: false, head, tail, columns: null };
}

/** An earlier run over a file of 50 lines. */
async function readBefore(dir: string, path: string, config = fileConfig(path)): Promise<void> {
  const spool = await spoolIn(join(dir, 'spool'));
  const running = runSource(await fileSource(config, '/'), spool, dir);
  writeFileSync(path, lines('app', 1, 50));
  await expect.poll(() => spool.lastSeq('t')).toBe(50n);
  await running.stop();
  await spool.close();
}

async function numbersOf(spool: Spool, name: string): Promise<number[]> {
  const values = contentOf(await readAll(spool)).map((value) => JSON.parse(String(value)) as { of: string; n: number });
  return values.filter((value) => value.of === name).map(({ n }) => n);
}

/** The names of files and folders that `node:fs/promises` opened and listed since. Root may read everything, so `refused` is refused here. */
function calls(refused = ''): { opened: string[]; listed: string[] } {
  const made = { opened: [] as string[], listed: [] as string[] };
  const { open, readdir } = fsPromises;
  const opening = vi.spyOn(fsPromises, 'open').mockImplementation((path, ...rest) => {
    made.opened.push(basename(String(path)));
    if (basename(String(path)) === refused) throw Object.assign(new Error('permission denied'), { code: 'EACCES' });
    return open(path, ...rest);
  });
  const listing = vi.spyOn(fsPromises, 'readdir').mockImplementation(((path: string) => {
    made.listed.push(basename(path));
    return readdir(path);
  }) as typeof readdir);
  syncBuiltinESMExports();
  onTestFinished(() => {
    opening.mockRestore();
    listing.mockRestore();
    syncBuiltinESMExports();
  });
  return made;
}

test('a thousand positions of files that are gone are looked for in one pass over a folder of thousands', async () => {
  const dir = tempDir();
  const logs = join(dir, 'logs');
  mkdirSync(logs);
  const spool = await spoolIn(join(dir, 'spool'));
  const path = join(logs, 'app.ndjson');
  // Of three there is a rest: in a copy, in a compressed copy, and in a copy of which less was read before, too.
  const positions = Array.from({ length: 1000 }, (_, index) => positionAfter(path, lines(`gone${index}`, 1, 20)));
  writeFileSync(join(logs, 'copy.1'), lines('gone500', 1, 30));
  writeFileSync(join(logs, 'copy.2.gz'), gzipSync(lines('gone600', 1, 40)));
  positions[701] = positionAfter(path, lines('gone700', 1, 10));
  writeFileSync(join(logs, 'copy.3'), lines('gone700', 1, 25));
  for (let index = 0; index < 2000; index += 1) writeFileSync(join(logs, `other.${index}`), lines(`o${index}`, 1, 30));
  for (let index = 0; index < 100; index += 1)
    writeFileSync(join(logs, `other.${index}.gz`), gzipSync(lines(`z${index}`, 1, 30)));
  const name = `file:${path}`;
  await spool.append(
    [],
    positions.map((state, index) => ({ source: `${name}|987654:${index}`, state })),
  );
  const made = calls();
  const { output } = runSource(await fileSource(fileConfig(path), '/'), spool, dir);
  writeFileSync(path, lines('live', 1, 5));
  await expect.poll(() => spool.lastSeq('t')).toBe(40n);
  expect(await numbersOf(spool, 'gone500')).toEqual([21, 22, 23, 24, 25, 26, 27, 28, 29, 30]);
  expect(await numbersOf(spool, 'gone600')).toEqual(Array.from({ length: 20 }, (_, index) => 21 + index));
  expect(await numbersOf(spool, 'gone700')).toEqual([21, 22, 23, 24, 25]);
  expect(await numbersOf(spool, 'live')).toEqual([1, 2, 3, 4, 5]);
  expect(made.listed.filter((folder) => folder === 'logs')).toHaveLength(1);
  const others = made.opened.filter((file) => file.startsWith('other.'));
  expect(others).toHaveLength(2000 + 2 * 100);
  expect(made.opened.filter((file) => file.startsWith('copy.'))).toHaveLength(4);
  expect(output.counters).toMatchObject({ quarantined: 0, problem: null });
});

test('copytruncate while the agent is down, where the glob matches the copies, too: nothing twice, and the rest is read', async () => {
  const dir = tempDir();
  const paths = ['a', 'b'].map((name) => join(dir, `${name}.log`));
  const config = fileConfig(`${dir}/*.log*`, { format: 'ndjson' });
  const first = await spoolIn(join(dir, 'spool'));
  const running = runSource(await fileSource(config, '/'), first, dir);
  for (const path of paths) writeFileSync(path, lines(basename(path), 1, 50));
  await expect.poll(() => first.lastSeq('t')).toBe(100n);
  await running.stop();
  await first.close();
  for (const path of paths) {
    appendFileSync(path, lines(basename(path), 51, 60));
    copyFileSync(path, `${path}.1`);
    utimesSync(`${path}.1`, 1_700_000_000, 1_700_000_000);
    truncateSync(path);
    appendFileSync(path, lines(basename(path), 61, 130));
  }
  const spool = await spoolIn(join(dir, 'spool'));
  runSource(await fileSource(config, '/'), spool, dir);
  await expect.poll(() => spool.lastSeq('t')).toBeGreaterThanOrEqual(260n);
  for (const path of paths) {
    expect(await numbersOf(spool, basename(path))).toEqual(Array.from({ length: 130 }, (_, index) => index + 1));
  }
  // The positions of what was truncated are those of the copies now.
  await expect.poll(() => spool.checkpointSources('file:').filter((key) => key.includes('|replaced:'))).toEqual([]);
});

test('a file beside that may not be read does not keep the copy from being found', async () => {
  const dir = tempDir();
  const path = join(dir, 'app.ndjson');
  await readBefore(dir, path);
  copyFileSync(path, `${path}.1`);
  appendFileSync(`${path}.1`, lines('app', 51, 55));
  truncateSync(path);
  writeFileSync(join(dir, 'aaa'), lines('secret', 1, 100));
  calls('aaa');
  const spool = await spoolIn(join(dir, 'spool'));
  const { output } = runSource(await fileSource(fileConfig(path), '/'), spool, dir);
  await expect.poll(() => spool.lastSeq('t')).toBe(55n);
  expect(output.counters).toMatchObject({ problem: null, events: { copy_unreadable: 1 } });
});

test('a search that was broken off goes on at the next start, before the copy that the glob matches is taken for a new file', async () => {
  const dir = tempDir();
  const logs = join(dir, 'logs');
  mkdirSync(logs);
  const path = join(logs, 'app.log');
  const config = fileConfig(`${logs}/*.log*`, { format: 'ndjson' });
  await readBefore(dir, path, config);
  appendFileSync(path, lines('app', 51, 60));
  copyFileSync(path, `${path}.1`);
  truncateSync(path);
  appendFileSync(path, lines('app', 61, 130));
  const second = await spoolIn(join(dir, 'spool'));
  const brokenOff = runSource(await fileSource(config, '/'), second, dir);
  await stopAtSearch(logs, brokenOff);
  expect(second.checkpointSources('file:').filter((key) => /\|(deleted|replaced):/.test(key))).toHaveLength(1);
  await second.close();
  const spool = await spoolIn(join(dir, 'spool'));
  runSource(await fileSource(config, '/'), spool, dir);
  await expect.poll(() => spool.lastSeq('t')).toBeGreaterThanOrEqual(130n);
  expect(await numbersOf(spool, 'app')).toEqual(Array.from({ length: 130 }, (_, index) => index + 1));
  expect(spool.checkpointSources('file:').filter((key) => key.includes('|replaced:'))).toEqual([]);
});

test('a copy that is compressed while it is looked for is read from its compressed form', async () => {
  const dir = tempDir();
  const path = join(dir, 'app.ndjson');
  await readBefore(dir, path);
  appendFileSync(path, lines('app', 51, 60));
  copyFileSync(path, `${path}.1`);
  truncateSync(path);
  const { open } = fsPromises;
  const opening = vi.spyOn(fsPromises, 'open').mockImplementation((...call) => {
    if (call[0] === `${path}.1` && existsSync(`${path}.1`)) {
      writeFileSync(`${path}.1.gz`, gzipSync(readFileSync(`${path}.1`)));
      rmSync(`${path}.1`);
    }
    return open(...call);
  });
  syncBuiltinESMExports();
  onTestFinished(() => {
    opening.mockRestore();
    syncBuiltinESMExports();
  });
  const spool = await spoolIn(join(dir, 'spool'));
  runSource(await fileSource(fileConfig(path), '/'), spool, dir);
  writeFileSync(path, lines('app', 61, 70));
  await expect.poll(() => spool.lastSeq('t')).toBe(70n);
  expect(await numbersOf(spool, 'app')).toEqual(Array.from({ length: 70 }, (_, index) => index + 1));
});

/** Stops a source as soon as it lists `folder` to look for a copy: what is stored then is what a kill would leave. */
async function stopAtSearch(folder: string, running: RunningSource): Promise<void> {
  const { readdir } = fsPromises;
  const listing = vi.spyOn(fsPromises, 'readdir');
  await new Promise<void>((resolve, reject) => {
    listing.mockImplementation(((path: string, options?: unknown) => {
      // A glob lists with options.
      if (path === folder && options === undefined) running.stop().then(resolve, reject);
      return readdir(path, options as never);
    }) as typeof readdir);
    syncBuiltinESMExports();
  });
  listing.mockRestore();
  syncBuiltinESMExports();
}

test('a search that the folder refused is repeated, and what was rotated away is read on', async () => {
  const dir = tempDir();
  const path = join(dir, 'app.ndjson');
  await readBefore(dir, path);
  appendFileSync(path, lines('app', 51, 60));
  renameSync(path, `${path}.1`);
  const { readdir } = fsPromises;
  let refusals = 0;
  const listing = vi.spyOn(fsPromises, 'readdir').mockImplementation(((folder: string) => {
    if (folder === dir && refusals++ < 2) throw Object.assign(new Error('permission denied'), { code: 'EACCES' });
    return readdir(folder);
  }) as typeof readdir);
  onTestFinished(() => {
    listing.mockRestore();
    syncBuiltinESMExports();
  });
  syncBuiltinESMExports();
  const spool = await spoolIn(join(dir, 'spool'));
  // A second of it is a minute.
  const clock = { nowMs: () => Date.now(), monotonicMs: () => performance.now() * 60 };
  runSource(await fileSource(fileConfig(path), '/'), spool, dir, clock);
  await expect.poll(() => spool.lastSeq('t')).toBe(60n);
  expect(refusals).toBeGreaterThan(2);
  expect(await numbersOf(spool, 'app')).toEqual(Array.from({ length: 60 }, (_, index) => index + 1));
});

test.each([true, false])(
  'a start between the copy of copytruncate and its truncation, read up to there: %s',
  async (isReadBefore) => {
    const dir = tempDir();
    const path = join(dir, 'app.ndjson');
    const config = fileConfig(join(dir, 'app*'));
    await readBefore(dir, path, config);
    appendFileSync(path, lines('app', 51, 60));
    copyFileSync(path, `${path}.1`);
    const spool = await spoolIn(join(dir, 'spool'));
    const start = async (): Promise<RunningSource> => runSource(await fileSource(config, '/'), spool, dir);
    if (!isReadBefore) {
      void start();
      truncateSync(path);
    } else {
      await start();
      await expect.poll(() => spool.lastSeq('t')).toBe(60n);
      truncateSync(path);
    }
    appendFileSync(path, lines('app', 61, 65));
    await expect.poll(() => spool.lastSeq('t')).toBe(65n);
    expect((await numbersOf(spool, 'app')).toSorted((a, b) => a - b)).toEqual(
      Array.from({ length: 65 }, (_, index) => index + 1),
    );
  },
);
