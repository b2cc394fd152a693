/** A disk of the cache directory that makes itself read-only under a mount, as ext4 does at an I/O error. */
import { statSync } from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished, test, vi } from 'vitest';
import { Staging } from '../../fs-gateway/data/staging.ts';
import { Errno } from '../../fs-gateway/vfs/operations.ts';
import { acquireProcessLock } from '../../lib/process-lock.ts';
import { readElsewhere } from '../fs-gateway/passthrough-volume.ts';
import { caller, openTestVolume, testVolume } from '../support/fs-volume.ts';
import { canFailDisks, isRoot, LoopDisk, memoryFolder, mountOver, openDevices } from '../support/loop-disk.ts';
import { until } from '../support/mount-guard.ts';
import { tempDir } from '../support/temp.ts';
import { errnoOf, lookUp, makeDirectory, namesIn, removeFile, writeFile } from '../tools/volume-files.ts';

const O_RDWR = 2;
const ROOT = 1n;
const CONTENT = Buffer.alloc(300_000, 'content');

test.skipIf(!canFailDisks)(
  'while the disk of the cache directory is read-only, files are read and writes are EROFS, and one line says why',
  async () => {
    const volume = await testVolume();
    const disk = LoopDisk.make(tempDir('cache-disk'));
    const cacheDir = join(disk.mountpoint, 'cache');
    const reports: string[] = [];
    const elsewhere = await openTestVolume(volume, 'b');
    await writeFile(elsewhere, 'f', CONTENT);
    await writeFile(elsewhere, 'g', CONTENT);
    const here = await openTestVolume(volume, 'a', reports, 'lake', { cacheDir });
    const { operations } = here;
    const f = await lookUp(here, ROOT, 'f');
    const before = await operations.open(caller(), f.ino, O_RDWR);
    disk.failReadOnly();

    expect((await readElsewhere(here, 'g')).equals(CONTENT)).toBe(true);
    // Opened behind the failure, and removed elsewhere.
    const g = await lookUp(here, ROOT, 'g');
    const { handle } = await operations.open(caller(), g.ino, 0);
    await removeFile(here, 'g');
    expect((await operations.read(caller(), g.ino, handle, 0n, CONTENT.length, 0)).equals(CONTENT)).toBe(true);
    await operations.release(caller(), g.ino, handle, undefined);

    const write = async (): Promise<number> =>
      operations.write(caller(), f.ino, before.handle, 0n, Buffer.alloc(100_000, 'x'), O_RDWR, false);
    expect(await errnoOf(write)).toBe(Errno.EROFS);
    expect(await errnoOf(async () => operations.open(caller(), f.ino, O_RDWR))).toBe(Errno.EROFS);
    expect(await errnoOf(async () => operations.create(caller(), ROOT, 'new', 0o644, O_RDWR, 0))).toBe(Errno.EROFS);
    await makeDirectory(here, 'directory');
    expect(await namesIn(here, ROOT)).toEqual(['directory', 'f']);
    expect((await readElsewhere(here, 'f')).equals(CONTENT)).toBe(true);
    expect(here.stats()).toMatchObject({ cacheDisk: expect.stringContaining('EROFS') as string });
    expect(reports).toEqual([
      expect.stringMatching(/cannot be written to: files are read .*journal.*EROFS.*fsck.*another --cache-dir/),
    ]);
    // Who comes next is told as well.
    await here.close();
    await expect(openTestVolume(volume, 'a', [], 'lake', { cacheDir })).rejects.toMatchObject({
      code: 'denied',
      message: expect.stringMatching(/cannot lock .*: its disk is read-only\. .*fsck/) as string,
    });
  },
);

test.skipIf(!canFailDisks)(
  'what was opened and closed while the disk was read-only is known to the next worker, once it can be written again',
  async () => {
    vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] });
    onTestFinished(() => void vi.useRealTimers());
    const disk = LoopDisk.make(tempDir('cache-disk'));
    const reports: string[] = [];
    const dir = join(disk.mountpoint, 'mount');
    const lock = await acquireProcessLock(join(dir, 'lock'), { label: 'mount' });
    onTestFinished(() => lock.release());
    const open = (): Staging => {
      const staging = new Staging({
        ...{ dir, lock, life: 'one', bootId: 'boot', promises: false },
        isCommitted: () => false,
        report: (message) => reports.push(message),
      });
      onTestFinished(() => staging.close());
      return staging;
    };
    const staging = open();
    staging.opens.opened(7, 1n, 'open 7');
    staging.write(staging.begin(9, 0), 0, CONTENT, 1n);
    disk.failReadOnly();
    staging.opens.opened(8, 2n, 'open 8', 0, true);
    expect(() => staging.opens.opened(10, 2n, 'open 10')).toThrow('EROFS');
    expect(staging.opens.closed(7, 3n, 'close 7')).toBe(true);
    expect(reports.splice(0)).toEqual([expect.stringContaining('cannot be written to')]);
    vi.advanceTimersByTime(3000);
    expect(reports).toEqual([]);
    // Another disk comes in its place.
    const { dev } = statSync(dir);
    disk.unmount();
    vi.advanceTimersByTime(1000);
    expect(reports).toEqual([
      expect.stringContaining('is on another disk than before'),
      expect.stringContaining('takes writes again'),
    ]);
    expect(staging.failure).toBeUndefined();
    expect(openDevices()).not.toContain(dev);
    const next = open();
    expect([7, 8, 10].filter((ino) => next.opens.has(ino))).toEqual([8]);
    const bytes = Buffer.alloc(CONTENT.length);
    next.get(9)?.overlay(0, bytes);
    expect(bytes.equals(CONTENT)).toBe(true);
  },
);

test.skipIf(!isRoot)(
  'a cache disk that is unmounted under its mount is not kept in use by what was read from it',
  async () => {
    const place = tempDir('cache-place');
    // More than the mount leaves free: else it would keep nothing there.
    const unmount = mountOver(memoryFolder('3g'), place);
    // Pieces of a folder of this machine are not copied, unless they are compressed.
    const volume = await testVolume({ compression: 'zstd' });
    await writeFile(await openTestVolume(volume, 'b'), 'f', CONTENT);
    const more = { cacheDir: join(place, 'cache') };
    const filling = await openTestVolume(volume, 'a', [], 'lake', more);
    expect((await readElsewhere(filling, 'f')).equals(CONTENT)).toBe(true);
    await filling.close();
    const here = await openTestVolume(volume, 'a', [], 'lake', more);
    expect((await readElsewhere(here, 'f')).equals(CONTENT)).toBe(true);
    expect(here.stats()).toMatchObject({ fetchedBytes: 0 });
    const { dev } = statSync(more.cacheDir);
    expect(openDevices()).toContain(dev);
    unmount();
    await until('nothing of the disk is open', () => !openDevices().includes(dev));
    expect((await readElsewhere(here, 'f')).equals(CONTENT)).toBe(true);
  },
);
