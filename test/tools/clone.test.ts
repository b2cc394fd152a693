import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import type { OpenVolume } from '../../fs-gateway/open-volume.ts';
import { cloneTree, createSnapshot, deleteSnapshot, listSnapshots } from '../../fs-gateway/tools/clone.ts';
import type { CloneOptions } from '../../fs-gateway/tools/clone.ts';
import { clonePath } from '../../fs-gateway/tools/main.ts';
import { getQuota, setQuota } from '../../fs-gateway/tools/quota.ts';
import { Errno } from '../../fs-gateway/vfs/operations.ts';
import { systemClock } from '../../lib/clock.ts';
import { PenstockError } from '../../lib/errors.ts';
import type { MetaEngine } from '../../lib/meta/engine.ts';
import { openMeta } from '../../lib/registry.ts';
import { VolumeKeys } from '../../lib/volume/keys.ts';
import { prepareListing } from '../../lib/volume/lake-listing.ts';
import { clonedLakeObjects } from '../../lib/volume/references.ts';
import { FaultPlan } from '../support/fault.ts';
import { faultyEngine } from '../support/faulty-engine.ts';
import { caller, mountTestVolume, openTestVolume, testVolume } from '../support/fs-volume.ts';
import type { TestVolume } from '../support/fs-volume.ts';
import { cannotMount } from '../support/services.ts';
import { contentAt, errnoOf, makeDirectory, namesIn, walk, writeFile } from './volume-files.ts';
import { onBothServices, openBench, openEngine, gcLater, countBlocks, expectSound } from './volume-bench.ts';
import type { NewVolume, VolumeBench } from './volume-bench.ts';

const keys = new VolumeKeys('lake');
const OPTIONS = { blockSize: '64KiB', inlineBytes: '100', grace: '0s' };
const LARGE = Buffer.alloc(200_000, 'large ');

interface Bench extends VolumeBench {
  readonly options: CloneOptions;
}

async function bench(volume: TestVolume): Promise<Bench> {
  const all = await openBench(volume);
  return { ...all, options: { engine: all.engine, volume: 'lake', clock: systemClock } };
}

let readers = 0;

async function reader({ volume }: Bench): Promise<OpenVolume> {
  return openTestVolume(volume, `reader${readers++}`);
}

/** A tree with all kinds of content. */
async function makeTree({ open, engine }: Bench): Promise<bigint> {
  const top = await makeDirectory(open, 'top');
  const deep = await makeDirectory(open, 'deep', top);
  await writeFile(open, 'small', Buffer.from('small'), top);
  const large = await writeFile(open, 'large', LARGE, deep);
  await open.operations.link(caller(), large, top, 'link');
  await open.operations.symlink(caller(), deep, 'symlink', Buffer.from('../small'));
  await open.operations.setxattr(caller(), large, 'user.color', Buffer.from('red'), 0, false);
  await open.operations.setxattr(caller(), deep, 'user.of', Buffer.from('deep'), 0, false);
  await open.operations.setattr(caller(), deep, { mode: 0o2750, uid: 7, gid: 8, mtimeNs: 12_345n });
  // A file with pages of extents.
  const paged = await writeFile(open, 'paged', Buffer.from('x'), deep);
  for (let n = 0; n < 70; n++) {
    await open.operations.write(caller(), paged, 0n, BigInt(n * 200_000), Buffer.from(`piece ${n}`), 2, false);
    if (n % 10 === 9) await open.operations.fsync(caller(), paged, 0n, false);
  }
  await open.operations.fsync(caller(), paged, 0n, false);
  expect(await engine.count(keys.pages(Number(paged)))).toBeGreaterThan(0);
  return top;
}

async function expectTree(open: OpenVolume, path: string): Promise<void> {
  const top = await walk(open, path);
  expect(await namesIn(open, top)).toEqual(['deep', 'link', 'small']);
  expect((await contentAt(open, `${path}/small`)).toString()).toBe('small');
  expect((await contentAt(open, `${path}/deep/large`)).equals(LARGE)).toBe(true);
  const paged = await contentAt(open, `${path}/deep/paged`);
  expect(paged.length).toBe(69 * 200_000 + 8);
  expect(paged.toString('latin1', 13_800_000)).toBe('piece 69');
  const [large, link] = [await walk(open, `${path}/deep/large`), await walk(open, `${path}/link`)];
  expect(large).toBe(link);
  expect((await open.operations.getattr(caller(), large, undefined)).attributes.nlink).toBe(2);
  expect((await open.operations.getxattr(caller(), large, 'user.color')).toString()).toBe('red');
  const deep = await walk(open, `${path}/deep`);
  expect((await open.operations.getattr(caller(), deep, undefined)).attributes).toMatchObject({
    mode: 0o042750,
    uid: 7,
    gid: 8,
  });
  expect((await open.operations.getxattr(caller(), deep, 'user.of')).toString()).toBe('deep');
  expect((await open.operations.readlink(caller(), await walk(open, `${path}/deep/symlink`))).toString()).toBe(
    '../small',
  );
}

function suite(newVolume: NewVolume): void {
  test('a clone is as its source, shares its objects, and each can be changed and removed without the other', async () => {
    const all = await bench(await newVolume(OPTIONS));
    const { open, options } = all;
    const top = await makeTree(all);
    const before = await countBlocks(all);
    const report = await cloneTree(options, '/top', '/copy');
    expect(report).toMatchObject({ path: '/copy', files: 4, directories: 2, consistent: true });
    expect(await countBlocks(all)).toBe(before);
    const other = await reader(all);
    await expectTree(other, '/copy');
    await expectSound(all.volume);
    const copied = await walk(other, '/copy/deep/large');
    await other.operations.write(caller(), copied, 0n, 70_000n, Buffer.from('changed'), 2, false);
    await other.operations.fsync(caller(), copied, 0n, false);
    await expectTree(await reader(all), '/top');
    const deep = await walk(open, '/top/deep');
    for (const name of ['large', 'symlink', 'paged']) await open.operations.unlink(caller(), deep, name);
    await open.operations.rmdir(caller(), top, 'deep');
    for (const name of ['link', 'small']) await open.operations.unlink(caller(), top, name);
    await open.operations.rmdir(caller(), 1n, 'top');
    await open.close();
    await other.close();
    for (let run = 0; run < 2; run++) await gcLater(all);
    const left = await reader(all);
    expect((await contentAt(left, '/copy/deep/large')).toString('latin1', 70_000, 70_007)).toBe('changed');
    expect((await contentAt(left, '/copy/deep/paged')).length).toBe(69 * 200_000 + 8);
    await expectSound(all.volume);
  });

  test('a snapshot shows the volume as it was, cannot be changed, and goes with all that only it refers to', async () => {
    const all = await bench(await newVolume({ ...OPTIONS, trash: '1d' }));
    const { open, options } = all;
    const top = await makeTree(all);
    await writeFile(open, 'removed', Buffer.from('removed'));
    await open.operations.unlink(caller(), 1n, 'removed');
    expect(await createSnapshot(options, 'first')).toMatchObject({ path: '/.snapshots/first', consistent: true });
    await expect(createSnapshot(options, 'first')).rejects.toMatchObject({ code: 'exists' });
    await open.operations.unlink(caller(), top, 'small');
    await createSnapshot(options);
    const names = (await listSnapshots(options)).map(({ name }) => name);
    expect(names).toHaveLength(2);
    expect(names[0]).toBe('first');
    const other = await reader(all);
    expect(await namesIn(other, 1n)).toEqual(['top']);
    expect(await namesIn(other, await walk(other, '/.snapshots/first'))).toEqual(['top']);
    await expectTree(other, '/.snapshots/first/top');
    const [folder, file] = [
      await walk(other, '/.snapshots/first/top'),
      await walk(other, '/.snapshots/first/top/small'),
    ];
    const refused = [
      () => writeFile(other, 'new', Buffer.alloc(1), folder),
      () => other.operations.unlink(caller(), folder, 'small'),
      () => other.operations.rename(caller(), folder, 'small', 1n, 'stolen', 0),
      () => other.operations.link(caller(), file, 1n, 'link'),
      () => other.operations.open(caller(), file, 2),
      () => other.operations.setattr(caller(), file, { size: 0n }),
      () => other.operations.setattr(caller(), file, { mode: 0o777 }),
      () => other.operations.setxattr(caller(), file, 'user.a', Buffer.from('b'), 0, false),
    ];
    for (const [index, attempt] of refused.entries()) {
      expect(await errnoOf(attempt), `attempt ${index}`).toBe(Errno.EROFS);
    }
    // Out of a snapshot a clone brings back what can be changed.
    await cloneTree(options, '/.snapshots/first/top/small', '/small');
    const again = await reader(all);
    await again.operations.setattr(caller(), await walk(again, '/small'), { size: 3n });
    expect((await contentAt(again, '/small')).toString()).toBe('sma');
    await expectSound(all.volume);
    for (const name of names) await deleteSnapshot(options, name);
    await expect(deleteSnapshot(options, 'first')).rejects.toMatchObject({ code: 'not-found' });
    expect(await listSnapshots(options)).toEqual([]);
    await Promise.all([open.close(), other.close(), again.close()]);
    for (let run = 0; run < 2; run++) await gcLater(all);
    await expectTreeWithout(all);
    await expectSound(all.volume);
  });

  test('of several who make or delete a snapshot of one name at once, one does, and the others are told by name', async () => {
    const all = await bench(await newVolume(OPTIONS));
    const { open, options, engine } = all;
    for (let n = 0; n < 120; n++) await writeFile(open, `f${n}`, Buffer.from('f'));
    const tools = await Promise.all(Array.from({ length: 3 }, () => openEngine(all.volume)));
    const outcomes = async (work: (options: CloneOptions) => Promise<unknown>): Promise<string[]> =>
      Promise.all(
        tools.map((tool) =>
          work({ ...options, engine: tool }).then(
            () => 'done',
            (error: unknown) => (error instanceof PenstockError ? `${error.code}: ${error.message}` : String(error)),
          ),
        ),
      );
    for (let round = 0; round < 3; round++) {
      const made = (await outcomes((each) => createSnapshot(each, 'one'))).sort();
      expect(made).toEqual(['done', ...Array<string>(2).fill("exists: '/.snapshots/one' exists")]);
      expect(await namesIn(await reader(all), await walk(await reader(all), '/.snapshots/one'))).toHaveLength(120);
      const deleted = (await outcomes((each) => deleteSnapshot(each, 'one'))).sort();
      expect(deleted).toEqual(['done', ...Array<string>(2).fill("not-found: no snapshot 'one'")]);
    }
    expect(await engine.count(keys.buildings)).toBe(0);
    await gcLater(all);
    await expectSound(all.volume);
  });

  test('a copy counts, and one that does not fit leaves nothing', async () => {
    const all = await bench(await newVolume(OPTIONS));
    const { open, engine, options } = all;
    await makeTree(all);
    await makeDirectory(open, 'here');
    await setQuota(engine, 'lake', '/here', { inodesMax: 5 });
    await expect(cloneTree(options, '/top', '/here/copy')).rejects.toMatchObject({ code: 'quota' });
    expect(await getQuota(engine, 'lake', '/here')).toMatchObject({ inodes: 0, bytes: 0 });
    await setQuota(engine, 'lake', '/here', { inodesMax: 6 });
    const { bytes } = await cloneTree(options, '/top', '/here/copy');
    expect(await getQuota(engine, 'lake', '/here')).toMatchObject({ inodes: 6, bytes });
    await expectTree(await reader(all), '/here/copy');
    await expectSound(all.volume);
  });

  test('beside a writer every file of a copy is whole', async () => {
    const all = await bench(await newVolume(OPTIONS));
    const { open, options } = all;
    const top = await makeDirectory(open, 'top');
    const inos: bigint[] = [];
    for (let n = 0; n < 60; n++) inos.push(await writeFile(open, `f${n}`, Buffer.alloc(100_000, 'a'), top));
    let writing = true;
    let rounds = 0;
    let copies = 0;
    const write = async (): Promise<void> => {
      for (; writing; rounds++) {
        const ino = inos[rounds % 60] ?? 0n;
        const letter = String.fromCharCode(98 + (rounds % 20));
        await open.operations.write(caller(), ino, 0n, 0n, Buffer.alloc(100_000, letter), 2, false);
        await open.operations.fsync(caller(), ino, 0n, false);
        if (rounds % 5 === 0) await open.operations.rename(caller(), top, `f${rounds % 60}`, top, `r${rounds}`, 0);
        if (rounds % 5 === 1)
          await open.operations.rename(caller(), top, `r${rounds - 1}`, top, `f${(rounds - 1) % 60}`, 0);
      }
    };
    const writer = write();
    try {
      for (; copies < 6; copies++) {
        await cloneTree(options, '/top', `/copy${copies}`);
        const before = rounds;
        await expect.poll(() => rounds, { interval: 1 }).toBeGreaterThan(before + 3);
      }
    } finally {
      writing = false;
      await writer;
    }
    expect(rounds).toBeGreaterThanOrEqual(20);
    await open.close();
    for (let run = 0; run < 2; run++) await gcLater(all);
    const other = await reader(all);
    for (let copy = 0; copy < copies; copy++) {
      const names = await namesIn(other, await walk(other, `/copy${copy}`));
      expect(names.length).toBeGreaterThan(55);
      for (const name of names) {
        const content = await contentAt(other, `/copy${copy}/${name}`);
        expect(content.equals(Buffer.alloc(100_000, content.subarray(0, 1))), name).toBe(true);
      }
    }
    await expectSound(all.volume);
  });
}

/** What is left of the tree when its snapshots are gone: the removed file is in the trash. */
async function expectTreeWithout(all: Bench): Promise<void> {
  const left = await reader(all);
  expect(await namesIn(left, await walk(left, '/top'))).toEqual(['deep', 'link']);
  expect((await contentAt(left, '/top/link')).equals(LARGE)).toBe(true);
}

onBothServices(suite);

test('whatever fails, and at whichever commit, nobody sees a part of a clone, and gc removes what is left of it', async () => {
  const counted = new FaultPlan();
  for (let run = 0, runs = 1; run < runs; run++) {
    const all = await bench(await testVolume(OPTIONS));
    const { open, engine, options } = all;
    const top = await makeDirectory(open, 'top');
    const deep = await makeDirectory(open, 'deep', top);
    const file = await writeFile(open, 'f', LARGE, deep);
    await open.operations.setxattr(caller(), file, 'user.a', Buffer.from('b'), 0, false);
    await writeFile(open, 'g', Buffer.from('g'), top);
    const worker = await openMeta(all.volume.metaUrl, { kind: 'tool' });
    const moment = run % 2 === 0 ? 'before' : 'after';
    const call = Math.floor((run - 1) / 2);
    const plan = run === 0 ? counted : new FaultPlan({ call, moment, operation: 'commit' });
    const done = await cloneTree({ ...options, engine: faultyEngine(worker, plan) }, '/top', '/copy').then(
      () => true,
      () => false,
    );
    await worker.close();
    if (run === 0) runs = 1 + 2 * plan.calls;
    const other = await reader(all);
    const names = await namesIn(other, 1n);
    if (done) expect(names).toEqual(['copy', 'top']);
    if (names.includes('copy')) expect((await contentAt(other, '/copy/deep/f')).equals(LARGE)).toBe(true);
    await Promise.all([open.close(), other.close()]);
    for (let pass = 0; pass < 2; pass++) await gcLater(all);
    await expectSound(all.volume);
    expect(await engine.count(keys.buildings)).toBe(0);
    expect((await contentAt(await reader(all), '/top/deep/f')).equals(LARGE)).toBe(true);
  }
  expect(counted.calls).toBeGreaterThan(4);
});

/** Calls `hook` before the commit that makes a clone visible. */
function beforeLink(engine: MetaEngine, hook: () => Promise<void>): MetaEngine {
  return {
    ...faultyEngine(engine, new FaultPlan()),
    async commit(transaction) {
      const links = transaction.write?.some(({ key, value }) => key.bucket === keys.buildings && value === null);
      if (links === true) await hook();
      return engine.commit(transaction);
    },
  };
}

test('gc leaves a clone that is finished while it looks for abandoned ones', async () => {
  const all = await bench(await testVolume(OPTIONS));
  await makeTree(all);
  const worker = await openMeta(all.volume.metaUrl, { kind: 'tool' });
  onTestFinished(() => worker.close());
  const [arrived, go] = [Promise.withResolvers<undefined>(), Promise.withResolvers<undefined>()];
  const engine = beforeLink(worker, async () => {
    arrived.resolve(undefined);
    await go.promise;
  });
  const cloning = cloneTree({ ...all.options, engine }, '/top', '/copy').finally(() => worker.close());
  await arrived.promise;
  let seen = false;
  const looking: MetaEngine = {
    ...faultyEngine(all.engine, new FaultPlan()),
    scan(bucket, cursor, limit) {
      seen ||= bucket === keys.buildings;
      return all.engine.scan(bucket, cursor, limit);
    },
    async sessions() {
      // gc has seen that the clone is being made, and asks who lives.
      if (seen) {
        go.resolve(undefined);
        await cloning;
      }
      return all.engine.sessions();
    },
  };
  expect(await gcLater({ ...all, engine: looking })).toMatchObject({ abandonedTrees: 0 });
  expect(seen).toBe(true);
  await expectTree(await reader(all), '/copy');
  await expectSound(all.volume);
});

test.each(['is over', 'seems to be over, because the clock of the engine was set back meanwhile'])(
  'a clone that was stopped until gc took it for abandoned links nothing: its session %s',
  async (how) => {
    const all = await bench(await testVolume(OPTIONS));
    await makeTree(all);
    const worker = await openMeta(all.volume.metaUrl, { kind: 'tool' });
    onTestFinished(() => worker.close());
    let collected = 0;
    const collecting: MetaEngine = {
      ...faultyEngine(all.engine, new FaultPlan()),
      sessions: async () =>
        (await all.engine.sessions()).map((one) => (one.id === worker.sessionId ? { ...one, live: false } : one)),
    };
    const engine = beforeLink(worker, async () => {
      if (collected > 0) return;
      if (how === 'is over') await all.engine.endSession(worker.sessionId);
      collected += (await gcLater({ ...all, engine: collecting })).abandonedTrees;
    });
    await expect(cloneTree({ ...all.options, engine }, '/top', '/copy')).rejects.toMatchObject({ code: 'fenced' });
    expect(collected).toBe(1);
    expect(await namesIn(await reader(all), 1n)).toEqual(['top']);
    expect(await all.engine.count(keys.buildings)).toBe(0);
    await expectSound(all.volume);
  },
);

test('a copy during which its source changes says so, and one of something else does not mind', async () => {
  const all = await bench(await testVolume(OPTIONS));
  const { open, options, engine } = all;
  const top = await makeDirectory(open, 'top');
  const other = await makeDirectory(open, 'other');
  for (let n = 0; n < 120; n++) await writeFile(open, `f${n}`, Buffer.from('f'), top);
  const during = async (parent: bigint, target: string): Promise<boolean> => {
    let commits = 0;
    const watched: MetaEngine = {
      ...faultyEngine(engine, new FaultPlan()),
      async commit(transaction) {
        // Some of the files are copied by then.
        if (++commits === 3) await writeFile(open, `new for ${target.slice(1)}`, Buffer.from('x'), parent);
        return engine.commit(transaction);
      },
    };
    return (await cloneTree({ ...options, engine: watched }, '/top', target)).consistent;
  };
  expect(await during(top, '/a')).toBe(false);
  expect(await during(other, '/b')).toBe(true);
  await expectSound(all.volume);
});

test('a clone of files of the lake keeps their objects from the clean-up of the table, until it is gone', async () => {
  const all = await bench(await testVolume(OPTIONS));
  const { open, engine, store, options } = all;
  await store.put('tables/a/data.parquet', Buffer.from('parquet bytes'));
  const file = { name: 'p.parquet', key: 'tables/a/data.parquet', bytes: 13, modifiedMs: 0 };
  await engine.commit(await prepareListing(engine, 'lake', 'a', [{ hour: 473_352, add: [file], remove: [] }], 0));
  await cloneTree(options, '/lake', '/frozen');
  const path = '/frozen/a/dt=2024-01-01/hour=00/p.parquet';
  const other = await reader(all);
  expect((await contentAt(other, path)).toString()).toBe('parquet bytes');
  const wanted = ['tables/a/data.parquet', 'tables/a/other.parquet'];
  expect(await clonedLakeObjects(engine, keys, wanted)).toEqual(new Set([wanted[0]]));
  await gcLater(all);
  expect((await clonedLakeObjects(engine, keys, wanted)).size).toBe(1);
  // It is a file as any other.
  const ino = await walk(other, path);
  await other.operations.write(caller(), ino, 0n, 0n, Buffer.from('PARQUET'), 2, false);
  await other.operations.fsync(caller(), ino, 0n, false);
  expect((await contentAt(await reader(all), path)).toString()).toBe('PARQUET bytes');
  const directory = await walk(other, '/frozen/a/dt=2024-01-01/hour=00');
  await other.operations.setattr(caller(), ino, { size: 0n });
  await other.operations.unlink(caller(), directory, 'p.parquet');
  await engine.commit(
    await prepareListing(engine, 'lake', 'a', [{ hour: 473_352, add: [], remove: ['p.parquet'] }], 0),
  );
  await Promise.all([open.close(), other.close()]);
  for (let run = 0; run < 2; run++) await gcLater(all);
  expect((await clonedLakeObjects(engine, keys, wanted)).size).toBe(0);
  await expectSound(all.volume);
});

test('a clone that is killed with kill -9 is never seen in part', async () => {
  const all = await bench(await testVolume(OPTIONS));
  const { open, volume, engine } = all;
  const top = await makeDirectory(open, 'top');
  for (let n = 0; n < 600; n++) await writeFile(open, `f${n}`, Buffer.from(`content ${n}`), top);
  const script = `
    import { openMeta } from '${join(import.meta.dirname, '../../lib/registry.ts')}';
    import { cloneTree } from '${join(import.meta.dirname, '../../fs-gateway/tools/clone.ts')}';
    import { systemClock } from '${join(import.meta.dirname, '../../lib/clock.ts')}';
    const engine = await openMeta(process.argv[1], { kind: 'tool', leaseMs: 1000 });
    const commit = engine.commit.bind(engine);
    let commits = 0;
    engine.commit = async (change) => {
      const result = await commit(change);
      if (++commits === 2) process.kill(process.pid, 'SIGKILL');
      return result;
    };
    await cloneTree({ engine, volume: 'lake', clock: systemClock }, '/top', '/copy');`;
  const child = spawn(process.execPath, ['--input-type=module-typescript', '-e', script, volume.metaUrl], {
    stdio: 'ignore',
  });
  onTestFinished(() => void child.kill('SIGKILL'));
  expect(await once(child, 'exit')).toEqual([null, 'SIGKILL']);
  // In the middle of it.
  expect(await engine.count(keys.buildings)).toBe(1);
  expect(await namesIn(await reader(all), 1n)).toEqual(['top']);
  await expectSound(all.volume);
  // Its session has to be over before gc takes its work for abandoned.
  await expect.poll(async () => (await gcLater(all)).abandonedTrees).toBe(1);
  expect(await engine.count(keys.buildings)).toBe(0);
  await open.close();
  await gcLater(all);
  const [inodes] = await engine.readNumbers([keys.counter('inodes')]);
  expect(inodes).toBe(602n);
  await expectSound(all.volume);
});

describe.skipIf(cannotMount())('on a mount', () => {
  test('clone takes paths of the mount, with what programs have written until then', async () => {
    const mount = await mountTestVolume();
    mkdirSync(join(mount.mountpoint, 'a/b'), { recursive: true });
    writeFileSync(join(mount.mountpoint, 'a/b/f'), 'content');
    const target = join(mount.mountpoint, 'copy');
    expect(await clonePath(join(mount.mountpoint, 'a'), target)).toMatchObject({
      path: target,
      files: 1,
      directories: 2,
    });
    await expect.poll(() => readFileSync(join(target, 'b/f'), 'utf8')).toBe('content');
    await expect(clonePath(join(mount.mountpoint, 'a'), target)).rejects.toMatchObject({ code: 'exists' });
    await expect(clonePath(join(mount.mountpoint, 'a'), '/tmp/x')).rejects.toMatchObject({ code: 'not-found' });
  });
});
