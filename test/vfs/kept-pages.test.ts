/** What an open tells the kernel of its pages: FOPEN_KEEP_CACHE only where they are those of the content as it is. */
import { constants } from 'node:fs';
import { setImmediate } from 'node:timers/promises';
import { expect, test } from 'vitest';
import type { OpenVolume } from '../../fs-gateway/open-volume.ts';
import type { KernelNotifier } from '../../fs-gateway/vfs/operations.ts';
import { caller, openTestVolume, testVolume } from '../support/fs-volume.ts';
import { writeFile } from '../tools/volume-files.ts';

async function opensKept(open: OpenVolume, ino: bigint): Promise<boolean> {
  const { handle, keepCache } = await open.operations.open(caller(), ino, 0);
  await open.operations.release(caller(), ino, handle, undefined);
  return keepCache === true;
}

test.each([
  ['in the metadata', 100, '16KiB'],
  ['in an object', 100_000, '0'],
])(
  'pages go when another node rewrote a file %s, also with its size and mtime as they were',
  async (_, size, inlineBytes) => {
    const volume = await testVolume({ inlineBytes });
    const [a, b] = [await openTestVolume(volume, 'a'), await openTestVolume(volume, 'b')];
    const ino = await writeFile(a, 'file', Buffer.alloc(size, 'a'));
    await opensKept(a, ino);
    expect(await opensKept(a, ino)).toBe(true);
    const { mtimeNs } = (await b.operations.getattr(caller(), ino, undefined)).attributes;
    await b.operations.write(caller(), ino, 0n, 0n, Buffer.alloc(size, 'b'), 2, false);
    await b.operations.fsync(caller(), ino, 0n, false);
    await b.operations.setattr(caller(), ino, { mtimeNs });
    await expect.poll(() => opensKept(a, ino), { interval: 5 }).toBe(false);
    expect((await a.operations.getattr(caller(), ino, undefined)).attributes).toMatchObject({
      mtimeNs,
      size: BigInt(size),
    });
  },
);

test('what this node wrote stays in the kernel, also when its mode and times are set', async () => {
  const a = await openTestVolume(await testVolume({ inlineBytes: '0' }));
  const ino = await writeFile(a, 'file', Buffer.alloc(100_000, 'a'));
  await a.operations.setattr(caller(), ino, { mode: 0o600, mtimeNs: 1n });
  expect(await opensKept(a, ino)).toBe(true);
});

test('a direct write is answered when the kernel has dropped the pages of whoever reads beside it', async () => {
  const ranges: (readonly bigint[])[] = [];
  let dropping: PromiseWithResolvers<undefined> | undefined;
  const kernel: KernelNotifier = {
    invalidateInode: (...range) => void ranges.push(range),
    invalidateEntry: () => undefined,
    incrementEpoch: () => true,
    settled: () => dropping?.promise,
  };
  const { operations } = await openTestVolume(await testVolume(), 'a', [], 'lake', {}, kernel);
  const { O_DIRECT, O_RDONLY, O_RDWR } = constants;
  const { entry, open } = await operations.create(caller(), 1n, 'file', 0o644, O_RDWR | O_DIRECT, 0);
  const { ino } = entry.attributes;
  let answered = 0;
  const write = async (flags: number): Promise<void> => {
    await operations.write(caller(), ino, open.handle, 4096n, Buffer.alloc(8192, 'x'), flags, false);
    answered++;
  };
  // Nobody reads by pages: the kernel need not be asked.
  ranges.length = 0;
  await write(O_RDWR | O_DIRECT);
  const { handle } = await operations.open(caller(), ino, O_RDONLY);
  ranges.length = 0;
  await write(O_RDWR);
  expect([answered, ranges]).toEqual([2, []]);

  dropping = Promise.withResolvers<undefined>();
  const direct = write(O_RDWR | O_DIRECT);
  await setImmediate();
  expect([answered, ranges]).toEqual([2, [[ino, 4096n, 8192n]]]);
  dropping.resolve(undefined);
  await direct;
  dropping = undefined;
  await operations.release(caller(), ino, handle, undefined);
  await write(O_RDWR | O_DIRECT);
  expect([answered, ranges.length]).toEqual([4, 1]);
});
