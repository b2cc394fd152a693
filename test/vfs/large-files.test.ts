/** Files whose extents are in more pages than one commit takes. */
import { setImmediate } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { setQuota } from '../../fs-gateway/tools/quota.ts';
import { Errno } from '../../fs-gateway/vfs/operations.ts';
import type { OpenVolume } from '../../fs-gateway/open-volume.ts';
import { VolumeKeys } from '../../lib/volume/keys.ts';
import { caller, openTestVolume } from '../support/fs-volume.ts';
import { expectSound, onBothServices, openEngine } from '../tools/volume-bench.ts';
import type { NewVolume } from '../tools/volume-bench.ts';
import { lookUp } from '../tools/volume-files.ts';

const PAGE = 64 * 2 ** 20;
const PAGES = 1600;
const keys = new VolumeKeys('lake');

async function create({ operations }: OpenVolume): Promise<{ readonly ino: bigint; readonly handle: bigint }> {
  const { entry, open } = await operations.create(caller(), 1n, 'file', 0o644, 2, 0);
  return { ino: entry.attributes.ino, handle: open.handle };
}

/** One byte in each page. */
async function writePages({ operations }: OpenVolume, ino: bigint, text: string): Promise<void> {
  for (let page = 0; page < PAGES; page++) {
    await operations.write(caller(), ino, 0n, BigInt(page * PAGE + 5), Buffer.from(text), 2, false);
    // Writes wait for nothing: on a busy machine they would keep the session from being renewed until its lease is over.
    await setImmediate();
  }
}

async function byteOf({ operations }: OpenVolume, ino: bigint, page: number): Promise<string> {
  return (await operations.read(caller(), ino, 0n, BigInt(page * PAGE + 5), 1, 0)).toString();
}

function suite(newVolume: NewVolume): void {
  test('a flush that stops half-way leaves a file with the size of its extents, and is done again', async () => {
    const volume = await newVolume();
    const open = await openTestVolume(volume);
    const engine = await openEngine(volume);
    const { ino, handle } = await create(open);
    await writePages(open, ino, 'a');
    await setQuota(engine, 'lake', '/', { bytesMax: 1000 * PAGE });
    const flush = async (): Promise<void> => open.operations.flush(caller(), ino, handle, 0n);
    await expect.poll(() => flush().catch((error: unknown) => error)).toMatchObject({ errno: Errno.EDQUOT });
    const other = await openTestVolume(volume, 'other');
    const { size } = await lookUp(other, 1n, 'file');
    expect(size).toBe(BigInt(700 * PAGE));
    expect(await byteOf(other, ino, 699)).toBe('a');
    await expectSound(volume);
    await setQuota(engine, 'lake', '/', { bytesMax: null });
    await expect.poll(() => flush().catch((error: unknown) => error)).toBeUndefined();
    const third = await openTestVolume(volume, 'third');
    expect(await lookUp(third, 1n, 'file')).toMatchObject({ size: BigInt((PAGES - 1) * PAGE + 6) });
    for (const page of [0, 699, 700, 1399, PAGES - 1]) expect(await byteOf(third, ino, page)).toBe('a');
    await expectSound(volume);
    // Cut, its pages go, and what grows again is zeros.
    await open.operations.setattr(caller(), ino, { size: BigInt(2 * PAGE) });
    await flush();
    expect(await engine.count(keys.pages(Number(ino)))).toBe(2);
    await open.operations.setattr(caller(), ino, { size: BigInt(PAGES * PAGE) });
    await flush();
    const last = await openTestVolume(volume, 'last');
    expect([await byteOf(last, ino, 1), await byteOf(last, ino, 2), await byteOf(last, ino, 1000)]).toEqual([
      'a',
      '\0',
      '\0',
    ]);
    await expectSound(volume);
  });

  test('the holes of a file of a petabyte cost nothing', async () => {
    const volume = await newVolume();
    const open = await openTestVolume(volume);
    const { ino, handle } = await create(open);
    for (let n = 0; n < 100; n++) {
      await open.operations.write(caller(), ino, 0n, BigInt(n) * 2n ** 37n, Buffer.from('x'), 2, false);
    }
    for (const size of [2n ** 50n, 2n ** 43n, 2n ** 50n, 2n ** 30n]) {
      await open.operations.setattr(caller(), ino, { size });
      await open.operations.flush(caller(), ino, handle, 0n);
      expect((await lookUp(open, 1n, 'file')).size).toBe(size);
    }
    await expectSound(volume);
  });
}

onBothServices(suite);
