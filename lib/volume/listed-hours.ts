/** What the directories of a dataset list, read from the directories themselves. */
import { PenstockError } from '../errors.ts';
import type { MetaEngine } from '../meta/engine.ts';
import { decodeDentry } from './dentry.ts';
import { ROOT_INO, VolumeKeys } from './keys.ts';
import { loadLive } from './listing-load.ts';
import { decodePointer } from './listing.ts';

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
  const lake = await child(engine, keys, ROOT_INO, 'lake');
  const root = lake === null ? null : await child(engine, keys, lake, dataset);
  if (root === null) return hours;
  for await (const [day, dayIno] of children(engine, keys, root)) {
    for await (const [hour, ino] of children(engine, keys, dayIno)) {
      const startMs = Date.parse(`${day.replace(/^dt=/, '')}T${hour.replace(/^hour=/, '')}:00:00Z`);
      if (!Number.isNaN(startMs)) hours.set(startMs / MS_PER_HOUR, await namesIn(engine, keys, ino));
    }
  }
  return hours;
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

async function namesIn(engine: MetaEngine, keys: VolumeKeys, directory: number): Promise<readonly string[]> {
  for (let attempt = 0; attempt < RELOADS_MAX; attempt++) {
    const [stored] = await engine.read([keys.listingPointer(directory)]);
    if (stored == null) return [];
    const live = await loadLive(engine, keys, directory, decodePointer(stored.value, directory));
    if (live !== null) return live.map(({ name }) => name);
  }
  throw new PenstockError('conflict', `the listing of directory ${directory} changes too often`);
}
