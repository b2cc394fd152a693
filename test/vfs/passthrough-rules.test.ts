/** Rules of passthrough that a real kernel is not needed for (docs/decisions/0021). It is played: what a program writes is written to its backing file. */
import { randomBytes } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { crc32c } from '@node-rs/crc32';
import { expect, test } from 'vitest';
import { BlockHashes, HASH_BLOCK_BYTES } from '../../fs-gateway/data/block-hashes.ts';
import { FileHasher } from '../../fs-gateway/data/file-hasher.ts';
import { WholeFiles } from '../../fs-gateway/data/whole-files.ts';
import type { OpenVolume } from '../../fs-gateway/open-volume.ts';
import { Errno } from '../../fs-gateway/vfs/operations.ts';
import type { OpenResult } from '../../fs-gateway/vfs/operations.ts';
import { readElsewhere } from '../fs-gateway/passthrough-volume.ts';
import { caller, openTestVolume, testVolume } from '../support/fs-volume.ts';
import { playKernel } from '../support/played-kernel.ts';
import type { PlayedKernel } from '../support/played-kernel.ts';
import { replaceMethod } from '../support/replace-method.ts';
import { tempDir } from '../support/temp.ts';
import { setQuota } from '../../fs-gateway/tools/quota.ts';
import { openEngine } from '../tools/volume-bench.ts';
import { errnoOf } from '../tools/volume-files.ts';

const O_RDWR = 2;
const O_CREAT = 0o100;

async function createFile({ operations }: OpenVolume, name: string): Promise<{ ino: bigint; open: OpenResult }> {
  const { entry, open } = await operations.create(caller(), 1n, name, 0o644, O_RDWR | O_CREAT, 0o022);
  return { ino: entry.attributes.ino, open };
}

/** As a program does by the kernel. */
function write(kernel: PlayedKernel, { backingId }: OpenResult, data: Buffer): void {
  const path = kernel.backing.get(backingId ?? 0);
  if (path === undefined) throw new Error('the kernel does not write it');
  writeFileSync(path, data, { flag: 'r+' });
}

test('what is dirty is told by 64 bits: a change that leaves the CRC32C of a block alone is found', () => {
  const before = randomBytes(HASH_BLOCK_BYTES);
  const after = Buffer.from(before);
  // The generator polynomial of CRC32C, bits reflected as the bytes are: adding it changes no remainder.
  for (const [at, byte] of [0xf1, 0x76, 0xec, 0x05, 0x01].entries()) after[1000 + at] = (after[1000 + at] ?? 0) ^ byte;
  expect(after.equals(before)).toBe(false);
  expect(crc32c(after)).toBe(crc32c(before));
  expect(BlockHashes.of(after).same(BlockHashes.of(before), 0)).toBe(false);
});

test('a new file passes through only while the cache and the reserve of the disk have room for it', async () => {
  const dir = tempDir('whole');
  const whole = (freeBytesMin: number): WholeFiles =>
    new WholeFiles({ dir, bytesMax: 1e9, freeBytesMin, bootId: 'boot', isInUse: () => false, report: () => undefined });
  expect(whole(0).hasRoom(1000)).toBe(true);
  expect(whole(2 ** 60).hasRoom(1000)).toBe(false);

  const volume = await testVolume();
  const kernel = playKernel(true);
  const options = { passthrough: 'full', kernel } as const;
  const small = await openTestVolume(volume, 'a', [], 'lake', { ...options, cacheBytes: 64e6 });
  const through = await createFile(small, 'through the daemon');
  expect(through.open.backingId).toBeUndefined();
  await small.operations.write(caller(), through.ino, through.open.handle, 0n, Buffer.from('written'), O_RDWR, false);
  await small.operations.flush(caller(), through.ino, through.open.handle, 0n);
  const large = await openTestVolume(volume, 'b', [], 'lake', { ...options, cacheBytes: 256e6 });
  expect((await createFile(large, 'by the kernel')).open.backingId).toBe(1);
  expect((await readElsewhere(large, 'through the daemon')).toString()).toBe('written');
});

test('a file whose fsyncs compare it in vain goes through the daemon from its next first open on, and stays there', async () => {
  const volume = await testVolume();
  const kernel = playKernel(true);
  const options = { passthrough: 'full', kernel, cacheBytes: 256e6 } as const;
  const opened = await openTestVolume(volume, 'a', [], 'lake', options);
  const { operations } = opened;
  const { ino, open } = await createFile(opened, 'f');
  const content = Buffer.alloc(300_000, 'f');
  write(kernel, open, content);
  await operations.fsync(caller(), ino, open.handle, false);
  // As if it were of some gigabytes.
  const restore = replaceMethod(
    FileHasher.prototype,
    'hash',
    (hash) =>
      async function (this: FileHasher, fd) {
        return { ...(await hash.call(this, fd)), ms: 600 };
      },
  );
  for (let n = 0; n < 3; n++) {
    content.fill('g', 0, 1 + n);
    write(kernel, open, content.subarray(0, 1 + n));
    await operations.fsync(caller(), ino, open.handle, false);
  }
  restore();
  await operations.release(caller(), ino, open.handle, undefined);
  await expect.poll(() => opened.stats()['liveFiles']).toBe(0);
  const { handle, backingId } = await operations.open(caller(), ino, O_RDWR);
  expect(backingId).toBeUndefined();
  await operations.write(caller(), ino, handle, 0n, Buffer.from('hh'), O_RDWR, false);
  await operations.fsync(caller(), ino, handle, false);
  content.fill('h', 0, 2);
  const other = await openTestVolume(volume, 'other');
  expect((await readElsewhere(other, 'f')).equals(content)).toBe(true);
  await operations.release(caller(), ino, handle, undefined);
  expect((await operations.open(caller(), ino, O_RDWR)).backingId).toBeUndefined();
});

test('a quota that writes of the kernel passed is EDQUOT at fsync and close; nothing is dropped, and it is committed when there is room', async () => {
  const volume = await testVolume();
  const engine = await openEngine(volume);
  const kernel = playKernel(true);
  const options = { passthrough: 'full', kernel, cacheBytes: 256e6 } as const;
  await setQuota(engine, 'lake', '/', { bytesMax: 100_000 });
  const opened = await openTestVolume(volume, 'a', [], 'lake', options);
  const { operations } = opened;
  const { ino, open } = await createFile(opened, 'f');
  const content = randomBytes(200_000);
  write(kernel, open, content);
  expect(await errnoOf(() => operations.fsync(caller(), ino, open.handle, false))).toBe(Errno.EDQUOT);
  expect(await errnoOf(() => operations.flush(caller(), ino, open.handle, 0n))).toBe(Errno.EDQUOT);
  await operations.release(caller(), ino, open.handle, undefined);
  const other = await openTestVolume(volume, 'other');
  expect((await readElsewhere(other, 'f')).length).toBe(0);
  await setQuota(engine, 'lake', '/', { bytesMax: 300_000 });
  await expect.poll(async () => (await readElsewhere(other, 'f')).equals(content)).toBe(true);
});
