import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { cloneTree, createSnapshot, deleteSnapshot, listSnapshots } from '../../fs-gateway/tools/clone.ts';
import type { CloneOptions } from '../../fs-gateway/tools/clone.ts';
import { clonePath } from '../../fs-gateway/tools/main.ts';
import { getQuota, setQuota } from '../../fs-gateway/tools/quota.ts';
import { Errno } from '../../fs-gateway/vfs/operations.ts';
import { PenstockError } from '../../lib/errors.ts';
import type { MetaEngine } from '../../lib/meta/engine.ts';
import { InstantLostError } from '../../lib/meta/instant-lost.ts';
import { prepareListing } from '../../lib/volume/lake-listing.ts';
import { clonedLakeObjects } from '../../lib/volume/references.ts';
import { FaultPlan } from '../support/fault.ts';
import { faultyEngine } from '../support/faulty-engine.ts';
import { caller, mountTestVolume, testVolume } from '../support/fs-volume.ts';
import { cannotMount } from '../support/services.ts';
import { contentAt, errnoOf, makeDirectory, namesIn, walk, writeFile } from './volume-files.ts';
import { onBothServices, openEngine, gcLater, countBlocks, expectSound } from './volume-bench.ts';
import type { NewVolume } from './volume-bench.ts';
import { bench, expectTree, keys, LARGE, makeTree, OPTIONS, reader } from './clone-tree.ts';
import type { Bench } from './clone-tree.ts';

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

test('a copy has what was there at its instant, and nothing that was made while it was copied', async () => {
  const all = await bench(await testVolume(OPTIONS));
  const { open, options, engine } = all;
  const top = await makeDirectory(open, 'top');
  for (let n = 0; n < 120; n++) await writeFile(open, `f${n}`, Buffer.from('f'), top);
  let commits = 0;
  const watched: MetaEngine = {
    ...faultyEngine(engine, new FaultPlan()),
    async commit(transaction) {
      // The instant was before the third one.
      if (++commits === 3) {
        await writeFile(open, 'new', Buffer.from('x'), top);
        for (let n = 0; n < 120; n++) await open.operations.unlink(caller(), top, `f${n}`);
      }
      return engine.commit(transaction);
    },
  };
  expect(await cloneTree({ ...options, engine: watched }, '/top', '/a')).toMatchObject({
    consistent: true,
    files: 120,
  });
  const names = await namesIn(await reader(all), await walk(await reader(all), '/a'));
  expect(names).toHaveLength(120);
  expect(names).not.toContain('new');
  await expectSound(all.volume);
});

test.each(['has none', 'loses each'])(
  'where the engine %s, a copy does without an instant and says so',
  async (how) => {
    const all = await bench(await testVolume(OPTIONS));
    await makeTree(all);
    const without: MetaEngine = {
      ...faultyEngine(all.engine, new FaultPlan()),
      async instant(tag) {
        if (how === 'has none') throw new PenstockError('unsupported', 'a session of an older Penstock');
        const lost = (): Promise<never> =>
          Promise.reject(new InstantLostError('test:', 'too much was changed meanwhile'));
        const instant = await all.engine.instant(tag);
        return { ...faultyEngine(all.engine, new FaultPlan()), read: lost, close: () => instant.close() };
      },
    };
    expect(await cloneTree({ ...all.options, engine: without }, '/top', '/copy')).toMatchObject({ consistent: false });
    await expectTree(await reader(all), '/copy');
    await gcLater(all);
    await expectSound(all.volume);
  },
);

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
