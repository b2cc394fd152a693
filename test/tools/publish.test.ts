/** Objects of other programs as files, without a copy: of one version, and never ours to delete. */
import { expect, test } from 'vitest';
import { publishObjects } from '../../fs-gateway/tools/publish.ts';
import type { PublishReport } from '../../fs-gateway/tools/publish.ts';
import { fsckVolume } from '../../fs-gateway/tools/main.ts';
import { getQuota, setQuota } from '../../fs-gateway/tools/quota.ts';
import { Errno } from '../../fs-gateway/vfs/operations.ts';
import { systemClock } from '../../lib/clock.ts';
import { caller, openTestVolume, testVolume } from '../support/fs-volume.ts';
import { contentAt, errnoOf, lookUp, makeDirectory, namesIn, removeFile, walk } from './volume-files.ts';
import { expectSound, gcLater, onBothServices, openBench } from './volume-bench.ts';
import type { VolumeBench } from './volume-bench.ts';

const OPTIONS = { blockSize: '64KiB', inlineBytes: '100', grace: '0s' };
const SHARD = Buffer.alloc(5_000_000, 'shard ');

function publish({ engine, store }: VolumeBench, key: string, path: string): Promise<PublishReport> {
  const folder = key.endsWith('/');
  const location = store.location(folder ? key.slice(0, -1) : key) + (folder ? '/' : '');
  return publishObjects({ engine, volume: 'lake', clock: systemClock }, store, location, path);
}

async function codeOf(work: Promise<unknown>): Promise<string> {
  return work.then(
    () => 'done',
    (error: unknown) => (error instanceof Error && 'code' in error ? String(error.code) : String(error)),
  );
}

onBothServices((newVolume) => {
  test('a folder of objects is a tree of files, which can be read, changed and removed, and the objects stay as they are', async () => {
    const all = await openBench(await newVolume(OPTIONS));
    const { store, open } = all;
    await store.put('raw/a/shard-0', SHARD);
    await store.put('raw/a/empty', Buffer.alloc(0));
    await store.put('raw/ünı', Buffer.from('name in UTF-8'));
    for (let n = 0; n < 250; n++) await store.put(`raw/many/${n}`, Buffer.from(`object ${n}`));
    const report = await publish(all, 'raw/', '/set');
    expect(report).toMatchObject({ files: 253, directories: 3, skipped: 0, problems: [] });
    const other = await openTestVolume(all.volume, 'b');
    expect(await namesIn(other, await walk(other, '/set'))).toEqual([
      'a',
      'many',
      Buffer.from('ünı').toString('latin1'),
    ]);
    expect((await contentAt(other, '/set/a/shard-0')).equals(SHARD)).toBe(true);
    expect(await contentAt(other, '/set/a/empty')).toHaveLength(0);
    expect((await contentAt(other, '/set/many/249')).toString()).toBe('object 249');
    const ino = await walk(other, '/set/many/7');
    await other.operations.write(caller(), ino, 0n, 0n, Buffer.from('OBJ'), 2, false);
    await other.operations.fsync(caller(), ino, 0n, false);
    expect((await contentAt(await openTestVolume(all.volume, 'c'), '/set/many/7')).toString()).toBe('OBJect 7');
    await other.operations.unlink(caller(), await walk(other, '/set/many'), '8');
    await other.operations.drain();
    await Promise.all([open.close(), other.close()]);
    await gcLater(all);
    expect((await store.get('raw/many/7')).toString()).toBe('object 7');
    expect((await store.get('raw/many/8')).toString()).toBe('object 8');
    await expectSound(all.volume);
  });

  test('an object that is written again is EIO under the old name, never a mix, and fsck names it', async () => {
    const all = await openBench(await newVolume(OPTIONS));
    const { store } = all;
    const large = Buffer.alloc(24_000_000, 'shard ');
    await store.put('raw/model', large);
    await publish(all, 'raw/model', '/model');
    const other = await openTestVolume(all.volume, 'b');
    const ino = await walk(other, '/model');
    expect((await other.operations.read(caller(), ino, 0n, 0n, 6, 0)).toString()).toBe('shard ');
    await store.put('raw/model', Buffer.alloc(large.length, 'another '));
    // Its end was not read yet, nor read ahead; the size is the same.
    expect(await errnoOf(() => other.operations.read(caller(), ino, 0n, 23_000_000n, 6, 0))).toBe(Errno.EIO);
    const { findings } = await fsckVolume(all.volume);
    expect(findings).toMatchObject([{ kind: 'changed-object' }]);
    expect(findings[0]?.text).toMatch(/\/model: object raw\/model was changed/);
    await removeFile(other, 'model');
    await publish(all, 'raw/model', '/model');
    // What was removed goes when no mount wants it any more.
    await Promise.all([all.open.close(), other.close()]);
    await gcLater(all);
    expect((await contentAt(await openTestVolume(all.volume, 'c'), '/model')).subarray(0, 8).toString()).toBe(
      'another ',
    );
    await expectSound(all.volume);
  });
});

test('what cannot be published is refused by name, and leaves nothing', async () => {
  const all = await openBench(await testVolume(OPTIONS));
  const { engine, store, open } = all;
  await store.put('raw/a', Buffer.from('a'));
  await store.put('quarantine/plant/1.avro', Buffer.from('q'));
  await store.put('tables/plant/x/data/1.parquet', Buffer.from('p'));
  await makeDirectory(open, 'taken');
  const options = { engine, volume: 'lake', clock: systemClock };
  expect(await codeOf(publish(all, 'raw/missing', '/x'))).toBe('not-found');
  expect(await codeOf(publish(all, 'raw/none/', '/x'))).toBe('not-found');
  expect(await codeOf(publish(all, 'raw/a', '/taken'))).toBe('exists');
  expect(await codeOf(publish(all, 'raw/a', '/no/such/place'))).toBe('not-found');
  expect(await codeOf(publish(all, 'raw/a', '/.snapshots'))).toBe('usage');
  await expect(publish(all, 'tables/plant/', '/x')).rejects.toThrow(/dataset snapshot/);
  await expect(publish(all, 'quarantine/plant/', '/x')).rejects.toThrow(/quarantine show/);
  await expect(publish(all, `${open.format.id}/blocks/`, '/x')).rejects.toThrow(/fs clone/);
  await expect(publishObjects(options, store, 's3://elsewhere/a', '/x')).rejects.toThrow(/is not in the store/);
  await setQuota(engine, 'lake', '/taken', { bytesMax: 0 });
  expect(await codeOf(publish(all, 'raw/', '/taken/x'))).toBe('quota');
  expect(await getQuota(engine, 'lake', '/taken')).toMatchObject({ bytes: 0, inodes: 0 });
  const names = await namesIn(await openTestVolume(all.volume, 'b'), 1n);
  expect(names).toEqual(['taken']);
  await expectSound(all.volume);
});

test('an object that has the name of a folder of others is left out, and named', async () => {
  const all = await openBench(await testVolume(OPTIONS));
  const { engine, store } = all;
  await store.put('raw/a/b', Buffer.from('1'));
  await store.put('raw/c', Buffer.from('2'));
  // A directory cannot hold both; S3 can.
  const both: typeof store = Object.create(store, {
    list: {
      value: async function* (prefix: string) {
        const [c] = await Array.fromAsync(store.list('raw/c'));
        if (c !== undefined) yield { ...c, key: 'raw/a' };
        yield* store.list(prefix);
      },
    },
    location: { value: (key: string) => store.location(key) },
    keyOf: { value: (location: string) => store.keyOf(location) },
  }) as typeof store;
  const options = { engine, volume: 'lake', clock: systemClock };
  const report = await publishObjects(options, both, `${store.location('raw')}/`, '/set');
  expect(report).toMatchObject({ files: 2, skipped: 1 });
  expect(report.problems).toEqual(['a/b: an object has the name of its folder']);
  const other = await openTestVolume(all.volume, 'b');
  expect((await lookUp(other, await walk(other, '/set'), 'a')).size).toBe(1n);
});
