/** One topic that is not delivered does not keep the space of the others. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { expect, onTestFinished, test } from 'vitest';
import type { Spool } from '../../../agent/spool/spool.ts';
import { tempDir } from '../../support/temp.ts';
import { contentOf, readAll, readingOf, spoolIn } from './support.ts';
import { HANG_MS } from '../../support/hang.ts';

const childPath = fileURLToPath(new URL('./compacting-child.ts', import.meta.url));
const options = { maxBytes: 1_048_576 };
/** What a child of compaction.test.ts stores, too. */
const valueOf = (n: number): string => `${n}`.padEnd(1000, '.');

/** In groups of twenty, of which every fifth ends with one for `held`, which is not delivered; `good` is, as it comes. */
async function append(spool: Spool, from: number, to: number): Promise<void> {
  for (let first = from; first <= to; first += 20) {
    const numbers = Array.from({ length: 20 }, (_, index) => first + index);
    await spool.append(numbers.map((n) => readingOf(valueOf(n), n % 100 === 0 ? 'held' : 'good')));
    spool.acknowledge('good', spool.lastSeq('good'));
  }
}

const numbersIn = async (spool: Spool, topic: string): Promise<number[]> =>
  contentOf(await readAll(spool, topic)).map((value) => Number.parseInt(String(value), 10));
const segmentsIn = (dir: string): string[] =>
  readdirSync(dir)
    .filter((name) => name.endsWith('.seg'))
    .sort();
const multiples = (count: number): number[] => Array.from({ length: count }, (_, index) => (index + 1) * 100);

test('what is delivered gives its space back although something beside it waits, over restarts', async () => {
  const dir = tempDir();
  let spool = await spoolIn(dir, options);
  // Six times what the spool holds.
  for (let round = 0; round < 3; round += 1) {
    await append(spool, round * 2000 + 1, (round + 1) * 2000);
    expect(await numbersIn(spool, 'held')).toEqual(multiples((round + 1) * 20));
    await spool.close();
    spool = await spoolIn(dir, options);
  }
  expect(await numbersIn(spool, 'held')).toEqual(multiples(60));
  expect(spool.stats().setAside).toEqual([]);
  spool.acknowledge('held', 60n);
  await spool.append([readingOf('last')]);
  spool.acknowledge('t', 1n);
  await spool.sync();
  expect(spool.stats().bytes).toBeLessThan(options.maxBytes / 4);
});

test('a segment that cannot be read does not keep the others from giving their space back', async () => {
  const dir = tempDir();
  const spool = await spoolIn(dir, options);
  // The fullest one, and so the first that is worth it: of groups of one reading.
  await spool.append([readingOf('0 waits', 'held'), readingOf(valueOf(2), 'good')]);
  for (let n = 3; n <= 200; n += 1) await spool.append([readingOf(valueOf(n), 'good')]);
  spool.acknowledge('good', spool.lastSeq('good'));
  const path = segmentsIn(dir).find((name) => readFileSync(join(dir, name)).includes('0 waits'));
  rmSync(join(dir, path ?? ''));
  await append(spool, 201, 4000);
  const entries = await readAll(spool, 'held');
  expect(entries[0]).toMatchObject({ kind: 'gap', fromSeq: 1n, toSeq: 1n });
  expect(contentOf(entries.slice(1), 2n).map((value) => Number.parseInt(String(value), 10))).toEqual(
    multiples(40).slice(2),
  );
});

test('a damaged frame is set aside also when its segment was written anew before somebody read it', async () => {
  const dir = tempDir();
  const spool = await spoolIn(dir, options);
  await append(spool, 1, 400);
  const path = join(dir, segmentsIn(dir)[0] ?? '');
  const bytes = readFileSync(path);
  const before = bytes.length;
  const at = bytes.indexOf(valueOf(100));
  expect(at).toBeGreaterThan(0);
  bytes.writeUInt8(bytes.readUInt8(at + 500) ^ 1, at + 500);
  writeFileSync(path, bytes);
  await append(spool, 401, 3000);
  expect(statSync(path).size).toBeLessThan(before / 2);
  const entries = await spool.read('held', 0n, 1e6);
  expect(entries[0]).toMatchObject({ kind: 'gap', fromSeq: 1n, toSeq: 1n, reason: 'lost: a damaged spool segment' });
  expect(spool.stats().setAside).toEqual([`${path}.corrupt-1`]);
});

test('a reader meets each reading once while segments are written anew under it', async () => {
  const spool = await spoolIn(tempDir(), options);
  const seen: number[] = [];
  const writing = new AbortController();
  const reading = (async () => {
    for (let after = 0n; !writing.signal.aborted || after < spool.lastSeq('held');) {
      for (const entry of await spool.read('held', after, 3000)) {
        if (entry.kind !== 'reading') throw new Error(`a ${entry.kind} of ${entry.fromSeq} to ${entry.toSeq}`);
        seen.push(Number.parseInt(entry.value.toString(), 10));
        after = entry.seq;
      }
      await setImmediate();
      // All of them, too: segments are written anew while such a read is on its way.
      const all = await spool.read('held', 0n, 1e6);
      expect(all.map((entry) => (entry.kind === 'reading' ? Number(entry.seq) : entry))).toEqual(
        Array.from({ length: all.length }, (_, index) => index + 1),
      );
    }
  })();
  await append(spool, 1, 10_000).finally(() => writing.abort());
  await reading;
  expect(seen).toEqual(multiples(100));
  expect(spool.stats().setAside).toEqual([]);
});

test('what is delivered ahead of a reader, and deleted while it reads, is no gap', async () => {
  const spool = await spoolIn(tempDir(), options);
  for (let round = 0; round < 20; round += 1) {
    const first = spool.lastSeq('good') + 1n;
    const groups = Array.from({ length: 20 }, (_, group) => group);
    for (const group of groups) {
      await spool.append(Array.from({ length: 20 }, (_, n) => readingOf(valueOf(group * 20 + n), 'good')));
    }
    spool.acknowledgeRange('good', first + 20n, first + 399n);
    // At another moment each time.
    const synced = spool.sync();
    for (let turn = 0; turn < round; turn += 1) await setImmediate();
    const entries = await spool.read('good', first - 1n, 1e6);
    expect(entries.filter(({ kind }) => kind === 'gap')).toEqual([]);
    await synced;
    spool.acknowledge('good', first + 399n);
    await spool.sync();
  }
});

test('of a topic that the log refuses no more is taken in a spool that is half full; the others go on', async () => {
  const spool = await spoolIn(tempDir(), options);
  let isRefused = true;
  spool.room.isRefused = (topic) => isRefused && topic === 'held';
  const fill = async (topic: string): Promise<number> => {
    for (let count = 0; ; count += 10) {
      try {
        await spool.append(Array.from({ length: 10 }, () => readingOf(valueOf(count), topic)));
      } catch (error) {
        expect(error).toMatchObject({ code: 'full', retryable: true });
        return count;
      }
    }
  };
  const taken = await fill('held');
  expect(spool.stats().bytes).toBeGreaterThan(options.maxBytes / 2);
  expect(spool.stats().bytes).toBeLessThan(options.maxBytes * 0.6);
  await expect(spool.append([readingOf('x', 'held')])).rejects.toThrow(/the log refuses topic held/);
  // Others have the other half, again and again.
  for (let group = 0; group < 150; group += 1) {
    await spool.append(Array.from({ length: 20 }, (_, n) => readingOf(valueOf(n), 'good')));
    spool.acknowledge('good', spool.lastSeq('good'));
  }
  isRefused = false;
  expect(await fill('held')).toBeGreaterThan(100);
  expect((await readAll(spool, 'held')).length).toBeGreaterThan(taken + 100);
});

test('killed -9 again and again while it compacts, it has every reading that waits, once', async () => {
  const dir = tempDir();
  let stored = 0;
  for (let round = 0; round < 6; round += 1) {
    const child = spawn(process.execPath, [childPath, dir], { stdio: ['ignore', 'pipe', 'ignore'] });
    onTestFinished(() => void child.kill('SIGKILL'));
    const deadline = setTimeout(() => child.kill('SIGKILL'), HANG_MS);
    let text = '';
    child.stdout.on('data', (chunk: Buffer) => {
      text += chunk.toString();
      // At another moment each time.
      if (text.split('\n').length > 25 + round * 7) child.kill('SIGKILL');
    });
    await once(child, 'close');
    clearTimeout(deadline);
    stored = Number(text.split('\n').at(-2) ?? stored);
    const spool = await spoolIn(dir, options);
    const held = await numbersIn(spool, 'held');
    expect(held).toEqual(multiples(held.length));
    expect(held.length).toBeGreaterThanOrEqual(Math.floor(stored / 100));
    expect(spool.stats().setAside).toEqual([]);
    await spool.close();
    expect(readdirSync(dir).filter((name) => name.endsWith('.tmp'))).toEqual([]);
  }
  // More than it can hold without giving space back.
  expect(stored).toBeGreaterThan(2000);
});
