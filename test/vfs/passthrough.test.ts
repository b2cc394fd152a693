/** Passthrough at moments that the kernel's own timing rarely gives. The kernel is played: it opens the backing file when the test says so. */
import { readlinkSync, writeFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import type { KernelBacking } from '../../fs-gateway/vfs/operations.ts';
import { readElsewhere } from '../fs-gateway/passthrough-volume.ts';
import { caller, openTestVolume, testVolume } from '../support/fs-volume.ts';

const O_RDWR = 2;
const O_CREAT = 0o100;

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
