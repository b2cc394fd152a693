import {
  closeSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readFileSync,
  statSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { DeviceBacking } from '../../fs-gateway/fuse/backing.ts';
import { HASH_BLOCK_BYTES } from '../../fs-gateway/data/block-hashes.ts';
import { FileHasher } from '../../fs-gateway/data/file-hasher.ts';
import { native } from '../../fs-gateway/fuse/native.ts';
import type { Native } from '../../fs-gateway/fuse/native.ts';
import { tempDir } from '../support/temp.ts';

/** As the kernel does: ids count up, and one that is given back is not given again. */
function playDevice(): Pick<Native, 'backingOpen' | 'backingClose' | 'testReadLease' | 'seek' | 'omitAccessTimes'> & {
  readonly ids: Set<number>;
} {
  const ids = new Set<number>();
  let last = 0;
  return {
    ids,
    backingOpen() {
      ids.add(++last);
      return last;
    },
    backingClose: (_, id) => (ids.delete(id) ? 0 : -2),
    testReadLease: () => 0,
    seek: (fd, offset, whence) => native().seek(fd, offset, whence),
    omitAccessTimes: (fd) => native().omitAccessTimes(fd),
  };
}

it('gives back the ids that a killed worker has left, and no other', () => {
  const device = playDevice();
  const backing = new DeviceBacking(device, 3);
  const path = join(tempDir('backing'), 'file');
  writeFileSync(path, '');
  for (let n = 0; n < 10; n++) backing.register(0);
  backing.unregister(4);
  backing.unregisterOthers(path, new Set([2, 7]));
  expect([...device.ids]).toEqual([2, 7]);
  // Nothing is left of the look itself, and it may come again.
  backing.unregisterOthers(path, new Set([2, 7]));
  expect([...device.ids]).toEqual([2, 7]);
});

it('knows the holes of a sparse file, whose hashes are those of its bytes', async () => {
  const backing = new DeviceBacking(playDevice(), 3);
  const fd = openSync(join(tempDir('backing'), 'sparse'), 'w+');
  onTestFinished(() => closeSync(fd));
  const hasher = new FileHasher();
  onTestFinished(() => hasher.close());
  const equal = async (): Promise<void> =>
    expect((await hasher.hash(fd, backing.holes(fd))).hashes.equals((await hasher.hash(fd)).hashes)).toBe(true);
  const end = 2 ** 26 + 5;
  ftruncateSync(fd, end);
  expect(backing.holes(fd)).toEqual([{ start: 0, end }]);
  await equal();
  // What is not synced is there too.
  for (const at of [0, 5_000_000, 2 ** 23 - 1, 2 ** 25, end - 1]) writeSync(fd, 'data', at);
  const holes = backing.holes(fd);
  expect(holes).toHaveLength(4);
  expect(
    holes.every(({ start, end: to }) => [0, 5_000_000, 2 ** 23, 2 ** 25].every((at) => at < start || at >= to)),
  ).toBe(true);
  await equal();
  ftruncateSync(fd, 2 ** 27);
  await equal();
  // Mostly there: it is read.
  writeSync(fd, Buffer.alloc(2 ** 26, 'x'), 0, 2 ** 26, 1000);
  expect(backing.holes(fd)).toEqual([]);
});

it('a store into a hole behind the look at the holes is found by the next', async () => {
  const backing = new DeviceBacking(playDevice(), 3);
  const fd = openSync(join(tempDir('backing'), 'sparse'), 'w+');
  onTestFinished(() => closeSync(fd));
  const hasher = new FileHasher();
  onTestFinished(() => hasher.close());
  ftruncateSync(fd, 2 ** 24);
  const holes = backing.holes(fd);
  writeSync(fd, 'late', 2 ** 22);
  const [first, next] = [await hasher.hash(fd, holes), await hasher.hash(fd, backing.holes(fd))];
  expect(first.hashes.isZero(2 ** 22 / HASH_BLOCK_BYTES)).toBe(true);
  expect(next.hashes.isZero(2 ** 22 / HASH_BLOCK_BYTES)).toBe(false);
});

it('keeps no times of access of backing files: to look at them cost 4 % of a read', ({ skip }) => {
  const dir = tempDir('backing');
  const fd = openSync(dir, 'r');
  const able = native().omitAccessTimes(fd) === 0;
  closeSync(fd);
  if (!able) skip('the file system of the temporary directory has no such flag');
  new DeviceBacking(playDevice(), 3).omitAccessTimes(dir);
  const path = join(dir, 'folder', 'file');
  mkdirSync(join(dir, 'folder'));
  writeFileSync(path, 'read');
  // Older than the last change: it would be brought up to date by a read (relatime).
  const long = new Date('2020-01-01');
  utimesSync(path, long, new Date());
  expect(readFileSync(path, 'latin1')).toBe('read');
  expect(statSync(path).atime).toEqual(long);
});
