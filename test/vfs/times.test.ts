import { expect, test } from 'vitest';
import { caller, openTestVolume, testVolume } from '../support/fs-volume.ts';

test.each([
  ['in the metadata', 1000],
  ['in objects', 3_000_000],
])('a time that is set while a flush is under way stays, content %s', async (_, size) => {
  const open = await openTestVolume(await testVolume({ blockSize: '64KiB' }));
  for (let n = 0; n < 5; n++) {
    const { entry, open: file } = await open.operations.create(caller(), 1n, `file ${n}`, 0o644, 2, 0);
    const { ino } = entry.attributes;
    await open.operations.write(caller(), ino, file.handle, 0n, Buffer.alloc(size, 'a'), 2, false);
    const flushing = open.operations.fsync(caller(), ino, file.handle, false);
    // Let it begin.
    for (let turn = 0; turn < n; turn++) await Promise.resolve();
    await open.operations.setattr(caller(), ino, { mtimeNs: 12_345n });
    await flushing;
    await open.operations.release(caller(), ino, file.handle, undefined);
    expect((await open.operations.getattr(caller(), ino, undefined)).attributes).toMatchObject({
      mtimeNs: 12_345n,
      size: BigInt(size),
    });
  }
});
