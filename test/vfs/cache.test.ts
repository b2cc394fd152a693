import fc from 'fast-check';
import { expect, test } from 'vitest';
import { MetaCache } from '../../fs-gateway/meta/cache.ts';
import type { CachedEntry, Learning, Reading } from '../../fs-gateway/meta/cache.ts';
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

test('names that are renamed or removed take no room in a directory that is known whole', () => {
  const cache = new MetaCache(100);
  cache.endDirectory(5, cache.beginDirectory(5), true);
  cache.putEntry(5, 'x', { ino: 7, type: 8, version, heldAt: version });
  for (let i = 0; i < 200; i++) cache.changeEntry(5, `gone-${i}`, null);
  expect(cache.entry(5, 'x')).toMatchObject({ ino: 7 });
  expect(cache.entry(5, 'gone-7')).toBeNull();
});

test('two passes over one directory at a time: one of them learns it', () => {
  const cache = new MetaCache(100);
  const learning = cache.beginLearning(5);
  expect(cache.beginLearning(5)).toBeUndefined();
  const entry = { ino: 7, type: 8, version, heldAt: version };
  cache.changeEntry(5, 'x', entry);
  if (learning !== undefined) cache.endLearning(learning, new Map());
  expect([...(cache.entriesOf(5) ?? [])]).toEqual([['x', entry]]);
  expect(cache.beginLearning(5)).toBeDefined();
});

const DIRECTORY = 5;
const NAMES = Array.from({ length: 12 }, (_, n) => `name-${n}`);
const PAGE = 4;

/** A directory, what news of it are under way, and a client's cache that reads it. */
class Client {
  readonly cache = new MetaCache(64);
  readonly truth = new Map<string, CachedEntry>();
  readonly #news: string[] = [];
  readonly #looks: { readonly name: string; readonly reading: Reading; readonly entry: CachedEntry | null }[] = [];
  #learning: { readonly of: Learning | undefined; readonly read: Map<string, CachedEntry>; at: number } | undefined;
  #changes = 0;

  #set(name: string, removes: boolean): CachedEntry | null {
    const stamp = `v${++this.#changes}` as Version; // opaque
    const entry = { ino: 100 + this.#changes, type: 8, version: stamp, heldAt: stamp };
    if (removes) this.truth.delete(name);
    else this.truth.set(name, entry);
    return removes ? null : entry;
  }

  own(name: string, removes: boolean): void {
    this.cache.changeEntry(DIRECTORY, name, this.#set(name, removes));
  }

  others(name: string, removes: boolean): void {
    this.#set(name, removes);
    this.#news.push(name);
  }

  hear(): void {
    const name = this.#news.shift();
    if (name !== undefined) this.cache.dropEntry(DIRECTORY, name);
  }

  look(name: string): void {
    const reading = this.cache.beginEntry(DIRECTORY, name);
    this.#looks.push({ name, reading, entry: this.truth.get(name) ?? null });
  }

  answer(): void {
    const look = this.#looks.shift();
    if (look === undefined) return;
    if (this.cache.endEntry(DIRECTORY, look.name, look.reading)) this.cache.putEntry(DIRECTORY, look.name, look.entry);
  }

  /** The next page of a pass over the directory. */
  page(): void {
    this.#learning ??= { of: this.cache.beginLearning(DIRECTORY), read: new Map<string, CachedEntry>(), at: 0 };
    const { of, read, at } = this.#learning;
    for (const name of NAMES.slice(at, at + PAGE)) {
      const entry = this.truth.get(name);
      if (entry !== undefined) read.set(name, entry);
    }
    this.#learning.at += PAGE;
    if (this.#learning.at < NAMES.length) return;
    this.#learning = undefined;
    if (of !== undefined) this.cache.endLearning(of, read);
  }

  /** Other directories want room. */
  crowd(count: number): void {
    for (let n = 0; n < count; n++) this.cache.putEntry(9, `other-${++this.#changes}`, null);
  }

  /** What others did until now is never told. */
  gap(): void {
    this.#news.length = 0;
    this.cache.clear();
  }

  settle(): void {
    while (this.#looks.length > 0) this.answer();
    while (this.#learning !== undefined) this.page();
    while (this.#news.length > 0) this.hear();
  }
}

test('whatever happens while a directory is learned, the cache believes nothing wrong of it once all news were heard', () => {
  const name = fc.constantFrom(...NAMES);
  const step = fc.oneof(
    fc.tuple(fc.constantFrom('own' as const, 'others' as const), name, fc.boolean()),
    fc.tuple(fc.constant('look' as const), name),
    fc.tuple(fc.constantFrom('page' as const, 'page' as const, 'hear' as const, 'answer' as const)),
    fc.tuple(fc.constant('crowd' as const), fc.nat(40)),
    fc.tuple(fc.constant('gap' as const)),
  );
  let learned = 0;
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const client = new Client();
      for (const one of steps) {
        if (one[0] === 'own' || one[0] === 'others') client[one[0]](one[1], one[2]);
        else if (one[0] === 'look') client.look(one[1]);
        else if (one[0] === 'crowd') client.crowd(one[1]);
        else client[one[0]]();
      }
      client.settle();
      const { cache, truth } = client;
      for (const each of NAMES) {
        const known = cache.entry(DIRECTORY, each);
        if (known !== undefined) expect(known?.version).toBe(truth.get(each)?.version);
      }
      const all = cache.entriesOf(DIRECTORY);
      if (all === undefined) return;
      learned++;
      expect(new Map([...all].map(([key, entry]) => [key, entry.ino]))).toEqual(
        new Map([...truth].map(([key, entry]) => [key, entry.ino])),
      );
    }),
    { numRuns: 5000 },
  );
  expect(learned).toBeGreaterThan(100);
});
