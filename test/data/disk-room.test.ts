/** What a full cache disk does to the staging area, and what in the cache directory gives way to it. */
import { closeSync, openSync, rmSync, symlinkSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { BlockCache } from '../../fs-gateway/data/block-cache.ts';
import type { Piece } from '../../fs-gateway/data/pieces.ts';
import { Staging } from '../../fs-gateway/data/staging.ts';
import { Errno } from '../../fs-gateway/vfs/operations.ts';
import { readElsewhere, sizeElsewhere, writeElsewhere } from '../fs-gateway/passthrough-volume.ts';
import { caller, openTestVolume, testVolume } from '../support/fs-volume.ts';
import { isRoot, memoryFolder } from '../support/loop-disk.ts';
import { lookUp } from '../tools/volume-files.ts';

const MIB = 2 ** 20;
const O_WRONLY = 1;

/** Another program takes all that is free. */
function fill(dir: string): string {
  const path = join(dir, 'others');
  const fd = openSync(path, 'w');
  for (const bytes of [MIB, 4096]) {
    expect(() => {
      for (;;) writeSync(fd, Buffer.alloc(bytes));
    }).toThrow('ENOSPC');
  }
  closeSync(fd);
  return path;
}

function piece(name: string): Piece {
  const none = { crc: null, objectId: null, objectBytes: null, etag: null };
  return { name, objectKey: name, offset: 0, storedBytes: 4 * MIB, bytes: 4 * MIB, ...none };
}

test.skipIf(!isRoot)('cached blocks give way to what is staged when another program has filled the disk', async () => {
  const dir = memoryFolder('80m');
  const cache = new BlockCache({ dir: join(dir, 'blocks'), bytesMax: 1e9, freeBytesMin: 0 });
  const staging = new Staging({
    dir: join(dir, 'mount'),
    life: 'one',
    bootId: 'boot',
    promises: false,
    isCommitted: () => false,
    room: {
      idleBytesMax: 0,
      idleMs: 1000,
      hasReserve: () => cache.hasReserve(),
      idleChanged: () => undefined,
      giveWay: () => cache.giveWay(),
    },
  });
  for (const name of ['a', 'b', 'c']) await cache.put(piece(name), Buffer.alloc(4 * MIB));
  expect(cache.bytes).toBeGreaterThan(12 * MIB);
  fill(dir);
  const file = staging.begin(7, 0);
  for (let at = 0; at < 8; at++) staging.write(file, at * MIB, Buffer.alloc(MIB, 'x'), 1n);
  expect(file.stagedBytes).toBe(8 * MIB);
  expect(cache.bytes).toBeLessThan(12 * MIB);
  staging.close();
  cache.close();
});

test.skipIf(!isRoot)(
  'a write that a full disk refused leaves nothing behind: the file is as the others have it',
  async () => {
    const volume = await testVolume({ inlineBytes: '0' });
    const dir = memoryFolder('40m');
    symlinkSync(dir, join(volume.base, 'cache-a'));
    const a = await openTestVolume(volume, 'a');
    const b = await openTestVolume(volume, 'b');
    await writeElsewhere(b, 'f', Buffer.from('one'));
    const { ino } = await lookUp(a, 1n, 'f');
    const { handle } = await a.operations.open(caller(), ino, O_WRONLY);
    const others = fill(dir);
    const write = async (): Promise<number> =>
      a.operations.write(caller(), ino, handle, 3n, Buffer.alloc(MIB, 'x'), O_WRONLY, false);
    await expect(write()).rejects.toMatchObject({ errno: Errno.ENOSPC });
    await writeElsewhere(b, 'f', Buffer.from('one and more'));
    expect((await readElsewhere(a, 'f')).toString()).toBe('one and more');
    expect(await sizeElsewhere(a, 'f')).toBe(12);
    rmSync(others);
    expect(await write()).toBe(MIB);
  },
);
