import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { formatVolume } from '../../fs-gateway/main.ts';
import { VolumeView } from '../../fs-gateway/meta/view.ts';
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
    const redis = await startRedis();
    onTestFinished(() => redis.stop());
    const base = tempDir('volume');
    const volume = { base, metaUrl: redis.url(), storeDir: join(base, 'objects') };
    await formatVolume({ metaUrl: volume.metaUrl, storeUrl: `dir:${volume.storeDir}` });
    const a = await openTestVolume(volume, 'a');
    const ino = await directoryOf(a, 2500);
    const b = await openTestVolume(volume, 'b');
    let page: Promise<unknown> | undefined;
    replaceMethod(
      VolumeView.prototype,
      'loadEntries',
      (load) =>
        function (this: VolumeView, ...args) {
          const loading = load.apply(this, args);
          page = loading.catch(() => undefined);
          return loading;
        },
    );
    let trips = 0;
    for (let n = 0; n < 2500; n++) {
      const found = b.operations.lookup(caller(), ino, `file-${n}`);
      if (found instanceof Promise) trips++;
      expect(await found).toHaveProperty('attributes');
      // How many are looked up one by one while it is read depends on the machine.
      await page;
    }
    // The first looks, some for each page; and again where a standstill of the machine has cost the session, and all that was known with it.
    expect(trips).toBeLessThan(500);

    // What somebody else changes is looked up anew.
    await a.operations.unlink(caller(), ino, 'file-7');
    await expect.poll(async () => b.operations.lookup(caller(), ino, 'file-7')).toHaveProperty('negativeTtlMs');
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
