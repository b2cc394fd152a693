import {
  appendFileSync,
  copyFileSync,
  mkdirSync,
  openSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
  writeSync,
  closeSync,
} from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { fileSource } from '../../../../agent/sources/file/file-source.ts';
import type { Spool } from '../../../../agent/spool/spool.ts';
import { systemClock } from '../../../../lib/clock.ts';
import { tempDir } from '../../../support/temp.ts';
import { contentOf, readAll, spoolIn } from '../../spool/support.ts';
import { fileConfig, quarantinedIn, runSource } from '../support.ts';

const line = (number: number): string => `{"n":${number},"id":"s${number % 3}"}\n`;
const lines = (from: number, to: number): string =>
  Array.from({ length: to - from + 1 }, (_, index) => line(from + index)).join('');

async function numbersIn(spool: Spool): Promise<number[]> {
  return contentOf(await readAll(spool)).map((value) => (JSON.parse(String(value)) as { n: number }).n);
}

/** Waits until the spool holds `count` readings, then asserts that they are 1..count, once and in order. */
async function expectNumbers(spool: Spool, count: number): Promise<void> {
  await expect.poll(() => spool.lastSeq('t'), { interval: 10 }).toBe(BigInt(count));
  expect((await numbersIn(spool)).toSorted((a, b) => a - b)).toEqual(Array.from({ length: count }, (_, i) => i + 1));
}

function setUp(): { dir: string; logs: string; path: string } {
  const dir = tempDir();
  const logs = join(dir, 'logs');
  mkdirSync(logs);
  return { dir, logs, path: join(logs, 'app.ndjson') };
}

test('lines are read as they come; a partial last line waits for its end', async () => {
  const { dir, logs, path } = setUp();
  const spool = await spoolIn(join(dir, 'spool'));
  writeFileSync(path, lines(1, 10) + '{"n":1');
  const { output } = runSource(await fileSource(fileConfig(`${logs}/*.ndjson`, { sensor: 'id' }), '/'), spool, dir);
  await expectNumbers(spool, 10);
  appendFileSync(path, '1}\n');
  appendFileSync(path, lines(12, 20));
  await expectNumbers(spool, 20);
  expect(output.counters).toMatchObject({ readings: 20, quarantined: 0, problem: null });
  expect((await readAll(spool)).map((entry) => entry.kind === 'reading' && entry.key?.toString()).slice(0, 3)).toEqual([
    's1',
    's2',
    's0',
  ]);
});

test('a restart goes on where the spool says, in a path relative to the configuration', async () => {
  const { dir, path } = setUp();
  writeFileSync(path, lines(1, 100));
  for (const count of [100, 200, 300]) {
    const spool = await spoolIn(join(dir, 'spool'));
    const running = runSource(await fileSource(fileConfig('logs/*.ndjson'), dir), spool, dir);
    await expectNumbers(spool, count);
    await running.stop();
    await spool.close();
    appendFileSync(path, lines(count + 1, count + 100));
  }
});

test('rotation by rename: the rest of the old file and all of the new one, running or not', async () => {
  const { dir, logs, path } = setUp();
  const config = fileConfig(`${logs}/*.ndjson`);
  const first = await spoolIn(join(dir, 'spool'));
  const running = runSource(await fileSource(config, '/'), first, dir);
  writeFileSync(path, lines(1, 50));
  const writer = openSync(path, 'a');
  await expectNumbers(first, 50);
  renameSync(path, `${path}.1`);
  writeSync(writer, lines(51, 60));
  writeFileSync(path, lines(61, 80));
  await expectNumbers(first, 80);
  await running.stop();
  await first.close();
  // While the agent is down: the old file grows, is renamed, and another takes its place.
  appendFileSync(path, lines(81, 90));
  renameSync(path, `${path}.2`);
  writeFileSync(path, lines(91, 100));
  closeSync(writer);
  const second = await spoolIn(join(dir, 'spool'));
  runSource(await fileSource(config, '/'), second, dir);
  await expectNumbers(second, 100);
});

test('what was rotated behind a link while the agent was down is read on in the folder where it lies, also when the link is gone', async () => {
  const { dir, logs } = setUp();
  const config = fileConfig(`${logs}/*.log`, { format: 'ndjson' });
  // As Kubernetes has it: /var/log/containers links to the folders of the pods, in which the logs are rotated.
  const pod = join(dir, 'pod');
  mkdirSync(pod);
  const path = join(pod, '0.log');
  const link = join(logs, 'container.log');
  writeFileSync(path, lines(1, 50));
  symlinkSync(path, link);
  const readUpTo = async (count: number): Promise<void> => {
    const spool = await spoolIn(join(dir, 'spool'));
    const running = runSource(await fileSource(config, '/'), spool, dir);
    await expectNumbers(spool, count);
    await running.stop();
    await spool.close();
  };
  await readUpTo(50);
  appendFileSync(path, lines(51, 60));
  renameSync(path, `${path}.20260131`);
  writeFileSync(path, lines(61, 80));
  await readUpTo(80);
  appendFileSync(path, lines(81, 90));
  rmSync(link);
  await readUpTo(90);
});

test('a renamed file that the glob still matches is the same file', async () => {
  const { dir, logs, path } = setUp();
  const spool = await spoolIn(join(dir, 'spool'));
  runSource(await fileSource(fileConfig(`${logs}/app*`), '/'), spool, dir);
  writeFileSync(path, lines(1, 50));
  await expectNumbers(spool, 50);
  renameSync(path, join(logs, 'app-old.ndjson'));
  appendFileSync(join(logs, 'app-old.ndjson'), lines(51, 60));
  writeFileSync(path, lines(61, 70));
  await expectNumbers(spool, 70);
});

test('rotation by copytruncate: nothing twice, and what was not read yet is read from the copy', async () => {
  const { dir, logs, path } = setUp();
  const config = fileConfig(`${logs}/*.ndjson`);
  const first = await spoolIn(join(dir, 'spool'));
  const running = runSource(await fileSource(config, '/'), first, dir);
  writeFileSync(path, lines(1, 50));
  await expectNumbers(first, 50);
  copyFileSync(path, `${path}.1`);
  truncateSync(path);
  appendFileSync(path, lines(51, 60));
  await expectNumbers(first, 60);
  await running.stop();
  await first.close();
  // While the agent is down, with unread lines; the new content is longer than what was read.
  appendFileSync(path, lines(61, 90));
  copyFileSync(path, `${path}.2`);
  truncateSync(path);
  appendFileSync(path, lines(91, 190));
  const second = await spoolIn(join(dir, 'spool'));
  runSource(await fileSource(config, '/'), second, dir);
  await expectNumbers(second, 190);
});

test('a copy that the glob matches is not read again when its original is truncated', async () => {
  const { dir, logs, path } = setUp();
  const spool = await spoolIn(join(dir, 'spool'));
  const { output } = runSource(await fileSource(fileConfig(`${logs}/*`), '/'), spool, dir);
  writeFileSync(path, lines(1, 50));
  await expectNumbers(spool, 50);
  copyFileSync(path, `${path}.1`);
  // The copy is seen before the truncation.
  await expect.poll(() => output.counters.readings).toBe(50);
  truncateSync(path);
  appendFileSync(path, lines(51, 60));
  await expectNumbers(spool, 60);
});

test('a copy that the glob matches is not read while it is made; one that stays a part is a file of its own', async () => {
  const { dir, logs, path } = setUp();
  const spool = await spoolIn(join(dir, 'spool'));
  let aheadMs = 0;
  const clock = { ...systemClock, monotonicMs: () => systemClock.monotonicMs() + aheadMs };
  runSource(await fileSource(fileConfig(`${logs}/*`), '/'), spool, dir, clock);
  writeFileSync(path, lines(1, 100));
  await expectNumbers(spool, 100);
  /** When it is read, everything older that was there before it was looked at. */
  const marker = async (name: string, number: number): Promise<void> => {
    writeFileSync(join(logs, name), line(number));
    await expect.poll(() => spool.lastSeq('t')).toBeGreaterThanOrEqual(BigInt(number));
  };
  const content = lines(1, 100);
  for (const [index, part] of [content.slice(0, 600), content.slice(600, 1500), content.slice(1500)].entries()) {
    aheadMs += 3000;
    appendFileSync(`${path}.1`, part);
    utimesSync(`${path}.1`, 1_700_000_000, 1_700_000_000);
    await marker(`marker.${index}`, 101 + index);
  }
  truncateSync(path);
  appendFileSync(path, lines(104, 150));
  await expectNumbers(spool, 150);
  writeFileSync(`${path}.2`, lines(104, 130));
  utimesSync(`${path}.2`, 1_700_000_000, 1_700_000_000);
  await marker('marker.3', 151);
  await expectNumbers(spool, 151);
  aheadMs += 6000;
  await expect.poll(() => spool.lastSeq('t')).toBe(178n);
});

test('rotated files are read in the order in which they were written, and a name with brackets is a name', async () => {
  const { dir, logs } = setUp();
  const spool = await spoolIn(join(dir, 'spool'));
  const names = ['a[1].ndjson.2', 'b.ndjson', 'a[1].ndjson'];
  for (const [index, name] of names.entries()) {
    writeFileSync(join(logs, name), lines(index * 10 + 1, index * 10 + 10));
    utimesSync(join(logs, name), 1_700_000_000 + index, 1_700_000_000 + index);
  }
  const running = runSource(await fileSource(fileConfig(`${logs}/*`), '/'), spool, dir);
  await expectNumbers(spool, 30);
  expect(await numbersIn(spool)).toEqual(Array.from({ length: 30 }, (_, index) => index + 1));
  await running.stop();
  writeFileSync(join(logs, 'x[2].ndjson'), lines(31, 32));
  runSource(await fileSource(fileConfig(`${logs}/x[2].ndjson`), '/'), spool, dir);
  await expectNumbers(spool, 32);
});

test('a deleted and recreated file is read from its beginning', async () => {
  const { dir, logs, path } = setUp();
  const spool = await spoolIn(join(dir, 'spool'));
  runSource(await fileSource(fileConfig(`${logs}/*.ndjson`), '/'), spool, dir);
  writeFileSync(path, lines(1, 50));
  await expectNumbers(spool, 50);
  rmSync(path);
  writeFileSync(path, lines(51, 60));
  await expectNumbers(spool, 60);
});

test('a folder that comes later (it was not mounted yet) is read on where it was left', async () => {
  const { dir, logs, path } = setUp();
  writeFileSync(path, lines(1, 100));
  for (const count of [100, 110, 120]) {
    const spool = await spoolIn(join(dir, 'spool'));
    const running = runSource(await fileSource(fileConfig(`${logs}/*.ndjson`), '/'), spool, dir);
    await expectNumbers(spool, count);
    await running.stop();
    // Neither the missing folder nor the empty place for it is the end of the file.
    renameSync(logs, `${logs}-unmounted`);
    if (count > 100) mkdirSync(logs);
    const waiting = runSource(await fileSource(fileConfig(`${logs}/*.ndjson`), '/'), spool, dir);
    if (count === 100) mkdirSync(logs);
    writeFileSync(join(logs, 'b.ndjson'), lines(count + 1, count + 5));
    await expectNumbers(spool, count + 5);
    await waiting.stop();
    await spool.close();
    rmSync(logs, { recursive: true });
    renameSync(`${logs}-unmounted`, logs);
    appendFileSync(path, lines(count + 6, count + 10));
  }
});

test('a device that has another number after a start has the same files', async () => {
  const { dir, logs, path } = setUp();
  const spool = await spoolIn(join(dir, 'spool'));
  writeFileSync(path, lines(1, 100));
  const first = runSource(await fileSource(fileConfig(`${logs}/*.ndjson`), '/'), spool, dir);
  await expectNumbers(spool, 100);
  await first.stop();
  const [key = ''] = spool.checkpointSources('file:');
  const state = spool.checkpoint(key) ?? null;
  const other = key.replace(/\|\d+:/, '|987654:');
  await spool.append(
    [],
    [
      { source: key, state: null },
      { source: other, state },
    ],
  );
  appendFileSync(path, lines(101, 110));
  runSource(await fileSource(fileConfig(`${logs}/*.ndjson`), '/'), spool, dir);
  await expectNumbers(spool, 110);
  expect(spool.checkpointSources('file:')).toEqual([key]);
});

test('start: end skips what was there, also the rest of a line that was begun', async () => {
  const { dir, logs, path } = setUp();
  writeFileSync(path, '{"n":-2}\n{"n":-');
  const spool = await spoolIn(join(dir, 'spool'));
  const { output } = runSource(await fileSource(fileConfig(`${logs}/*.ndjson`, { start: 'end' }), '/'), spool, dir);
  await expect.poll(() => spool.checkpointSources('file:')).toHaveLength(1);
  writeFileSync(join(logs, 'later.ndjson'), line(1));
  await expectNumbers(spool, 1);
  appendFileSync(path, '1}\n' + line(2));
  await expectNumbers(spool, 2);
  expect(output.counters.quarantined).toBe(0);
});

test('start: end skips nothing that came while the agent was down', async () => {
  const { dir, logs, path } = setUp();
  writeFileSync(path, '{"n":-1}\n');
  const config = fileConfig(`${logs}/*.ndjson`, { start: 'end' });
  const first = await spoolIn(join(dir, 'spool'));
  const running = runSource(await fileSource(config, '/'), first, dir);
  await expect.poll(() => first.checkpointSources('file:')).toHaveLength(1);
  await running.stop();
  await first.close();
  appendFileSync(path, line(1));
  utimesSync(path, 1_700_000_000, 1_700_000_000);
  writeFileSync(join(logs, 'new.ndjson'), line(2));
  const spool = await spoolIn(join(dir, 'spool'));
  runSource(await fileSource(config, '/'), spool, dir);
  await expectNumbers(spool, 2);
});

test('what is no reading goes to the quarantine with reason and position, and the lines around it are read', async () => {
  const { dir, logs, path } = setUp();
  const spool = await spoolIn(join(dir, 'spool'));
  const long = `{"n":"${'x'.repeat(2_000_000)}"}`;
  const parts = [
    Buffer.from(line(1)),
    Buffer.from('{"n":}\n'),
    Buffer.from([0x22, 0xff, 0xfe, 0x22, 0x0a]),
    Buffer.from('\n  \n'),
    Buffer.from(`${long}\n`),
    Buffer.from('42\n'),
    Buffer.from('\r\n'),
    Buffer.from('{"n":2}\r\n'),
    Buffer.from(`{"n":"${'y'.repeat(1_048_500)}"}\n`),
    Buffer.from(line(3)),
  ];
  writeFileSync(path, Buffer.concat(parts));
  const { output } = runSource(await fileSource(fileConfig(`${logs}/*.ndjson`, { sensor: 'id' }), '/'), spool, dir);
  await expect.poll(() => spool.lastSeq('t')).toBe(4n);
  await expect.poll(() => output.counters).toMatchObject({ readings: 4, quarantined: 4 });
  expect(contentOf(await readAll(spool))).toEqual([line(1).trim(), '{"value":42}', '{"n":2}', line(3).trim()]);
  const offsets = parts.map((_, index) => Buffer.concat(parts.slice(0, index)).length);
  const items = quarantinedIn(dir);
  expect(items.map((item) => [item.reason.split(':')[0], item.position])).toEqual([
    ['the line is not JSON', `${path}@${offsets[1]}`],
    ['the line is not UTF-8', `${path}@${offsets[2]}`],
    ['the line is longer than maxLineBytes (1048576)', `${path}@${offsets[4]}`],
    [expect.stringContaining('at most 1048000 can be carried'), `${path}@${offsets[8]}`],
  ]);
  expect(items[0]?.text).toBe('{"n":}');
  expect(Buffer.from(items[1]?.base64 ?? '', 'base64')).toEqual(Buffer.from([0x22, 0xff, 0xfe, 0x22]));
  expect(items[2]?.text?.length).toBe(65_536);
});

test('CSV: the header names the fields, over a restart too; what does not fit is quarantined', async () => {
  const { dir, logs } = setUp();
  const path = join(logs, 'data.csv');
  const config = fileConfig(`${logs}/*.csv`, { sensor: 'machine', eventTime: 'time' });
  writeFileSync(
    path,
    '\uFEFFmachine,time,rms,note\nm1,2026-01-31T07:00:00.123456Z,0.5,"a, ""b"""\nm2,1700000000000,,007\n1,2\n',
  );
  const first = await spoolIn(join(dir, 'spool'));
  const running = runSource(await fileSource(config, '/'), first, dir);
  await expect.poll(() => first.lastSeq('t')).toBe(2n);
  await running.stop();
  await first.close();
  appendFileSync(path, 'm3,1700000000000000,1e3,12345678901234567890\n');
  const spool = await spoolIn(join(dir, 'spool'));
  runSource(await fileSource(config, '/'), spool, dir);
  await expect.poll(() => spool.lastSeq('t')).toBe(3n);
  const entries = await readAll(spool);
  expect(contentOf(entries).map((value) => JSON.parse(String(value)) as unknown)).toEqual([
    { machine: 'm1', time: '2026-01-31T07:00:00.123456Z', rms: 0.5, note: 'a, "b"' },
    { machine: 'm2', time: 1_700_000_000_000, rms: null, note: '007' },
    { machine: 'm3', time: 1_700_000_000_000_000, rms: 1000, note: '12345678901234567890' },
  ]);
  expect(entries.map((entry) => entry.kind === 'reading' && [entry.key?.toString(), entry.eventUs])).toEqual([
    ['m1', Date.UTC(2026, 0, 31, 7, 0, 0, 123) * 1000 + 456],
    ['m2', 1_700_000_000_000_000],
    ['m3', 1_700_000_000_000_000],
  ]);
  expect(quarantinedIn(dir)).toEqual([
    expect.objectContaining({ reason: 'the line has 2 fields where the header has 4' }),
  ]);
});

test('a clock that jumps changes arrival times and nothing else', async () => {
  const { dir, logs, path } = setUp();
  const spool = await spoolIn(join(dir, 'spool'));
  let nowMs = 1_700_000_000_000;
  const clock = { nowMs: () => nowMs, monotonicMs: () => performance.now() };
  runSource(await fileSource(fileConfig(`${logs}/*.ndjson`), '/'), spool, dir, clock);
  writeFileSync(path, '{"n":1,"ts":5}\n{"n":2}\n');
  await expectNumbers(spool, 2);
  nowMs -= 10 * 365 * 86_400_000;
  appendFileSync(path, line(3));
  await expectNumbers(spool, 3);
  nowMs = 4_000_000_000_000;
  appendFileSync(path, '{"n":4,"ts":6}\n');
  await expectNumbers(spool, 4);
  const entries = await readAll(spool);
  expect(entries.map((entry) => entry.kind === 'reading' && [entry.seq, entry.eventUs, entry.arrivalUs])).toEqual([
    [1n, 5000, 1_700_000_000_000_000],
    [2n, 1_700_000_000_000_000, 1_700_000_000_000_000],
    [3n, 1_384_640_000_000_000, 1_384_640_000_000_000],
    [4n, 6000, 4_000_000_000_000_000],
  ]);
});

test('a full spool holds the source up, and it goes on without loss when there is room', async () => {
  const { dir, logs, path } = setUp();
  const spool = await spoolIn(join(dir, 'spool'), { maxBytes: 1_000_000 });
  writeFileSync(path, lines(1, 40_000));
  const { output } = runSource(await fileSource(fileConfig(`${logs}/*.ndjson`), '/', 1_000_000), spool, dir);
  const seen: number[] = [];
  let after = 0n;
  while (seen.length < 40_000) {
    await expect.poll(() => output.counters.isHeldUp || spool.lastSeq('t') === 40_000n).toBe(true);
    // It takes whole deliveries, which are small in a small spool.
    expect(spool.stats().bytes).toBeLessThan(1_300_000);
    for (
      let entries = await spool.read('t', after, 1e6);
      entries.length > 0;
      entries = await spool.read('t', after, 1e6)
    ) {
      for (const entry of entries) {
        if (entry.kind !== 'reading') throw new Error('a gap');
        seen.push((JSON.parse(entry.value.toString()) as { n: number }).n);
        after = entry.seq;
      }
    }
    spool.acknowledge('t', after);
    await spool.sync();
  }
  expect(seen).toEqual(Array.from({ length: 40_000 }, (_, index) => index + 1));
});
