import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { createBackup, expireBackups, listBackups } from '../../fs-gateway/tools/backup.ts';
import type { BackupOptions } from '../../fs-gateway/tools/backup.ts';
import { collectGarbage } from '../../fs-gateway/tools/gc.ts';
import { systemClock } from '../../lib/clock.ts';
import type { MetaEngine } from '../../lib/meta/engine.ts';
import type { ObjectStore } from '../../lib/store/store.ts';
import { VolumeKeys } from '../../lib/volume/keys.ts';
import { FaultPlan } from '../support/fault.ts';
import { faultyEngine } from '../support/faulty-engine.ts';
import { faultyStore } from '../support/faulty-store.ts';
import { caller, testVolume } from '../support/fs-volume.ts';
import { bench, contentIn, LARGE, OPTIONS } from './backup-bench.ts';
import type { Bench } from './backup-bench.ts';
import { countBlocks, gcLater, later, openEngine } from './volume-bench.ts';
import { writeFile } from './volume-files.ts';

const keys = new VolumeKeys('lake');
const DAY_MS = 24 * 3_600_000;

/** Calls `hook` once, before the walk over the inodes. */
function beforeWalk(engine: MetaEngine, hook: () => Promise<void>): MetaEngine {
  let left: (() => Promise<void>) | undefined = hook;
  return {
    ...faultyEngine(engine, new FaultPlan()),
    async *buckets(prefix) {
      const run = left;
      if (prefix === keys.inodePrefix) {
        left = undefined;
        await run?.();
      }
      yield* engine.buckets(prefix);
    },
  };
}

/** Calls `hook` when a dump has read all but the counters of ids, which come last. */
function afterRecords(engine: MetaEngine, hook: () => Promise<void>): MetaEngine {
  let left: (() => Promise<void>) | undefined = hook;
  return {
    ...faultyEngine(engine, new FaultPlan()),
    async readNumbers(numbers) {
      const run = left;
      left = undefined;
      await run?.();
      return engine.readNumbers(numbers);
    },
  };
}

function whenUploaded(
  store: ObjectStore,
  hooks: { before?: () => Promise<void>; after?: () => Promise<void> },
): ObjectStore {
  return {
    ...faultyStore(store, new FaultPlan()),
    async putFile(key, path) {
      await hooks.before?.();
      const info = await store.putFile(key, path);
      await hooks.after?.();
      return info;
    },
  };
}

async function cut({ open }: Bench, ino: bigint): Promise<void> {
  await open.operations.setattr(caller(), ino, { size: 0n });
}

test('gc without a grace period takes nothing from a backup that is being written', async () => {
  const all = await bench(await testVolume(OPTIONS));
  const ino = await writeFile(all.open, 'file', LARGE);
  let reports = 0;
  const engine = afterRecords(all.engine, async () => {
    await cut(all, ino);
    for (; reports < 2; reports++) {
      expect(await gcLater(all)).toMatchObject({ deletedObjects: 0, waitingObjects: 4, abandonedBackups: 0 });
    }
  });
  const backup = await createBackup({ ...all.options, engine });
  expect(reports).toBe(2);
  expect(backup.consistent).toBe(true);
  expect((await contentIn(all, backup, 'loaded', 'file')).equals(LARGE)).toBe(true);
});

test('one backup of a volume is written at a time', async () => {
  const all = await bench(await testVolume(OPTIONS));
  const engine = afterRecords(all.engine, async () => {
    await expect(createBackup(all.options)).rejects.toMatchObject({ code: 'held' });
  });
  await createBackup({ ...all.options, engine });
});

test('backups of one moment are two backups', async () => {
  const { options, store } = await bench(await testVolume(OPTIONS));
  const past = { ...systemClock, nowMs: () => 1_700_000_000_000 };
  const keysOf = [];
  for (let n = 0; n < 3; n++) keysOf.push((await createBackup({ ...options, clock: past })).key);
  expect((await listBackups(store)).map(({ key }) => key)).toEqual(keysOf.reverse());
});

test.each(['0s', '1h'])(
  'a backup that begins and ends during the walk of gc, grace %s, keeps its objects',
  async (grace) => {
    const all = await bench(await testVolume({ ...OPTIONS, grace }));
    const { open, options, store, engine } = all;
    const ino = await writeFile(open, 'file', LARGE);
    const aged = { ...faultyStore(store, new FaultPlan()), list: agedList(store) };
    const backups: Awaited<ReturnType<typeof createBackup>>[] = [];
    const walking = beforeWalk(engine, async () => {
      // Two moments that the clock of the store tells apart.
      const { modifiedMs } = await store.put('tick', Buffer.from('1'));
      await expect
        .poll(async () => (await store.put('tick', Buffer.from('1'))).modifiedMs, { interval: 1 })
        .toBeGreaterThan(modifiedMs + 1);
      backups.push(await createBackup(options));
      await cut(all, ino);
    });
    await collectGarbage({ uploadMs: 0, engine: walking, store: aged, volume: 'lake', clock: later(60_000) });
    await open.close();
    for (let run = 0; run < 2; run++) {
      const report = await collectGarbage({
        uploadMs: 0,
        engine,
        store: aged,
        volume: 'lake',
        clock: later(60_000),
        graceMs: 0,
      });
      expect(report).toMatchObject({ deletedObjects: 0, waitingObjects: 4 });
    }
    const [backup] = backups;
    if (backup === undefined) throw new Error('gc did not walk');
    expect((await contentIn(all, backup, 'loaded', 'file')).equals(LARGE)).toBe(true);
  },
);

/** Blocks look as if they were from yesterday. */
function agedList(store: ObjectStore): ObjectStore['list'] {
  return async function* (prefix, options) {
    for await (const info of store.list(prefix, options)) {
      yield info.key.includes('/blocks/') ? { ...info, modifiedMs: info.modifiedMs - DAY_MS } : info;
    }
  };
}

test('a backup whose writer was killed stops gc only until its session is over', async () => {
  const all = await bench(await testVolume(OPTIONS));
  const { open, store, volume, options } = all;
  const ino = await writeFile(open, 'file', LARGE);
  // It is killed by itself in the middle of the dump.
  const script = `
    import { openMeta, openStore } from '${join(import.meta.dirname, '../../lib/registry.ts')}';
    import { createBackup } from '${join(import.meta.dirname, '../../fs-gateway/tools/backup.ts')}';
    import { systemClock } from '${join(import.meta.dirname, '../../lib/clock.ts')}';
    const [metaUrl, storeUrl, directory] = process.argv.slice(1);
    const engine = await openMeta(metaUrl, { kind: 'tool', leaseMs: 3000 });
    const progress = () => process.kill(process.pid, 'SIGKILL');
    await createBackup({ engine, store: await openStore(storeUrl), volume: 'lake', clock: systemClock, directory, progress });`;
  const child = spawn(
    process.execPath,
    ['--input-type=module-typescript', '-e', script, volume.metaUrl, open.format.store, volume.base],
    { stdio: 'ignore' },
  );
  onTestFinished(() => void child.kill('SIGKILL'));
  expect(await once(child, 'exit')).toEqual([null, 'SIGKILL']);
  await cut(all, ino);
  const [mark] = await keysIn(all, '-s');
  expect(mark).toBeDefined();
  expect(await listBackups(store, open.format)).toEqual([]);
  let freed = 0;
  let abandoned = 0;
  const collect = async (): Promise<number> => {
    const report = await gcLater(all);
    abandoned += report.abandonedBackups;
    return (freed += report.deletedObjects);
  };
  await expect.poll(collect).toBe(4);
  expect(abandoned).toBe(1);
  expect(await keysIn(all, '-s')).toEqual([]);
  expect((await createBackup(options)).consistent).toBe(true);
  expect(await gcLater(all)).toMatchObject({ abandonedBackups: 0 });
});

async function keysIn({ store, open }: Bench, kind: string): Promise<string[]> {
  const found: string[] = [];
  for await (const { key } of store.list(`backups/lake-${open.format.id}/`)) {
    if (new RegExp(`^\\d{15}${kind}`).test(key.slice(key.lastIndexOf('/') + 1))) found.push(key);
  }
  return found;
}

test('a writer that was stopped until gc went on without it leaves no backup, also when it is killed at its end', async () => {
  for (const killed of [false, true]) {
    const all = await bench(await testVolume(OPTIONS));
    const { open, store, volume, engine } = all;
    const ino = await writeFile(open, 'file', LARGE);
    const writer = await openEngine(volume);
    const stopped = async (): Promise<void> => {
      await engine.endSession(writer.sessionId);
      await cut(all, ino);
      expect(await gcLater(all)).toMatchObject({ abandonedBackups: 1, deletedObjects: 4 });
    };
    const uploading = whenUploaded(store, {
      before: stopped,
      after: async () => {
        // What another one sees at this moment is what it sees for ever when the writer is killed now.
        expect(await listBackups(store, open.format)).toEqual([]);
        if (killed) throw new Error('as if killed');
      },
    });
    const options: BackupOptions = { ...all.options, engine: writer, store: uploading };
    await expect(createBackup(options)).rejects.toThrow(killed ? 'as if killed' : 'session');
    expect(await listBackups(store, open.format)).toEqual([]);
    expect(await keysIn(all, '-c')).toHaveLength(1);
    await expireBackups(store, open.format, Date.now());
    expect(await keysIn(all, '-c')).toEqual([]);
    expect(await keysIn(all, '-v')).toHaveLength(1);
    await expireBackups(store, open.format, Date.now() + 2 * DAY_MS);
    expect(await keysIn(all, '-v')).toEqual([]);
  }
});

test('a backup that was written whole counts, also when its writer was killed before it took its mark away', async () => {
  const all = await bench(await testVolume(OPTIONS));
  const { open, store, volume, engine } = all;
  const ino = await writeFile(open, 'file', LARGE);
  const writer = await openEngine(volume);
  const uploading = whenUploaded(store, { after: () => engine.endSession(writer.sessionId) });
  const kept: ObjectStore = { ...uploading, delete: () => Promise.resolve() };
  await expect(createBackup({ ...all.options, engine: writer, store: kept })).rejects.toThrow();
  await cut(all, ino);
  expect(await keysIn(all, '-s')).toHaveLength(1);
  expect(await gcLater(all)).toMatchObject({ abandonedBackups: 0, deletedObjects: 0, waitingObjects: 4 });
  expect(await keysIn(all, '-s')).toEqual([]);
  const [backup] = await listBackups(store, open.format);
  if (backup === undefined) throw new Error('the backup is gone');
  expect((await contentIn(all, backup, 'loaded', 'file')).equals(LARGE)).toBe(true);
  expect(await countBlocks(all)).toBe(4);
});

test('a dry run of gc counts a dead backup as nothing, and leaves its mark', async () => {
  const all = await bench(await testVolume(OPTIONS));
  const { open, store, volume, engine } = all;
  const ino = await writeFile(open, 'file', LARGE);
  const writer = await openEngine(volume);
  const dead = afterRecords(writer, () => engine.endSession(writer.sessionId));
  const kept = { ...faultyStore(store, new FaultPlan()), delete: () => Promise.resolve() };
  await expect(createBackup({ ...all.options, engine: dead, store: kept })).rejects.toThrow();
  await cut(all, ino);
  await open.close();
  const run = { engine, store, volume: 'lake', clock: later(60_000) };
  expect(await collectGarbage({ uploadMs: 0, ...run, dryRun: true })).toMatchObject({
    deletedObjects: 4,
    abandonedBackups: 1,
  });
  expect(await keysIn(all, '-s')).toHaveLength(1);
  expect(await collectGarbage({ uploadMs: 0, ...run })).toMatchObject({ deletedObjects: 4, abandonedBackups: 1 });
});
