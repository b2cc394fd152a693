import { expect, test } from 'vitest';
import { DirectoryPages } from '../../fs-gateway/meta/directory-pages.ts';
import { VolumeView } from '../../fs-gateway/meta/view.ts';
import type { OpenVolume } from '../../fs-gateway/open-volume.ts';
import { NameSet } from '../../fs-gateway/vfs/name-set.ts';
import type { DirectoryEntry } from '../../fs-gateway/vfs/operations.ts';
import { caller, openTestVolume, testVolume } from '../support/fs-volume.ts';
import { replaceMethod } from '../support/replace-method.ts';

test('a set of names knows each of 200,000 once', () => {
  const set = new NameSet();
  const names = Array.from({ length: 200_000 }, (_, i) => `file-${i}`);
  expect(names.filter((name) => !set.add(name))).toEqual([]);
  expect(names.filter((name) => set.add(name))).toEqual([]);
  set.clear();
  expect(set.add('file-0')).toBe(true);
});

/** Reads up to `count` entries behind `cookie`, as one READDIR does. */
async function page(
  open: OpenVolume,
  handle: bigint,
  cookie: bigint,
  count: number,
  directory = 1n,
): Promise<DirectoryEntry[]> {
  const entries: DirectoryEntry[] = [];
  await open.operations.readdir(caller(), directory, handle, cookie, true, (entry) => {
    if (entries.length >= count) return false;
    entries.push(entry);
    return true;
  });
  return entries;
}

test('cookies stay good: pages of any size, a seek back, entries that go away, a handle of a worker that died', async () => {
  const volume = await testVolume();
  const open = await openTestVolume(volume);
  for (let i = 0; i < 2300; i++) await open.operations.mknod(caller(), 1n, `n${i}`, 0o100644, 0, 0);
  const { handle } = await open.operations.opendir(caller(), 1n, 0);
  const seen: DirectoryEntry[] = [];
  for (let cookie = 0n; ;) {
    const entries = await page(open, handle, cookie, 137);
    const last = entries.at(-1);
    if (last === undefined) break;
    seen.push(...entries);
    cookie = last.cookie;
  }
  const names = seen.map((entry) => entry.name);
  expect(names.slice(0, 2)).toEqual(['.', '..']);
  expect(new Set(names).size).toBe(2302);
  expect(names).toHaveLength(2302);
  expect(seen.at(-1)?.entry?.attributes.mode).toBe(0o100644);

  // telldir and seekdir: what followed a position follows it again, without what is gone meanwhile.
  const [removed, from] = [seen[501]?.name ?? '', seen[500]?.cookie ?? 0n];
  await open.operations.unlink(caller(), 1n, removed);
  expect((await page(open, handle, from, 5)).map((entry) => entry.name)).toEqual(names.slice(502, 507));
  await open.close();
  const next = await openTestVolume(volume);
  const rest = (await page(next, handle, seen[1500]?.cookie ?? 0n, 5000)).map((entry) => entry.name);
  expect(rest.sort()).toEqual(names.slice(1501).sort());
});

test('what a scan gives again is given once, also where a reply was full at the end of a page', async () => {
  const volume = await testVolume();
  const first = await openTestVolume(volume);
  for (const name of ['a', 'b', 'c']) await first.operations.mknod(caller(), 1n, name, 0o100644, 0, 0);
  await first.close();
  const open = await openTestVolume(volume);
  // As HSCAN does while Redis makes the table larger.
  replaceMethod(
    DirectoryPages.prototype,
    'scan',
    (scan) =>
      async function (this: DirectoryPages, directory, cursor, limit) {
        const { entries } = await scan.call(this, directory, '', limit);
        const names = cursor === '' ? ['a', 'b'] : ['b', 'c'];
        return {
          entries: entries.filter(([name]) => names.includes(name)),
          cursor: cursor === '' ? 'second' : null,
        };
      },
  );
  const { handle } = await open.operations.opendir(caller(), 1n, 0);
  const given = await page(open, handle, 0n, 4);
  const rest = await page(open, handle, given.at(-1)?.cookie ?? 0n, 4);
  expect([...given, ...rest].map(({ name }) => name).toSorted()).toEqual(['.', '..', 'a', 'b', 'c']);
});

test('a directory that was made here is listed from what is known of it, and its cookies stay good, also when others change it', async () => {
  const volume = await testVolume();
  const [open, other] = [await openTestVolume(volume), await openTestVolume(volume, 'other')];
  const ino = (await open.operations.mkdir(caller(), 1n, 'made', 0o755, 0)).attributes.ino;
  for (let i = 0; i < 1050; i++) await open.operations.mknod(caller(), ino, `n${i}`, 0o100644, 0, 0);
  await open.operations.unlink(caller(), ino, 'n7');
  await open.operations.rename(caller(), ino, 'n8', ino, 'm8', 0);
  const expected = Array.from({ length: 1050 }, (_, i) => (i === 8 ? 'm8' : `n${i}`)).filter((name) => name !== 'n7');

  const { handle } = await open.operations.opendir(caller(), ino, 0);
  const seen: DirectoryEntry[] = [];
  for (let cookie = 0n; ;) {
    const entries = await page(open, handle, cookie, 137, ino);
    const last = entries.at(-1);
    if (last === undefined) break;
    seen.push(...entries);
    cookie = last.cookie;
  }
  const names = seen.map(({ name }) => name);
  expect(names.toSorted()).toEqual(['.', '..', ...expected].toSorted());

  // Another mount makes and removes entries: a listing that begins afterwards shows it, one under way goes on where it was.
  await other.operations.unlink(caller(), ino, 'm8');
  await other.operations.mknod(caller(), ino, 'theirs', 0o100644, 0, 0);
  const changed = expected.filter((name) => name !== 'm8').concat('theirs');
  await expect
    .poll(async () => (await page(open, handle, 0n, 5000, ino)).map(({ name }) => name).toSorted())
    .toEqual(['.', '..', ...changed].toSorted());
  await open.close();
  // The next worker knows nothing of it, and goes on with a listing of the one before.
  const next = await openTestVolume(volume);
  const counts = countsRead();
  // An engine that reads thousands of inodes for one listing keeps all others waiting.
  await page(next, handle, seen[2]?.cookie ?? 0n, 5000, ino);
  expect(Math.max(...counts)).toBe(1000);
  const rest = (await page(next, handle, seen[700]?.cookie ?? 0n, 5000, ino)).map(({ name }) => name);
  const behind = names.slice(701).filter((name) => name !== 'm8');
  expect(rest.filter((name) => name !== 'theirs').toSorted()).toEqual(behind.toSorted());
});

/** How many inodes listings ask the engine for at a time, from now on. */
function countsRead(): readonly number[] {
  const counts: number[] = [];
  replaceMethod(
    VolumeView.prototype,
    'nodes',
    (nodes) =>
      async function (this: VolumeView, inos) {
        counts.push(inos.length);
        return nodes.call(this, inos);
      },
  );
  return counts;
}
