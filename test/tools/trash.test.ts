import { expect, onTestFinished, test } from 'vitest';
import type { OpenVolume } from '../../fs-gateway/open-volume.ts';
import { cloneTree } from '../../fs-gateway/tools/clone.ts';
import { collectGarbage } from '../../fs-gateway/tools/gc.ts';
import { getQuota, setQuota } from '../../fs-gateway/tools/quota.ts';
import { TrashCan } from '../../fs-gateway/tools/trash.ts';
import { Errno } from '../../fs-gateway/vfs/operations.ts';
import { systemClock } from '../../lib/clock.ts';
import type { MetaEngine } from '../../lib/meta/engine.ts';
import { openStore } from '../../lib/registry.ts';
import { caller, openTestVolume, testVolume } from '../support/fs-volume.ts';
import type { TestVolume } from '../support/fs-volume.ts';
import { errnoOf, lookUp, makeDirectory, namesIn, writeFile } from './volume-files.ts';
import { onBothServices, openEngine, later, expectSound } from './volume-bench.ts';
import type { NewVolume } from './volume-bench.ts';

const HOUR_MS = 3_600_000;
const OPTIONS = { trash: '1d', blockSize: '64KiB', inlineBytes: '100', grace: '0s' };

interface Bench {
  readonly volume: TestVolume;
  readonly open: OpenVolume;
  readonly engine: MetaEngine;
  /** What it knows is of one moment. */
  readonly trash: () => Promise<TrashCan>;
}

async function bench(volume: TestVolume): Promise<Bench> {
  const open = await openTestVolume(volume);
  const engine = await openEngine(volume);
  return { volume, open, engine, trash: () => TrashCan.open(engine, 'lake', systemClock) };
}

let readers = 0;

/** As a mount that comes now sees it. */
async function content(volume: TestVolume, parent: bigint, name: string): Promise<string> {
  const open = await openTestVolume(volume, `reader${readers++}`);
  return contentOf(open, parent, name);
}

async function contentOf(open: OpenVolume, parent: bigint, name: string): Promise<string> {
  const { ino, size } = await lookUp(open, parent, name);
  return (await open.operations.read(caller(), ino, 0n, 0n, Number(size), 0)).toString();
}

async function walk(open: OpenVolume, names: readonly string[]): Promise<bigint> {
  let ino = 1n;
  for (const name of names) ino = (await lookUp(open, ino, name)).ino;
  return ino;
}

function suite(newVolume: NewVolume): void {
  test('a tree that was removed is in the trash and comes back whole, to every mount', async () => {
    const { volume, open, trash } = await bench(await newVolume(OPTIONS));
    const other = await openTestVolume(volume, 'b');
    const top = await makeDirectory(open, 'top');
    const deep = await makeDirectory(open, 'deep', top);
    await writeFile(open, 'large', Buffer.alloc(200_000, 'x'), deep);
    await writeFile(open, 'small', Buffer.from('small'), top);
    await open.operations.symlink(caller(), top, 'link', Buffer.from('/target'));
    expect(await namesIn(other, top)).toEqual(['deep', 'link', 'small']);
    for (const [parent, name] of [
      [deep, 'large'],
      [top, 'small'],
      [top, 'link'],
    ] as const) {
      await open.operations.unlink(caller(), parent, name);
    }
    await open.operations.rmdir(caller(), top, 'deep');
    await open.operations.rmdir(caller(), 1n, 'top');
    expect(await namesIn(open, 1n)).toEqual([]);
    expect(
      (await (await trash()).list()).map(({ path, kind, bytes }) => `${path ?? '?'} ${kind} ${bytes}`).sort(),
    ).toEqual([
      '/top directory 0',
      '/top/deep directory 0',
      '/top/deep/large file 200000',
      '/top/link symbolic link 7',
      '/top/small file 5',
    ]);
    await expectSound(volume);
    expect(await (await trash()).restore(['/top'])).toEqual({ restored: 5, failed: 0, failures: [] });
    await expect.poll(() => namesIn(other, 1n)).toEqual(['top']);
    const again = (await lookUp(other, 1n, 'top')).ino;
    expect(await namesIn(other, again)).toEqual(['deep', 'link', 'small']);
    expect(await contentOf(other, again, 'small')).toBe('small');
    expect(await contentOf(other, (await lookUp(other, again, 'deep')).ino, 'large')).toBe('x'.repeat(200_000));
    expect(await (await trash()).list()).toEqual([]);
    await expectSound(volume);
  });

  test('what a rename replaces is in the trash too, and comes back under another name', async () => {
    const { volume, open, trash } = await bench(await newVolume(OPTIONS));
    await writeFile(open, 'file', Buffer.from('old'));
    await writeFile(open, 'new', Buffer.from('new'));
    await open.operations.rename(caller(), 1n, 'new', 1n, 'file', 0);
    const [item] = await (await trash()).list();
    expect(item).toMatchObject({ path: '/file', bytes: 3 });
    expect(await (await trash()).restore(['/file'])).toMatchObject({ restored: 0, failed: 1 });
    expect(await (await trash()).restore([String(item?.id)], '/file.old')).toMatchObject({ restored: 1, failed: 0 });
    expect(await content(volume, 1n, 'file.old')).toBe('old');
    expect(await content(volume, 1n, 'file')).toBe('new');
    await expect((await trash()).restore(['/file'])).rejects.toMatchObject({ code: 'not-found' });
    await expectSound(volume);
  });

  test('a clone of what is in the trash is not in the trash', async () => {
    const { volume, open, engine, trash } = await bench(await newVolume(OPTIONS));
    await writeFile(open, 'file', Buffer.alloc(900, 'x'));
    await makeDirectory(open, 'folder');
    await open.operations.unlink(caller(), 1n, 'file');
    await open.operations.rmdir(caller(), 1n, 'folder');
    const removed = await (await trash()).list();
    const [hour] = await namesIn(open, (await lookUp(open, 1n, '.trash')).ino);
    const inTrash = await namesIn(open, await walk(open, ['.trash', hour ?? '']));
    await makeDirectory(open, 'back');
    await setQuota(engine, 'lake', '/back', { bytesMax: 2000 });
    const options = { engine, volume: 'lake', clock: systemClock };
    for (const name of ['file', 'folder']) {
      const found = inTrash.find((entry) => entry.endsWith(`-${name}`)) ?? '';
      await cloneTree(options, `/.trash/${hour ?? ''}/${found}`, `/back/${name}`);
    }
    await cloneTree(options, `/.trash/${hour ?? ''}`, '/back/hour');
    const again = await openTestVolume(volume, 'again');
    const back = (await lookUp(again, 1n, 'back')).ino;
    const { ino, nlink } = await lookUp(again, back, 'file');
    expect(nlink).toBe(1);
    await again.operations.link(caller(), ino, back, 'second name');
    // A directory of the copy can be filled, and what is removed from it goes to the trash like anything else.
    for (const name of ['folder', 'hour']) {
      const directory = (await lookUp(again, back, name)).ino;
      await writeFile(again, `new in ${name}`, Buffer.from('new'), directory);
      await again.operations.unlink(caller(), directory, `new in ${name}`);
    }
    expect(await getQuota(engine, 'lake', '/back')).toMatchObject({ bytes: 1800 });
    const paths = (await (await trash()).list()).map(({ path }) => path);
    expect(paths).toEqual([...removed.map(({ path }) => path), '/back/folder/new in folder', '/back/hour/new in hour']);
    await expectSound(volume);
  });

  test('gc removes what was in the trash for long enough, and its objects', async () => {
    const { volume, open, engine, trash } = await bench(await newVolume(OPTIONS));
    await writeFile(open, 'gone', Buffer.alloc(100_000, 1));
    await makeDirectory(open, 'empty');
    await open.operations.unlink(caller(), 1n, 'gone');
    await open.operations.rmdir(caller(), 1n, 'empty');
    await open.close();
    const store = await openStore(open.format.store);
    onTestFinished(() => store.close());
    const gc = async (hours: number, dryRun = false) =>
      collectGarbage({ uploadMs: 0, engine, store, volume: 'lake', clock: later(hours * HOUR_MS), dryRun });
    expect(await gc(23)).toMatchObject({ expiredTrash: 0, deletedObjects: 0 });
    expect(await gc(26, true)).toMatchObject({ expiredTrash: 2 });
    expect(await gc(26)).toMatchObject({ expiredTrash: 2 });
    expect(await (await trash()).list()).toEqual([]);
    // The store's own times are whole seconds: until the next one the object is not older than the run.
    const objects = async (): Promise<number> => {
      await gc(27);
      let count = 0;
      for await (const { key } of store.list(`${open.format.id}/blocks/`)) count += key.length > 0 ? 1 : 0;
      return count;
    };
    await expect.poll(objects).toBe(0);
    await expectSound(volume);
  });

  test('what is removed makes room in its directory at once, and needs room to come back', async () => {
    const { volume, open, engine, trash } = await bench(await newVolume(OPTIONS));
    const directory = await makeDirectory(open, 'd');
    await setQuota(engine, 'lake', '/d', { bytesMax: 1000 });
    await writeFile(open, 'a', Buffer.alloc(900), directory);
    await open.operations.unlink(caller(), directory, 'a');
    expect(await getQuota(engine, 'lake', '/d')).toMatchObject({ bytes: 0, inodes: 0 });
    // The file, and its hour.
    expect(await getQuota(engine, 'lake', '/.trash')).toMatchObject({ bytes: 900, inodes: 2 });
    await writeFile(open, 'b', Buffer.alloc(500), directory);
    expect((await (await trash()).restore(['/d/a'])).failures.join()).toContain('full');
    await open.operations.unlink(caller(), directory, 'b');
    expect(await (await trash()).restore(['/d/a'])).toMatchObject({ restored: 1 });
    expect(await getQuota(engine, 'lake', '/d')).toMatchObject({ bytes: 900, inodes: 1 });
    await expectSound(volume);
  });
}

onBothServices(suite);

test('a file that is open when it is removed goes on, has no links, and is whole in the trash', async () => {
  const { volume, open, trash } = await bench(await testVolume(OPTIONS));
  const { entry, open: file } = await open.operations.create(caller(), 1n, 'f', 0o644, 2, 0);
  const { ino } = entry.attributes;
  await open.operations.write(caller(), ino, file.handle, 0n, Buffer.from('before '), 2, false);
  await open.operations.unlink(caller(), 1n, 'f');
  expect((await open.operations.getattr(caller(), ino, file.handle)).attributes.nlink).toBe(0);
  expect(await errnoOf(() => open.operations.link(caller(), ino, 1n, 'again'))).toBe(Errno.ENOENT);
  await open.operations.write(caller(), ino, file.handle, 7n, Buffer.from('after'), 2, false);
  await open.operations.flush(caller(), ino, file.handle, 0n);
  await open.operations.release(caller(), ino, file.handle, undefined);
  await (await trash()).restore(['/f']);
  expect(await content(volume, 1n, 'f')).toBe('before after');
  await expectSound(volume);
});

test('the trash takes only what is removed: its name is reserved, nothing is made in it, and removing from it is final', async () => {
  const { volume, open, trash } = await bench(await testVolume(OPTIONS));
  expect(await errnoOf(() => makeDirectory(open, '.trash'))).toBe(Errno.EPERM);
  const directory = await makeDirectory(open, 'd');
  await writeFile(open, 'f', Buffer.from('f'), directory);
  await open.operations.unlink(caller(), directory, 'f');
  await open.operations.rmdir(caller(), 1n, 'd');
  // A program may stand in it.
  expect(await errnoOf(() => makeDirectory(open, 'x', directory))).toBe(Errno.ENOENT);
  const can = await lookUp(open, 1n, '.trash');
  expect([can.uid, can.mode & 0o777]).toEqual([0, 0o700]);
  expect(await errnoOf(() => makeDirectory(open, 'x', can.ino))).toBe(Errno.EPERM);
  expect(await errnoOf(() => open.operations.rename(caller(), 1n, '.trash', 1n, 'mine', 0))).toBe(Errno.EPERM);
  const [hourName = ''] = await namesIn(open, can.ino);
  const hour = (await lookUp(open, can.ino, hourName)).ino;
  expect(await errnoOf(() => open.operations.rename(caller(), can.ino, hourName, 1n, 'mine', 0))).toBe(Errno.EPERM);
  const [first = '', second = ''] = await namesIn(open, hour);
  expect(await errnoOf(() => open.operations.rename(caller(), hour, first, hour, 'x', 0))).toBe(Errno.EPERM);
  const [file, folder] = first.endsWith('-f') ? [first, second] : [second, first];
  // Root may move things out of it through a mount.
  await open.operations.rename(caller(), hour, file, 1n, 'back', 0);
  expect(await content(volume, 1n, 'back')).toBe('f');
  await open.operations.rmdir(caller(), hour, folder);
  expect(await (await trash()).list()).toEqual([]);
  await expectSound(volume);
});

test('of several files that had one path the last comes back; long names and bytes are kept', async () => {
  const { volume, open, trash } = await bench(await testVolume(OPTIONS));
  const long = '\xff'.repeat(255);
  for (const text of ['one', 'two', 'three']) {
    await writeFile(open, 'f', Buffer.from(text));
    await writeFile(open, long, Buffer.from(text));
    await open.operations.unlink(caller(), 1n, 'f');
    await open.operations.unlink(caller(), 1n, long);
  }
  expect(await (await trash()).restore(['/f'])).toMatchObject({ restored: 1 });
  expect(await content(volume, 1n, 'f')).toBe('three');
  const ids = (await (await trash()).list()).filter(({ path }) => path !== '/f').map(({ id }) => String(id));
  expect(ids).toHaveLength(3);
  await (await trash()).restore([ids[1] ?? '']);
  expect(await content(volume, 1n, long)).toBe('two');
  expect(await (await trash()).empty(Date.now() - HOUR_MS)).toBe(0);
  expect(await (await trash()).empty(Number.POSITIVE_INFINITY)).toBe(4);
  expect(await (await trash()).list()).toEqual([]);
  await open.close();
  await expectSound(volume);
});

test('where another directory has the place of a removed one, what was in it comes back there', async () => {
  const { volume, open, trash } = await bench(await testVolume(OPTIONS));
  const first = await makeDirectory(open, 'd');
  await writeFile(open, 'old', Buffer.from('old'), first);
  await open.operations.unlink(caller(), first, 'old');
  await open.operations.rmdir(caller(), 1n, 'd');
  const second = await makeDirectory(open, 'd');
  await writeFile(open, 'new', Buffer.from('new'), second);
  expect(await (await trash()).restore(['/d/old'])).toMatchObject({ restored: 1, failed: 0 });
  // The tool is another client of the volume.
  await expect.poll(() => namesIn(open, second)).toEqual(['new', 'old']);
  await (await trash()).empty(Number.POSITIVE_INFINITY);
  await writeFile(open, 'lone', Buffer.from('x'), second);
  for (const name of ['new', 'old', 'lone']) await open.operations.unlink(caller(), second, name);
  await open.operations.rmdir(caller(), 1n, 'd');
  // The directory is removed for good, what was in it is not.
  const can = await lookUp(open, 1n, '.trash');
  const [hourName = ''] = await namesIn(open, can.ino);
  const hour = (await lookUp(open, can.ino, hourName)).ino;
  const folder = (await namesIn(open, hour)).find((name) => name.endsWith('-d'));
  await open.operations.rmdir(caller(), hour, folder ?? '');
  const [lone] = (await (await trash()).list()).filter(({ bytes }) => bytes === 1);
  expect(lone?.path).toBeNull();
  expect((await (await trash()).restore([String(lone?.id)])).failures.join()).toContain('--to');
  expect(await (await trash()).restore([String(lone?.id)], '/here')).toMatchObject({ restored: 1 });
  await expectSound(volume);
});
