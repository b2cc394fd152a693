import { renameSync, rmSync, writeFileSync } from 'node:fs';
import { expect, test, vi } from 'vitest';
import { Errno } from '../../fs-gateway/vfs/operations.ts';
import type { Caller, FileLock } from '../../fs-gateway/vfs/operations.ts';
import { Flushes } from '../../fs-gateway/vfs/flushes.ts';
import { Locks } from '../../fs-gateway/vfs/locks.ts';
import type { OpenVolume } from '../../fs-gateway/open-volume.ts';
import { openMeta } from '../../lib/registry.ts';
import { VolumeKeys } from '../../lib/volume/keys.ts';
import { decodeLocks } from '../../lib/volume/lock-record.ts';
import { caller, openTestVolume, testVolume } from '../support/fs-volume.ts';
import type { TestVolume } from '../support/fs-volume.ts';
import { replaceMethod } from '../support/replace-method.ts';

const WHOLE: FileLock = { type: 'write', start: 0n, end: 2n ** 63n - 1n, pid: 1 };
const UNLOCK: FileLock = { ...WHOLE, type: 'unlock' };
const wait = { wait: true, flock: false };
const noWait = { wait: false, flock: false };
const flock = { wait: false, flock: true };
const blocked = { errno: Errno.EAGAIN };

async function locker(
  { operations }: OpenVolume,
  by: Caller,
  ino: bigint,
  owner: bigint,
  lock: FileLock,
  how = noWait,
): Promise<void> {
  await operations.setlk(by, ino, 0n, owner, lock, how);
}

/** What looks after its session stands still: it meets the end of it by its next change, and no sooner. */
async function openWithoutRenewals(volume: TestVolume, reports: string[]): Promise<OpenVolume> {
  vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] });
  try {
    return await openTestVolume(volume, 'a', reports);
  } finally {
    vi.useRealTimers();
  }
}

async function endSessionOf(volume: TestVolume, name: string): Promise<void> {
  const engine = await openMeta(volume.metaUrl, { kind: 'admin' });
  const mount = (await engine.sessions()).find((session) => session.detail['mountpoint'] === `/nowhere/${name}`);
  await engine.endSession(mount?.id ?? 0);
  await engine.close();
}

test('record locks conflict by range and owner, wake waiters in order, find circles, and end with an interrupt', async () => {
  const volume = await openTestVolume(await testVolume());
  const { operations } = volume;
  const lock = (owner: bigint, part: Partial<FileLock>, options = noWait, by: Caller = caller()): Promise<void> =>
    locker(volume, by, 5n, owner, { ...WHOLE, ...part }, options);
  await lock(1n, { start: 0n, end: 9n });
  await lock(2n, { start: 10n, end: 19n });
  await expect(lock(2n, { start: 5n, end: 12n })).rejects.toMatchObject(blocked);
  expect(await operations.getlk(caller(), 5n, 0n, 2n, { ...WHOLE, type: 'read' })).toMatchObject({
    type: 'write',
    end: 9n,
  });
  const order: string[] = [];
  const waiting = [3n, 4n].map(async (owner) => {
    await lock(owner, { start: 0n, end: 0n }, wait);
    order.push(`granted ${owner}`);
    await lock(owner, { type: 'unlock' });
  });
  // Owner 1 waits for 2, so 2 may not wait for 1.
  const circle = lock(1n, { start: 15n, end: 15n }, wait);
  await expect(lock(2n, { start: 3n, end: 3n }, wait)).rejects.toMatchObject({ errno: Errno.EDEADLK });
  const abort = new AbortController();
  const interrupted = lock(6n, {}, wait, { ...caller(), signal: abort.signal });
  abort.abort();
  await expect(interrupted).rejects.toMatchObject({ errno: Errno.EINTR });
  await lock(2n, { type: 'unlock' });
  await circle;
  await operations.flush(caller(), 5n, 0n, 1n);
  await Promise.all(waiting);
  expect(order).toEqual(['granted 3', 'granted 4']);
});

test('locks outlive the worker that granted them', async () => {
  const volume = await testVolume();
  const first = await openTestVolume(volume);
  await locker(first, caller(), 5n, 1n, { ...WHOLE, start: 3n });
  await locker(first, caller(), 6n, 1n, WHOLE, flock);
  await first.close();
  const second = await openTestVolume(volume);
  expect(await second.operations.getlk(caller(), 5n, 0n, 2n, WHOLE)).toMatchObject({ type: 'write', start: 3n });
  await expect(locker(second, caller(), 6n, 2n, WHOLE, flock)).rejects.toMatchObject(blocked);
  await second.operations.flush(caller(), 5n, 0n, 1n);
  expect(await second.operations.getlk(caller(), 5n, 0n, 2n, WHOLE)).toMatchObject({ type: 'unlock' });
});

test('an OFD lock, of which the kernel sends no unlock, falls with its open file alone, also under the next worker', async () => {
  const volume = await testVolume();
  const first = await openTestVolume(volume);
  const made = await first.operations.create(caller(), 1n, 'file', 0o644, 2, 0);
  const { ino } = made.entry.attributes;
  const other = await first.operations.open(caller(), ino, 2);
  const byHandle = (open: OpenVolume, handle: bigint, owner: bigint, how = noWait): Promise<void> =>
    Promise.resolve(open.operations.setlk(caller(), ino, handle, owner, WHOLE, how));
  await byHandle(first, made.open.handle, 1n);
  // The process closes another file of its own: its POSIX locks would fall, these do not.
  await first.operations.flush(caller(), ino, other.handle, 9n);
  await first.operations.release(caller(), ino, other.handle, undefined);
  await expect(byHandle(first, other.handle, 2n)).rejects.toMatchObject(blocked);
  await first.close();

  const next = await openTestVolume(volume);
  await expect(byHandle(next, other.handle, 2n)).rejects.toMatchObject(blocked);
  const elsewhere = await openTestVolume(volume, 'b');
  const waiting = byHandle(elsewhere, 5n, 1n, wait);
  await next.operations.release(caller(), ino, made.open.handle, undefined);
  await waiting;
});

test.each([
  ['OFD lock', noWait],
  ['flock', flock],
])(
  'the late unlock of a closed file leaves the %s of the next one, which the kernel gave the same owner',
  async (_kind, how) => {
    const volume = await openTestVolume(await testVolume());
    const { operations } = volume;
    const owner = 1n;
    const flockOwner = how.flock ? owner : undefined;
    const { entry, open: first } = await operations.create(caller(), 1n, 'file', 0o644, 2, 0);
    const { ino } = entry.attributes;
    const second = await operations.open(caller(), ino, 2);
    const third = await operations.open(caller(), ino, 2);
    const lock = async (handle: bigint): Promise<void> => operations.setlk(caller(), ino, handle, owner, WHOLE, how);
    const close = async (handle: bigint): Promise<void> => operations.release(caller(), ino, handle, flockOwner);
    const other = async (): Promise<void> => operations.setlk(caller(), ino, 99n, 2n, WHOLE, how);
    await lock(first.handle);
    await Promise.all([lock(second.handle), close(first.handle)]);
    await expect(other()).rejects.toMatchObject(blocked);
    // And the other way round: the release comes first, and its flush takes longer.
    const flushed = Promise.withResolvers<undefined>();
    const restore = replaceMethod(Flushes.prototype, 'flush', () => () => flushed.promise);
    const closing = close(second.handle);
    await lock(third.handle);
    flushed.resolve(undefined);
    await closing;
    restore();
    await expect(other()).rejects.toMatchObject(blocked);
    await close(third.handle);
    await other();
  },
);

test('the unlock of a closed file leaves what the next one of the same owner has locked elsewhere', async () => {
  const { operations } = await openTestVolume(await testVolume());
  const lock = async (handle: bigint, owner: bigint, start: bigint): Promise<void> =>
    operations.setlk(caller(), 5n, handle, owner, { ...WHOLE, start, end: start }, noWait);
  await lock(7n, 1n, 0n);
  await lock(8n, 1n, 10n);
  expect([7n, 8n, 9n].map((handle) => operations.hasLocks(5n, handle))).toEqual([true, true, false]);
  await operations.release(caller(), 5n, 7n, undefined);
  await lock(9n, 2n, 0n);
  await expect(lock(9n, 2n, 10n)).rejects.toMatchObject(blocked);
});

test('locks exclude other mounts, and the next holder sees what was written under the lock', async () => {
  const volume = await testVolume();
  const [a, b] = [await openTestVolume(volume, 'a'), await openTestVolume(volume, 'b')];
  const made = await a.operations.create(caller(), 1n, 'file', 0o644, 2, 0);
  const { ino } = made.entry.attributes;
  await a.operations.flush(caller(), ino, made.open.handle, 0n);
  const there = await b.operations.open(caller(), ino, 2);
  await locker(a, caller(), ino, 1n, { ...WHOLE, pid: 77 });
  expect(await a.operations.getlk(caller(), ino, 0n, 2n, WHOLE)).toMatchObject({ type: 'write', pid: 77 });
  expect(await b.operations.getlk(caller(), ino, 0n, 1n, WHOLE)).toMatchObject({ type: 'write', pid: 0 });
  await expect(locker(b, caller(), ino, 1n, WHOLE)).rejects.toMatchObject(blocked);
  // flock and record locks do not know each other.
  await locker(b, caller(), ino, 9n, WHOLE, flock);
  const granted = locker(b, caller(), ino, 1n, WHOLE, wait);
  await a.operations.write(caller(), ino, made.open.handle, 0n, Buffer.from('under the lock'), 2, false);
  await locker(a, caller(), ino, 1n, UNLOCK);
  await granted;
  expect((await b.operations.read(caller(), ino, there.handle, 0n, 100, 0)).toString()).toBe('under the lock');
  await expect(locker(a, caller(), ino, 1n, { ...WHOLE, type: 'read' })).rejects.toMatchObject(blocked);
  await b.operations.flush(caller(), ino, there.handle, 1n);
  await locker(a, caller(), ino, 1n, { ...WHOLE, type: 'read' });
  await locker(b, caller(), ino, 1n, { ...WHOLE, type: 'read' });
});

test('a wait that is interrupted leaves no place behind, and the last unlock no record', async () => {
  const volume = await testVolume();
  const [a, b] = [await openTestVolume(volume, 'a'), await openTestVolume(volume, 'b')];
  await locker(a, caller(), 5n, 1n, WHOLE);
  const abort = new AbortController();
  const interrupted = locker(b, { ...caller(), signal: abort.signal }, 5n, 1n, WHOLE, wait);
  abort.abort();
  await expect(interrupted).rejects.toMatchObject({ errno: Errno.EINTR });
  await locker(a, caller(), 5n, 1n, UNLOCK);
  const engine = await openMeta(volume.metaUrl, { kind: 'test' });
  expect(await engine.count(new VolumeKeys('lake').locks)).toBe(0);
  await engine.close();
  await locker(a, caller(), 5n, 1n, WHOLE);
});

test('locks of a mount whose session is over fall to whoever wants them', async () => {
  const volume = await testVolume();
  const reports: string[] = [];
  const [a, b] = [await openTestVolume(volume, 'a'), await openTestVolume(volume, 'b', reports)];
  await locker(a, caller(), 5n, 1n, { ...WHOLE, end: 9n });
  await locker(a, caller(), 6n, 1n, WHOLE, flock);
  await a.close();
  await locker(b, caller(), 5n, 1n, WHOLE, wait);
  await locker(b, caller(), 6n, 1n, WHOLE, flock);
  expect(reports.join('\n')).toContain('locks on inode 5 fell');
});

test('a mount whose session was ended confirms its locks under the next, and says what it lost', async () => {
  const volume = await testVolume();
  const reports: string[] = [];
  const a = await openWithoutRenewals(volume, reports);
  await locker(a, caller(), 5n, 1n, WHOLE);
  await a.operations.setlk(caller(), 6n, 1n, 1n, WHOLE, noWait);
  const b = await openTestVolume(volume, 'b');
  await endSessionOf(volume, 'a');
  await locker(b, caller(), 6n, 1n, WHOLE, wait);
  await a.operations.mkdir(caller(), 1n, 'd', 0o755, 0);
  await expect.poll(() => reports.join('\n')).toContain('lock on inode 6 was lost');
  await expect(locker(b, caller(), 5n, 1n, WHOLE)).rejects.toMatchObject(blocked);
  await locker(a, caller(), 5n, 1n, UNLOCK);
  await locker(b, caller(), 5n, 1n, WHOLE);
});

test('who held a lock that another mount had meanwhile hears EIO from its unlock once, or else from each close', async () => {
  const volume = await testVolume();
  const reports: string[] = [];
  const a = await openWithoutRenewals(volume, reports);
  const b = await openTestVolume(volume, 'b');
  const { entry, open } = await a.operations.create(caller(), 1n, 'counter', 0o644, 2, 0);
  const { ino } = entry.attributes;
  const beside = await a.operations.open(caller(), ino, 2);
  const byRange = await a.operations.open(caller(), ino, 2);
  await a.operations.setlk(caller(), ino, open.handle, 1n, WHOLE, flock);
  await a.operations.setlk(caller(), ino, byRange.handle, 1n, WHOLE, noWait);
  await endSessionOf(volume, 'a');
  for (const how of [wait, { ...flock, wait: true }]) {
    await locker(b, caller(), ino, 1n, WHOLE, how);
    await locker(b, caller(), ino, 1n, UNLOCK, how);
  }
  await a.operations.mkdir(caller(), 1n, 'd', 0o755, 0);
  await expect.poll(() => reports.filter((line) => line.includes(`lock on inode ${ino} was lost`)).length).toBe(2);
  // Nobody has it now: it is held again.
  await expect(locker(b, caller(), ino, 1n, WHOLE, flock)).rejects.toMatchObject(blocked);
  const unlock = async (): Promise<void> => a.operations.setlk(caller(), ino, open.handle, 1n, UNLOCK, flock);
  await expect(unlock()).rejects.toMatchObject({ errno: Errno.EIO });
  await unlock();
  await a.operations.flush(caller(), ino, beside.handle, 9n);
  const close = async (): Promise<void> => a.operations.flush(caller(), ino, byRange.handle, 1n);
  // Also a program that has inherited the descriptor closes it, and looks at no error.
  for (let closes = 0; closes < 2; closes++) await expect(close()).rejects.toMatchObject({ errno: Errno.EIO });
  const sync = async (): Promise<void> => a.operations.fsync(caller(), ino, byRange.handle, false);
  await expect(sync()).rejects.toMatchObject({ errno: Errno.EIO });
  await sync();
  await close();
});

test.each(['a look of another program at the locks', 'the unlock itself'])(
  'a lock that another mount had meanwhile is told to its holder also where %s is the first to meet that',
  async (first) => {
    const volume = await testVolume();
    const reports: string[] = [];
    const a = await openWithoutRenewals(volume, reports);
    const b = await openTestVolume(volume, 'b');
    const set = async (on: OpenVolume, lock: FileLock): Promise<void> =>
      on.operations.setlk(caller(), 5n, 7n, 1n, lock, wait);
    await set(a, WHOLE);
    await endSessionOf(volume, 'a');
    await set(b, WHOLE);
    await set(b, UNLOCK);
    if (first !== 'the unlock itself') {
      expect(await a.operations.getlk(caller(), 5n, 8n, 2n, WHOLE)).toMatchObject({ type: 'unlock' });
      await a.operations.mkdir(caller(), 1n, 'd', 0o755, 0);
      await expect.poll(() => reports.join('\n')).toContain('a lock on inode 5 was lost');
    }
    await expect(set(a, UNLOCK)).rejects.toMatchObject({ errno: Errno.EIO });
    await set(a, UNLOCK);
    await set(b, WHOLE);
  },
);

test('a lock that was made stronger while its mount had no session is not lost, and stays strong', async () => {
  const volume = await testVolume();
  const reports: string[] = [];
  const a = await openWithoutRenewals(volume, reports);
  const b = await openTestVolume(volume, 'b');
  const set = async (on: OpenVolume, lock: FileLock, how = noWait): Promise<void> =>
    on.operations.setlk(caller(), 5n, 7n, 1n, lock, how);
  const shared: FileLock = { ...WHOLE, type: 'read' };
  await set(a, shared);
  await set(b, shared);
  const stronger = set(a, WHOLE, wait);
  const engine = await openMeta(volume.metaUrl, { kind: 'test' });
  const waiters = async (): Promise<number> => {
    const [record] = await engine.read([new VolumeKeys('lake').lock(5)]);
    return record === null || record === undefined ? 0 : decodeLocks(record.value, 5).waiting.length;
  };
  await expect.poll(waiters).toBe(1);
  await engine.close();
  // The news of the grant do not reach it.
  const hears = replaceMethod(Locks.prototype, 'locksChanged', () => () => undefined);
  await endSessionOf(volume, 'a');
  await set(b, UNLOCK);
  await a.operations.mkdir(caller(), 1n, 'd', 0o755, 0);
  await stronger;
  hears();
  await expect(set(b, shared)).rejects.toMatchObject(blocked);
  await set(a, UNLOCK);
  expect(reports.join('\n')).not.toContain('was lost');
});

test('a lock record that cannot be read keeps no worker from starting: it is reported, and locks of that file are EIO', async () => {
  const volume = await testVolume();
  const engine = await openMeta(volume.metaUrl, { kind: 'test' });
  await engine.commit({ write: [{ key: new VolumeKeys('lake').lock(5), value: Buffer.from('unreadable') }] });
  await engine.close();
  const reports: string[] = [];
  const open = await openTestVolume(volume, 'a', reports);
  expect(reports.join('\n')).toContain('locks on inode 5 are EIO');
  await expect(locker(open, caller(), 5n, 1n, WHOLE)).rejects.toMatchObject({ errno: Errno.EIO });
  await locker(open, caller(), 6n, 1n, WHOLE);
});

test('a lock whose holder could not commit is kept until it can: nobody works on what was there before', async () => {
  const volume = await testVolume({ inlineBytes: '0' });
  const [a, b] = [await openTestVolume(volume, 'a'), await openTestVolume(volume, 'b')];
  const { entry, open } = await a.operations.create(caller(), 1n, 'counter', 0o644, 2, 0);
  const { ino } = entry.attributes;
  await a.operations.write(caller(), ino, open.handle, 0n, Buffer.from('1'), 2, false);
  await a.operations.flush(caller(), ino, open.handle, 0n);
  await locker(a, caller(), ino, 1n, WHOLE);
  await locker(a, caller(), ino, 2n, WHOLE, flock);
  await a.operations.write(caller(), ino, open.handle, 0n, Buffer.from('2'), 2, false);
  renameSync(volume.storeDir, `${volume.storeDir}.away`);
  writeFileSync(volume.storeDir, 'not a directory');
  await expect(locker(a, caller(), ino, 1n, UNLOCK)).rejects.toMatchObject({ errno: Errno.EIO });
  await expect(locker(a, caller(), ino, 2n, UNLOCK, flock)).rejects.toMatchObject({ errno: Errno.EIO });
  await expect(locker(b, caller(), ino, 3n, WHOLE)).rejects.toMatchObject(blocked);
  const waiting = locker(b, caller(), ino, 3n, WHOLE, wait);
  // Its owner has the flock again, and keeps it.
  await locker(a, caller(), ino, 2n, WHOLE, flock);
  rmSync(volume.storeDir);
  renameSync(`${volume.storeDir}.away`, volume.storeDir);
  await waiting;
  expect((await b.operations.read(caller(), ino, 0n, 0n, 1, 0)).toString()).toBe('2');
  await expect(locker(b, caller(), ino, 4n, WHOLE, flock)).rejects.toMatchObject(blocked);
  await a.operations.release(caller(), ino, open.handle, 2n);
  await locker(b, caller(), ino, 4n, WHOLE, flock);
});
