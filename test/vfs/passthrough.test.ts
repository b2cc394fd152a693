/** Passthrough at moments that the kernel's own timing rarely gives. The kernel is played: it opens the backing file when the test says so. */
import { randomBytes } from 'node:crypto';
import {
  appendFileSync,
  closeSync,
  existsSync,
  openSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { describe, expect, onTestFinished, test, vi } from 'vitest';
import { Journal } from '../../fs-gateway/data/journal.ts';
import { LiveFile } from '../../fs-gateway/data/live-file.ts';
import { Staging } from '../../fs-gateway/data/staging.ts';
import { WholeFiles } from '../../fs-gateway/data/whole-files.ts';
import { Filler } from '../../fs-gateway/vfs/filler.ts';
import type { OpenResult } from '../../fs-gateway/vfs/operations.ts';
import type { OpenVolume } from '../../fs-gateway/open-volume.ts';
import { appendElsewhere, readElsewhere, writeElsewhere } from '../fs-gateway/passthrough-volume.ts';
import { caller, openTestVolume, testVolume } from '../support/fs-volume.ts';
import { playKernel, type PlayedKernel } from '../support/played-kernel.ts';
import { replaceMethod } from '../support/replace-method.ts';
import { lookUp } from '../tools/volume-files.ts';

const O_RDWR = 2;
const O_CREAT = 0o100;
const O_APPEND = 0o2000;

test('a flush between the answer to an open and the kernel’s own open does not take the file for settled', async () => {
  const volume = await testVolume();
  // The kernel has not opened the backing file yet.
  const kernel = playKernel(true);
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
  writeFileSync(kernel.backing.get(1) ?? '', 'by the kernel');
  await operations.flush(caller(), ino, open.handle, 0n);
  expect((await readElsewhere(other, 'f')).toString()).toBe('by the kernel');
});

test('a file that was cut under a program that appends has what it appended since, and nothing before it, on every node', async () => {
  const volume = await testVolume();
  const kernel = playKernel(true);
  const options = { passthrough: 'full', kernel, cacheBytes: 256e6 } as const;
  const { operations } = await openTestVolume(volume, 'a', [], 'lake', options);
  const other = await openTestVolume(volume, 'other');
  const { entry, open } = await operations.create(caller(), 1n, 'log', 0o644, O_RDWR | O_CREAT, 0o022);
  const { ino } = entry.attributes;
  appendFileSync(kernel.backing.get(1) ?? '', Buffer.alloc(50_000, 'o'));
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

test('an open that waited when the worker was killed counts once: the file is closed behind its last close', async () => {
  const { openAgain, first, other, ino, opened } = await openedWhole();
  expect(opened.backingId).toBe(1);
  // What the second open waits for never comes.
  let waits = 0;
  const restore = replaceMethod(Filler.prototype, 'now', () => () => {
    waits++;
    return new Promise(() => undefined);
  });
  await writeElsewhere(other, 'f', Buffer.alloc(100_000, 'b'));
  await expect.poll(() => waits).toBeGreaterThan(0);
  const second = caller();
  const waiting = Promise.resolve(first.operations.open(second, ino, 0));
  waiting.catch(() => undefined);
  await new Promise((resolve) => setImmediate(resolve));
  await first.close();
  restore();
  const next = await openAgain();
  // The kernel sends it again.
  const { handle } = await next.operations.open(second, ino, 0);
  await next.operations.release(caller(), ino, handle, undefined);
  expect(next.passesThrough(Number(ino))).toBe(true);
  await next.operations.release(caller(), ino, opened.handle, undefined);
  expect(next.passesThrough(Number(ino))).toBe(false);
});

test('an open whose answer died with the worker, and that the next one refuses, is not counted', async () => {
  const { openAgain, first, other, ino, opened } = await openedWhole();
  const second = caller();
  await first.operations.open(second, ino, 0);
  await first.operations.release(caller(), ino, opened.handle, undefined);
  await first.close();
  // Nobody knows any more who has it open.
  await other.operations.unlink(caller(), 1n, 'f');
  await other.operations.drain();
  const next = await openAgain();
  expect(next.passesThrough(Number(ino))).toBe(true);
  // The kernel sends it again.
  await expect(async () => next.operations.open(second, ino, 0)).rejects.toThrow('is gone');
  expect(next.passesThrough(Number(ino))).toBe(false);
});

test('an open for which the journal has no room leaves no backing file in the kernel', async () => {
  const volume = await testVolume();
  const kernel = playKernel(true);
  const options = { passthrough: 'full', kernel, cacheBytes: 256e6 } as const;
  const opened = await openTestVolume(volume, 'a', [], 'lake', options);
  const { operations } = opened;
  const restore = replaceMethod(Journal.prototype, 'append', () => () => {
    throw Object.assign(new Error('no space'), { code: 'ENOSPC' });
  });
  const flags = O_RDWR | O_CREAT;
  await expect(async () => operations.create(caller(), 1n, 'f', 0o644, flags, 0)).rejects.toThrow('no space');
  expect([kernel.ids, kernel.backing.size]).toEqual([1, 0]);
  restore();
  const { ino } = await lookUp(opened, 1n, 'f');
  const { handle, backingId } = await operations.open(caller(), ino, O_RDWR);
  expect(kernel.backing.has(backingId ?? 0)).toBe(true);
  await operations.release(caller(), ino, handle, undefined);
  await expect.poll(() => kernel.backing.size).toBe(0);
});

test('a backing file that a worker registered and was killed before it had noted is given back by the next one', async () => {
  const { kernel, openAgain, first, opened } = await openedWhole();
  const known = opened.backingId ?? 0;
  const fd = openSync(kernel.backing.get(known) ?? '', 'r');
  onTestFinished(() => closeSync(fd));
  kernel.register(fd);
  await first.close();
  expect(kernel.backing.size).toBe(2);
  await openAgain();
  expect([...kernel.backing.keys()]).toEqual([known]);
});

test('a whole file that has to make room for its own next version has all of that, and not only what was changed', async () => {
  const volume = await testVolume();
  const kernel = playKernel(true);
  const other = await openTestVolume(volume, 'other');
  const content = randomBytes(6 * 2 ** 20);
  await writeElsewhere(other, 'f', content);
  // There is no room for two of it.
  const options = { passthrough: 'read', kernel, cacheBytes: 8e6 } as const;
  const opened = await openTestVolume(volume, 'a', [], 'lake', options);
  const { operations } = opened;
  const { ino } = await lookUp(opened, 1n, 'f');
  const first = await operations.open(caller(), ino, 0);
  await operations.read(caller(), ino, first.handle, 0n, content.length, 0);
  await operations.release(caller(), ino, first.handle, undefined);
  await expect.poll(() => opened.stats()).toMatchObject({ wholeBytes: 6 * 2 ** 20, filling: 0 });
  await appendElsewhere(other, 'f', ' and more');
  const size = BigInt(content.length + 9);
  await expect.poll(async () => (await lookUp(opened, 1n, 'f')).size).toBe(size);
  const second = await operations.open(caller(), ino, 0);
  expect([second.backingId, opened.stats()['filling']]).toEqual([undefined, 1]);
  await operations.release(caller(), ino, second.handle, undefined);
  await expect.poll(() => opened.stats()['filling']).toBe(0);
  const { backingId } = await operations.open(caller(), ino, 0);
  const whole = readFileSync(kernel.backing.get(backingId ?? 0) ?? '');
  expect(whole.equals(Buffer.concat([content, Buffer.from(' and more')]))).toBe(true);
});

test('a live file whose record finds no room on the disk stays one, and is complete when there is room', async () => {
  const volume = await testVolume();
  const kernel = playKernel(true);
  const options = { passthrough: 'full', kernel, cacheBytes: 256e6 } as const;
  const opened = await openTestVolume(volume, 'a', [], 'lake', options);
  const { operations } = opened;
  const { entry, open } = await operations.create(caller(), 1n, 'f', 0o644, O_RDWR | O_CREAT, 0o022);
  const { ino } = entry.attributes;
  const path = kernel.backing.get(open.backingId ?? 0) ?? '';
  writeFileSync(path, Buffer.alloc(100_000, 'a'));
  await operations.flush(caller(), ino, open.handle, 0n);
  let tries = 0;
  replaceMethod(
    WholeFiles.prototype,
    'calm',
    (calm) =>
      function (this: WholeFiles, ...args) {
        tries++;
        calm.apply(this, args);
      },
  );
  // Where the record is written first.
  symlinkSync('/dev/full', `${path}.tmp`);
  await operations.release(caller(), ino, open.handle, undefined);
  await expect.poll(() => tries).toBeGreaterThan(1);
  rmSync(`${path}.tmp`);
  await expect.poll(() => opened.stats()['liveFiles']).toBe(0);
  expect((await operations.open(caller(), ino, 0)).backingId).toBe(2);
});

describe('a file of the cache directory that is removed', () => {
  interface Written {
    readonly kernel: { quiet: boolean };
    readonly opened: OpenVolume;
    readonly other: OpenVolume;
    readonly ino: bigint;
    readonly handle: bigint;
    readonly path: string;
    readonly reports: readonly string[];
    readonly openAgain: () => Promise<OpenVolume>;
  }

  /** By the kernel, which goes on as if it had the file mapped. */
  async function written(bytes: Buffer, writeback: boolean): Promise<Written> {
    const volume = await testVolume();
    const played = playKernel(true);
    const kernel = { ...played, quiet: false, isQuiet: () => kernel.quiet };
    const reports: string[] = [];
    const options = { passthrough: 'full', kernel, writeback, cacheBytes: 256e6 } as const;
    const openAgain = (): Promise<OpenVolume> => openTestVolume(volume, 'a', reports, 'lake', options);
    const opened = await openAgain();
    const other = await openTestVolume(volume, 'other');
    const { entry, open } = await opened.operations.create(caller(), 1n, 'f', 0o644, O_RDWR | O_CREAT, 0o022);
    const { ino } = entry.attributes;
    const path = played.backing.get(open.backingId ?? 0) ?? '';
    writeFileSync(path, bytes);
    await opened.operations.flush(caller(), ino, open.handle, 0n);
    return { kernel, opened, other, ino, handle: open.handle, path, reports, openAgain };
  }

  test('by this node itself, while a truncate syncs it, is not looked for by a descriptor that is closed', async () => {
    const { kernel, opened, other, ino, handle, path, reports } = await written(Buffer.from('small'), true);
    const { operations } = opened;
    await operations.release(caller(), ino, handle, undefined);
    const synced = Promise.withResolvers<undefined>();
    const restore = replaceMethod(Staging.prototype, 'sync', () => () => synced.promise);
    const cut = Promise.resolve(operations.setattr(caller(), ino, { size: 3n }));
    await expect.poll(async () => (await readElsewhere(other, 'f')).toString()).toBe('sma');
    kernel.quiet = true;
    await expect.poll(() => opened.stats()['liveFiles']).toBe(0);
    synced.resolve(undefined);
    await cut;
    restore();
    const next = await operations.open(caller(), ino, O_RDWR);
    expect([next.backingId, existsSync(path), reports]).toEqual([2, true, []]);
  });

  test('while it is synced for the last time is not complete', async () => {
    const bytes = Buffer.alloc(100_000, 'l');
    const { kernel, opened, other, ino, handle, path, reports } = await written(bytes, false);
    const { operations } = opened;
    await operations.release(caller(), ino, handle, undefined);
    const restore = replaceMethod(
      LiveFile.prototype,
      'sync',
      (sync) =>
        async function (this: LiveFile) {
          const record = await sync.call(this);
          rmSync(join(path, '../..'), { recursive: true, force: true });
          this.isRemoved(); // As the look each second.
          return record;
        },
    );
    kernel.quiet = true;
    await expect.poll(() => opened.stats()['liveFiles']).toBe(0);
    restore();
    expect(existsSync(`${path}.ok`)).toBe(false);
    const read = await operations.open(caller(), ino, 0);
    expect(Buffer.from(await operations.read(caller(), ino, read.handle, 0n, 200_000, 0)).equals(bytes)).toBe(true);
    await expect.poll(() => opened.stats()).toMatchObject({ wholeBytes: 102_400, filling: 0 });
    expect((await readElsewhere(other, 'f')).equals(bytes)).toBe(true);
    expect(reports).toEqual([]);
  });

  test('and lost is EIO until it is closed also for the workers behind a journal that was written anew', async () => {
    const { opened, other, ino, handle, path, openAgain } = await written(Buffer.from('committed'), false);
    const isLost = async ({ operations }: OpenVolume): Promise<void> =>
      expect(async () => operations.fsync(caller(), ino, handle, false)).rejects.toThrow('is lost');
    rmSync(join(path, '../..'), { recursive: true });
    await opened.close();
    const next = await openAgain();
    await isLost(next);
    const overgrown = vi.spyOn(Journal.prototype, 'overgrown', 'get').mockReturnValue(true);
    const { entry, open } = await next.operations.create(caller(), 1n, 'g', 0o644, O_RDWR | O_CREAT, 0o022);
    await next.operations.flush(caller(), entry.attributes.ino, open.handle, 0n);
    expect(overgrown).toHaveBeenCalled();
    overgrown.mockRestore();
    await next.close();
    const last = await openAgain();
    await isLost(last);
    await last.operations.release(caller(), ino, handle, undefined);
    await last.operations.fsync(caller(), ino, handle, false);
    expect((await readElsewhere(other, 'f')).toString()).toBe('committed');
    expect((await last.operations.open(caller(), ino, O_RDWR)).backingId).toBeGreaterThan(0);
  });
});

interface OpenedWhole {
  readonly kernel: PlayedKernel;
  readonly other: OpenVolume;
  readonly first: OpenVolume;
  readonly ino: bigint;
  readonly opened: OpenResult;
  /** The next worker of the same mount. */
  readonly openAgain: () => Promise<OpenVolume>;
}

/** A file that another node wrote, opened when it was whole here. */
async function openedWhole(): Promise<OpenedWhole> {
  const volume = await testVolume();
  const kernel = playKernel(true);
  const openAgain = async (): Promise<OpenVolume> =>
    openTestVolume(volume, 'a', [], 'lake', { passthrough: 'read', kernel, cacheBytes: 256e6 });
  const other = await openTestVolume(volume, 'other');
  await writeElsewhere(other, 'f', Buffer.alloc(100_000, 'a'));
  const first = await openAgain();
  const { operations } = first;
  const { ino } = await lookUp(first, 1n, 'f');
  const { handle } = await operations.open(caller(), ino, 0);
  await operations.read(caller(), ino, handle, 0n, 100_000, 0);
  await operations.release(caller(), ino, handle, undefined);
  await expect.poll(() => first.stats()).toMatchObject({ wholeBytes: 102_400, filling: 0 });
  return { kernel, other, first, ino, opened: await operations.open(caller(), ino, 0), openAgain };
}
