import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import type { MetaEngine } from '../../lib/meta/engine.ts';
import { openMeta } from '../../lib/registry.ts';
import { decodeDentry } from '../../lib/volume/dentry.ts';
import { decodeInode } from '../../lib/volume/inode.ts';
import { ROOT_INO, VolumeKeys } from '../../lib/volume/keys.ts';
import { expireListings } from '../../lib/volume/lake-expire.ts';
import { prepareListing } from '../../lib/volume/lake-listing.ts';
import type { HourChange } from '../../lib/volume/lake-listing.ts';
import { findRetired, loadLive } from '../../lib/volume/listing-load.ts';
import { decodePointer } from '../../lib/volume/listing.ts';
import type { ListingPointer } from '../../lib/volume/listing.ts';
import { tempDir } from '../support/temp.ts';

const HOUR = 473_352; // 2024-01-01T00
const NOW = 1_704_070_000_000;
const keys = new VolumeKeys('lake');

async function open(): Promise<MetaEngine> {
  const engine = await openMeta(`sqlite:${join(tempDir('lake'), 'meta.db')}?durability=flush`, { kind: 'test' });
  onTestFinished(() => engine.close());
  return engine;
}

const files = (from: number, count: number): HourChange['add'] =>
  Array.from({ length: count }, (_, i) => {
    const name = `part-${String(from + i).padStart(6, '0')}.parquet`;
    return { name, key: `tables/a/${name}`, bytes: 100 + i, modifiedMs: NOW };
  });
const names = (from: number, count: number): string[] => files(from, count).map((file) => file.name);

async function flip(engine: MetaEngine, changes: readonly HourChange[], nowMs = NOW): Promise<number> {
  const parts = await prepareListing(engine, 'lake', 'plant.vibration', changes, nowMs);
  const result = await engine.commit(parts);
  expect(result.ok).toBe(true);
  return parts.write.length;
}

async function directoryOf(engine: MetaEngine, ...path: string[]): Promise<number> {
  let ino = ROOT_INO;
  for (const name of path) {
    const [entry] = await engine.read([keys.entry(ino, name)]);
    if (!entry) throw new Error(`no ${name}`);
    ino = decodeDentry(entry.value, ino, name).ino;
  }
  return ino;
}

async function listing(
  engine: MetaEngine,
  hour: string,
): Promise<{ ino: number; pointer: ListingPointer; live: string[] }> {
  const ino = await directoryOf(engine, 'lake', 'plant.vibration', 'dt=2024-01-01', hour);
  const [stored] = await engine.read([keys.listingPointer(ino)]);
  if (!stored) throw new Error('no listing');
  const pointer = decodePointer(stored.value, ino);
  const live = await loadLive(engine, keys, ino, pointer);
  return { ino, pointer, live: live?.map((entry) => entry.name) ?? [] };
}

test('files of several hours appear at one commit, as inodes over their objects', async () => {
  const engine = await open();
  await flip(engine, [
    { hour: HOUR, add: files(0, 2), remove: [] },
    { hour: HOUR + 1, add: files(2, 1), remove: [] },
  ]);
  const { ino, pointer, live } = await listing(engine, 'hour=00');
  expect(live).toEqual(names(0, 2));
  expect((await listing(engine, 'hour=01')).live).toEqual(names(2, 1));
  const file = pointer.entries[1]?.ino ?? 0;
  const [stored] = await engine.read([keys.inode(file)]);
  const inode = stored && decodeInode(stored.value, file);
  expect(inode).toMatchObject({
    size: 101,
    mtimeNs: BigInt(NOW) * 1_000_000n,
    extents: [{ fileOffset: 0, length: 101, source: { kind: 'external', key: 'tables/a/part-000001.parquet' } }],
  });
  expect(ino).not.toBe(file);
});

test('10,000 small files are replaced by two with one record written', async () => {
  const engine = await open();
  for (let at = 0; at < 10_000; at += 500) await flip(engine, [{ hour: HOUR, add: files(at, 500), remove: [] }]);
  expect((await listing(engine, 'hour=00')).live).toEqual(names(0, 10_000));
  const parts = await prepareListing(
    engine,
    'lake',
    'plant.vibration',
    [{ hour: HOUR, add: files(20_000, 2), remove: names(0, 10_000) }],
    NOW + 1000,
  );
  // The pointer, and the inodes of the two files.
  expect(parts.write.length).toBe(3);
  expect((await engine.commit(parts)).ok).toBe(true);
  const after = await listing(engine, 'hour=00');
  expect(after.live).toEqual(names(20_000, 2));

  // Replaced names can still be opened, until the grace period is over.
  const old = await findRetired(engine, keys, after.ino, after.pointer, 'part-004321.parquet');
  expect(old).toBeGreaterThan(0);
  expect(await expireListings(engine, 'lake', NOW + 60_000, 3_600_000)).toBe(0);
  expect((await engine.read([keys.inode(old ?? 0)]))[0]).not.toBeNull();
  expect(await expireListings(engine, 'lake', NOW + 3_700_000, 3_600_000)).toBe(10_000);
  expect((await engine.read([keys.inode(old ?? 0)]))[0]).toBeNull();
  const expired = await listing(engine, 'hour=00');
  expect(expired.live).toEqual(names(20_000, 2));
  expect(expired.pointer.retiredSegments).toEqual([]);
  expect(await engine.count(keys.listing(expired.ino))).toBe(1);
});

test('removing some files of a segment keeps the others, also after the grace period', async () => {
  const engine = await open();
  await flip(engine, [{ hour: HOUR, add: files(0, 300), remove: [] }]);
  await flip(engine, [{ hour: HOUR, add: [], remove: names(10, 50) }]);
  const kept = [...names(0, 10), ...names(60, 240)];
  expect((await listing(engine, 'hour=00')).live).toEqual(kept);
  expect(await expireListings(engine, 'lake', NOW + 10, 0)).toBe(50);
  const { live, pointer, ino } = await listing(engine, 'hour=00');
  expect(live).toEqual(kept);
  const entries = (await loadLive(engine, keys, ino, pointer)) ?? [];
  const inodes = await engine.read(entries.map((entry) => keys.inode(entry.ino)));
  expect(inodes.filter((record) => record === null)).toEqual([]);
});

test('a second preparation of the same change is empty, a changed object replaces the name', async () => {
  const engine = await open();
  const change = { hour: HOUR, add: files(0, 3), remove: ['gone.parquet'] };
  await flip(engine, [change]);
  const again = await prepareListing(engine, 'lake', 'plant.vibration', [change], NOW);
  expect({ compare: again.compare, write: again.write, patch: again.patch }).toEqual({
    compare: [],
    write: [],
    patch: [],
  });
  await flip(engine, [
    { hour: HOUR, add: [{ name: names(0, 1)[0] ?? '', key: 'other', bytes: 9, modifiedMs: NOW }], remove: [] },
  ]);
  expect((await listing(engine, 'hour=00')).live).toEqual(names(0, 3));
});

test('of two flips made from one generation, one commits and the other prepares again', async () => {
  const engine = await open();
  await flip(engine, [{ hour: HOUR, add: files(0, 1), remove: [] }]);
  const prepare = (n: number): ReturnType<typeof prepareListing> =>
    prepareListing(engine, 'lake', 'plant.vibration', [{ hour: HOUR, add: files(n, 1), remove: [] }], NOW);
  const [first, second] = [await prepare(1), await prepare(2)];
  expect((await engine.commit(first)).ok).toBe(true);
  expect((await engine.commit(second)).ok).toBe(false);
  expect((await engine.commit(await prepare(2))).ok).toBe(true);
  expect((await listing(engine, 'hour=00')).live).toEqual(names(0, 3));
});

test('300 hours fit into one commit', async () => {
  const engine = await open();
  const hours = Array.from({ length: 300 }, (_, i) => ({ hour: HOUR + i, add: files(i * 2, 2), remove: [] }));
  expect(await flip(engine, hours)).toBeLessThanOrEqual(900);
  expect((await listing(engine, 'hour=23')).live).toEqual(names(46, 2));
  await expect(prepareListing(engine, 'lake', 'd', [...hours, ...hours], NOW)).rejects.toMatchObject({
    code: 'too-large',
  });
});
