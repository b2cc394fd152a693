import {
  appendFileSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { expect, test } from 'vitest';
import { fileSource } from '../../../../agent/sources/file/file-source.ts';
import { gzipContent } from '../../../../agent/sources/file/gzip-content.ts';
import type { Spool } from '../../../../agent/spool/spool.ts';
import type { Clock } from '../../../../lib/clock.ts';
import { AgentProcess } from '../../../support/agent-process.ts';
import { tempDir } from '../../../support/temp.ts';
import { valuesIn } from '../../log-values.ts';
import { contentOf, readAll, spoolIn } from '../../spool/support.ts';
import { fileConfig, quarantinedIn, runSource, type RunningSource } from '../support.ts';

/** Waits of ten seconds take a fifth of one. */
const fastClock: Clock = { nowMs: () => Date.now(), monotonicMs: () => performance.now() * 50 };

const line = (number: number): string => `{"n":${number},"text":"${'x'.repeat(number % 50)}"}\n`;
const lines = (from: number, to: number): string =>
  Array.from({ length: to - from + 1 }, (_, index) => line(from + index)).join('');
const upTo = (count: number): number[] => Array.from({ length: count }, (_, index) => index + 1);

async function numbersIn(spool: Spool): Promise<number[]> {
  return contentOf(await readAll(spool)).map((value) => (JSON.parse(String(value)) as { n: number }).n);
}

async function expectNumbers(spool: Spool, count: number): Promise<void> {
  await expect.poll(() => spool.lastSeq('t'), { interval: 10 }).toBe(BigInt(count));
  expect((await numbersIn(spool)).toSorted((a, b) => a - b)).toEqual(upTo(count));
}

/** As logrotate does it: the compressed file is whole before the other one goes. */
function compress(path: string, to = `${path}.gz`): string {
  writeFileSync(to, gzipSync(readFileSync(path)));
  rmSync(path);
  return to;
}

/** Until the compressed file is read to its end. */
async function expectFinished(spool: Spool, path: string): Promise<void> {
  const { dev, ino } = statSync(path, { bigint: true });
  const ended = (): unknown => {
    const key = spool.checkpointSources('file:').find((source) => source.endsWith(`|${dev}:${ino}`));
    return key === undefined ? null : (spool.checkpoint(key) as { ended?: { bytes: number } }).ended?.bytes;
  };
  await expect.poll(ended, { interval: 10 }).toBe(statSync(path).size);
}

function setUp(): {
  dir: string;
  logs: string;
  path: string;
  start: (glob: string, more?: object) => Promise<Started>;
} {
  const dir = tempDir();
  const logs = join(dir, 'logs');
  mkdirSync(logs);
  const start = async (glob: string, more: object = {}): Promise<Started> => {
    const spool = await spoolIn(join(dir, 'spool'));
    const running = runSource(await fileSource(fileConfig(`${logs}/${glob}`, { ...more }), '/'), spool, dir, fastClock);
    const end = async (): Promise<void> => {
      await running.stop();
      await spool.close();
    };
    return { spool, running, end };
  };
  return { dir, logs, path: join(logs, 'app.ndjson'), start };
}

interface Started {
  readonly spool: Spool;
  readonly running: RunningSource;
  readonly end: () => Promise<void>;
}

// The glob leaves the compressed files out, or matches them.
test.each(['app.ndjson', 'app*'])(
  'what is rotated and compressed while the agent is killed is read on, once: %s',
  async (glob) => {
    const dir = tempDir();
    const path = join(dir, 'app.ndjson');
    const agent = new AgentProcess(
      dir,
      `agent: { id: a, dataDir: ./data }
log: file:./log
uplink: { order: oldestFirst }
sources: [{ type: file, path: './${glob}', to: machine, poll: 10ms }]
`,
    );
    let written = 0;
    const write = (count: number): void => appendFileSync(path, lines(written + 1, (written += count)));
    const accepted = (): number => Number(agent.output.trim().split('\n').at(-1));
    for (let round = 0; round < 3; round += 1) {
      const before = written;
      write(20_000);
      agent.start();
      // In the middle of what was rotated last, or of what took its place.
      await expect.poll(accepted, { interval: 1 }).toBeGreaterThan(before + (round === 2 ? 15_000 : 0));
      await agent.end('SIGKILL');
      write(500);
      // With an inode that is free again, where the file system gives it.
      compress(path, `${path}-2026010${round}.gz`);
    }
    agent.start();
    await expect.poll(accepted).toBe(written);
    expect(await agent.end('SIGTERM')).toBe(0);
    agent.start();
    write(10);
    await expect.poll(accepted).toBe(written);
    expect(await agent.end('SIGTERM')).toBe(0);
    const numbers = (await valuesIn(dir, 'machine')).map(({ n }) => Number(n));
    expect(numbers.toSorted((a, b) => a - b)).toEqual(upTo(written));
  },
);

test('a compressed file that only begins like one that is open is read by itself', async () => {
  const { logs, start } = setUp();
  const rows = (from: number, to: number): string =>
    Array.from({ length: to - from + 1 }, (_, index) => `${from + index},${'x'.repeat(20)}\n`).join('');
  // Of this one only the header is there yet, which is that of the others.
  const path = join(logs, 'app.csv');
  writeFileSync(path, 'n,text\n');
  writeFileSync(`${path}-20260101.gz`, gzipSync(`n,text\n${rows(1, 20)}`));
  // Cut off: what there is of it is another content, too.
  writeFileSync(`${path}-20260102.gz`, gzipSync(`n,text\n${rows(21, 40)}`).subarray(0, -8));
  const { spool } = await start('app*');
  await expectNumbers(spool, 40);
  appendFileSync(path, rows(41, 200));
  await expectNumbers(spool, 200);
});

test('what a running agent has read of a file is not read again from its compressed form, over restarts and renames', async () => {
  const { path, start } = setUp();
  const first = await start('app*');
  writeFileSync(path, lines(1, 50));
  await expectNumbers(first.spool, 50);
  renameSync(path, `${path}.1`);
  appendFileSync(`${path}.1`, lines(51, 60));
  writeFileSync(path, lines(61, 70));
  await expectNumbers(first.spool, 70);
  compress(`${path}.1`);
  await expectFinished(first.spool, `${path}.1.gz`);
  await expectNumbers(first.spool, 70);
  renameSync(`${path}.1.gz`, `${path}.2.gz`);
  renameSync(path, `${path}.1`);
  await first.end();
  // While the agent is down: unread lines get into the next compressed file.
  appendFileSync(`${path}.1`, lines(71, 80));
  compress(`${path}.1`);
  writeFileSync(path, lines(81, 90));
  const second = await start('app*');
  await expectNumbers(second.spool, 90);
  await expectFinished(second.spool, `${path}.1.gz`);
  await expectNumbers(second.spool, 90);
  expect(second.running.output.counters).toMatchObject({ quarantined: 0, problem: null });
});

test('copytruncate with compression of the copy: the rest comes from it, once', async () => {
  const { path, start } = setUp();
  const first = await start('app*');
  writeFileSync(path, lines(1, 50));
  await expectNumbers(first.spool, 50);
  await first.end();
  appendFileSync(path, lines(51, 90));
  writeFileSync(`${path}.1.gz`, gzipSync(readFileSync(path)));
  truncateSync(path);
  appendFileSync(path, lines(91, 200));
  const { spool } = await start('app*');
  await expectNumbers(spool, 200);
  await expectFinished(spool, `${path}.1.gz`);
  await expectNumbers(spool, 200);
});

test('a compressed copy of a file that is still there is not read', async () => {
  const { logs, path, start } = setUp();
  writeFileSync(path, lines(1, 50));
  const { spool } = await start('app*');
  await expectNumbers(spool, 50);
  writeFileSync(`${path}.gz`, gzipSync(readFileSync(path)));
  await expectFinished(spool, `${path}.gz`);
  appendFileSync(path, lines(51, 60));
  rmSync(path);
  writeFileSync(join(logs, 'app.other'), lines(61, 70));
  await expectNumbers(spool, 70);
});

test('files that always were compressed: several members, CSV, a last line without its end, and what is appended later', async () => {
  const { logs, start } = setUp();
  const archive = join(logs, 'archive.ndjson.gz');
  writeFileSync(archive, Buffer.concat([gzipSync(lines(1, 10_000)), gzipSync(lines(10_001, 10_099))]));
  writeFileSync(join(logs, 'table.csv-20260131.gz'), gzipSync('n,text\n10100,a\n10101,b'));
  // The same content as the beginning of another file is no reason to leave it out.
  writeFileSync(join(logs, 'short.gz'), gzipSync(line(10_102)));
  writeFileSync(join(logs, 'longer.gz'), gzipSync(line(10_102) + line(10_103)));
  const first = await start('*.gz');
  await expect.poll(() => first.spool.lastSeq('t')).toBe(10_104n);
  expect((await numbersIn(first.spool)).toSorted((a, b) => a - b)).toEqual(
    [...upTo(10_103), 10_102].toSorted((a, b) => a - b),
  );
  await expectFinished(first.spool, archive);
  await first.end();
  const second = await start('*.gz');
  appendFileSync(archive, gzipSync(lines(10_104, 10_110)));
  await expect.poll(() => second.spool.lastSeq('t')).toBe(10_111n);
  await expectFinished(second.spool, archive);
  expect((await numbersIn(second.spool)).slice(-7)).toEqual([10_104, 10_105, 10_106, 10_107, 10_108, 10_109, 10_110]);
});

test('a file that is cut off or damaged gives what can be read, is named with the reason, and holds up no other', async () => {
  const { dir, logs, start } = setUp();
  const whole = gzipSync(lines(1, 4000));
  const flipped = Buffer.from(whole);
  flipped[whole.length - 6] = (flipped[whole.length - 6] ?? 0) ^ 1;
  const inTheMiddle = Buffer.from(whole);
  inTheMiddle.fill(0xff, whole.length >> 1, (whole.length >> 1) + 8);
  const files: Record<string, { bytes: Buffer; readings: number; reason: RegExp }> = {
    cut: { bytes: whole.subarray(0, whole.length >> 1), readings: NaN, reason: /unexpected end of file/ },
    middle: { bytes: inTheMiddle, readings: NaN, reason: /invalid|incorrect/ },
    checksum: { bytes: flipped, readings: 4000, reason: /incorrect data check/ },
    garbage: { bytes: Buffer.concat([whole, Buffer.from('no gzip')]), readings: 4000, reason: /incorrect header/ },
    empty: { bytes: whole.subarray(0, 2), readings: 0, reason: /unexpected end of file/ },
  };
  for (const [name, { bytes }] of Object.entries(files)) {
    writeFileSync(join(logs, `${name}.gz`), bytes);
  }
  writeFileSync(join(logs, 'live.ndjson'), '{"n":0}\n');
  const first = await start('*', { sensor: 'path', format: 'text' });
  await expect.poll(() => first.running.output.counters.quarantined).toBe(5);
  expect(first.running.output.counters.events).toMatchObject({ gzip_damaged: 5 });
  const byFile = new Map<string, string[]>();
  for (const entry of await readAll(first.spool)) {
    if (entry.kind !== 'reading') continue;
    const name = String(entry.key).slice(logs.length + 1);
    byFile.set(name, [...(byFile.get(name) ?? []), (JSON.parse(String(entry.value)) as { value: string }).value]);
  }
  expect(byFile.get('live.ndjson')).toEqual(['{"n":0}']);
  const items = quarantinedIn(dir);
  for (const [name, { readings, reason }] of Object.entries(files)) {
    const found = byFile.get(`${name}.gz`) ?? [];
    const item = items.find(({ position }) => position.startsWith(join(logs, `${name}.gz@`)));
    expect(item?.reason, name).toMatch(reason);
    if (!Number.isNaN(readings)) expect(found.length, name).toBe(readings);
    else expect(found.length, name).toBeGreaterThan(500);
    if (name !== 'middle') expect(found.map((text) => `${text}\n`).join('')).toBe(lines(1, found.length));
  }
  const cutAt = byFile.get('cut.gz')?.length ?? 0;
  await first.end();
  // The rest of the file that was cut off comes: it is read on from where it was.
  const second = await start('*', { sensor: 'path', format: 'text' });
  writeFileSync(join(logs, 'cut.gz'), whole);
  await expectFinished(second.spool, join(logs, 'cut.gz'));
  const total = Number(second.spool.lastSeq('t'));
  const before = [...byFile.values()].reduce((sum, found) => sum + found.length, 0);
  expect(total - before).toBe(4000 - cutAt);
  expect(second.running.output.counters.quarantined).toBe(0);
});

test('a file that is cut off within what was read before is named, and nothing of it is read again', async () => {
  const { dir, path, start } = setUp();
  writeFileSync(path, lines(1, 5000));
  const { spool, running } = await start('app*');
  await expectNumbers(spool, 5000);
  const whole = gzipSync(readFileSync(path));
  rmSync(path);
  writeFileSync(`${path}.gz`, whole.subarray(0, whole.length >> 1));
  await expect.poll(() => running.output.counters.quarantined).toBe(1);
  expect(quarantinedIn(dir)).toMatchObject([{ position: `${path}.gz` }]);
  writeFileSync(`${path}.gz`, whole);
  appendFileSync(`${path}.gz`, gzipSync(line(5001)));
  await expectNumbers(spool, 5001);
});

test('what a bomb expands to is never in memory as a whole, and the line behind it is read', async () => {
  const { dir, logs, start } = setUp();
  const path = join(logs, 'bomb.gz');
  const zeros = gzipSync(Buffer.alloc(1 << 26));
  writeFileSync(path, Buffer.concat([zeros, gzipSync('\n{"n":1}\n')]));
  const handle = await open(path);
  const lengths: number[] = [];
  for await (const chunk of gzipContent(handle)) lengths.push(chunk.length);
  await handle.close();
  expect(Math.max(...lengths)).toBeLessThanOrEqual(512 * 1024);
  expect(lengths.reduce((sum, length) => sum + length, 0)).toBe((1 << 26) + 9);
  const { spool } = await start('*.gz');
  await expectNumbers(spool, 1);
  expect(quarantinedIn(dir)).toMatchObject([{ reason: 'the line is longer than maxLineBytes (1048576)' }]);
});

test('a file of another compression is left alone and named, and the others are read', async () => {
  const { path, start } = setUp();
  writeFileSync(`${path}.1.zst`, zstdCompressSync(lines(1, 1000)));
  writeFileSync(path, lines(1, 10));
  const { spool, running } = await start('app*');
  await expectNumbers(spool, 10);
  await expect.poll(() => running.output.counters.problem ?? '').toContain('app.ndjson.1.zst is compressed by zstd');
});

test('start: end passes over compressed files that are there', async () => {
  const { logs, path, start } = setUp();
  writeFileSync(join(logs, 'old.gz'), gzipSync(lines(1000, 2000)));
  const { spool } = await start('*', { start: 'end' });
  await expectFinished(spool, join(logs, 'old.gz'));
  writeFileSync(`${path}.gz`, gzipSync(lines(1, 5)));
  await expectNumbers(spool, 5);
});
