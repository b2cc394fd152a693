/** The block cache under kills, damage, full disks and other mounts of its folder. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readdirSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { BlockCache } from '../../fs-gateway/data/block-cache.ts';
import { isRoot, memoryFolder } from '../support/loop-disk.ts';
import { tempDir } from '../support/temp.ts';
import { bytesOf, pieceOf } from './cached-pieces.ts';

const MIB = 2 ** 20;

function openCache(dir: string): BlockCache {
  const cache = new BlockCache({ dir, bytesMax: 1e9, freeBytesMin: 0 });
  onTestFinished(() => cache.close());
  return cache;
}

/** True: it has the piece, with the right bytes. Wrong bytes fail the test. */
async function isThere(cache: BlockCache, n: number): Promise<boolean> {
  if (!(await cache.verify(pieceOf(n)))) return false;
  const target = Buffer.alloc(bytesOf(n).length);
  expect(cache.readSync(pieceOf(n), 0, target, 0, target.length)).toBe(true);
  expect(target.equals(bytesOf(n)), `piece ${n}`).toBe(true);
  return true;
}

function filesOf(dir: string): string[] {
  const entries = readdirSync(dir, { recursive: true, withFileTypes: true });
  return entries.filter((entry) => entry.isFile()).map(({ parentPath, name }) => join(parentPath, name));
}

test('what a process that was killed in a put leaves is whole, or gone when it is asked for', async () => {
  const dir = tempDir('block-cache');
  const child = spawn(process.execPath, [join(import.meta.dirname, 'block-cache-child.ts'), dir], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  onTestFinished(() => void child.kill('SIGKILL'));
  const exited = once(child, 'exit');
  for await (const line of child.stdout) if (Number(String(line).trim().split('\n').at(-1)) >= 3) break;
  child.kill('SIGKILL');
  await exited;
  // However far it came: its cache has room for nine of them, and one more may be there in part.
  const found = filesOf(dir).map((path) => Number(basename(path).slice('piece-'.length)));
  const cache = openCache(dir);
  let whole = 0;
  for (const n of found) if (await isThere(cache, n)) whole++;
  expect(whole).toBeGreaterThanOrEqual(Math.max(3, found.length - 1));
  expect(filesOf(dir).length).toBe(whole);
  expect(cache.bytes).toBe(whole * (4 * MIB + 4));
});

test.each([0, 1, 2 * MIB, 4 * MIB, 4 * MIB + 3])(
  'a block of which %i bytes were written when its process died is gone, and is kept when it comes again',
  async (bytes) => {
    const dir = tempDir('block-cache');
    await openCache(dir).put(pieceOf(1), bytesOf(1));
    const [path = ''] = filesOf(dir);
    truncateSync(path, bytes);
    const cache = openCache(dir);
    expect(cache.has(pieceOf(1))).toBe(true);
    expect(await isThere(cache, 1)).toBe(false);
    expect(filesOf(dir)).toEqual([]);
    await cache.put(pieceOf(1), bytesOf(1));
    expect(await isThere(cache, 1)).toBe(true);
  },
);

test.skipIf(!isRoot)('a block for which the disk has room in part is not kept, and takes none of it', async () => {
  const disk = memoryFolder('80m');
  const dir = join(disk, 'blocks');
  const cache = openCache(dir);
  await cache.put(pieceOf(0), bytesOf(0));
  // Another program, between two looks of the cache at the disk.
  writeFileSync(join(disk, 'others'), Buffer.alloc(69 * MIB));
  for (const n of [1, 2]) await cache.put(pieceOf(n), bytesOf(n));
  expect([await isThere(cache, 0), await isThere(cache, 1), await isThere(cache, 2)]).toEqual([true, true, false]);
  expect(filesOf(dir).map((path) => statSync(path).size)).toEqual([4 * MIB + 4, 4 * MIB + 4]);
  expect(cache.bytes).toBe(2 * (4 * MIB + 4));
});

test('what an earlier version kept in other folders is removed', () => {
  const dir = tempDir('block-cache');
  mkdirSync(join(dir, 'a7'));
  for (const name of ['piece-1', 'piece-2.0.tmp']) writeFileSync(join(dir, 'a7', name), 'bytes');
  const cache = openCache(dir);
  expect(filesOf(dir)).toEqual([]);
  expect([cache.bytes, cache.has(pieceOf(1))]).toEqual([0, false]);
});

test('a folder that is removed under a cache is made anew', async () => {
  const dir = tempDir('block-cache');
  const cache = openCache(dir);
  await cache.put(pieceOf(1), bytesOf(1));
  for (const name of readdirSync(dir)) rmSync(join(dir, name), { recursive: true });
  expect(cache.readSync(pieceOf(1), 0, Buffer.alloc(10), 0, 10)).toBe(false);
  // That it is gone is met by the first, which is not kept.
  for (let round = 0; round < 2; round++) await cache.put(pieceOf(1), bytesOf(1));
  expect(await isThere(cache, 1)).toBe(true);
});

test('two mounts that keep blocks in one folder read no wrong bytes of one another, whoever writes a block again', async () => {
  const dir = tempDir('block-cache');
  const [one, two] = [openCache(dir), openCache(dir)];
  for (let n = 0; n < 4; n++) await one.put(pieceOf(n), bytesOf(n));
  const target = Buffer.alloc(4 * MIB);
  let isOver = false;
  const reading = (async () => {
    for (let n = 0; !isOver; n = (n + 1) % 4) {
      const found = one.readSync(pieceOf(n), 0, target, 0, target.length);
      if (found) expect(target.equals(bytesOf(n)), `piece ${n}`).toBe(true);
      else await one.put(pieceOf(n), bytesOf(n));
      await new Promise((resolve) => setImmediate(resolve));
    }
  })();
  for (let n = 0; n < 12; n++) {
    await two.put(pieceOf(n % 4), bytesOf(n % 4));
    two.forget(pieceOf((n + 3) % 4));
  }
  isOver = true;
  await reading;
});

test('two mounts that write one block at once: whoever is done reads all of it, however far the other is', async () => {
  const dir = tempDir('block-cache');
  const target = Buffer.alloc(4 * MIB);
  for (let delay = 0; delay < 12; delay++) {
    const [one, two] = [openCache(dir), openCache(dir)];
    const put = async (cache: BlockCache, turns: number): Promise<void> => {
      for (let turn = 0; turn < turns; turn++) await new Promise((resolve) => setImmediate(resolve));
      await cache.put(pieceOf(delay), bytesOf(delay));
      expect(cache.readSync(pieceOf(delay), 0, target, 0, target.length)).toBe(true);
      expect(target.equals(bytesOf(delay)), `behind ${delay} turns`).toBe(true);
    };
    await Promise.all([put(one, 0), put(two, delay)]);
  }
});
