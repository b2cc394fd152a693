/** Another node commits a file between this one's looks at its inode and at its content: what is read is of one version of the file. */
import { closeSync, openSync, readFileSync, writeSync } from 'node:fs';
import { expect, test } from 'vitest';
import { VolumeView } from '../../fs-gateway/meta/view.ts';
import { VolumeKeys } from '../../lib/volume/keys.ts';
import { readElsewhere, writeElsewhere } from '../fs-gateway/passthrough-volume.ts';
import { caller, openTestVolume, testVolume } from '../support/fs-volume.ts';
import { playKernel } from '../support/played-kernel.ts';
import { replaceMethod } from '../support/replace-method.ts';
import { lookUp, writeFile } from '../tools/volume-files.ts';

const keys = new VolumeKeys('lake');
const O_RDWR = 2;
const O_CREAT = 0o100;

/** Once, just before a record of this bucket is read. */
function beforeRead(bucket: string, act: () => Promise<unknown>): { readonly acted: () => boolean } {
  let acted = false;
  const stop = replaceMethod(
    VolumeView.prototype,
    'read',
    (read) =>
      async function (this: VolumeView, wanted) {
        if (!acted && wanted[0]?.bucket === bucket) {
          acted = true;
          stop();
          await act();
        }
        return read.call(this, wanted);
      },
  );
  return { acted: () => acted };
}

test.each([
  ['a longer one in the metadata', 8],
  ['one that is too large for the metadata', 100_000],
])('a small file that becomes %s', async (_, bytes) => {
  const volume = await testVolume();
  const a = await openTestVolume(volume, 'a');
  const b = await openTestVolume(volume, 'b');
  await writeFile(b, 'f', Buffer.from('aaaa'));
  const { ino } = await lookUp(a, 1n, 'f');
  const becomes = Buffer.alloc(bytes, 'b');
  const change = beforeRead(keys.inlineData(Number(ino)).bucket, () => writeElsewhere(b, 'f', becomes, 0));
  const read = await a.operations.read(caller(), ino, 0n, 0n, 4096, 0);
  expect(change.acted()).toBe(true);
  expect(String(read)).toBe(String(becomes.subarray(0, 4096)));
});

test('a live file, into which what others have committed is merged', async () => {
  const volume = await testVolume();
  const kernel = playKernel(false);
  const a = await openTestVolume(volume, 'a', [], 'lake', { passthrough: 'full', kernel, cacheBytes: 256e6 });
  const b = await openTestVolume(volume, 'b');
  const created = await a.operations.create(caller(), 1n, 'f', 0o644, O_RDWR | O_CREAT, 0o022);
  const { ino } = created.entry.attributes;
  const backing = kernel.backing.get(created.open.backingId ?? 0) ?? '';
  const writes = (text: string): void => {
    const fd = openSync(backing, 'r+');
    writeSync(fd, text, 0);
    closeSync(fd);
  };
  const fsync = async (): Promise<void> => a.operations.fsync(caller(), ino, created.open.handle, false);
  writes('0123456789');
  await fsync();
  await writeElsewhere(b, 'f', Buffer.from('one'), 10);
  writes('ours');
  const change = beforeRead(keys.inlineData(Number(ino)).bucket, () => writeElsewhere(b, 'f', Buffer.from('two'), 13));
  await fsync();
  expect(change.acted()).toBe(true);
  await expect
    .poll(async () => {
      await fsync();
      return readFileSync(backing, 'latin1');
    })
    .toBe('ours456789onetwo');
  expect(String(await readElsewhere(b, 'f'))).toBe('ours456789onetwo');
});
