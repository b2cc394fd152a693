/**
 * Drops what the lake's listings retired, after the grace period: the last step of a replaced file's life. The table's own gc may
 * delete the objects once this has run.
 *
 * Invariants: an inode that a live entry names is never removed, although a retired segment may still list it.
 * Failure: inodes go first, in bounded commits, then the pointer forgets the retired names; killed between, the names open to
 * ENOENT until the next run finishes. A flip that comes between makes the last commit fail, and the next run does it.
 */
import type { MetaEngine } from '../meta/engine.ts';
import { encodeChanges } from './feed.ts';
import { decodeInode } from './inode.ts';
import { VolumeKeys } from './keys.ts';
import { ensureHourDirectories } from './lake-directories.ts';
import { loadLive, loadSegments } from './listing-load.ts';
import { decodePointer, encodePointer } from './listing.ts';
import type { ListingPointer } from './listing.ts';

const PORTION = 400;

/** Returns how many retired files were dropped, over all hour directories of the volume. */
export async function expireListings(
  engine: MetaEngine,
  volume: string,
  nowMs: number,
  graceMs: number,
): Promise<number> {
  const keys = new VolumeKeys(volume);
  const prefix = keys.listingsPrefix;
  let dropped = 0;
  for await (const bucket of engine.buckets(prefix)) {
    dropped += await expireListing(engine, keys, Number(bucket.slice(prefix.length)), nowMs - graceMs);
  }
  return dropped;
}

/** The same for some hours of a dataset, at once and whatever the grace: how many retired files were dropped. */
export async function expireHours(
  engine: MetaEngine,
  volume: string,
  dataset: string,
  hours: readonly number[],
  nowMs: number,
): Promise<number> {
  const keys = new VolumeKeys(volume);
  let dropped = 0;
  for (const directory of await ensureHourDirectories(engine, keys, dataset, hours, nowMs)) {
    dropped += await expireListing(engine, keys, directory, Infinity);
  }
  return dropped;
}

async function expireListing(
  engine: MetaEngine,
  keys: VolumeKeys,
  directory: number,
  retiredBeforeMs: number,
): Promise<number> {
  const [stored] = await engine.read([keys.listingPointer(directory)]);
  if (stored === null || stored === undefined) return 0;
  const pointer = decodePointer(stored.value, directory);
  const over = (retired: { readonly retiredMs: number }): boolean => retired.retiredMs <= retiredBeforeMs;
  const segments = pointer.retiredSegments.filter(over).map((s) => s.segment);
  const entries = pointer.retiredEntries.filter(over);
  if (segments.length === 0 && entries.length === 0) return 0;
  const live = await loadLive(engine, keys, directory, pointer);
  const listed = await loadSegments(engine, keys, directory, segments);
  if (live === null || listed === null) return 0;
  const kept = new Set(live.map((entry) => entry.ino));
  for (const entry of pointer.retiredEntries) if (!over(entry)) kept.add(entry.ino);
  const inos = [...new Set([...listed.flat(), ...entries].map((entry) => entry.ino))].filter((ino) => !kept.has(ino));
  for (let at = 0; at < inos.length; at += PORTION) {
    await removeInodes(engine, keys, directory, inos.slice(at, at + PORTION));
  }
  const rest: ListingPointer = {
    ...pointer,
    retiredSegments: pointer.retiredSegments.filter((s) => !over(s)),
    retiredEntries: pointer.retiredEntries.filter((e) => !over(e)),
  };
  await engine.commit({
    compare: [{ key: keys.listingPointer(directory), version: stored.version }],
    write: [
      { key: keys.listingPointer(directory), value: encodePointer(rest) },
      ...segments.slice(0, PORTION).map((n) => ({ key: keys.listingSegment(directory, n), value: null })),
    ],
    publish: [
      { shard: keys.shard(directory), message: encodeChanges(engine.sessionId, [{ kind: 'listing', ino: directory }]) },
    ],
  });
  return inos.length;
}

async function removeInodes(
  engine: MetaEngine,
  keys: VolumeKeys,
  directory: number,
  inos: readonly number[],
): Promise<void> {
  const records = await engine.read(inos.map((ino) => keys.inode(ino)));
  let count = 0;
  let bytes = 0;
  for (const [index, record] of records.entries()) {
    if (record === null) continue;
    count++;
    bytes += decodeInode(record.value, inos[index] ?? 0).size;
  }
  await engine.commit({
    // What changed meanwhile (a hard link was made) stays, with all of this portion, until the next run.
    compare: inos.map((ino, index) => ({ key: keys.inode(ino), version: records[index]?.version ?? null })),
    write: inos.map((ino) => ({ key: keys.inode(ino), value: null })),
    patch: [
      { number: keys.counter('inodes'), add: BigInt(-count) },
      { number: keys.counter('bytes'), add: BigInt(-bytes) },
    ],
    publish: [
      {
        shard: keys.shard(directory),
        message: encodeChanges(
          engine.sessionId,
          inos.map((ino) => ({ kind: 'inode', ino })),
        ),
      },
    ],
  });
}
