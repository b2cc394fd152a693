/** Passthrough at moments that the kernel's own timing rarely gives. The kernel is played: it opens the backing file when the test says so. */
import { appendFileSync, readlinkSync, writeFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import type { KernelBacking } from '../../fs-gateway/vfs/operations.ts';
import { readElsewhere } from '../fs-gateway/passthrough-volume.ts';
import { caller, openTestVolume, testVolume } from '../support/fs-volume.ts';

const O_RDWR = 2;
const O_CREAT = 0o100;
const O_APPEND = 0o2000;

test('a flush between the answer to an open and the kernel’s own open does not take the file for settled', async () => {
  const volume = await testVolume();
  const backing: string[] = [];
  const kernel: KernelBacking = {
    register: (fd) => backing.push(readlinkSync(`/proc/self/fd/${fd}`)),
    unregister: () => undefined,
    // The kernel has not opened the backing file yet.
    isQuiet: () => true,
  };
  const { operations } = await openTestVolume(volume, 'a', [], 'lake', {
    passthrough: 'full',
    kernel,
    cacheBytes: 256e6,
  });
  const other = await openTestVolume(volume, 'other');
  const { entry, open } = await operations.create(caller(), 1n, 'f', 0o644, O_RDWR | O_CREAT, 0o022);
  const { ino } = entry.attributes;
  expect(open.backingId).toBe(1);
  await operations.flush(caller(), ino, open.handle, 0n);
  writeFileSync(backing[0] ?? '', 'by the kernel');
  await operations.flush(caller(), ino, open.handle, 0n);
  expect((await readElsewhere(other, 'f')).toString()).toBe('by the kernel');
});

test('a file that was cut under a program that appends has what it appended since, and nothing before it, on every node', async () => {
  const volume = await testVolume();
  let path = '';
  const kernel: KernelBacking = {
    register(fd) {
      path = readlinkSync(`/proc/self/fd/${fd}`);
      return 1;
    },
    unregister: () => undefined,
    isQuiet: () => true,
  };
  const options = { passthrough: 'full', kernel, cacheBytes: 256e6 } as const;
  const { operations } = await openTestVolume(volume, 'a', [], 'lake', options);
  const other = await openTestVolume(volume, 'other');
  const { entry, open } = await operations.create(caller(), 1n, 'log', 0o644, O_RDWR | O_CREAT, 0o022);
  const { ino } = entry.attributes;
  appendFileSync(path, Buffer.alloc(50_000, 'o'));
  await operations.flush(caller(), ino, open.handle, 0n);
  const { handle } = await operations.open(caller(), ino, O_RDWR | O_APPEND);
  const append = (data: Buffer): unknown => operations.write(caller(), ino, handle, 0n, data, O_RDWR | O_APPEND, false);
  // As logrotate's copytruncate does.
  await operations.setattr(caller(), ino, { size: 0n });
  const since = Buffer.alloc(100_000, 's');
  await append(since);
  await operations.flush(caller(), ino, handle, 0n);
  expect((await readElsewhere(other, 'log')).equals(since)).toBe(true);
  await append(Buffer.from('more'));
  await operations.flush(caller(), ino, handle, 0n);
  await expect.poll(async () => (await readElsewhere(other, 'log')).length).toBe(100_004);
});
