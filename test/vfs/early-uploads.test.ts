/** A live file that grows is uploaded while it is written: what close then commits, and uploads. The kernel is played. */
import { appendFileSync, closeSync, ftruncateSync, openSync, readdirSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { randomBytes } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import type { OpenVolume } from '../../fs-gateway/open-volume.ts';
import { EarlyBlocks } from '../../fs-gateway/data/early-blocks.ts';
import { BlockHashes } from '../../fs-gateway/data/block-hashes.ts';
import { Overlay } from '../../fs-gateway/data/overlay.ts';
import type { Extent } from '../../lib/volume/extents.ts';
import { readElsewhere } from '../fs-gateway/passthrough-volume.ts';
import { caller, openTestVolume, testVolume } from '../support/fs-volume.ts';
import { playKernel } from '../support/played-kernel.ts';

const BLOCK = 262_144;
const BLOCKS = 12;
const isSegment = (path: string): boolean => /\/\d+\.0\.\d+$/.test(path);

interface Growing {
  readonly volume: OpenVolume;
  readonly other: OpenVolume;
  /** What the kernel writes to. */
  readonly path: string;
  readonly close: () => unknown;
  readonly uploaded: () => number;
}

async function growing(writeback: boolean): Promise<Growing> {
  const made = await testVolume({ blockSize: '256KiB' });
  const kernel = playKernel(false);
  const options = { passthrough: 'full', kernel, cacheBytes: 256e6, writeback } as const;
  const volume = await openTestVolume(made, 'a', [], 'lake', options);
  const { entry, open } = await volume.operations.create(caller(), 1n, 'f', 0o644, 2, 0);
  const { ino } = entry.attributes;
  expect(open.backingId).toBe(1);
  return {
    volume,
    other: await openTestVolume(made, 'other'),
    path: kernel.backing.get(1) ?? '',
    close: async () => {
      await volume.operations.flush(caller(), ino, open.handle, 0n);
      await volume.operations.drain();
    },
    uploaded: () => Number(volume.stats()['uploadedBytes']),
  };
}

describe.each([false, true])('with writeback %s', (writeback) => {
  test('its full blocks are in the store before it is closed, and close uploads the rest only', async () => {
    const { other, path, close, uploaded } = await growing(writeback);
    const content = randomBytes(BLOCKS * BLOCK + 1000);
    appendFileSync(path, content);
    await expect.poll(uploaded).toBe(BLOCKS * BLOCK);
    // Nobody sees any of it.
    expect((await readElsewhere(other, 'f')).length).toBe(0);
    await close();
    expect(uploaded()).toBe(content.length);
    await expect.poll(async () => (await readElsewhere(other, 'f')).equals(content)).toBe(true);
  });

  test('what was written over, cut off or punched since is committed as it is', async () => {
    const { other, path, close, uploaded } = await growing(writeback);
    const content = randomBytes(BLOCKS * BLOCK);
    appendFileSync(path, content);
    await expect.poll(uploaded).toBe(BLOCKS * BLOCK);
    const fd = openSync(path, 'r+');
    const expected = Buffer.from(content.subarray(0, 10 * BLOCK + 5));
    expected.fill(0, 3 * BLOCK, 3 * BLOCK + 65_536);
    expected.write('written over', BLOCK - 6);
    writeSync(fd, 'written over', BLOCK - 6);
    writeSync(fd, Buffer.alloc(65_536), 0, 65_536, 3 * BLOCK);
    ftruncateSync(fd, expected.length);
    await close();
    // Blocks 0, 1 and 3 anew, and what is left of the last one; 64 KiB of block 3 are a hole.
    expect(uploaded()).toBe(BLOCKS * BLOCK + 3 * BLOCK - 65_536 + 5);
    await expect.poll(async () => (await readElsewhere(other, 'f')).equals(expected)).toBe(true);
  });
});

describe('through the daemon', () => {
  interface Written {
    readonly volume: OpenVolume;
    readonly other: OpenVolume;
    /** Where what is staged lies. */
    readonly segment: () => string;
    readonly write: (offset: number, data: Buffer) => Promise<unknown>;
    readonly truncate: (size: number) => Promise<unknown>;
    readonly punch: (offset: number, length: number) => Promise<unknown>;
    readonly fsync: () => Promise<unknown>;
    readonly uploaded: () => number;
  }

  async function written(writeback = false): Promise<Written> {
    const made = await testVolume({ blockSize: '256KiB' });
    const volume = await openTestVolume(made, 'a', [], 'lake', { writeback });
    const { operations } = volume;
    const { entry, open } = await operations.create(caller(), 1n, 'f', 0o644, 2, 0);
    const { ino } = entry.attributes;
    return {
      volume,
      other: await openTestVolume(made, 'other'),
      segment: () => {
        const cacheDir = join(made.base, 'cache-a');
        return join(cacheDir, readdirSync(cacheDir, { recursive: true, encoding: 'utf8' }).find(isSegment) ?? '');
      },
      write: async (offset, data) => operations.write(caller(), ino, open.handle, BigInt(offset), data, 2, false),
      truncate: async (size) => operations.setattr(caller(), ino, { size: BigInt(size) }),
      punch: async (offset, length) =>
        operations.fallocate(caller(), ino, open.handle, 3, BigInt(offset), BigInt(length)),
      fsync: async () => operations.fsync(caller(), ino, open.handle, false),
      uploaded: () => Number(volume.stats()['uploadedBytes']),
    };
  }

  test('full blocks are in the store before fsync, which uploads the rest only', async () => {
    const { other, write, fsync, uploaded } = await written();
    const content = randomBytes(BLOCKS * BLOCK + 1000);
    // Writes that end within a block, at its end, and behind it.
    for (let at = 0; at < content.length; at += 100_000) await write(at, content.subarray(at, at + 100_000));
    await expect.poll(uploaded).toBe(BLOCKS * BLOCK);
    expect((await readElsewhere(other, 'f')).length).toBe(0);
    await fsync();
    expect(uploaded()).toBe(content.length);
    await expect.poll(async () => (await readElsewhere(other, 'f')).equals(content)).toBe(true);
  });

  test('what was written over, cut off or punched since is committed as it is', async () => {
    const { other, write, truncate, punch, fsync, uploaded } = await written();
    const content = randomBytes(BLOCKS * BLOCK);
    await write(0, content);
    await expect.poll(uploaded).toBe(BLOCKS * BLOCK);
    const expected = Buffer.from(content.subarray(0, 10 * BLOCK + 5));
    expected.write('written over', BLOCK - 6);
    expected.fill(0, 3 * BLOCK, 3 * BLOCK + 65_536);
    await write(BLOCK - 6, Buffer.from('written over'));
    await punch(3 * BLOCK, 65_536);
    await truncate(expected.length);
    await fsync();
    // Blocks 0, 1 and 3 anew, and what is left of the last one; 64 KiB of block 3 are a hole.
    expect(uploaded()).toBe(BLOCKS * BLOCK + 3 * BLOCK - 65_536 + 5);
    await expect.poll(async () => (await readElsewhere(other, 'f')).equals(expected)).toBe(true);
  });

  test('a block that is written over while it is being uploaded is committed as it is', async () => {
    const { other, write, fsync } = await written();
    const content = randomBytes(BLOCKS * BLOCK);
    await write(0, content);
    // In the same turn of the event loop, or one of the next: some of the uploads have read their block, and some not.
    for (let block = 0; block < BLOCKS; block++) {
      content.write(`over ${block}`, block * BLOCK + 5);
      await write(block * BLOCK + 5, Buffer.from(`over ${block}`));
    }
    await fsync();
    await expect.poll(async () => (await readElsewhere(other, 'f')).equals(content)).toBe(true);
  });

  test('a block is uploaded early once for each flush, however often it is written over', async () => {
    const { write, fsync, uploaded } = await written();
    const block = randomBytes(BLOCK);
    for (let n = 0; n < 20; n++) await write(0, block);
    await expect.poll(uploaded).toBe(BLOCK);
    await fsync();
    expect(uploaded()).toBe(2 * BLOCK);
  });

  test('a file that is written over again and again is uploaded once, by its fsync: each 64 MiB of writes began another upload of it', async () => {
    const { write, fsync, uploaded } = await written();
    const part = randomBytes(BLOCK - 2);
    for (let n = 0; n < 600; n++) await write((n % 2) * BLOCK + 1, part);
    await fsync();
    expect(uploaded()).toBe(2 * part.length);
  });

  test('a block that was written from its first byte to its last is uploaded from memory: it was read back from the cache directory', async () => {
    const { other, segment, write, fsync, uploaded } = await written();
    const content = randomBytes(BLOCKS * BLOCK);
    await write(0, content.subarray(0, BLOCK));
    await expect.poll(uploaded).toBe(BLOCK);
    const staged = openSync(segment(), 'r+');
    for (let block = 1; block < BLOCKS; block++) {
      for (let at = block * BLOCK; at < (block + 1) * BLOCK; at += BLOCK / 4) {
        await write(at, content.subarray(at, at + BLOCK / 4));
        writeSync(staged, Buffer.alloc(BLOCK / 4), 0, BLOCK / 4, at);
      }
      await expect.poll(uploaded).toBe((block + 1) * BLOCK);
    }
    closeSync(staged);
    await fsync();
    expect(uploaded()).toBe(content.length);
    await expect.poll(async () => (await readElsewhere(other, 'f')).equals(content)).toBe(true);
  });

  test.each([
    ['written over', async ({ write }: Written, at: number) => write(at, Buffer.alloc(100, 'over'))],
    ['punched', async ({ punch }: Written, at: number) => punch(at, 100)],
    ['cut off', async ({ truncate }: Written, at: number) => truncate(at)],
    ['flushed', async ({ fsync }: Written) => fsync()],
  ] as const)('a block of which bytes are %s while it is gathered is committed as it is', async (how, change) => {
    const file = await written();
    const content = randomBytes(3 * BLOCK);
    const middle = BLOCK + BLOCK / 2;
    await file.write(0, content.subarray(0, middle));
    await change(file, BLOCK + 50);
    if (how === 'written over') content.fill('over', BLOCK + 50, BLOCK + 150);
    if (how === 'punched') content.fill(0, BLOCK + 50, BLOCK + 150);
    if (how === 'cut off') content.fill(0, BLOCK + 50, middle);
    // It goes on where it would have gone on without that.
    await file.write(middle, content.subarray(middle));
    await file.fsync();
    await expect.poll(async () => (await readElsewhere(file.other, 'f')).equals(content)).toBe(true);
  });

  test('of more files than are gathered at once, each is committed as it was written', async () => {
    const made = await testVolume({ blockSize: '256KiB' });
    const { operations } = await openTestVolume(made);
    const other = await openTestVolume(made, 'other');
    const content = randomBytes(4 * BLOCK);
    const files = await Promise.all(
      Array.from({ length: 10 }, async (_, n) => operations.create(caller(), 1n, `f${n}`, 0o644, 2, 0)),
    );
    for (let at = 0; at < content.length; at += BLOCK / 4) {
      for (const { entry, open } of files) {
        const data = content.subarray(at, at + BLOCK / 4);
        await operations.write(caller(), entry.attributes.ino, open.handle, BigInt(at), data, 2, false);
      }
    }
    for (const { entry, open } of files) await operations.fsync(caller(), entry.attributes.ino, open.handle, false);
    for (const n of files.keys()) {
      await expect.poll(async () => (await readElsewhere(other, `f${n}`)).equals(content)).toBe(true);
    }
  });

  test('with writeback nothing is uploaded before it is synced', async () => {
    const { volume, write, fsync, uploaded } = await written(true);
    await write(0, randomBytes(2 * BLOCK));
    expect(volume.stats()['stagedBytes']).toBe(2 * BLOCK);
    await fsync();
    await volume.operations.drain();
    expect(uploaded()).toBe(2 * BLOCK);
  });
});

test('a block is taken once, while it is young, and only for the bytes that were uploaded', async () => {
  const content = randomBytes(BLOCK);
  const hashes = BlockHashes.of(content);
  const source = { kind: 'own', objectId: 1, pieceOffset: 0, pieceBytes: BLOCK, storedBytes: BLOCK, crc: 0 } as const;
  const extent: Extent = { fileOffset: 0, length: BLOCK, sliceOffset: 0, source };
  const all = new Overlay();
  all.set(0, BLOCK, 'data');
  const time = { nowMs: 0, monotonicMs: 0 };
  const early = new EarlyBlocks({ nowMs: () => time.nowMs, monotonicMs: () => time.monotonicMs });
  const upload = async (): Promise<void> => early.add([0, BLOCK], Promise.resolve([extent]), hashes);
  await upload();
  expect(early.matching(all, hashes)).toEqual([extent]);
  expect(early.matching(all, BlockHashes.of(randomBytes(BLOCK)))).toEqual([]);
  // The same bytes again: whether it was committed meanwhile is not known any more.
  expect(early.matching(all, hashes)).toEqual([]);
  await upload();
  expect(early.matching(new Overlay(), hashes)).toEqual([]);
  for (const clock of ['nowMs', 'monotonicMs'] as const) {
    await upload();
    time[clock] += 20 * 60_000;
    expect(early.matching(all, hashes)).toEqual([]);
  }
  await upload();
  early.clear();
  expect(early.matching(all, hashes)).toEqual([]);
});
