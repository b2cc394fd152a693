import { expect, test } from 'vitest';
import { openMeta } from '../../lib/registry.ts';
import { Errno } from '../../fs-gateway/vfs/operations.ts';
import type { Caller, FileLock } from '../../fs-gateway/vfs/operations.ts';
import { caller, openTestVolume, testVolume } from '../support/fs-volume.ts';

test('a session that is ended is replaced: caches are dropped, operations go on, staged data is committed', async () => {
  const volume = await testVolume();
  const reports: string[] = [];
  const open = await openTestVolume(volume, 'a', reports);
  const { entry, open: file } = await open.operations.create(caller(), 1n, 'file', 0o644, 2, 0);
  const { ino } = entry.attributes;
  await open.operations.write(caller(), ino, file.handle, 0n, Buffer.from('staged'), 2, false);
  const engine = await openMeta(volume.metaUrl, { kind: 'admin' });
  const mount = (await engine.sessions()).find((session) => session.kind === 'mount');
  await engine.endSession(mount?.id ?? 0);
  // The commit that meets the loss is made again on the new session.
  await open.operations.mkdir(caller(), 1n, 'd', 0o755, 0);
  await expect.poll(() => reports.join('\n'), { timeout: 20_000 }).toContain('metadata session renewed');
  await open.operations.flush(caller(), ino, file.handle, 0n);
  await engine.close();
  const other = await openTestVolume(volume, 'b');
  expect((await other.operations.read(caller(), ino, 0n, 0n, 100, 0)).toString()).toBe('staged');
});

test('a request that was applied by a worker that died is not applied again by the next', async () => {
  const volume = await testVolume();
  const first = await openTestVolume(volume);
  const [make, remove, move] = [caller(), caller(), caller()];
  const made = await first.operations.mkdir(make, 1n, 'made', 0o755, 0);
  await first.operations.mknod(caller(), 1n, 'removed', 0o100644, 0, 0);
  await first.operations.unlink(remove, 1n, 'removed');
  await first.operations.mknod(caller(), 1n, 'from', 0o100644, 0, 0);
  await first.operations.rename(move, 1n, 'from', 1n, 'to', 0);
  await first.close();
  const second = await openTestVolume(volume);
  expect((await second.operations.mkdir(make, 1n, 'made', 0o755, 0)).attributes.ino).toBe(made.attributes.ino);
  await second.operations.unlink(remove, 1n, 'removed');
  await second.operations.rename(move, 1n, 'from', 1n, 'to', 0);
  await expect(async () => second.operations.mkdir(caller(), 1n, 'made', 0o755, 0)).rejects.toMatchObject({
    errno: Errno.EEXIST,
  });
  await expect(async () => second.operations.unlink(caller(), 1n, 'removed')).rejects.toMatchObject({
    errno: Errno.ENOENT,
  });
});

const WHOLE: FileLock = { type: 'write', start: 0n, end: 2n ** 63n - 1n, pid: 1 };
const wait = { wait: true, flock: false };
const noWait = { wait: false, flock: false };

test('record locks conflict by range and owner, wake waiters in order, find circles, and end with an interrupt', async () => {
  const { operations } = await openTestVolume(await testVolume());
  const lock = (owner: bigint, part: Partial<FileLock>, options = noWait, by: Caller = caller(), ino = 5n): unknown =>
    operations.setlk(by, ino, 0n, owner, { ...WHOLE, ...part }, options);
  await lock(1n, { start: 0n, end: 9n });
  await lock(2n, { start: 10n, end: 19n });
  expect(() => lock(2n, { start: 5n, end: 12n })).toThrow(expect.objectContaining({ errno: Errno.EAGAIN }) as Error);
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
  const circle = lock(1n, { start: 15n, end: 15n }, wait) as Promise<void>;
  expect(() => lock(2n, { start: 3n, end: 3n }, wait)).toThrow(
    expect.objectContaining({ errno: Errno.EDEADLK }) as Error,
  );
  const abort = new AbortController();
  const interrupted = lock(6n, {}, wait, { ...caller(), signal: abort.signal }) as Promise<void>;
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
  await first.operations.setlk(caller(), 5n, 0n, 1n, { ...WHOLE, start: 3n }, noWait);
  await first.operations.setlk(caller(), 6n, 0n, 1n, WHOLE, { wait: false, flock: true });
  await first.close();
  const second = await openTestVolume(volume);
  expect(await second.operations.getlk(caller(), 5n, 0n, 2n, WHOLE)).toMatchObject({ type: 'write', start: 3n });
  expect(() => second.operations.setlk(caller(), 6n, 0n, 2n, WHOLE, { wait: false, flock: true })).toThrow(
    expect.objectContaining({ errno: Errno.EAGAIN }) as Error,
  );
  await second.operations.flush(caller(), 5n, 0n, 1n);
  expect(await second.operations.getlk(caller(), 5n, 0n, 2n, WHOLE)).toMatchObject({ type: 'unlock' });
});
