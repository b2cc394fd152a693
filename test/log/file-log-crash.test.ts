import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { appendFileSync, mkdirSync, readdirSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, onTestFinished, test } from 'vitest';
import { crc32c as crc } from '@node-rs/crc32';
import { systemClock } from '../../lib/clock.ts';
import { openFileLogAt } from '../../lib/log/file/file-log.ts';
import type { Log } from '../../lib/log/log.ts';
import { readValues, textBatch } from '../support/log-batches.ts';
import { tempDir } from '../support/temp.ts';
import { HANG_MS } from '../support/hang.ts';

const childPath = fileURLToPath(new URL('appender-child.ts', import.meta.url));
const TOPIC = { partitions: 1, retentionMs: 3_600_000 };

async function openLog(directory: string, segmentBytes = 1 << 20): Promise<Log> {
  const log = await openFileLogAt(directory, { segmentBytes, clock: systemClock });
  onTestFinished(() => log.close());
  return log;
}

interface Appender {
  /** The lines it printed: what was acknowledged. */
  readonly acknowledged: () => [string, string][];
  /** Resolves when it has printed that many. */
  readonly reached: (lines: number) => Promise<void>;
  readonly kill: () => Promise<void>;
  readonly exit: Promise<unknown[]>;
}

function startAppender(directory: string, label: string, count: number, segmentBytes: number): Appender {
  const args = [childPath, directory, label, String(count), String(segmentBytes)];
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'ignore'] });
  onTestFinished(() => void child.kill('SIGKILL'));
  const exit = once(child, 'close', { signal: AbortSignal.timeout(HANG_MS) });
  let output = '';
  child.stdout.on('data', (chunk: Buffer) => (output += chunk.toString()));
  const lines = (): string[] => output.split('\n').slice(0, -1);
  return {
    acknowledged: () => lines().map((line) => line.split(' ') as [string, string]),
    reached: async (wanted) => {
      while (lines().length < wanted) await once(child.stdout, 'data', { signal: AbortSignal.timeout(HANG_MS) });
    },
    kill: async () => {
      child.kill('SIGKILL');
      await exit;
    },
    exit,
  };
}

test('an appender killed with -9 again and again leaves everything it acknowledged: there, once, in order, without a gap', async () => {
  const directory = tempDir();
  const acknowledged: [string, string][] = [];
  for (let run = 0; run < 8; run++) {
    const appender = startAppender(directory, `run${run}`, 1_000_000, 2000);
    await appender.reached(20 + run * 17);
    await appender.kill();
    acknowledged.push(...appender.acknowledged());
  }
  const log = await openLog(directory);
  const values = await readValues(log, 't', 0);
  expect(new Set(values).size).toBe(values.length);
  for (const [offset, value] of acknowledged) expect(values[Number(offset)], `offset ${offset}`).toBe(value);
  for (let run = 0; run < 8; run++) {
    const numbers = values
      .filter((value) => value.startsWith(`run${run}-`))
      .map((value) => Number(value.split('-')[1]));
    expect(numbers).toEqual(numbers.map((_, i) => i));
  }
  expect(readdirSync(join(directory, 'topics/t/0')).filter((name) => name.endsWith('.log')).length).toBeGreaterThan(3);
});

test('two processes that append at once share the partition, and both get through', async () => {
  const directory = tempDir();
  const appenders = ['a', 'b'].map((label) => startAppender(directory, label, 200, 4000));
  const log = await openLog(directory);
  const results = await Promise.all(appenders.map(({ exit }) => exit));
  expect(results.map(([code]) => code)).toEqual([0, 0]);
  const values = await readValues(log, 't', 0);
  for (const label of ['a', 'b']) {
    const own = values.filter((value) => value.startsWith(label));
    expect(own).toEqual(Array.from({ length: 200 }, (_, i) => `${label}-${i}`));
  }
  for (const [offset, value] of appenders.flatMap((appender) => appender.acknowledged())) {
    expect(values[Number(offset)]).toBe(value);
  }
});

/** A log with three batches of one record each, closed; and where its files are. */
async function threeBatches(): Promise<{ directory: string; partition: string; segment: string; lengths: number[] }> {
  const directory = tempDir();
  const log = await openFileLogAt(directory, { segmentBytes: 1 << 20, clock: systemClock });
  await log.ensureTopic('t', TOPIC);
  const producer = await log.producer();
  const batches = ['first', 'second', 'third'].map((value, i) => textBatch([value], producer, i));
  for (const batch of batches) await producer.append('t', 0, batch);
  await log.close();
  const partition = join(directory, 'topics/t/0');
  const segment = join(partition, '00000000000000000000.log');
  return { directory, partition, segment, lengths: batches.map((batch) => batch.length) };
}

async function appendOne(log: Log, value: string): Promise<bigint> {
  const producer = await log.producer();
  return (await producer.append('t', 0, textBatch([value], producer, 0))).baseOffset;
}

test('a reader never sees bytes behind the durable end, and the next appender cuts them', async () => {
  const { directory, segment } = await threeBatches();
  // A killed appender leaves a whole, valid batch that was never acknowledged: here a copy of what another log holds at that offset.
  const other = await openLog(tempDir());
  await other.ensureTopic('t', TOPIC);
  for (const value of ['x', 'y', 'z', 'unacknowledged']) await appendOne(other, value);
  const { batches } = await other.fetch({ topic: 't', partition: 0, offset: 3n, maxBytes: 1, maxWaitMs: 0 });
  appendFileSync(segment, batches[0] ?? '');
  const reader = await openLog(directory);
  expect(await readValues(reader, 't', 0)).toEqual(['first', 'second', 'third']);
  expect((await reader.offsets('t', 0)).end).toBe(3n);
  const appender = await openLog(directory);
  expect(await appendOne(appender, 'fourth')).toBe(3n);
  expect(await readValues(reader, 't', 0)).toEqual(['first', 'second', 'third', 'fourth']);
});

/** What a power cut does to the end mark: the file holds an older one, of a boot that is over. */
function markOfAnotherBoot(partition: string, original: Buffer): void {
  const mark = Buffer.from(original);
  mark.fill(0xab, 32, 48);
  // The checksum covers the boot id: made anew the way the file's header draws it.
  mark.writeUInt32BE(crc(mark.subarray(8)), 4);
  writeFileSync(join(partition, 'end'), mark);
}

test('after a power cut what is whole behind an old end mark stays, and the torn tail is cut', async () => {
  const directory = tempDir();
  const log = await openFileLogAt(directory, { segmentBytes: 1 << 20, clock: systemClock });
  await log.ensureTopic('t', TOPIC);
  const partition = join(directory, 'topics/t/0');
  const segment = join(partition, '00000000000000000000.log');
  await appendOne(log, 'first');
  const oldMark = readFileSync(join(partition, 'end'));
  await appendOne(log, 'second');
  await appendOne(log, 'torn');
  await log.close();
  markOfAnotherBoot(partition, oldMark);
  truncateSync(segment, statSync(segment).size - 3);
  // A reader alone recovers it, too.
  const reader = await openLog(directory);
  expect(await readValues(reader, 't', 0)).toEqual(['first', 'second']);
  expect(await appendOne(await openLog(directory), 'third')).toBe(2n);
  expect(await readValues(reader, 't', 0)).toEqual(['first', 'second', 'third']);
});

test('a lost end mark is found again by reading the last segment', async () => {
  const { directory, partition } = await threeBatches();
  writeFileSync(join(partition, 'end'), Buffer.alloc(64));
  const log = await openLog(directory);
  expect(await readValues(log, 't', 0)).toEqual(['first', 'second', 'third']);
  expect(await appendOne(log, 'fourth')).toBe(3n);
});

test('with a lost end mark a damaged batch amid good ones is reported, not cut', async () => {
  const { directory, partition, segment, lengths } = await threeBatches();
  writeFileSync(join(partition, 'end'), Buffer.alloc(64));
  flip(segment, (lengths[0] ?? 0) + 65);
  const log = await openLog(directory);
  await expect(log.offsets('t', 0)).rejects.toMatchObject({
    code: 'corrupt',
    message: expect.stringContaining(`${segment} at byte ${lengths[0] ?? 0}: a damaged batch amid good ones`) as string,
  });
  expect(statSync(segment).size).toBe(lengths.reduce((sum, length) => sum + length, 0));
});

test('a flipped bit is reported by file and byte; what stands before it is still delivered', async () => {
  const { directory, segment, lengths } = await threeBatches();
  flip(segment, (lengths[0] ?? 0) + 64);
  const log = await openLog(directory);
  const request = { topic: 't', partition: 0, maxBytes: 1 << 20, maxWaitMs: 0 };
  expect((await log.fetch({ ...request, offset: 0n })).nextOffset).toBe(1n);
  await expect(log.fetch({ ...request, offset: 1n })).rejects.toMatchObject({
    code: 'corrupt',
    message: expect.stringContaining(`${segment} at byte ${lengths[0] ?? 0}`) as string,
  });
});

test('a segment that was truncated is reported, by readers and by appenders, and stays as it is', async () => {
  const { directory, segment } = await threeBatches();
  const size = statSync(segment).size - 5;
  truncateSync(segment, size);
  const log = await openLog(directory);
  const corrupt = { code: 'corrupt', message: expect.stringContaining(`ends at byte ${size}`) as string };
  await expect(readValues(log, 't', 0)).rejects.toMatchObject(corrupt);
  await expect(appendOne(log, 'more')).rejects.toMatchObject(corrupt);
  expect(statSync(segment).size).toBe(size);
});

test('repeats are recognised after a restart, by another process, and without the snapshot', async () => {
  const directory = tempDir();
  const first = await openFileLogAt(directory, { segmentBytes: 1024, clock: systemClock });
  await first.ensureTopic('t', TOPIC);
  const producer = await first.producer();
  const batches = Array.from({ length: 40 }, (_, i) => textBatch([`${i}`], producer, i));
  for (const batch of batches) await producer.append('t', 0, batch);
  const second = await openLog(directory, 1024);
  const sender = await second.producer();
  expect(await sender.append('t', 0, batches[37] ?? Buffer.alloc(0))).toMatchObject({
    baseOffset: 37n,
    duplicate: true,
  });
  await first.close();
  writeFileSync(join(directory, 'topics/t/0/producers'), 'damaged');
  const third = await openLog(directory, 1024);
  const again = await third.producer();
  expect(await again.append('t', 0, batches[36] ?? Buffer.alloc(0))).toMatchObject({
    baseOffset: 36n,
    duplicate: true,
  });
  await expect(again.append('t', 0, batches[30] ?? Buffer.alloc(0))).rejects.toMatchObject({ code: 'out-of-order' });
  await expect(again.append('t', 0, textBatch(['x'], { producerId: 7n, producerEpoch: 0 }, 5))).rejects.toMatchObject({
    code: 'unknown-producer',
  });
  // The first log's process goes on where the others left the partition.
  expect(await again.append('t', 0, textBatch(['next'], producer, 40))).toMatchObject({
    baseOffset: 40n,
    duplicate: false,
  });
});

test('a topic deleted and made anew by another process has another id, and starts at 0 for everybody', async () => {
  const directory = tempDir();
  const one = await openLog(directory);
  const two = await openLog(directory);
  const before = await one.ensureTopic('t', TOPIC);
  await appendOne(one, 'old');
  await two.deleteTopic('t');
  await expect(appendOne(one, 'lost')).rejects.toMatchObject({ code: 'not-found' });
  const after = await two.ensureTopic('t', TOPIC);
  expect((await one.topic('t'))?.id).toBe(after.id);
  expect(after.id).not.toBe(before.id);
  expect(await appendOne(one, 'new')).toBe(0n);
  expect(await readValues(two, 't', 0)).toEqual(['new']);
});

test('a directory that holds something else, or a later format, is refused and left alone', async () => {
  const directory = tempDir();
  writeFileSync(join(directory, 'holiday.jpg'), '');
  await expect(openLog(directory)).rejects.toMatchObject({
    code: 'config',
    message: expect.stringContaining('holiday.jpg') as string,
  });
  expect(readdirSync(directory)).toEqual(['holiday.jpg']);
  const later = tempDir();
  writeFileSync(join(later, 'penstock-log.json'), '{"format":2}\n');
  await expect(openLog(later)).rejects.toMatchObject({ code: 'unsupported' });
});

test('a full disk fails the append by name, loses nothing, and is over when there is room', async ({ skip }) => {
  const directory = join(tempDir(), 'small');
  mkdirSync(directory);
  const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', directory], {
    stdio: 'ignore',
    timeout: HANG_MS,
  });
  if (mounted.status !== 0) skip('no right to mount a tmpfs here');
  onTestFinished(() => void spawnSync('umount', ['-l', directory], { stdio: 'ignore', timeout: HANG_MS }));
  const log = await openFileLogAt(join(directory, 'log'), { segmentBytes: 1 << 20, clock: systemClock });
  await log.ensureTopic('t', TOPIC);
  const ballast = join(directory, 'ballast');
  writeFileSync(ballast, Buffer.alloc(400_000));
  const stored: string[] = [];
  const value = (i: number): string => `${i}-${'x'.repeat(100_000)}`;
  for (let i = 0; i < 20; i++) {
    try {
      await appendOne(log, value(i));
      stored.push(value(i));
    } catch (error) {
      expect(error).toMatchObject({ code: 'full' });
      break;
    }
  }
  expect(stored.length).toBeGreaterThan(0);
  expect(stored.length).toBeLessThan(20);
  expect(await readValues(log, 't', 0)).toEqual(stored);
  truncateSync(ballast, 0);
  await appendOne(log, 'after');
  expect(await readValues(log, 't', 0)).toEqual([...stored, 'after']);
  await log.close();
});

function flip(path: string, at: number): void {
  const bytes = readFileSync(path);
  bytes[at] = (bytes[at] ?? 0) ^ 4;
  writeFileSync(path, bytes);
}
