/** Requests that a worker had committed when it was killed, and that the kernel sends again to the next one: done once, and never an error. */
import { describe, expect, test } from 'vitest';
import { VolumeView } from '../../fs-gateway/meta/view.ts';
import type { OpenVolume } from '../../fs-gateway/open-volume.ts';
import { Errno, RENAME_EXCHANGE } from '../../fs-gateway/vfs/operations.ts';
import type { Caller, Entry, OpenResult } from '../../fs-gateway/vfs/operations.ts';
import { Orphans } from '../../fs-gateway/vfs/orphans.ts';
import { Reclaimer } from '../../fs-gateway/vfs/reclaim.ts';
import { fsckVolume } from '../../fs-gateway/tools/main.ts';
import { caller, onServices, openTestVolume, testVolume } from '../support/fs-volume.ts';
import type { NewVolume, TestVolume } from '../support/fs-volume.ts';
import { playKernel } from '../support/played-kernel.ts';
import { replaceMethod } from '../support/replace-method.ts';
import { missing } from '../support/services.ts';
import { errnoOf, lookUp, makeDirectory, namesIn, writeFile } from '../tools/volume-files.ts';

const O_RDWR = 2;
const O_CREAT_EXCL = 0o302;
const MODES = ['off', 'full'] as const;

/** The worker does it, and is killed before anybody hears of it. */
async function killBehindCommit(worker: OpenVolume, request: (open: OpenVolume) => unknown): Promise<void> {
  const committed = Promise.withResolvers<unknown>();
  const restore = replaceMethod(
    VolumeView.prototype,
    'change',
    (change) =>
      async function (this: VolumeView, ...args) {
        const result = await change.apply(this, args);
        if (args[0] === undefined || result.repeated !== undefined) return result;
        committed.resolve(undefined);
        return new Promise(() => undefined);
      } as VolumeView['change'],
  );
  Promise.resolve(request(worker)).catch(committed.reject);
  await committed.promise;
  restore();
  await worker.close();
}

/** Looks after what it takes for left over before it gets the request again. */
async function nextWorker(volume: TestVolume, mode: (typeof MODES)[number] = 'off'): Promise<OpenVolume> {
  const open = await openTestVolume(volume, 'a', [], 'lake', {
    passthrough: mode,
    kernel: playKernel(true),
    cacheBytes: 256e6,
  });
  await open.operations.drain();
  return open;
}

test.for(MODES)(
  'a file without a name that was removed with its worker is made anew (passthrough=%s)',
  async (mode) => {
    const volume = await testVolume();
    const request = caller();
    const make = ({ operations }: OpenVolume) => operations.tmpfile(request, 1n, 0o600, O_RDWR, 0);
    // Of the second worker, too, nobody hears.
    for (let kills = 0; kills < 2; kills++) await killBehindCommit(await nextWorker(volume, mode), make);
    const worker = await nextWorker(volume, mode);
    const { entry, open } = await make(worker);
    const { ino, nlink } = entry.attributes;
    expect(nlink).toBe(0);
    expect(open.backingId === undefined).toBe(mode === 'off');
    await worker.operations.drain();
    await worker.operations.link(caller(), ino, 1n, 'named');
    await worker.operations.release(caller(), ino, open.handle, undefined);
    await worker.operations.drain();
    expect((await lookUp(worker, 1n, 'named')).ino).toBe(ino);
    await worker.close();
    expect((await fsckVolume(volume)).findings).toEqual([]);
  },
);

test('a file without a name is not removed between its second look and its open', async () => {
  const volume = await testVolume();
  const request = caller();
  const make = ({ operations }: OpenVolume) => operations.tmpfile(request, 1n, 0o600, O_RDWR, 0);
  await killBehindCommit(await nextWorker(volume), make);
  const worker = await openTestVolume(volume, 'a');
  // What it takes for left over is removed behind that look, and at once.
  let drained: Promise<void> | undefined;
  replaceMethod(
    Orphans.prototype,
    'reserve',
    (reserve) =>
      async function (this: Orphans, ino) {
        const node = await reserve.call(this, ino);
        drained = worker.operations.drain();
        await drained;
        return node;
      },
  );
  const { entry, open } = await make(worker);
  expect(drained).toBeDefined();
  const { attributes } = await worker.operations.getattr(caller(), entry.attributes.ino, open.handle);
  expect(attributes.nlink).toBe(0);
});

/** What makes a name, and how another mount takes it away before the kernel has the answer. */
const MAKERS: readonly (readonly [string, (open: OpenVolume, request: Caller) => unknown, 'unlink' | 'rmdir'])[] = [
  [
    'open(O_CREAT | O_EXCL)',
    ({ operations }, request) => operations.create(request, 1n, 'x', 0o640, O_CREAT_EXCL, 0),
    'unlink',
  ],
  ['mknod', ({ operations }, request) => operations.mknod(request, 1n, 'x', 0o010640, 0, 0), 'unlink'],
  ['symlink', ({ operations }, request) => operations.symlink(request, 1n, 'x', Buffer.from('to')), 'unlink'],
  ['mkdir', ({ operations }, request) => operations.mkdir(request, 1n, 'x', 0o750, 0), 'rmdir'],
];

test.for(MAKERS)('%s is done once, also where another mount has removed what it made', async ([, make, remove]) => {
  const volume = await testVolume();
  const b = await openTestVolume(volume, 'b');
  const request = caller();
  await killBehindCommit(await nextWorker(volume), (worker) => make(worker, request));
  await b.operations[remove](caller(), 1n, 'x');
  await b.operations.drain();
  const worker = await nextWorker(volume);
  const made = (await make(worker, request)) as Entry | { readonly entry: Entry; readonly open: OpenResult };
  const { attributes, entryTtlMs } = 'entry' in made ? made.entry : made;
  // The kernel asks again before it shows the name.
  expect(entryTtlMs).toBe(0);
  expect(attributes.nlink).toBe(0);
  expect(await namesIn(b, 1n)).toEqual([]);
  if ('open' in made) {
    const { ino } = attributes;
    await worker.operations.write(caller(), ino, made.open.handle, 0n, Buffer.from('written'), O_RDWR, false);
    expect((await worker.operations.read(caller(), ino, made.open.handle, 0n, 7, 0)).toString()).toBe('written');
    await worker.operations.release(caller(), ino, made.open.handle, undefined);
  }
  await worker.operations.drain();
  await worker.close();
  expect((await fsckVolume(volume)).findings).toEqual([]);
});

test.for(MAKERS)('%s is done once, also where another mount has renamed what it made', async ([, make]) => {
  const volume = await testVolume();
  const b = await openTestVolume(volume, 'b');
  const request = caller();
  await killBehindCommit(await nextWorker(volume), (worker) => make(worker, request));
  const { ino } = await lookUp(b, 1n, 'x');
  await b.operations.rename(caller(), 1n, 'x', 1n, 'y', 0);
  const worker = await nextWorker(volume);
  const made = (await make(worker, request)) as Entry | { readonly entry: Entry };
  const { attributes, entryTtlMs } = 'entry' in made ? made.entry : made;
  expect(attributes.ino).toBe(ino);
  expect(entryTtlMs).toBe(0);
  expect(await namesIn(b, 1n)).toEqual(['y']);
});

test('link, rename, unlink and rmdir are done once', async () => {
  const volume = await testVolume();
  const first = await openTestVolume(volume, 'a');
  const ino = await writeFile(first, 'f', Buffer.from('content'));
  const { entry } = await first.operations.tmpfile(caller(), 1n, 0o600, O_RDWR, 0);
  const unnamed = entry.attributes.ino;
  await makeDirectory(first, 'd');
  const requests: readonly ((open: OpenVolume, request: Caller) => unknown)[] = [
    ({ operations }, request) => operations.link(request, ino, 1n, 'g'),
    ({ operations }, request) => operations.link(request, unnamed, 1n, 'named'),
    ({ operations }, request) => operations.rename(request, 1n, 'f', 1n, 'g', RENAME_EXCHANGE),
    ({ operations }, request) => operations.rename(request, 1n, 'g', 1n, 'h', 0),
    ({ operations }, request) => operations.unlink(request, 1n, 'f'),
    ({ operations }, request) => operations.rmdir(request, 1n, 'd'),
  ];
  let worker = first;
  for (const send of requests) {
    const request = caller();
    await killBehindCommit(worker, (open) => send(open, request));
    worker = await nextWorker(volume);
    await send(worker, request);
  }
  expect(await namesIn(worker, 1n)).toEqual(['h', 'named']);
  expect((await lookUp(worker, 1n, 'h')).nlink).toBe(1);
  expect((await lookUp(worker, 1n, 'named')).ino).toBe(unnamed);
  await worker.close();
  expect((await fsckVolume(volume)).findings).toEqual([]);
});

test('an open that meets the removal of the file waits for it, and is ENOENT where it was too late', async () => {
  const volume = await testVolume();
  const worker = await openTestVolume(volume, 'a');
  const ino = await writeFile(worker, 'f', Buffer.from('content'));
  const removing = Promise.withResolvers<unknown>();
  const go = Promise.withResolvers<unknown>();
  replaceMethod(
    Reclaimer.prototype,
    'remove',
    (remove) =>
      async function (this: Reclaimer, ...args) {
        removing.resolve(undefined);
        await go.promise;
        return remove.apply(this, args);
      },
  );
  await worker.operations.unlink(caller(), 1n, 'f');
  await removing.promise;
  const opened = errnoOf(() => worker.operations.open(caller(), ino, 0));
  go.resolve(undefined);
  expect(await opened).toBe(Errno.ENOENT);
});

/** As many requests as the mount remembers. */
const REMEMBERED = 1024;

function requestsAreRemembered(newVolume: NewVolume): void {
  test('a request whose worker was killed is done once, also when others were killed behind it and the mount has made more changes than it remembers', async () => {
    const volume = await newVolume();
    const first = await openTestVolume(volume, 'a');
    const names = Array.from({ length: REMEMBERED }, (_, n) => `d${n}`);
    for (const name of names) await makeDirectory(first, name);
    const request = caller();
    const make = ({ operations }: OpenVolume): unknown => operations.mkdir(request, 1n, 'made', 0o755, 0);
    await killBehindCommit(first, make);
    // It has other things to do before it comes to that, and is killed.
    const second = await openTestVolume(volume, 'a');
    for (const name of ['e0', 'e1']) await makeDirectory(second, name);
    await second.close();
    const third = await openTestVolume(volume, 'a');
    expect(await errnoOf(() => make(third))).toBe(0);
    expect((await namesIn(third, 1n)).sort()).toEqual([...names, 'e0', 'e1', 'made'].sort());
  });
}

describe('on SQLite', () => {
  requestsAreRemembered(testVolume);
});

describe.skipIf(missing('redis-server') || missing('versitygw'))('on Redis and S3', () => {
  onServices(requestsAreRemembered);
});
