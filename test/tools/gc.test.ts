import { mkdirSync, readdirSync, utimesSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { collectGarbage } from '../../fs-gateway/tools/gc.ts';
import type { GcReport } from '../../fs-gateway/tools/gc.ts';
import { gcVolume } from '../../fs-gateway/tools/main.ts';
import { objectKey } from '../../fs-gateway/data/pieces.ts';
import { systemClock } from '../../lib/clock.ts';
import type { MetaEngine } from '../../lib/meta/engine.ts';
import { openMeta, openStore } from '../../lib/registry.ts';
import type { ObjectStore } from '../../lib/store/store.ts';
import { VolumeKeys } from '../../lib/volume/keys.ts';
import { FaultPlan } from '../support/fault.ts';
import { faultyEngine } from '../support/faulty-engine.ts';
import { faultyStore } from '../support/faulty-store.ts';
import { caller, openTestVolume, testVolume } from '../support/fs-volume.ts';
import type { TestVolume } from '../support/fs-volume.ts';
import { removeFile, writeFile } from './volume-files.ts';

const keys = new VolumeKeys('lake');
const OPTIONS = { blockSize: '64KiB', inlineBytes: '0', grace: '0s' };

function objectPaths(volume: TestVolume): string[] {
  return readdirSync(volume.storeDir, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && /^\d+$/.test(entry.name))
    .map((entry) => join(entry.parentPath, entry.name));
}

function objects(volume: TestVolume): number {
  return objectPaths(volume).length;
}

test('gc deletes what was overwritten, cut off or removed, and nothing that a file still shows', async () => {
  const volume = await testVolume(OPTIONS);
  const open = await openTestVolume(volume);
  const data = Buffer.alloc(4 * 65_536, 'abcdefgh');
  const kept = await writeFile(open, 'kept', data);
  await writeFile(open, 'gone', data);
  const cut = await writeFile(open, 'cut', data);
  expect(objects(volume)).toBe(12);
  await removeFile(open, 'gone');
  await open.operations.setattr(caller(), cut, { size: 70_000n });
  // The middle of `kept` is written anew: its second object stays, because the rest of the block still shows it.
  await open.operations.write(caller(), kept, 0n, 70_000n, Buffer.alloc(100, 'z'), 2, false);
  await open.operations.fsync(caller(), kept, 0n, false);
  const report = await gcVolume({ ...volume, uploadMs: 0 });
  expect(report).toMatchObject({ objects: 13, deletedObjects: 6 });
  expect(objects(volume)).toBe(7);
  data.fill('z', 70_000, 70_100);
  const reader = await openTestVolume(volume, 'reader');
  expect((await reader.operations.read(caller(), kept, 0n, 0n, data.length, 0)).equals(data)).toBe(true);
  expect((await reader.operations.read(caller(), cut, 0n, 0n, data.length, 0)).length).toBe(70_000);
  expect(await gcVolume({ ...volume, uploadMs: 0 })).toMatchObject({ deletedObjects: 0 });
});

test('a shared copy keeps its objects when the source goes, also while a gc walks, and only one gc runs at a time', async () => {
  const volume = await testVolume(OPTIONS);
  const open = await openTestVolume(volume);
  const data = Buffer.alloc(3 * 65_536, 'shared');
  const source = await writeFile(open, 'source', data);
  const target = await writeFile(open, 'target', Buffer.alloc(100_000, 'old'));
  const end = (ino: bigint, offset: bigint): { ino: bigint; handle: bigint; offset: bigint } => ({
    ino,
    handle: 0n,
    offset,
  });
  expect(await open.operations.copyFileRange(caller(), end(source, 1000n), end(target, 50_000n), 2n ** 40n)).toBe(
    195_608n,
  );
  expect(objects(volume)).toBe(5);
  const engine = await openMeta(volume.metaUrl, { kind: 'test' });
  expect(await engine.count(keys.movedReferences)).toBe(3);
  await removeFile(open, 'source');
  expect(await gcVolume({ ...volume, uploadMs: 0 })).toMatchObject({ deletedObjects: 1 }); // the second block of the old target
  expect(await engine.count(keys.movedReferences)).toBe(0);
  const reader = await openTestVolume(volume, 'reader');
  const expected = Buffer.concat([Buffer.alloc(100_000, 'old').subarray(0, 50_000), data.subarray(1000)]);
  expect((await reader.operations.read(caller(), target, 0n, 0n, 300_000, 0)).equals(expected)).toBe(true);

  await engine.commit({ write: [{ key: keys.gcLock, value: Buffer.from(String(engine.sessionId)) }] });
  await expect(gcVolume({ ...volume, uploadMs: 0 })).rejects.toMatchObject({ code: 'held' });
  await engine.close();
  expect(await gcVolume({ ...volume, uploadMs: 0 })).toMatchObject({ deletedObjects: 0 });
});

test('gc leaves young objects and those of the lake alone', async () => {
  const volume = await testVolume({ ...OPTIONS, grace: '1h' });
  const open = await openTestVolume(volume);
  await writeFile(open, 'gone', Buffer.alloc(65_536, 1));
  await removeFile(open, 'gone');
  expect(await gcVolume({ ...volume, uploadMs: 0 })).toMatchObject({ objects: 1, deletedObjects: 0 });
});

test('gc removes the records of a file that was open when its mount died', async () => {
  const volume = await testVolume(OPTIONS);
  const open = await openTestVolume(volume);
  const ino = await writeFile(open, 'file', Buffer.alloc(65_536, 1));
  await open.operations.open(caller(), ino, 2);
  await removeFile(open, 'file');
  expect(await gcVolume({ ...volume, uploadMs: 0 })).toMatchObject({ reclaimedOrphans: 0, deletedObjects: 0 });
  await open.close();
  expect(await gcVolume({ ...volume, uploadMs: 0 })).toMatchObject({ reclaimedOrphans: 1, deletedObjects: 1 });
});

interface Ports {
  readonly engine: MetaEngine;
  readonly store: ObjectStore;
}

async function ports(volume: TestVolume): Promise<Ports> {
  const engine = await openMeta(volume.metaUrl, { kind: 'test' });
  onTestFinished(() => engine.close());
  const store = await openStore(`dir:${volume.storeDir}`);
  onTestFinished(() => store.close());
  return { engine, store };
}

function collect({ engine, store }: Ports, options: { readonly dryRun?: boolean } = {}): Promise<GcReport> {
  return collectGarbage({ uploadMs: 0, engine, store, volume: 'lake', clock: systemClock, ...options });
}

test('a dry run says what a run would do, and changes nothing', async () => {
  const volume = await testVolume(OPTIONS);
  const open = await openTestVolume(volume);
  await writeFile(open, 'kept', Buffer.alloc(65_536, 1));
  const orphan = await writeFile(open, 'orphan', Buffer.alloc(65_536, 2));
  await writeFile(open, 'gone', Buffer.alloc(100_000, 3));
  await open.operations.open(caller(), orphan, 0);
  await removeFile(open, 'orphan');
  await removeFile(open, 'gone');
  await open.close();
  const { engine, store } = await ports(volume);
  const writes = new FaultPlan({ call: 0, moment: 'before', operation: 'commit' });
  const changes = new FaultPlan(
    { call: 0, moment: 'before', operation: 'put' },
    { call: 0, moment: 'before', operation: 'delete' },
  );
  const watched = { engine: faultyEngine(engine, writes), store: faultyStore(store, changes) };
  const said = await collect(watched, { dryRun: true });
  expect(said).toMatchObject({ deletedObjects: 3, deletedBytes: 165_536, reclaimedOrphans: 1, dryRun: true });
  expect(writes.fired + changes.fired).toBe(0);
  expect(await collect({ engine, store })).toEqual({ ...said, dryRun: false });
});

test('a grace period below that of the volume needs it unmounted', async () => {
  const volume = await testVolume({ ...OPTIONS, grace: '1h' });
  const open = await openTestVolume(volume);
  await writeFile(open, 'gone', Buffer.alloc(65_536, 1));
  await removeFile(open, 'gone');
  await expect(gcVolume({ uploadMs: 0, ...volume, graceMs: 0 })).rejects.toMatchObject({ code: 'held' });
  await open.close();
  expect(await gcVolume({ uploadMs: 0, ...volume, graceMs: 0 })).toMatchObject({ deletedObjects: 1 });
});

test('an old object stays for the grace period after its last reference is gone', async () => {
  const volume = await testVolume({ ...OPTIONS, grace: '1h' });
  const open = await openTestVolume(volume);
  await writeFile(open, 'old', Buffer.alloc(65_536, 1));
  const hoursAgo = new Date(Date.now() - 100 * 3600e3);
  for (const path of objectPaths(volume)) utimesSync(path, hoursAgo, hoursAgo);
  await removeFile(open, 'old');
  expect(await gcVolume({ uploadMs: 0, ...volume, dryRun: true })).toMatchObject({
    deletedObjects: 0,
    waitingObjects: 1,
  });
  for (let run = 0; run < 2; run++) {
    expect(await gcVolume({ ...volume, uploadMs: 0 })).toMatchObject({ deletedObjects: 0, waitingObjects: 1 });
  }
  const { engine, store } = await ports(volume);
  const lists: string[] = [];
  for await (const { key } of store.list('')) if (key.includes('/gc/')) lists.push(key);
  expect(lists).toHaveLength(1);
  const [list = ''] = lists;
  // As if that run had been two hours ago; and one that is damaged counts for nothing.
  const earlier = String(Date.now() - 2 * 3600e3).padStart(15, '0');
  await store.put(list.replace(/\/gc\/\d+/, `/gc/${earlier}`), await store.get(list));
  await store.put(list.replace(/\/gc\/\d+/, '/gc/1'), Buffer.from('damaged'));
  await store.delete([list]);
  expect(await collect({ engine, store })).toMatchObject({ deletedObjects: 1, waitingObjects: 0 });
  expect(objects(volume)).toBe(0);
  for await (const { key } of store.list('')) expect(key).not.toContain('/gc/');
});

test('the age of an object is told by the clock of the store', async () => {
  const volume = await testVolume({ ...OPTIONS, grace: '1h' });
  const open = await openTestVolume(volume);
  await writeFile(open, 'young', Buffer.alloc(65_536, 1));
  await writeFile(open, 'old', Buffer.alloc(65_536, 1));
  for (const name of ['young', 'old']) await removeFile(open, name);
  const [, second] = objectPaths(volume);
  const hoursAgo = new Date(Date.now() - 2 * 3600e3);
  utimesSync(second ?? '', hoursAgo, hoursAgo);
  const ahead = { ...systemClock, nowMs: () => Date.now() + 86_400e3 };
  const { engine, store } = await ports(volume);
  const report = await collectGarbage({ uploadMs: 0, engine, store, volume: 'lake', clock: ahead });
  expect(report).toMatchObject({ deletedObjects: 0, waitingObjects: 1 });
});

test('whatever fails, and at whichever call, nothing that a file shows is deleted, and the next run finishes', async () => {
  const counted = new FaultPlan();
  for (let call = 0, calls = 1; call < calls; call += 3) {
    const moment = call % 2 === 0 ? 'before' : 'after';
    const volume = await testVolume(OPTIONS);
    const open = await openTestVolume(volume, `w${call}`);
    const data = Buffer.alloc(150_000, `run ${call} `);
    const kept = await writeFile(open, 'kept', data);
    await writeFile(open, 'gone', data);
    const copy = await writeFile(open, 'copy', Buffer.alloc(10, 1));
    const whole = (ino: bigint): { ino: bigint; handle: bigint; offset: bigint } => ({ ino, handle: 0n, offset: 0n });
    await open.operations.copyFileRange(caller(), whole(kept), whole(copy), 150_000n);
    await removeFile(open, 'gone');
    const { engine, store } = await ports(volume);
    const plan = call === 0 ? counted : new FaultPlan({ call, moment });
    const broken = { engine: faultyEngine(engine, plan), store: faultyStore(store, plan) };
    const outcome = await collect(broken).catch(() => null);
    if (call === 0) calls = plan.calls;
    else expect(plan.fired).toBe(1);
    if (call > 0 && outcome !== null) expect(outcome.problem === null || plan.fired === 1).toBe(true);
    // A run whose last call failed may have left its lock: its session still lives.
    await engine.commit({ write: [{ key: keys.gcLock, value: null }] });
    await collect({ engine, store });
    expect(objects(volume)).toBe(3);
    const reader = await openTestVolume(volume, `r${call}`);
    for (const ino of [kept, copy]) {
      expect((await reader.operations.read(caller(), ino, 0n, 0n, data.length, 0)).equals(data)).toBe(true);
    }
    await Promise.all([open.close(), reader.close()]);
  }
  expect(counted.calls).toBeGreaterThan(10);
});

test('a store that refuses to delete is reported as a part left', async () => {
  const volume = await testVolume(OPTIONS);
  const open = await openTestVolume(volume);
  await writeFile(open, 'gone', Buffer.alloc(65_536, 1));
  await removeFile(open, 'gone');
  const { engine, store } = await ports(volume);
  const plan = new FaultPlan({ call: 0, moment: 'before', operation: 'delete' });
  const report = await collect({ engine, store: faultyStore(store, plan) });
  expect(report).toMatchObject({ deletedObjects: 0 });
  expect(report.problem).toContain('injected fault');
  expect(await collect({ engine, store })).toMatchObject({ deletedObjects: 1, problem: null });
});

test('one that lost its lock while it walked deletes nothing', async () => {
  const volume = await testVolume(OPTIONS);
  const open = await openTestVolume(volume);
  await writeFile(open, 'gone', Buffer.alloc(65_536, 1));
  await removeFile(open, 'gone');
  const { engine, store } = await ports(volume);
  const listed = {
    ...faultyStore(store, new FaultPlan()),
    list: (prefix: string) => {
      void engine.commit({ write: [{ key: keys.gcLock, value: Buffer.from('77') }] });
      return store.list(prefix);
    },
  };
  await expect(collect({ engine, store: listed })).rejects.toMatchObject({ code: 'fenced' });
  expect(objects(volume)).toBe(1);
});

test('runs beside a writer that overwrites, copies and removes take nothing from what it shows in the end', async () => {
  const volume = await testVolume(OPTIONS);
  const open = await openTestVolume(volume);
  const { engine, store } = await ports(volume);
  // As if every write took less than the grace period and all that is written were older: what is under way is young.
  const settled = new Set<string>();
  const settle = async (): Promise<void> => {
    for await (const { key } of store.list('')) settled.add(key);
  };
  const aged: ObjectStore = {
    ...faultyStore(store, new FaultPlan()),
    async *list(prefix) {
      for await (const info of store.list(prefix)) {
        yield { ...info, modifiedMs: settled.has(info.key) ? 0 : Number.POSITIVE_INFINITY };
      }
    },
  };
  const expected = new Map<bigint, Buffer>();
  let writing = true;
  const writer = async (): Promise<void> => {
    for (let round = 0; round < 40; round++) {
      const data = Buffer.alloc(70_000 + round, `round ${round} `);
      const source = await writeFile(open, `s${round}`, data);
      const target = await writeFile(open, `t${round}`, Buffer.alloc(10, 1));
      await settle();
      const end = (ino: bigint): { ino: bigint; handle: bigint; offset: bigint } => ({ ino, handle: 0n, offset: 0n });
      await open.operations.copyFileRange(caller(), end(source), end(target), BigInt(data.length));
      await removeFile(open, `s${round}`);
      expected.set(target, data);
    }
  };
  const collector = async (): Promise<number> => {
    let runs = 0;
    for (; writing; runs++) await collect({ engine, store: aged });
    return runs;
  };
  const [, runs] = await Promise.all([writer().finally(() => (writing = false)), collector()]);
  expect(runs).toBeGreaterThan(1);
  await collect({ engine, store: aged });
  const reader = await openTestVolume(volume, 'reader');
  for (const [ino, data] of expected) {
    expect((await reader.operations.read(caller(), ino, 0n, 0n, data.length, 0)).equals(data), `inode ${ino}`).toBe(
      true,
    );
  }
  expect(objects(volume)).toBe(80);
});

test('an object that a mount has uploaded and not committed yet stays, also without a grace period', async () => {
  const volume = await testVolume(OPTIONS);
  const open = await openTestVolume(volume);
  await writeFile(open, 'file', Buffer.alloc(1000, 'x'));
  // As it is between the upload and the commit: in the store, and in no record.
  const underWay = join(volume.storeDir, objectKey(open.format.id, 1_000_000));
  mkdirSync(dirname(underWay), { recursive: true });
  writeFileSync(underWay, 'x');
  utimesSync(underWay, Date.now() / 1000 - 60, Date.now() / 1000 - 60);
  expect(await gcVolume(volume)).toMatchObject({ deletedObjects: 0 });
  expect(objects(volume)).toBe(2);
  await open.close();
  expect(await gcVolume(volume)).toMatchObject({ deletedObjects: 1 });
});
