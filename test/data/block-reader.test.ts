/** Memory of pieces: used again, bounded, and never written to under who reads it. */
import { randomBytes } from 'node:crypto';
import { mkdirSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import { crc32c } from '@node-rs/crc32';
import { expect, onTestFinished, test } from 'vitest';
import { BlockCache } from '../../fs-gateway/data/block-cache.ts';
import { BlockReader } from '../../fs-gateway/data/block-reader.ts';
import { PieceMemory } from '../../fs-gateway/data/piece-memory.ts';
import { objectKey, piecesOf } from '../../fs-gateway/data/pieces.ts';
import { ReadAhead } from '../../fs-gateway/data/read-ahead.ts';
import { openStore } from '../../lib/registry.ts';
import type { ObjectStore } from '../../lib/store/store.ts';
import type { Extent } from '../../lib/volume/extents.ts';
import { tempDir } from '../support/temp.ts';

const MIB = 2 ** 20;
const BLOCK = 8 * MIB;

/** A store that is not a directory of this machine, as far as a reader knows, and counts what it gives. */
async function remoteStore(
  dir: string,
): Promise<{ readonly store: ObjectStore; readonly given: () => number; readonly asked: () => number }> {
  const store = await openStore(`dir:${dir}`);
  let [given, asked] = [0, 0];
  const remote = new Proxy(store, {
    get(target, name) {
      if (name === 'localPath') return () => null;
      if (name !== 'get') return (Reflect.get(target, name) as () => unknown).bind(target);
      return async (...args: Parameters<ObjectStore['get']>) => {
        asked++;
        const bytes = await target.get(...args);
        given += bytes.length;
        return bytes;
      };
    },
  });
  return { store: remote, given: () => given, asked: () => asked };
}

async function fileOf(store: ObjectStore, blocks: number): Promise<{ data: Buffer; extents: Extent[] }> {
  const data = randomBytes(blocks * BLOCK);
  const extents: Extent[] = [];
  for (let n = 0; n < blocks; n++) {
    const block = data.subarray(n * BLOCK, (n + 1) * BLOCK);
    await store.put(objectKey('v', n), block);
    const source = {
      kind: 'own',
      objectId: n,
      pieceOffset: 0,
      pieceBytes: BLOCK,
      storedBytes: BLOCK,
      crc: crc32c(block),
    } as const;
    extents.push({ fileOffset: n * BLOCK, length: BLOCK, sliceOffset: 0, source });
  }
  return { data, extents };
}

/** An object of somebody else, of one version. */
async function publishedFile(
  store: ObjectStore,
  bytes: number,
  name = 'raw/object',
): Promise<{ data: Buffer; extents: Extent[] }> {
  const data = randomBytes(bytes);
  const { key, etag } = await store.put(name, data);
  const source = { kind: 'external', key, objectBytes: bytes, etag } as const;
  return { data, extents: [{ fileOffset: 0, length: bytes, sliceOffset: 0, source }] };
}

/** One piece that needs all of the memory of pieces, rounded up. */
async function largeFile(store: ObjectStore): Promise<{ large: Buffer; whole: Extent[] }> {
  const large = randomBytes(40 * MIB);
  await store.put(objectKey('v', 100), large);
  const bytes = { pieceOffset: 0, pieceBytes: large.length, storedBytes: large.length, crc: crc32c(large) };
  const source = { kind: 'own', objectId: 100, ...bytes } as const;
  return { large, whole: [{ fileOffset: 0, length: large.length, sliceOffset: 0, source }] };
}

test('memory that is given back is written to again in a later turn only, and what was lent when its borrower is done', async () => {
  const memory = new PieceMemory(4 * MIB);
  const first = memory.take(2 * MIB);
  const lent = memory.take(2 * MIB);
  const giveBack = memory.lend(lent);
  expect(memory.fits(2 * MIB)).toBe(false);
  memory.give(first);
  memory.give(lent);
  expect(memory.willFit(4 * MIB)).toBe(true);
  expect(memory.fits(2 * MIB)).toBe(false);
  await turn();
  const [one, two] = [memory.take(2 * MIB - 5), memory.take(2 * MIB)];
  expect(isSamePlace(one, first)).toBe(true);
  expect(one.length).toBe(2 * MIB - 5);
  // What was lent does not count any more, and is not used either.
  expect(two.buffer).not.toBe(lent.buffer);
  memory.give(two);
  await turn();
  giveBack();
  expect(isSamePlace(memory.take(2 * MIB), lent)).toBe(true);
});

function isSamePlace(a: Buffer, b: Buffer): boolean {
  return a.buffer === b.buffer && a.byteOffset === b.byteOffset;
}

test.each([
  ['with a cache', 1e9],
  ['with a cache that has no room', 0],
])('many readers of more than fits into memory read the right bytes, %s', async (_, bytesMax) => {
  const base = tempDir('reader');
  const { store } = await remoteStore(join(base, 'objects'));
  const { data, extents } = await fileOf(store, 14);
  const cache = new BlockCache({ dir: join(base, 'cache'), bytesMax, freeBytesMin: 0 });
  const reader = new BlockReader({ store, cache, volumeId: 'v' });
  onTestFinished(() => reader.close());
  reader.prefetch(extents, 0, data.length);
  const read = async (from: number): Promise<void> => {
    // Over the border of two pieces, which needs both at once; and in one.
    const target = Buffer.alloc(BLOCK);
    await reader.read(extents, from, target);
    expect(target.equals(data.subarray(from, from + BLOCK)), `from ${from}`).toBe(true);
    await reader.bring(extents, from, from + MIB);
    const view = reader.view(extents, from, from + MIB);
    if (view !== null) expect(view.equals(data.subarray(from, from + MIB))).toBe(true);
  };
  for (let round = 0; round < 2; round++) {
    await Promise.all(Array.from({ length: 13 }, (_value, n) => read(n * BLOCK + (n % 2) * 3 * MIB)));
  }
});

test('a random read of an object that was published fetches a part of its chunk, not all of it; the next one there the chunk', async () => {
  const base = tempDir('reader');
  const { store, given } = await remoteStore(join(base, 'objects'));
  const { data, extents } = await publishedFile(store, 9 * MIB + 5);
  const cache = new BlockCache({ dir: join(base, 'cache'), bytesMax: 1e9, freeBytesMin: 0 });
  const reader = new BlockReader({ store, cache, volumeId: 'v' });
  const read = async (from: number, length: number): Promise<number> => {
    const before = given();
    const target = Buffer.alloc(length);
    await reader.read(extents, from, target);
    expect(target.equals(data.subarray(from, from + length)), `from ${from}`).toBe(true);
    return given() - before;
  };
  expect(await read(5.5 * MIB, 4096)).toBe(MIB);
  expect(await read(5 * MIB, MIB)).toBe(0);
  expect(await read(6.5 * MIB, 4096)).toBe(4 * MIB);
  expect(await read(4 * MIB, 4 * MIB)).toBe(0);
  // Over the border of two parts; over that of two chunks; at the end of the object.
  expect(await read(1.5 * MIB, MIB)).toBe(4 * MIB);
  expect(await read(8 * MIB - 10, 20)).toBe(MIB);
  expect(await read(9 * MIB, 5)).toBe(MIB + 5);
  await reader.close();
  // What is whole elsewhere on the disk leaves nothing of either behind.
  expect(cache.bytes).toBeGreaterThan(9 * MIB);
  reader.forget(extents, data.length);
  expect(cache.bytes).toBe(0);
});

test('who reads a published object from its beginning to its end fetches each byte once, two chunks in one GET', async () => {
  const base = tempDir('reader');
  const { store, given, asked } = await remoteStore(join(base, 'objects'));
  const { data, extents } = await publishedFile(store, 20 * MIB);
  const cache = new BlockCache({ dir: join(base, 'cache'), bytesMax: 0, freeBytesMin: 0 });
  const reader = new BlockReader({ store, cache, volumeId: 'v' });
  onTestFinished(() => reader.close());
  const ahead = new ReadAhead();
  for (let from = 0; from < data.length; from += MIB) {
    const window = ahead.after(from, from + MIB, data.length);
    if (window !== null) reader.prefetch(extents, window.from, window.to);
    await reader.bring(extents, from, from + MIB);
    expect(reader.view(extents, from, from + MIB)?.equals(data.subarray(from, from + MIB))).toBe(true);
  }
  expect(given()).toBe(data.length);
  // The first chunk is asked for when nobody knows yet that more will be read.
  expect(asked()).toBe(3);
});

test('what many readers together have no room to fetch ahead is asked for again once there is, and not only by who comes to it', async () => {
  const base = tempDir('reader');
  const { store } = await remoteStore(join(base, 'objects'));
  const first = await publishedFile(store, 40 * MIB, 'raw/first');
  const second = await publishedFile(store, 8 * MIB, 'raw/second');
  const cache = new BlockCache({ dir: join(base, 'cache'), bytesMax: 0, freeBytesMin: 0 });
  const reader = new BlockReader({ store, cache, volumeId: 'v' });
  onTestFinished(() => reader.close());
  expect(reader.prefetch(first.extents, 0, first.data.length)).toBe(first.data.length);
  const ahead = new ReadAhead();
  const window = ahead.after(0, MIB, second.data.length);
  expect(window).toEqual({ from: MIB, to: 5 * MIB });
  ahead.reached(reader.prefetch(second.extents, MIB, 5 * MIB));
  // Who reads the first makes room.
  for (let from = 0; from < first.data.length; from += 4 * MIB)
    await reader.read(first.extents, from, Buffer.alloc(MIB));
  expect(ahead.after(MIB, 2 * MIB, second.data.length)).toEqual({ from: 2 * MIB, to: 8 * MIB });
  expect(reader.prefetch(second.extents, 2 * MIB, 8 * MIB)).toBe(8 * MIB);
});

test('blocks of which a part was written over, and that nobody comes for, leave room to fetch ahead', async () => {
  const base = tempDir('reader');
  const { store } = await remoteStore(join(base, 'objects'));
  const { data, extents } = await fileOf(store, 4);
  const cache = new BlockCache({ dir: join(base, 'cache'), bytesMax: 0, freeBytesMin: 0 });
  const reader = new BlockReader({ store, cache, volumeId: 'v' });
  onTestFinished(() => reader.close());
  // Each block in two extents, as it is around a hole that was punched.
  const torn = extents.flatMap((extent) => [
    { ...extent, length: MIB },
    { ...extent, fileOffset: extent.fileOffset + 2 * MIB, sliceOffset: extent.sliceOffset + 2 * MIB, length: 1000 },
  ]);
  for (let pass = 0; pass < 4; pass++) {
    expect(reader.prefetch(torn, 0, data.length)).toBe(data.length);
    for (const { fileOffset } of extents) await reader.read(torn, fileOffset, Buffer.alloc(MIB));
    reader.forget(extents, data.length);
  }
});

test('chunks that are asked for at once are read and cached one by one, also by the mount behind it', async () => {
  const base = tempDir('reader');
  const { store, given, asked } = await remoteStore(join(base, 'objects'));
  const { data, extents } = await publishedFile(store, 8 * MIB + 5);
  for (let mount = 0; mount < 2; mount++) {
    const cache = new BlockCache({ dir: join(base, 'cache'), bytesMax: 1e9, freeBytesMin: 0 });
    const reader = new BlockReader({ store, cache, volumeId: 'v' });
    reader.prefetch(extents, 0, data.length);
    const target = Buffer.alloc(data.length);
    await reader.read(extents, 0, target);
    expect(target.equals(data)).toBe(true);
    await reader.close();
    // Three pieces, each with its checksum.
    expect(cache.bytes).toBe(data.length + 3 * 4);
    expect([asked(), given()]).toEqual([2, data.length]);
  }
});

test('of an object that somebody cut, what it still has is read, also where the rest was asked for at once', async () => {
  const base = tempDir('reader');
  const { store } = await remoteStore(join(base, 'objects'));
  const data = randomBytes(8 * MIB);
  const { key } = await store.put('raw/object', data);
  const extentOf = (etag: string | undefined): Extent[] => {
    const source = { kind: 'external', key, objectBytes: data.length, ...(etag !== undefined && { etag }) } as const;
    return [{ fileOffset: 0, length: data.length, sliceOffset: 0, source }];
  };
  await store.put('raw/object', data.subarray(0, 6 * MIB));
  const cache = new BlockCache({ dir: join(base, 'cache'), bytesMax: 1e9, freeBytesMin: 0 });
  const reader = new BlockReader({ store, cache, volumeId: 'v' });
  onTestFinished(() => reader.close());
  const target = Buffer.alloc(4 * MIB);
  reader.prefetch(extentOf(undefined), 0, data.length);
  await reader.read(extentOf(undefined), 0, target);
  expect(target.equals(data.subarray(0, 4 * MIB))).toBe(true);
  await expect(async () => reader.read(extentOf(undefined), 4 * MIB, target)).rejects.toMatchObject({
    code: 'corrupt',
  });
  // Of a version that is gone nothing is read.
  reader.prefetch(extentOf('gone'), 0, data.length);
  await expect(async () => reader.read(extentOf('gone'), 0, target)).rejects.toThrow(
    'was changed since it was published',
  );
});

test('pieces of all sizes, fetched and uploaded ones, are in one stretch of memory: each of its own had V8 look for garbage', async () => {
  const base = tempDir('reader');
  const { store } = await remoteStore(join(base, 'objects'));
  const blocks = await fileOf(store, 2);
  const { extents } = await publishedFile(store, 16_000);
  const cache = new BlockCache({ dir: join(base, 'cache'), bytesMax: 1e9, freeBytesMin: 0 });
  const reader = new BlockReader({ store, cache, volumeId: 'v' });
  onTestFinished(() => reader.close());
  await reader.bring(extents, 0, 16_000);
  await reader.bring(blocks.extents, 0, MIB);
  for (const { piece } of piecesOf('v', blocks.extents, BLOCK, BLOCK + 1)) {
    reader.remember(piece, Buffer.from(blocks.data.subarray(BLOCK)), false);
  }
  const views = [
    reader.view(extents, 0, 16_000),
    reader.view(blocks.extents, 0, MIB),
    reader.view(blocks.extents, BLOCK, BLOCK + MIB),
  ];
  expect(views).not.toContain(null);
  expect(new Set(views.map((view) => view?.buffer)).size).toBe(1);
});

test('a sequential reader fetches each byte once', async () => {
  const base = tempDir('reader');
  const { store, given } = await remoteStore(join(base, 'objects'));
  const { data, extents } = await fileOf(store, 14);
  const cache = new BlockCache({ dir: join(base, 'cache'), bytesMax: 0, freeBytesMin: 0 });
  const reader = new BlockReader({ store, cache, volumeId: 'v' });
  onTestFinished(() => reader.close());
  for (let from = 0; from < data.length; from += MIB) {
    reader.prefetch(extents, from, Math.min(data.length, from + 32 * MIB));
    await reader.bring(extents, from, from + MIB);
    expect(reader.view(extents, from, from + MIB)?.equals(data.subarray(from, from + MIB))).toBe(true);
  }
  expect(given()).toBe(data.length);
  expect(reader.fetchedBytes).toBe(data.length);
});

test('a disk that hangs holds up no reader', async () => {
  const base = tempDir('reader');
  const { store } = await remoteStore(join(base, 'objects'));
  const { data, extents } = await fileOf(store, 14);
  const hangs = Promise.withResolvers<undefined>();
  class HungCache extends BlockCache {
    override async put(...[piece, bytes]: Parameters<BlockCache['put']>): Promise<void> {
      await hangs.promise;
      await super.put(piece, bytes);
    }
  }
  const cache = new HungCache({ dir: join(base, 'cache'), bytesMax: 1e9, freeBytesMin: 0 });
  const reader = new BlockReader({ store, cache, volumeId: 'v' });
  onTestFinished(async () => {
    hangs.resolve(undefined);
    await reader.close();
  });
  // Uploads are as bounded as reads.
  for (const { piece, fileOffset } of piecesOf('v', extents, 0, data.length)) {
    reader.remember(piece, Buffer.from(data.subarray(fileOffset, fileOffset + BLOCK)), false);
  }
  const kept = extents.filter(({ fileOffset }) => reader.view(extents, fileOffset, fileOffset + BLOCK) !== null);
  expect(kept.length).toBeGreaterThan(0);
  expect(kept.length).toBeLessThanOrEqual(8);
  const target = Buffer.alloc(BLOCK);
  for (let from = 0; from < data.length; from += BLOCK) {
    await reader.read(extents, from, target);
    expect(target.equals(data.subarray(from, from + BLOCK)), `from ${from}`).toBe(true);
  }
  const { large, whole } = await largeFile(store);
  const read = Buffer.alloc(large.length);
  await reader.read(whole, 0, read);
  expect(read.equals(large)).toBe(true);
});

test('a cache directory that goes away under it is a smaller cache, and no error', async () => {
  const base = tempDir('reader');
  const { store } = await remoteStore(join(base, 'objects'));
  const { data, extents } = await fileOf(store, 3);
  const dir = join(base, 'cache');
  const cache = new BlockCache({ dir, bytesMax: 2.5 * BLOCK, freeBytesMin: 0 });
  const reader = new BlockReader({ store, cache, volumeId: 'v' });
  const target = Buffer.alloc(BLOCK);
  const read = async (block: number): Promise<void> => {
    await reader.read(extents, block * BLOCK, target);
    expect(target.equals(data.subarray(block * BLOCK, (block + 1) * BLOCK))).toBe(true);
  };
  rmSync(dir, { recursive: true });
  await read(0);
  await read(1);
  await reader.close();
  expect(cache.bytes).toBeLessThanOrEqual(2 * BLOCK + 8);
});

test('a file that cannot be removed from the cache is no error', async () => {
  const base = tempDir('reader');
  const { store } = await remoteStore(join(base, 'objects'));
  const { data, extents } = await fileOf(store, 3);
  const dir = join(base, 'cache');
  const cache = new BlockCache({ dir, bytesMax: 1.5 * BLOCK, freeBytesMin: 0 });
  const reader = new BlockReader({ store, cache, volumeId: 'v' });
  const target = Buffer.alloc(BLOCK);
  await reader.read(extents, 0, target);
  await expect.poll(() => cache.bytes).toBeGreaterThan(0);
  // unlink(2) does not remove a directory, as it removes nothing of a disk that became read-only.
  const [folder = ''] = readdirSync(dir);
  const [name = ''] = readdirSync(join(dir, folder));
  rmSync(join(dir, folder, name));
  mkdirSync(join(dir, folder, name));
  for (const block of [1, 2]) {
    await reader.read(extents, block * BLOCK, target);
    expect(target.equals(data.subarray(block * BLOCK, (block + 1) * BLOCK))).toBe(true);
  }
  await reader.close();
  expect(cache.bytes).toBeGreaterThan(0);
  expect(cache.bytes).toBeLessThanOrEqual(1.5 * BLOCK);
});

test('a piece that needs all of the memory is not passed over by smaller ones', async () => {
  const base = tempDir('reader');
  const { store } = await remoteStore(join(base, 'objects'));
  const { extents } = await fileOf(store, 14);
  const { large, whole } = await largeFile(store);
  const cache = new BlockCache({ dir: join(base, 'cache'), bytesMax: 0, freeBytesMin: 0 });
  const reader = new BlockReader({ store, cache, volumeId: 'v' });
  onTestFinished(() => reader.close());

  let isOver = false;
  const readAll = async (first: number): Promise<void> => {
    for (let block = first; !isOver; block = (block + 1) % 14)
      await reader.bring(extents, block * BLOCK, block * BLOCK + MIB);
  };
  const small = [0, 5, 10].map(readAll);
  await reader.bring(extents, 0, MIB);
  const read = Buffer.alloc(large.length);
  const reading = reader.read(whole, 0, read);
  await reading;
  isOver = true;
  await Promise.all(small);
  expect(read.equals(large)).toBe(true);
});
