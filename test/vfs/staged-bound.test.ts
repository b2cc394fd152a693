/** What all files together have staged is bounded: writers wait for uploads, and each goes on or hears why not. */
import { expect, onTestFinished, test, vi } from 'vitest';
import { Uploader } from '../../fs-gateway/data/uploader.ts';
import type { OpenVolume } from '../../fs-gateway/open-volume.ts';
import { Errno } from '../../fs-gateway/vfs/operations.ts';
import { PenstockError } from '../../lib/errors.ts';
import { setVolumeQuota } from '../../fs-gateway/tools/main.ts';
import { readElsewhere } from '../fs-gateway/passthrough-volume.ts';
import { caller, openTestVolume, testVolume } from '../support/fs-volume.ts';
import { HANG_MS } from '../support/hang.ts';
import { replaceMethod } from '../support/replace-method.ts';

const O_RDWR = 2;
const KIB = 1024;
const WRITE = 64 * KIB;
const STAGED_MAX = 16 * WRITE;

async function create(a: OpenVolume, name: string, parent = 1n): Promise<bigint> {
  const { entry } = await a.operations.create(caller(), parent, name, 0o644, O_RDWR, 0);
  return entry.attributes.ino;
}

function write(a: OpenVolume, ino: bigint, nth: number): Promise<number> {
  const data = Buffer.alloc(WRITE, `${ino} `);
  return Promise.resolve(a.operations.write(caller(), ino, 0n, BigInt(nth * WRITE), data, O_RDWR, false));
}

/** Uploads wait until the gate is opened. */
function gateUploads(): { open(): void } {
  const gate: PromiseWithResolvers<void> = Promise.withResolvers();
  replaceMethod(
    Uploader.prototype,
    'upload',
    (upload) =>
      async function (this: Uploader, ...args) {
        await gate.promise;
        return upload.apply(this, args);
      },
  );
  onTestFinished(() => gate.resolve());
  return { open: gate.resolve };
}

test.each([false, true])(
  'many files that are each small stay within the bound together, and all of them are written (writeback: %s)',
  async (writeback) => {
    const volume = await testVolume();
    const a = await openTestVolume(volume, 'a', [], 'lake', { stagedMax: STAGED_MAX, writeback });
    const inos = await Promise.all(Array.from({ length: 40 }, (_, n) => create(a, `f${n}`)));
    const gate = gateUploads();
    let done = 0;
    let most = 0;
    const writers = inos.map(async (ino) => {
      for (let nth = 0; nth < 4; nth++) {
        await write(a, ino, nth);
        done++;
        most = Math.max(most, Number(a.stats()['stagedBytes']));
      }
    });
    await vi.waitFor(() => expect(done).toBe(16), { timeout: HANG_MS });
    for (let turn = 0; turn < 100; turn++) await new Promise((resolve) => void setImmediate(resolve));
    expect(done).toBe(16);
    gate.open();
    await Promise.all(writers);
    expect(most).toBeLessThanOrEqual(STAGED_MAX);
    await a.operations.drain();
    for (const [n, ino] of inos.entries()) {
      const content = await readElsewhere(a, `f${n}`);
      expect(content.equals(Buffer.concat(Array.from({ length: 4 }, () => Buffer.alloc(WRITE, `${ino} `))))).toBe(true);
    }
  },
);

test.each([false, true])(
  'while the store cannot be reached a write above the bound is EIO (writeback: %s)',
  async (writeback) => {
    const volume = await testVolume();
    const a = await openTestVolume(volume, 'a', [], 'lake', { stagedMax: STAGED_MAX, writeback });
    const [full, other] = [await create(a, 'full'), await create(a, 'other')];
    for (let nth = 0; nth < 16; nth++) await write(a, full, nth);
    let away = true;
    replaceMethod(
      Uploader.prototype,
      'upload',
      (upload) =>
        async function (this: Uploader, ...args) {
          if (away) throw new PenstockError('unavailable', 'the store is away');
          return upload.apply(this, args);
        },
    );
    await expect(write(a, other, 0)).rejects.toMatchObject({ errno: Errno.EIO });
    away = false;
    await a.operations.flush(caller(), full, 0n, 0n);
    expect(await write(a, other, 0)).toBe(WRITE);
  },
);

test('a file that its quota keeps from being committed holds up nobody else, until there is nothing else to commit', async () => {
  const volume = await testVolume();
  const a = await openTestVolume(volume, 'a', [], 'lake', { stagedMax: STAGED_MAX });
  const { attributes } = await a.operations.mkdir(caller(), 1n, 'small', 0o755, 0);
  const over = await create(a, 'over', attributes.ino);
  for (let nth = 0; nth < 8; nth++) await write(a, over, nth);
  await setVolumeQuota({ metaUrl: volume.metaUrl, path: '/small', limits: { bytesMax: WRITE, inodesMax: null } });
  const other = await create(a, 'other');
  for (let nth = 0; nth < 32; nth++) expect(await write(a, other, nth)).toBe(WRITE);
  expect(Number(a.stats()['stagedBytes'])).toBeLessThanOrEqual(STAGED_MAX);
});

test('a file without names is not counted: nobody can wait for what is never uploaded', async () => {
  const volume = await testVolume();
  const a = await openTestVolume(volume, 'a', [], 'lake', { stagedMax: STAGED_MAX });
  const [unnamed, named] = [await create(a, 'unnamed'), await create(a, 'named')];
  await a.operations.unlink(caller(), 1n, 'unnamed');
  for (let nth = 0; nth < 20; nth++) await write(a, unnamed, nth);
  for (let nth = 0; nth < 20; nth++) await write(a, named, nth);
  expect((await a.operations.read(caller(), unnamed, 0n, BigInt(19 * WRITE), WRITE, 0)).length).toBe(WRITE);
});
