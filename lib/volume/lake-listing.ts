/**
 * Flips the listings of a dataset's hour directories: the volume's side of "one commit, two views". `prepareListing` makes the
 * parts of a minitransaction that the caller commits together with its table pointer, so that a program that globs the mount and
 * an engine that reads the table see the same instant.
 *
 * Invariants
 * - The flip compares the pointer it was made from: when another flip came between, the caller's commit fails as a whole and it
 *   calls again with fresh state. What is already so (a name present with the same object, a name absent) stays as it is.
 * - A replaced name is unlisted by the flip and can be opened until `expireListing` drops it after the grace period, so a job that
 *   globbed first and opens later never gets ENOENT.
 * - A lake file is an inode with one external extent: the table's own object, zero copy.
 * Failure: directories, and (only when a flip is too large for one commit) segments and inodes, are written in commits of their own
 * before; nothing refers to them until the flip, and fsck removes what a crash left.
 * Limits: at most FLIP_RECORDS_MAX records, so that the caller's own parts fit into COMMIT_RECORDS_MAX.
 */
import { PenstockError } from '../errors.ts';
import type { Compare, MetaEngine, Patch, Publish, Stored, Write } from '../meta/engine.ts';
import { encodeChanges } from './feed.ts';
import type { Change } from './feed.ts';
import { takeIds } from './ids.ts';
import { decodeInode, encodeInode, INODE_IMMUTABLE, newInode, S_IFREG } from './inode.ts';
import { VolumeKeys } from './keys.ts';
import { ensureHourDirectories } from './lake-directories.ts';
import { loadSegments } from './listing-load.ts';
import { decodePointer, EMPTY_LISTING, encodePointer, encodeSegment } from './listing.ts';
import type { ListingEntry, ListingPointer } from './listing.ts';
import { planFlip, segmentsNeeded } from './lake-flip.ts';

const FLIP_RECORDS_MAX = 900;
/** Pre-written records go in portions, far below what blocks the engine. */
const PORTION = 500;
/** A pointer that changes between reading it and reading its segments. */
const RELOADS_MAX = 10;

export interface LakeFile {
  readonly name: string;
  /** Key in the volume's store. */
  readonly key: string;
  readonly bytes: number;
  readonly modifiedMs: number;
}

export interface HourChange {
  /** Hours since the epoch, UTC. */
  readonly hour: number;
  readonly add: readonly LakeFile[];
  /** Names. */
  readonly remove: readonly string[];
}

export interface ListingParts {
  readonly compare: readonly Compare[];
  readonly write: readonly Write[];
  readonly patch: readonly Patch[];
  readonly publish: readonly Publish[];
}

interface Loaded {
  readonly stored: Stored | null;
  readonly pointer: ListingPointer;
  readonly segments: readonly (readonly ListingEntry[])[];
}

/** Throws `too-large` above 300 hours in one flip. An hour may occur once. */
export async function prepareListing(
  engine: MetaEngine,
  volume: string,
  dataset: string,
  changes: readonly HourChange[],
  nowMs: number,
): Promise<ListingParts> {
  const keys = new VolumeKeys(volume);
  const atMs = Math.round(nowMs);
  if (changes.length * 2 > FLIP_RECORDS_MAX) {
    throw new PenstockError('too-large', `${changes.length} hours in one commit, at most ${FLIP_RECORDS_MAX / 2}`);
  }
  const directories = await ensureHourDirectories(
    engine,
    keys,
    dataset,
    changes.map((change) => change.hour),
    atMs,
  );
  const loaded = await loadAll(engine, keys, directories);
  const additions = await newFiles(engine, keys, changes, loaded);
  const compare: Compare[] = [];
  const pointers: Write[] = [];
  const segmentWrites: Write[] = [];
  const dropped: Write[] = [];
  const segmentIds = loaded.reduce(
    (sum, l, i) => sum + segmentsNeeded(entryCount(l) + (changes[i]?.add.length ?? 0)),
    0,
  );
  let fresh = await takeIds(engine, keys, 'ino', additions.count + segmentIds);
  const inodes: Write[] = [];
  let bytes = 0;
  for (const [index, change] of changes.entries()) {
    const directory = directories[index];
    const state = loaded[index];
    if (directory === undefined || state === undefined) throw new Error('one directory and one listing per hour');
    const added: ListingEntry[] = [];
    for (const file of additions.byHour[index] ?? []) {
      const ino = fresh++;
      added.push({ name: file.name, ino });
      inodes.push({ key: keys.inode(ino), value: encodeInode(lakeInode(file)) });
      bytes += file.bytes;
    }
    const flip = planFlip(state.pointer, state.segments, added, new Set(change.remove), atMs, () => fresh++);
    if (flip === null) continue;
    const key = keys.listingPointer(directory);
    compare.push({ key, version: state.stored?.version ?? null });
    pointers.push({ key, value: encodePointer(flip.pointer) });
    for (const { segment, entries } of flip.newSegments) {
      segmentWrites.push({ key: keys.listingSegment(directory, segment), value: encodeSegment(entries) });
    }
    for (const segment of flip.dropped) dropped.push({ key: keys.listingSegment(directory, segment), value: null });
  }
  let write = [...pointers, ...dropped, ...segmentWrites, ...inodes];
  if (compare.length + write.length > FLIP_RECORDS_MAX) {
    await writeAhead(engine, [...segmentWrites, ...inodes]);
    // Segments that are not dropped here stay unreferenced, which is harmless; fsck removes them.
    write = [...pointers, ...dropped].slice(0, FLIP_RECORDS_MAX - compare.length);
  }
  const patch: Patch[] =
    inodes.length === 0
      ? []
      : [
          { number: keys.counter('inodes'), add: BigInt(inodes.length) },
          { number: keys.counter('bytes'), add: BigInt(bytes) },
        ];
  return { compare, write, patch, publish: announce(engine, keys, directories) };
}

function entryCount({ pointer, segments }: Loaded): number {
  const inSegments = segments.reduce((sum, entries) => sum + entries.length, 0);
  return inSegments + pointer.entries.length * 2 + pointer.retiredEntries.length;
}

async function loadAll(engine: MetaEngine, keys: VolumeKeys, directories: readonly number[]): Promise<Loaded[]> {
  const records = await engine.read(directories.map((directory) => keys.listingPointer(directory)));
  return Promise.all(directories.map((directory, index) => load(engine, keys, directory, records[index] ?? null)));
}

async function load(engine: MetaEngine, keys: VolumeKeys, directory: number, first: Stored | null): Promise<Loaded> {
  let stored = first;
  for (let attempt = 0; attempt < RELOADS_MAX; attempt++) {
    const pointer = stored === null ? EMPTY_LISTING : decodePointer(stored.value, directory);
    const numbers = pointer.segments.map((s) => s.segment);
    const segments = await loadSegments(engine, keys, directory, numbers);
    if (segments !== null) return { stored, pointer, segments };
    stored = (await engine.read([keys.listingPointer(directory)]))[0] ?? null;
  }
  throw new PenstockError('conflict', `the listing of directory ${directory} changes too often`);
}

/** The files of each hour that are not there yet under the same name with the same object. */
async function newFiles(
  engine: MetaEngine,
  keys: VolumeKeys,
  changes: readonly HourChange[],
  loaded: readonly Loaded[],
): Promise<{ readonly byHour: readonly (readonly LakeFile[])[]; readonly count: number }> {
  const byHour = await Promise.all(
    changes.map(async (change, index) => {
      const state = loaded[index];
      if (state === undefined || change.add.length === 0) return change.add;
      const live = new Map([...state.segments.flat(), ...state.pointer.entries].map((e) => [e.name, e.ino]));
      const present = change.add.filter((file) => live.has(file.name) && !change.remove.includes(file.name));
      if (present.length === 0) return change.add;
      const inos = present.map((file) => live.get(file.name) ?? 0);
      const inodes = await engine.read(inos.map((ino) => keys.inode(ino)));
      const same = new Set(
        present
          .filter((file, n) => {
            const stored = inodes[n];
            const source = stored ? decodeInode(stored.value, inos[n] ?? 0).extents[0]?.source : undefined;
            return source?.kind === 'external' && source.key === file.key;
          })
          .map((file) => file.name),
      );
      return change.add.filter((file) => !same.has(file.name));
    }),
  );
  return { byHour, count: byHour.reduce((sum, files) => sum + files.length, 0) };
}

function lakeInode(file: LakeFile): ReturnType<typeof newInode> {
  const whole = { kind: 'external', key: file.key, objectBytes: file.bytes } as const;
  return newInode(S_IFREG | 0o444, 0, 0, BigInt(Math.round(file.modifiedMs)) * 1_000_000n, {
    flags: INODE_IMMUTABLE,
    size: file.bytes,
    extents: file.bytes === 0 ? [] : [{ fileOffset: 0, length: file.bytes, sliceOffset: 0, source: whole }],
  });
}

async function writeAhead(engine: MetaEngine, writes: readonly Write[]): Promise<void> {
  for (let at = 0; at < writes.length; at += PORTION) {
    await engine.commit({ write: writes.slice(at, at + PORTION) });
  }
}

function announce(engine: MetaEngine, keys: VolumeKeys, directories: readonly number[]): Publish[] {
  const byShard = new Map<string, Change[]>();
  for (const ino of directories) {
    const shard = keys.shard(ino);
    byShard.set(shard, [...(byShard.get(shard) ?? []), { kind: 'listing', ino }]);
  }
  return [...byShard].map(([shard, changes]) => ({ shard, message: encodeChanges(engine.sessionId, changes) }));
}
