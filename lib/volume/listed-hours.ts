/** What the directories of a dataset list, and which names can still be opened, read from the directories themselves. */
import { PenstockError } from '../errors.ts';
import type { MetaEngine, MetaReader } from '../meta/engine.ts';
import { decodeDentry } from './dentry.ts';
import { ROOT_INO, VolumeKeys } from './keys.ts';
import { loadLive, loadSegments } from './listing-load.ts';
import { decodePointer } from './listing.ts';
import type { ListingEntry, ListingPointer } from './listing.ts';

const PAGE = 500;
const MS_PER_HOUR = 3_600_000;
/** A pointer that changes between reading it and reading its segments. */
const RELOADS_MAX = 10;

/** Names by hour (hours since the epoch). Throws `conflict` when a listing changes all the time. */
export async function listedHours(
  engine: MetaEngine,
  volume: string,
  dataset: string,
): Promise<Map<number, readonly string[]>> {
  const keys = new VolumeKeys(volume);
  const hours = new Map<number, readonly string[]>();
  for await (const [hour, ino] of hourDirectories(engine, keys, dataset)) {
    hours.set(hour, await namesIn(engine, keys, ino, loadLive));
  }
  return hours;
}

/** All names of a dataset that can be opened, also those that are not listed any more. Throws `conflict`. */
export async function openableNames(engine: MetaEngine, volume: string, dataset: string): Promise<ReadonlySet<string>> {
  const keys = new VolumeKeys(volume);
  const names = new Set<string>();
  for await (const [, ino] of hourDirectories(engine, keys, dataset)) {
    for (const name of await namesIn(engine, keys, ino, loadAll)) names.add(name);
  }
  return names;
}

async function loadAll(
  engine: MetaReader,
  keys: VolumeKeys,
  directory: number,
  pointer: ListingPointer,
): Promise<readonly ListingEntry[] | null> {
  const segments = [...pointer.segments, ...pointer.retiredSegments].map(({ segment }) => segment);
  const loaded = await loadSegments(engine, keys, directory, segments);
  return loaded === null ? null : [...loaded.flat(), ...pointer.entries, ...pointer.retiredEntries];
}

/** Hours since the epoch. */
async function* hourDirectories(
  engine: MetaEngine,
  keys: VolumeKeys,
  dataset: string,
): AsyncGenerator<readonly [hour: number, ino: number]> {
  const lake = await child(engine, keys, ROOT_INO, 'lake');
  const root = lake === null ? null : await child(engine, keys, lake, dataset);
  if (root === null) return;
  for await (const [day, dayIno] of children(engine, keys, root)) {
    for await (const [hour, ino] of children(engine, keys, dayIno)) {
      const startMs = Date.parse(`${day.replace(/^dt=/, '')}T${hour.replace(/^hour=/, '')}:00:00Z`);
      if (!Number.isNaN(startMs)) yield [startMs / MS_PER_HOUR, ino];
    }
  }
}

async function child(engine: MetaEngine, keys: VolumeKeys, parent: number, name: string): Promise<number | null> {
  const [stored] = await engine.read([keys.entry(parent, name)]);
  return stored == null ? null : decodeDentry(stored.value, parent, name).ino;
}

/** A scan may give an entry twice, which changes nothing here. */
async function* children(
  engine: MetaEngine,
  keys: VolumeKeys,
  parent: number,
): AsyncGenerator<readonly [name: string, ino: number]> {
  for (let cursor: string | null = ''; cursor !== null;) {
    const page = await engine.scan(keys.entries(parent), cursor, PAGE);
    for (const [name, stored] of page.entries) yield [name, decodeDentry(stored.value, parent, name).ino];
    cursor = page.cursor;
  }
}

async function namesIn(
  engine: MetaEngine,
  keys: VolumeKeys,
  directory: number,
  entriesOf: typeof loadLive,
): Promise<readonly string[]> {
  for (let attempt = 0; attempt < RELOADS_MAX; attempt++) {
    const [stored] = await engine.read([keys.listingPointer(directory)]);
    if (stored == null) return [];
    const entries = await entriesOf(engine, keys, directory, decodePointer(stored.value, directory));
    if (entries !== null) return entries.map(({ name }) => name);
  }
  throw new PenstockError('conflict', `the listing of directory ${directory} changes too often`);
}
