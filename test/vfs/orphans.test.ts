/** Unlinked but open elsewhere: the data stays as long as some mount that lives has the file open, and no longer. */
import { expect, onTestFinished, test, vi } from 'vitest';
import { openMeta } from '../../lib/registry.ts';
import type { MetaEngine } from '../../lib/meta/engine.ts';
import { decodeInode, encodeInode } from '../../lib/volume/inode.ts';
import { decodeOrphan, encodeOrphan, mountsAlive, ORPHAN_GRACE_MS } from '../../lib/volume/orphan.ts';
import { VolumeKeys } from '../../lib/volume/keys.ts';
import type { OpenVolume } from '../../fs-gateway/open-volume.ts';
import { collectGarbage } from '../../fs-gateway/tools/gc.ts';
import { Reclaimer } from '../../fs-gateway/vfs/reclaim.ts';
import { openStore } from '../../lib/registry.ts';
import { systemClock } from '../../lib/clock.ts';
import { FaultPlan } from '../support/fault.ts';
import { faultyEngine } from '../support/faulty-engine.ts';
import { caller, openTestVolume, testVolume } from '../support/fs-volume.ts';
import { replaceMethod } from '../support/replace-method.ts';
import type { TestVolume } from '../support/fs-volume.ts';
import { writeFile } from '../tools/volume-files.ts';

const keys = new VolumeKeys('lake');
const DATA = Buffer.alloc(200_000, 'still here ');

async function admin(volume: TestVolume): Promise<MetaEngine> {
  const engine = await openMeta(volume.metaUrl, { kind: 'test' });
  onTestFinished(() => engine.close());
  return engine;
}

async function holders(engine: MetaEngine, ino: bigint): Promise<number> {
  const [record] = await engine.read([keys.orphan(Number(ino))]);
  return record === null || record === undefined ? 0 : decodeOrphan(record.value).length;
}

async function content(open: OpenVolume, ino: bigint, handle: bigint): Promise<Buffer> {
  return open.operations.read(caller(), ino, handle, 0n, DATA.length, 0);
}

test('a file that is unlinked on one mount while it is open on another stays there until its last close', async () => {
  const volume = await testVolume({ grace: '0s' });
  const a = await openTestVolume(volume, 'a');
  const b = await openTestVolume(volume, 'b');
  const engine = await admin(volume);
  const ino = await writeFile(a, 'file', DATA);
  const { handle } = await b.operations.open(caller(), ino, 0);
  await a.operations.unlink(caller(), 1n, 'file');
  // The mount that unlinked, and the one that has it open: by the event alone.
  await expect.poll(() => holders(engine, ino)).toBe(2);
  // The one that unlinked is gone, and gc runs without any grace of its own.
  await a.close();
  const store = await openStore(`dir:${volume.storeDir}`);
  onTestFinished(() => store.close());
  const report = await collectGarbage({ uploadMs: 0, engine, store, volume: 'lake', clock: systemClock });
  expect(report).toMatchObject({ reclaimedOrphans: 0, deletedObjects: 0 });
  expect((await content(b, ino, handle)).equals(DATA)).toBe(true);
  await b.operations.release(caller(), ino, handle, undefined);
  await b.operations.drain();
  expect(await engine.count(keys.orphans)).toBe(0);
  expect(await engine.read([keys.inode(Number(ino))])).toEqual([null]);
});

test('a file that two mounts have open and one unlinks and closes stays readable and writable on the other', async () => {
  const volume = await testVolume();
  const a = await openTestVolume(volume, 'a');
  const b = await openTestVolume(volume, 'b');
  const engine = await admin(volume);
  const ino = await writeFile(a, 'file', DATA);
  const [here, there] = [await a.operations.open(caller(), ino, 2), await b.operations.open(caller(), ino, 2)];
  await a.operations.unlink(caller(), 1n, 'file');
  await a.operations.release(caller(), ino, here.handle, undefined);
  await expect.poll(() => holders(engine, ino)).toBe(2);
  await b.operations.write(caller(), ino, there.handle, 0n, Buffer.from('written'), 2, false);
  await b.operations.fsync(caller(), ino, there.handle, false);
  expect((await content(b, ino, there.handle)).subarray(0, 12).toString()).toBe('writtenere s');
});

test('gc leaves what a mount has open that lost its session for a moment, or has not heard of the removal', async () => {
  const volume = await testVolume({ grace: '0s' });
  const a = await openTestVolume(volume, 'a');
  const engine = await admin(volume);
  const store = await openStore(`dir:${volume.storeDir}`);
  onTestFinished(() => store.close());
  const [held, unheard] = [await writeFile(a, 'held', DATA), await writeFile(a, 'unheard', DATA)];
  for (const ino of [held, unheard]) await a.operations.open(caller(), ino, 0);
  await a.operations.unlink(caller(), 1n, 'held');
  // A tool removes the other one: as if the news were still on their way.
  const [record] = await engine.read([keys.inode(Number(unheard))]);
  if (record === null || record === undefined) throw new Error('no inode');
  const inode = decodeInode(record.value, Number(unheard));
  const removed = { ...inode, nlink: 0, ctimeNs: BigInt(Date.now()) * 1_000_000n };
  await engine.commit({
    write: [
      { key: keys.inode(Number(unheard)), value: encodeInode(removed) },
      { key: keys.entry(1, 'unheard'), value: null },
      { key: keys.orphan(Number(unheard)), value: encodeOrphan(['removal']) },
    ],
  });
  const collect = (from: MetaEngine, afterMs: number): Promise<unknown> => {
    const clock = { ...systemClock, nowMs: () => Date.now() + afterMs };
    return collectGarbage({ uploadMs: 0, engine: from, store, volume: 'lake', clock });
  };
  const between: MetaEngine = {
    ...faultyEngine(engine, new FaultPlan()),
    sessions: async () =>
      (await engine.sessions()).map((one) => (one.kind === 'mount' ? { ...one, live: false } : one)),
  };
  expect(await collect(engine, 0)).toMatchObject({ reclaimedOrphans: 0 });
  // Long enough for the one that nobody is entered for; the other one's mount is about to renew its session.
  expect(await collect(between, ORPHAN_GRACE_MS + 1000)).toMatchObject({ reclaimedOrphans: 1 });
  expect(await holders(engine, held)).toBe(1);
  await a.close();
  expect(await collect(engine, 0)).toMatchObject({ reclaimedOrphans: 1 });
});

test('a mount that missed the event enters itself when it has a session again', async () => {
  const volume = await testVolume();
  const a = await openTestVolume(volume, 'a');
  const reports: string[] = [];
  const b = await openTestVolume(volume, 'b', reports);
  const engine = await admin(volume);
  const ino = await writeFile(a, 'file', DATA);
  const { handle } = await b.operations.open(caller(), ino, 0);
  const session = (await engine.sessions()).find(({ detail }) => detail['mountpoint'] === '/nowhere/b');
  await engine.endSession(session?.id ?? 0);
  await a.operations.unlink(caller(), 1n, 'file');
  await b.operations.mkdir(caller(), 1n, 'd', 0o755, 0); // meets the loss
  await expect.poll(() => holders(engine, ino)).toBe(2);
  expect((await content(b, ino, handle)).equals(DATA)).toBe(true);
});

test('a file without names that could not be removed, as the metadata engine was away, is removed without another unlink', async () => {
  vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] });
  onTestFinished(() => void vi.useRealTimers());
  const volume = await testVolume();
  const reports: string[] = [];
  const a = await openTestVolume(volume, 'a', reports);
  const engine = await admin(volume);
  await writeFile(a, 'file', DATA);
  const restore = replaceMethod(Reclaimer.prototype, 'remove', () => () => Promise.reject(new Error('away')));
  await a.operations.unlink(caller(), 1n, 'file');
  await expect.poll(() => reports.some((report) => report.includes('away'))).toBe(true);
  restore();
  vi.advanceTimersByTime(60_000);
  await expect.poll(() => engine.count(keys.orphans)).toBe(0);
});

test('a mount that dies with the file open is let go with its lease', async () => {
  const volume = await testVolume();
  const a = await openTestVolume(volume, 'a');
  const b = await openTestVolume(volume, 'b');
  const engine = await admin(volume);
  const ino = await writeFile(a, 'file', DATA);
  await b.operations.open(caller(), ino, 0);
  await a.operations.unlink(caller(), 1n, 'file');
  await expect.poll(() => holders(engine, ino)).toBe(2);
  await b.close(); // its session is over, and its entry stays
  await a.operations.drain();
  expect(await engine.count(keys.orphans)).toBe(0);
});

test('a mount is taken for alive until its session has been over for the grace period', () => {
  const session = (mountId: string, live: boolean, renewedMs: number) => ({
    id: 1,
    kind: 'mount',
    host: 'h',
    pid: 1,
    detail: { volume: 'lake', mountId },
    startedMs: 0,
    renewedMs,
    live,
  });
  const now = 1_000_000;
  const sessions = [
    session('me', true, now),
    session('renewing', false, now - ORPHAN_GRACE_MS),
    session('dead', false, now - ORPHAN_GRACE_MS - 1),
    { ...session('elsewhere', true, now), detail: { volume: 'other', mountId: 'elsewhere' } },
  ];
  expect([...mountsAlive(sessions, 'lake')]).toEqual(['me', 'renewing']);
});
