/**
 * Reads listing generations (listing.ts). Segments are immutable, so those that were read are kept, a bounded number per engine:
 * a lander that flips an hour once a minute reads only what it has not seen.
 */
import type { MetaReader } from '../meta/engine.ts';
import type { VolumeKeys } from './keys.ts';
import { byName, decodeSegment } from './listing.ts';
import type { ListingEntry, ListingPointer } from './listing.ts';

/** At most 64 KiB each in the engine, about 100 KiB decoded. */
const SEGMENTS_KEPT = 128;
/** Segments are read in portions, so that an answer stays below 2 MiB. */
const SEGMENTS_PER_READ = 32;

const kept = new WeakMap<MetaReader, Map<string, readonly ListingEntry[]>>();

/** The entries of segments; null when one is gone, that is when the pointer they were taken from is out of date. */
export async function loadSegments(
  engine: MetaReader,
  keys: VolumeKeys,
  directory: number,
  segments: readonly number[],
): Promise<(readonly ListingEntry[])[] | null> {
  let cache = kept.get(engine);
  if (cache === undefined) kept.set(engine, (cache = new Map<string, readonly ListingEntry[]>()));
  const name = (segment: number): string => `${keys.volume}/${directory}/${segment}`;
  const found = new Map<number, readonly ListingEntry[]>();
  const wanted: number[] = [];
  for (const segment of segments) {
    const entries = cache.get(name(segment));
    if (entries === undefined) wanted.push(segment);
    else found.set(segment, entries);
  }
  for (let at = 0; at < wanted.length; at += SEGMENTS_PER_READ) {
    const portion = wanted.slice(at, at + SEGMENTS_PER_READ);
    const records = await engine.read(portion.map((segment) => keys.listingSegment(directory, segment)));
    for (const [index, segment] of portion.entries()) {
      const record = records[index];
      if (record === null || record === undefined) return null;
      const entries = decodeSegment(record.value, directory, segment);
      found.set(segment, entries);
      cache.set(name(segment), entries);
    }
  }
  for (const oldest of cache.keys()) {
    if (cache.size <= SEGMENTS_KEPT) break;
    cache.delete(oldest);
  }
  return segments.map((segment) => found.get(segment) ?? []);
}

/** All live entries of a generation, sorted by name; null when the pointer is out of date. */
export async function loadLive(
  engine: MetaReader,
  keys: VolumeKeys,
  directory: number,
  pointer: ListingPointer,
): Promise<readonly ListingEntry[] | null> {
  const segments = await loadSegments(
    engine,
    keys,
    directory,
    pointer.segments.map((s) => s.segment),
  );
  if (segments === null) return null;
  return [...segments.flat(), ...pointer.entries].sort(byName);
}

/** The inode that a retired name still opens; undefined when there is none. */
export async function findRetired(
  engine: MetaReader,
  keys: VolumeKeys,
  directory: number,
  pointer: ListingPointer,
  name: string,
): Promise<number | undefined> {
  const entry = pointer.retiredEntries.findLast((e) => e.name === name);
  if (entry !== undefined) return entry.ino;
  const segments = await loadSegments(
    engine,
    keys,
    directory,
    pointer.retiredSegments.map((s) => s.segment),
  );
  return segments?.flat().findLast((e) => e.name === name)?.ino;
}
