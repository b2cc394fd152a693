import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { formatVolume } from '../../fs-gateway/main.ts';
import { MetaCache } from '../../fs-gateway/meta/cache.ts';
import { DirectoryPages } from '../../fs-gateway/meta/directory-pages.ts';
import type { OpenVolume } from '../../fs-gateway/open-volume.ts';
import { caller, openTestVolume } from '../support/fs-volume.ts';
import { startRedis } from '../support/redis.ts';
import { replaceMethod } from '../support/replace-method.ts';
import { missing } from '../support/services.ts';
import { tempDir } from '../support/temp.ts';

async function directoryOf(open: OpenVolume, count: number): Promise<bigint> {
  const { attributes } = await open.operations.mkdir(caller(), 1n, 'd', 0o755, 0);
  const names = Array.from({ length: count }, (_, n) => `file-${n}`);
  await Promise.all(names.map(async (name) => open.operations.mknod(caller(), attributes.ino, name, 0o100644, 0, 0)));
  return attributes.ino;
}

test.skipIf(missing('redis-server'))(
  'looks at the files of a directory one by one are not a round trip each',
  async () => {
    const open = await volumeOnRedis();
    const a = await open('a');
    const ino = await directoryOf(a, 2500);
    const b = await open('b');
    const passes = watchPasses();
    let trips = 0;
    for (let n = 0; n < 2500; n++) {
      const found = b.operations.lookup(caller(), ino, `file-${n}`);
      if (found instanceof Promise) trips++;
      expect(await found).toHaveProperty('attributes');
      // How many are looked up one by one while it is read depends on the machine.
      await passes.ended();
    }
    // The first looks, some for each page; and again where a standstill of the machine has cost the session, and all that was known with it.
    expect(trips).toBeLessThan(500);

    // What somebody else changes is looked up anew.
    await a.operations.unlink(caller(), ino, 'file-7');
    await expect.poll(async () => b.operations.lookup(caller(), ino, 'file-7')).toHaveProperty('negativeTtlMs');
  },
);

/** Opens clients of one volume, on a Redis of its own. */
async function volumeOnRedis(): Promise<(name: string) => Promise<OpenVolume>> {
  const redis = await startRedis();
  onTestFinished(() => redis.stop());
  const base = tempDir('volume');
  const volume = { base, metaUrl: redis.url(), storeDir: join(base, 'objects') };
  await formatVolume({ metaUrl: volume.metaUrl, storeUrl: `dir:${volume.storeDir}` });
  return (name) => openTestVolume(volume, name);
}

/** Waits for each pass over a directory that looks begin; returns how many entries they have read. */
function watchPasses(): { readonly ended: () => Promise<unknown>; readonly entries: () => number } {
  let pass: Promise<unknown> | undefined;
  let entries = 0;
  const counted = <T>(reading: Promise<T>, count: (read: T) => number): Promise<T> => {
    pass = reading.then((read) => (entries += count(read))).catch(() => undefined);
    return reading;
  };
  replaceMethod(
    DirectoryPages.prototype,
    'load',
    (load) =>
      function (this: DirectoryPages, ...args) {
        return counted(load.apply(this, args), (page) => page.entries.length);
      },
  );
  replaceMethod(
    DirectoryPages.prototype,
    'learn',
    (learn) =>
      function (this: DirectoryPages, ...args) {
        return counted(learn.apply(this, args), (read) => read);
      },
  );
  return { ended: async () => pass, entries: () => entries };
}

test.skipIf(missing('redis-server'))(
  'files that are made in an old directory do not ask for each name whether it is there, until somebody else makes some there',
  async () => {
    const open = await volumeOnRedis();
    const a = await open('a');
    const ino = await directoryOf(a, 1500);
    const b = await open('b');
    const passes = watchPasses();
    let asked = 0;
    const make = async (name: string): Promise<void> => {
      const found = b.operations.lookup(caller(), ino, name);
      if (found instanceof Promise) asked++;
      expect(await found).toHaveProperty('negativeTtlMs');
      await b.operations.mknod(caller(), ino, name, 0o100644, 0, 0);
      await passes.ended();
    };
    for (let n = 0; n < 400; n++) await make(`alone-${n}`);
    // Eight; and again where a standstill of the machine has cost the session, and all that was known with it.
    expect(asked).toBeLessThan(100);
    expect(passes.entries()).toBeLessThan(20_000);
    await expect(b.operations.mknod(caller(), ino, 'file-7', 0o100644, 0, 0)).rejects.toThrow('exists');

    await a.operations.mknod(caller(), ino, 'theirs', 0o100644, 0, 0);
    await expect.poll(async () => b.operations.lookup(caller(), ino, 'theirs')).toHaveProperty('attributes');
    asked = 0;
    for (let n = 0; n < 20; n++) await make(`beside-${n}`);
    expect(asked).toBe(20);
  },
);

test.skipIf(missing('redis-server'))(
  'looks for which the cache has no room read a directory ahead for a few entries each, not whole again and again',
  async () => {
    const open = await volumeOnRedis();
    const a = await open('a');
    const ino = await directoryOf(a, 300);
    const passes = watchPasses();
    replaceMethod(MetaCache.prototype, 'entry', () => () => undefined);
    for (let n = 0; n < 2000; n++) {
      const name = `file-${n % 300}`;
      expect(await a.operations.lookup(caller(), ino, name)).toHaveProperty('attributes');
      await passes.ended();
    }
    expect(passes.entries()).toBeLessThanOrEqual(5000 + 2000 * 4);
  },
);

test.skipIf(missing('redis-server'))(
  'a listing that is under way when an entry changes gives the rest of its page as names only',
  async () => {
    const redis = await startRedis();
    onTestFinished(() => redis.stop());
    const base = tempDir('volume');
    const volume = { base, metaUrl: redis.url(), storeDir: join(base, 'objects') };
    await formatVolume({ metaUrl: volume.metaUrl, storeUrl: `dir:${volume.storeDir}` });
    const open = await openTestVolume(volume, 'a');
    const ino = await directoryOf(open, 50);
    const { handle } = await open.operations.opendir(caller(), ino, 0);
    const given: { name: string; cookie: bigint; known: boolean }[] = [];
    const read = async (limit: number): Promise<void> => {
      const end = given.length + limit;
      await open.operations.readdir(caller(), ino, handle, given.at(-1)?.cookie ?? 0n, true, (entry) => {
        if (given.length >= end) return false;
        given.push({ name: entry.name, cookie: entry.cookie, known: entry.entry !== undefined });
        return true;
      });
    };
    await read(12);
    const seen = new Set(given.map(({ name }) => name));
    const gone = Array.from({ length: 50 }, (_, n) => `file-${n}`).find((name) => !seen.has(name)) ?? '';
    await open.operations.rename(caller(), ino, gone, ino, 'renamed', 0);
    await read(100);
    expect(given.slice(2, 12).every(({ known }) => known)).toBe(true);
    expect(given.slice(12).some(({ known }) => known)).toBe(false);
  },
);

test.skipIf(missing('redis-server'))(
  'the kernel keeps a listing until somebody else changes the directory',
  async () => {
    const redis = await startRedis();
    onTestFinished(() => redis.stop());
    const base = tempDir('volume');
    const volume = { base, metaUrl: redis.url(), storeDir: join(base, 'objects') };
    await formatVolume({ metaUrl: volume.metaUrl, storeUrl: `dir:${volume.storeDir}` });
    const a = await openTestVolume(volume, 'a');
    const b = await openTestVolume(volume, 'b');
    const open = async (): Promise<boolean | undefined> => (await a.operations.opendir(caller(), 1n, 0)).keepCache;
    expect([await open(), await open()]).toEqual([false, true]);
    await b.operations.mkdir(caller(), 1n, 'new', 0o755, 0);
    await expect.poll(open).toBe(false);
    expect(await open()).toBe(true);
  },
);
