/** Content beyond what the model test reaches: files of many pages, fragmented blocks, holes, copies, removal while open. */
import { renameSync, rmSync, writeFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import type { OpenVolume } from '../../fs-gateway/open-volume.ts';
import { Errno } from '../../fs-gateway/vfs/operations.ts';
import { openMeta } from '../../lib/registry.ts';
import { VolumeKeys } from '../../lib/volume/keys.ts';
import { caller, openTestVolume, testVolume } from '../support/fs-volume.ts';

const keys = new VolumeKeys('lake');
const OPTIONS = { blockSize: '64KiB', inlineBytes: '2KiB' };
const MIB = 2 ** 20;
const SEEK_DATA = 3;
const SEEK_HOLE = 4;

async function create(open: OpenVolume, name: string): Promise<{ readonly ino: bigint; readonly handle: bigint }> {
  const made = await open.operations.create(caller(), 1n, name, 0o644, 2, 0);
  return { ino: made.entry.attributes.ino, handle: made.open.handle };
}

const at = async (open: OpenVolume, ino: bigint, offset: number, length: number): Promise<Buffer> =>
  open.operations.read(caller(), ino, 0n, BigInt(offset), length, 0);

test('a file of many pages keeps scattered pieces, is cut and grown, and leaves no record behind', async () => {
  const volume = await testVolume(OPTIONS);
  const open = await openTestVolume(volume);
  const { ino, handle } = await create(open, 'large');
  const piece = (n: number): Buffer => Buffer.alloc(70_000, `piece ${n} `);
  const offsets = Array.from({ length: 120 }, (_, n) => n * 5 * MIB + n * 1000);
  for (const [n, offset] of offsets.entries()) {
    await open.operations.write(caller(), ino, handle, BigInt(offset), piece(n), 2, false);
    if (n % 40 === 39) await open.operations.fsync(caller(), ino, handle, false);
  }
  await open.operations.flush(caller(), ino, handle, 0n);
  const other = await openTestVolume(volume, 'other');
  for (const client of [open, other]) {
    for (const [n, offset] of offsets.entries()) {
      expect((await at(client, ino, offset, 70_000)).equals(piece(n))).toBe(true);
      expect((await at(client, ino, offset + 70_000, 5000)).every((byte) => byte === 0) || n === 119).toBe(true);
    }
  }
  const engine = await openMeta(volume.metaUrl, { kind: 'test' });
  expect(await engine.count(keys.pages(Number(ino)))).toBeGreaterThan(8);
  expect(await open.operations.lseek(caller(), ino, handle, BigInt(MIB), SEEK_DATA)).toBe(BigInt(offsets[1] ?? 0));
  expect(await open.operations.lseek(caller(), ino, handle, BigInt(offsets[1] ?? 0), SEEK_HOLE)).toBe(
    BigInt(offsets[1] ?? 0) + 70_000n,
  );

  await open.operations.setattr(caller(), ino, { size: BigInt(100 * MIB), handle });
  await open.operations.setattr(caller(), ino, { size: BigInt(400 * MIB), handle });
  await open.operations.flush(caller(), ino, handle, 0n);
  const third = await openTestVolume(volume, 'third');
  for (const client of [open, third]) {
    expect((await at(client, ino, offsets[19] ?? 0, 70_000)).equals(piece(19))).toBe(true);
    expect((await at(client, ino, offsets[40] ?? 0, 70_000)).every((byte) => byte === 0)).toBe(true);
  }
  // While another mount lives, what it may have open is kept for a time.
  await Promise.all([other.close(), third.close()]);
  await open.operations.unlink(caller(), 1n, 'large');
  expect((await at(open, ino, offsets[3] ?? 0, 70_000)).equals(piece(3))).toBe(true);
  await open.operations.release(caller(), ino, handle, undefined);
  await open.operations.drain();
  expect(await engine.count(keys.pages(Number(ino)))).toBe(0);
  expect(await engine.count(keys.orphans)).toBe(0);
  await engine.close();
});

test('a block with many fragments is written whole, with the bytes of all of them', async () => {
  const volume = await testVolume(OPTIONS);
  const open = await openTestVolume(volume);
  const { ino, handle } = await create(open, 'fragments');
  const expected = Buffer.alloc(200_000, 1);
  await open.operations.write(caller(), ino, handle, 0n, expected, 2, false);
  await open.operations.fsync(caller(), ino, handle, false);
  for (let n = 0; n < 300; n++) {
    const offset = (n * 7919) % 199_000;
    const data = Buffer.alloc(100, n % 256);
    data.copy(expected, offset);
    await open.operations.write(caller(), ino, handle, BigInt(offset), data, 2, false);
    if (n % 30 === 29) await open.operations.fsync(caller(), ino, handle, false);
  }
  await open.operations.flush(caller(), ino, handle, 0n);
  const other = await openTestVolume(volume, 'other');
  expect((await at(other, ino, 0, 200_000)).equals(expected)).toBe(true);
});

test('two clients that write different parts of one block keep both', async () => {
  const volume = await testVolume(OPTIONS);
  const [a, b] = [await openTestVolume(volume, 'a'), await openTestVolume(volume, 'b')];
  const { ino } = await create(a, 'shared');
  await a.operations.write(caller(), ino, 0n, 0n, Buffer.alloc(60_000, '.'), 2, false);
  await a.operations.fsync(caller(), ino, 0n, false);
  expect((await at(b, ino, 0, 5)).toString()).toBe('.....');
  await a.operations.write(caller(), ino, 0n, 100n, Buffer.from('from a'), 2, false);
  await b.operations.write(caller(), ino, 0n, 200n, Buffer.from('from b'), 2, false);
  await Promise.all([a.operations.fsync(caller(), ino, 0n, false), b.operations.fsync(caller(), ino, 0n, false)]);
  const reader = await openTestVolume(volume, 'reader');
  const content = await at(reader, ino, 0, 60_000);
  expect(content.toString('latin1', 100, 106)).toBe('from a');
  expect(content.toString('latin1', 200, 206)).toBe('from b');
});

test('an object store that fails keeps the staged bytes, and the next fsync commits them', async () => {
  const volume = await testVolume(OPTIONS);
  const reports: string[] = [];
  const open = await openTestVolume(volume, 'a', reports);
  const { ino, handle } = await create(open, 'file');
  renameSync(volume.storeDir, `${volume.storeDir}.away`);
  writeFileSync(volume.storeDir, 'not a directory');
  const data = Buffer.alloc(100_000, 'kept');
  await open.operations.write(caller(), ino, handle, 0n, data, 2, false);
  await expect(async () => open.operations.fsync(caller(), ino, handle, false)).rejects.toMatchObject({
    errno: expect.any(Number) as number,
  });
  expect((await at(open, ino, 0, data.length)).equals(data)).toBe(true);
  expect(reports.join('\n')).toContain(`inode ${ino} stays staged`);
  rmSync(volume.storeDir);
  renameSync(`${volume.storeDir}.away`, volume.storeDir);
  await open.operations.fsync(caller(), ino, handle, false);
  const other = await openTestVolume(volume, 'other');
  expect((await at(other, ino, 0, data.length)).equals(data)).toBe(true);
});

test('copies, special files, limits and unsupported requests answer as Linux does', async () => {
  const open = await openTestVolume(await testVolume(OPTIONS));
  const { operations } = open;
  const [source, target] = [await create(open, 'source'), await create(open, 'target')];
  const data = Buffer.alloc(300_000, 'copy');
  await operations.write(caller(), source.ino, source.handle, 0n, data, 2, false);
  const copied = await operations.copyFileRange(
    caller(),
    { ...source, offset: 1000n },
    { ...target, offset: 5n },
    200_000n,
  );
  expect(copied).toBe(200_000n);
  expect((await at(open, target.ino, 5, 200_000)).equals(data.subarray(1000, 201_000))).toBe(true);
  const errno = async (run: () => unknown): Promise<unknown> => {
    try {
      return await run();
    } catch (error) {
      return (error as { errno?: number }).errno; // a PosixError
    }
  };
  expect(await errno(() => operations.mkdir(caller(), 1n, 'x'.repeat(256), 0o755, 0))).toBe(Errno.ENAMETOOLONG);
  expect(await errno(() => operations.setattr(caller(), source.ino, { size: 2n ** 62n }))).toBe(Errno.EFBIG);
  expect(await errno(() => operations.fallocate(caller(), source.ino, 0n, 8, 0n, 10n))).toBe(Errno.EOPNOTSUPP);
  expect(await errno(() => operations.lseek(caller(), source.ino, 0n, 300_000n, SEEK_DATA))).toBe(Errno.ENXIO);
  expect(await errno(() => operations.lseek(caller(), source.ino, 0n, -1n, SEEK_DATA))).toBe(Errno.ENXIO);
  expect(await errno(() => operations.setxattr(caller(), source.ino, 'system.x', data, 0, false))).toBe(
    Errno.EOPNOTSUPP,
  );
  expect(await errno(() => operations.getxattr(caller(), source.ino, 'user.x'))).toBe(Errno.ENODATA);
  await operations.setxattr(caller(), source.ino, 'user.\xff', Buffer.from('value'), 1, false);
  expect(await errno(() => operations.setxattr(caller(), source.ino, 'user.\xff', Buffer.from('v'), 1, false))).toBe(
    Errno.EEXIST,
  );
  expect(await operations.listxattr(caller(), source.ino)).toEqual(['user.\xff']);
  expect((await operations.getxattr(caller(), source.ino, 'user.\xff')).toString()).toBe('value');
  const fifo = await operations.mknod(caller(7, 8), 1n, 'fifo', 0o010666, 0, 0o022);
  expect(fifo.attributes).toMatchObject({ mode: 0o010644, uid: 7, gid: 8, nlink: 1 });
});

test('a read that was under way while a flush committed sees what was written', async () => {
  const volume = await testVolume(OPTIONS);
  const first = await openTestVolume(volume);
  const { ino, handle } = await create(first, 'file');
  await first.operations.write(caller(), ino, handle, 0n, Buffer.alloc(200_000, 'old'), 2, false);
  await first.operations.flush(caller(), ino, handle, 0n);
  await first.close();
  // Nothing is verified or cached here yet, so every read waits for the store.
  const { operations } = await openTestVolume(volume);
  await operations.write(caller(), ino, 0n, 70_000n, Buffer.from('new'), 2, false);
  const flushing = operations.fsync(caller(), ino, 0n, false);
  const reads = Array.from({ length: 3 }, async (_, n) =>
    operations.read(caller(), ino, 0n, BigInt(n * 65_536), 65_536, 0),
  );
  await flushing;
  const content = Buffer.concat(await Promise.all(reads));
  expect(content.toString('latin1', 70_000, 70_003)).toBe('new');
});
