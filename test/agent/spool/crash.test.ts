import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  appendFileSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, onTestFinished, test } from 'vitest';
import { openSpool } from '../../../agent/spool/spool.ts';
import { isRoot, memoryFolder } from '../../support/loop-disk.ts';
import { tempDir } from '../../support/temp.ts';
import { contentOf, readAll, readingOf, spoolIn } from './support.ts';
import { HANG_MS } from '../../support/hang.ts';

const childPath = fileURLToPath(new URL('./appending-child.ts', import.meta.url));
const filesIn = (dir: string, pattern: RegExp): string[] =>
  readdirSync(dir)
    .filter((name) => pattern.test(name))
    .sort()
    .map((name) => join(dir, name));
const segmentsIn = (dir: string): string[] => filesIn(dir, /\.seg$/);
const setAsideIn = (dir: string): string[] => filesIn(dir, /\.corrupt-\d+$/);

/** Runs the child until it printed `lines` acknowledgements, kills it, and returns all that it printed. */
async function appendAndKill(dir: string, start: number, lines: number): Promise<string[]> {
  const child = spawn(process.execPath, [childPath, dir, String(start)], { stdio: ['ignore', 'pipe', 'ignore'] });
  onTestFinished(() => void child.kill('SIGKILL'));
  const deadline = setTimeout(() => child.kill('SIGKILL'), HANG_MS);
  let text = '';
  let seen = 0;
  child.stdout.on('data', (chunk: Buffer) => {
    text += chunk.toString();
    seen += chunk.toString().split('\n').length - 1;
    if (seen >= lines) child.kill('SIGKILL');
  });
  await once(child, 'close');
  clearTimeout(deadline);
  return text.split('\n').slice(0, -1);
}

test('after kill -9, again and again, everything acknowledged is there exactly once and no sequence is missing', async () => {
  const dir = tempDir();
  const acknowledged: string[] = [];
  for (let round = 0; round < 6; round += 1) {
    acknowledged.push(...(await appendAndKill(dir, round * 1_000_000, 200 + round * 400)));
  }
  expect(acknowledged.length).toBeGreaterThan(2000);
  const spool = await spoolIn(dir);
  const stored: string[] = [];
  for (const topic of ['topic-0', 'topic-1']) {
    stored.push(...contentOf(await readAll(spool, topic)).map((value) => String(value).split('.', 1)[0] ?? ''));
  }
  const unique = new Set(stored);
  expect(unique.size).toBe(stored.length);
  expect(acknowledged.filter((value) => !unique.has(value))).toEqual([]);
  for (let source = 0; source < 8; source += 1) {
    // In order, and checkpoint and receipts are those of the last readings: none may stand without the other.
    const numbers = stored.filter((value) => value.startsWith(`${source}:`)).map((value) => Number(value.slice(2)));
    expect(numbers).toEqual(numbers.toSorted((a, b) => a - b));
    expect(spool.checkpoint(String(source))).toBe(numbers.at(-1));
    expect([...spool.receipts(String(source)).keys()].map(Number).slice(-3)).toEqual(numbers.slice(-3));
  }
  expect(setAsideIn(dir)).toEqual([]);
});

/** Each spends most of its time waiting for the file system. */
const FLIPS_AT_ONCE = 8;

/** For many spools: each start syncs several files. */
const quickDir = (): string => (isRoot ? memoryFolder('64m') : tempDir());

/** A closed spool with a group for each of the values, of topic `t`, in one segment. */
async function smallSpool(dir: string, values = ['one', 'two', 'three', 'four']): Promise<string[]> {
  const spool = await openSpool({ dir, agent: 'a', maxBytes: 1e9, whenFull: 'reject' });
  for (const value of values) {
    const receipt = { source: 's', id: value, content: 'c' };
    await spool.append([readingOf(value)], [{ source: 's', state: value }], [receipt]);
  }
  await spool.close();
  return values;
}

test('a tail that was torn anywhere is cut, without a gap, and the checkpoint fits the readings', async () => {
  const dir = tempDir();
  const copies = quickDir();
  const values = await smallSpool(dir);
  const [segment = ''] = segmentsIn(dir);
  const whole = readFileSync(segment);
  const headEnd = 40 + whole.readUInt32LE(4);
  for (let cut = headEnd; cut < whole.length; cut += 3) {
    for (const path of segmentsIn(dir)) truncateSync(path, 0);
    const copy = mkdtempSync(join(copies, 'copy-'));
    writeFileSync(join(copy, segment.slice(dir.length + 1)), whole.subarray(0, cut));
    const spool = await openSpool({ dir: copy, agent: 'a', maxBytes: 1e9, whenFull: 'reject' });
    const content = contentOf(await readAll(spool));
    expect(content).toEqual(values.slice(0, content.length));
    expect(spool.checkpoint('s')).toBe(content.at(-1));
    expect([...spool.receipts('s').keys()]).toEqual(content);
    expect(setAsideIn(copy)).toEqual([]);
    await spool.append([readingOf('next')]);
    expect(contentOf(await readAll(spool))).toEqual([...content, 'next']);
    await spool.close();
    rmSync(copy, { recursive: true });
  }
});

test('zeros behind the last group, as some file systems leave them after a power cut, are cut', async () => {
  const dir = tempDir();
  const values = await smallSpool(dir);
  appendFileSync(segmentsIn(dir)[0] ?? '', Buffer.alloc(5000));
  const spool = await spoolIn(dir);
  expect(contentOf(await readAll(spool))).toEqual(values);
  expect(setAsideIn(dir)).toEqual([]);
});

test('no flipped bit, anywhere in a small spool, ever yields a wrong reading or a sequence given out twice', async () => {
  const dir = tempDir();
  const copies = quickDir();
  const values = ['1', '2'];
  await smallSpool(dir, values);
  const [segment = ''] = segmentsIn(dir);
  const whole = readFileSync(segment);
  const { incarnation } = JSON.parse(whole.toString('utf8', 40, 40 + whole.readUInt32LE(4))) as { incarnation: string };
  let withLoss = 0;
  /** One bit, in a copy of the spool. */
  const flip = async (bit: number): Promise<void> => {
    const copy = mkdtempSync(join(copies, 'copy-'));
    const bytes = Buffer.from(whole);
    bytes.writeUInt8(bytes.readUInt8(bit >> 3) ^ (1 << (bit & 7)), bit >> 3);
    writeFileSync(join(copy, segment.slice(dir.length + 1)), bytes);
    const spool = await openSpool({ dir: copy, agent: 'a', maxBytes: 1e9, whenFull: 'reject' });
    await spool.append([readingOf('next')]);
    const entries = await readAll(spool);
    const content = contentOf(entries);
    expect(content.at(-1)).toBe('next');
    for (const entry of entries.slice(0, -1)) {
      if (entry.kind !== 'reading') continue;
      expect([entry.value.toString(), entry.incarnation]).toEqual([values[Number(entry.seq) - 1], incarnation]);
    }
    const kept = entries.filter((entry) => entry.kind === 'reading').length - 1;
    if (kept < values.length) {
      withLoss += 1;
      expect(setAsideIn(copy).length).toBeGreaterThan(0);
      // Where the sequence of `next` may have been given to a lost reading, the incarnation tells them apart.
      const last = entries.at(-1);
      if (last?.kind === 'reading' && last.seq <= 2n) expect(last.incarnation).not.toBe(incarnation);
    }
    await spool.close();
    rmSync(copy, { recursive: true });
  };
  for (let bit = 0; bit < 8 * whole.length; bit += FLIPS_AT_ONCE) {
    const bits = Array.from({ length: Math.min(FLIPS_AT_ONCE, 8 * whole.length - bit) }, (_, index) => bit + index);
    await Promise.all(bits.map(flip));
  }
  expect(withLoss).toBeGreaterThan(4 * whole.length);
});

test('damage in the middle of a segment costs the damaged frame, explained by a gap, and a copy is set aside', async () => {
  const dir = tempDir();
  const first = await spoolIn(dir, { segmentBytes: 20_000 });
  for (let index = 1; index <= 60; index += 1) await first.append([readingOf(String(index).padEnd(1000, '.'))]);
  await first.close();
  const segment = segmentsIn(dir)[1] ?? '';
  const bytes = readFileSync(segment);
  bytes.writeUInt8(bytes.readUInt8(5000) ^ 1, 5000);
  writeFileSync(segment, bytes);
  const spool = await spoolIn(dir);
  const entries = await readAll(spool, 't', 3000);
  expect(contentOf(entries)).toHaveLength(60);
  const gaps = entries.filter((entry) => entry.kind === 'gap');
  expect(gaps).toEqual([expect.objectContaining({ reason: 'lost: a damaged spool segment' })]);
  expect(gaps[0]?.toSeq).toBe(gaps[0]?.fromSeq);
  expect(setAsideIn(dir)).toEqual([`${segment}.corrupt-1`]);
  expect(readFileSync(`${segment}.corrupt-1`)).toEqual(bytes);
  expect(spool.stats().setAside).toEqual([`${segment}.corrupt-1`]);
});

test('a segment whose head is gone is set aside whole, the spool starts, and the loss is a gap', async () => {
  const dir = tempDir();
  const first = await spoolIn(dir, { segmentBytes: 20_000 });
  for (let index = 1; index <= 60; index += 1) await first.append([readingOf(String(index).padEnd(1000, '.'))]);
  const { incarnation } = first.identity;
  await first.close();
  const segment = segmentsIn(dir)[1] ?? '';
  truncateSync(segment, 20);
  const spool = await spoolIn(dir);
  expect(setAsideIn(dir)).toEqual([`${segment}.corrupt-1`]);
  expect(statSync(`${segment}.corrupt-1`).size).toBe(20);
  const entries = await readAll(spool);
  contentOf(entries);
  expect(entries.filter((entry) => entry.kind === 'gap')).toHaveLength(1);
  expect(entries.at(-1)).toMatchObject({ seq: 60n, incarnation });
  expect(spool.identity.incarnation).not.toBe(incarnation);
});

test('files that are not ours are left alone', async () => {
  const dir = tempDir();
  writeFileSync(join(dir, 'notes.txt'), 'mine');
  writeFileSync(join(dir, '000000000001.seg'), 'not a segment at all, but named like one');
  const spool = await spoolIn(dir);
  await spool.append([readingOf('x')]);
  expect(contentOf(await readAll(spool))).toEqual(['x']);
  expect(readFileSync(join(dir, 'notes.txt'), 'utf8')).toBe('mine');
  expect(readFileSync(join(dir, '000000000001.seg.corrupt-1'), 'utf8')).toContain('not a segment');
});
