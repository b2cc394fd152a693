import { expect, test } from 'vitest';
import { MetaCache } from '../../fs-gateway/meta/cache.ts';
import { Change } from '../../fs-gateway/meta/change.ts';
import { Quotas } from '../../fs-gateway/meta/quotas.ts';
import type { Version } from '../../lib/meta/engine.ts';
import { newInode, S_IFREG } from '../../lib/volume/inode.ts';
import { VolumeKeys } from '../../lib/volume/keys.ts';

const version = 'v' as Version; // opaque
const node = { ino: 7, version, inode: newInode(S_IFREG, 0, 0, 1n), entriesChangedNs: 0n, subdirectories: 0 };

test('an answer that a change overtook is not kept, whichever of several readers gets it', () => {
  const cache = new MetaCache(100);
  const [first, second] = [cache.beginNode(7), cache.beginNode(7)];
  expect(cache.endNode(7, first)).toBe(true);
  cache.dropNode(7);
  expect(cache.endNode(7, second)).toBe(false);
  expect(cache.endNode(7, cache.beginNode(7))).toBe(true);
  const during = cache.beginEntry(1, 'name');
  cache.clear();
  expect(cache.endEntry(1, 'name', during)).toBe(false);
});

test('a directory made here answers for names that it does not have, until somebody else touches it', () => {
  const cache = new MetaCache(100);
  cache.endDirectory(5, cache.beginDirectory(5), true);
  expect(cache.entry(5, 'x')).toBeNull();
  cache.putEntry(5, 'x', { ino: 7, type: 8, version, heldAt: version });
  expect(cache.entry(5, 'x')).toMatchObject({ ino: 7 });
  cache.putEntry(5, 'absent', null);
  cache.putEntry(5, 'w', { ino: 8, type: 8, version, heldAt: version });
  cache.changeEntry(5, 'w', null);
  expect([...(cache.entriesOf(5) ?? [])]).toEqual([['x', { ino: 7, type: 8, version, heldAt: version }]]);
  cache.dropEntry(5, 'y');
  expect(cache.entry(5, 'z')).toBeUndefined();
  expect(cache.entriesOf(5)).toBeUndefined();
  // Somebody was faster than the answer of our own commit.
  const reading = cache.beginDirectory(6);
  cache.dropEntry(6, 'theirs');
  cache.endDirectory(6, reading, true);
  expect(cache.entry(6, 'theirs')).toBeUndefined();
});

test('what was not used for long is forgotten, and only the directories that lost entries are not complete any more', () => {
  const cache = new MetaCache(100);
  cache.endDirectory(6, cache.beginDirectory(6), true);
  cache.endDirectory(5, cache.beginDirectory(5), true);
  cache.putNode(node);
  for (let i = 0; i < 60; i++) cache.putNode({ ...node, ino: 100 + i });
  expect(cache.node(7)).toBe(node);
  for (let i = 0; i < 200; i++) {
    cache.putNode({ ...node, ino: 1000 + i });
    cache.putEntry(5, `n${i}`, { ino: 1000 + i, type: 8, version, heldAt: version });
  }
  expect(cache.node(7)).toBeUndefined();
  expect(cache.entry(5, 'n0')).toBeUndefined();
  expect(cache.entriesOf(5)).toBeUndefined();
  expect(cache.entry(6, 'absent')).toBeNull();
});

test('of directories that are made and stay empty, or are removed, as many are known as of inodes', () => {
  const cache = new MetaCache(100);
  for (let ino = 1; ino <= 300; ino++) cache.endDirectory(ino, cache.beginDirectory(ino), true);
  const known = Array.from({ length: 300 }, (_, i) => i + 1).filter((ino) => cache.entriesOf(ino) !== undefined);
  expect(known.length).toBeLessThanOrEqual(100);
  expect(known.at(-1)).toBe(300);
  expect(cache.entry(1, 'absent')).toBeUndefined();
});

test('the answer of a commit that news of a later change overtook is not kept either', () => {
  const keys = new VolumeKeys('lake');
  const cache = new MetaCache(100);
  const quotas = new Quotas(
    keys,
    () => Promise.reject(new Error('nothing is read')),
    (read) => read(),
  );
  const [overtaken, quiet] = [new Change(keys, quotas), new Change(keys, quotas)];
  overtaken.updateNode(node, { ...node.inode, nlink: 2 });
  overtaken.putEntry(1, 'name', null, 7, 8);
  overtaken.begin(cache);
  // What another client did after our commit is heard before our answer.
  cache.dropNode(7);
  overtaken.succeed(cache, overtaken.end(cache), version, []);
  expect(cache.node(7)).toBeUndefined();
  expect(cache.entry(1, 'name')).toMatchObject({ ino: 7 });
  quiet.updateNode(node, { ...node.inode, nlink: 3 });
  quiet.begin(cache);
  quiet.succeed(cache, quiet.end(cache), version, []);
  expect(cache.node(7)?.inode.nlink).toBe(3);
});
