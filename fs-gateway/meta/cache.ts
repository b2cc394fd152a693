/**
 * The coherent client cache of a volume's metadata: inodes, directory entries (also that a name is absent) and listings of the lake.
 *
 * Invariants
 * - What is here was true when it was read or committed, and the feed says when it no longer is: a record is dropped by the feed
 *   message of whoever changed it, everything is dropped at a gap. A stale record costs a failed compare, never a wrong commit.
 * - A read that was under way while its record changed is not kept (`Reading`): its answer may be older than the message. The inode that
 *   comes along with an entry is not known before, so every inode that is dropped while entries are read counts as changed (`#dropped`).
 * - A *complete* directory is one that we made, or read from its first name to its last, and have seen all changes of: a name that is not here is
 *   absent. It stops being one when somebody else changes an entry, or when the cache forgets one of its entries for want of room.
 * Limits: `capacity` inodes, and as many entries and complete directories; about 1000 bytes a pair; directories are read whole up to a quarter of it;
 * DROPPED_MAX inodes that are noted while entries are read.
 */
import { DT_DIR, decodeDentry } from '../../lib/volume/dentry.ts';
import type { Inode } from '../../lib/volume/inode.ts';
import { decodeInode } from '../../lib/volume/inode.ts';
import type { Stored, Version } from '../../lib/meta/engine.ts';
import { ROOT_INO } from '../../lib/volume/keys.ts';
import { BoundedMap } from './bounded-map.ts';
import type { LakePlace } from './lake-listings.ts';

/** An inode as of a version, with the numbers beside it where it is a directory. */
export interface Node {
  readonly ino: number;
  readonly version: Version;
  readonly inode: Inode;
  /** Directories: the last change of the entries, ns; 0 while none is known. */
  readonly entriesChangedNs: bigint;
  readonly subdirectories: number;
}

export interface CachedEntry {
  readonly ino: number;
  /** DT_*. */
  readonly type: number;
  readonly version: Version;
  /** That of the inode when it was read, or written, at one moment with the entry: an inode that has it yet has the name, too (change.ts). */
  readonly heldAt: Version;
  /** The kernel was told of this very version, or made it. */
  told?: boolean;
}

/** More names than that are a circle in records that were read at different times. */
const DEPTH_MAX = 256;
/** More at once are a burst: then the inodes beside entries are read once more. */
const DROPPED_MAX = 1024;

/** A record that is being read, by one or more; `stale` once it was changed meanwhile. */
export interface Reading {
  stale: boolean;
  readers: number;
}

export interface Watch {
  readonly directory: number;
  changed: boolean;
}

/** A directory that is being read from its first name to its last. */
export interface Learning {
  readonly directory: number;
  /** Up to so many names it may have. */
  readonly namesMax: number;
  /** What changed, or was looked up, meanwhile: the cache has it, or somebody else has changed it. */
  readonly names: Set<string>;
  /** News were missed. */
  isVoid: boolean;
}

export class MetaCache {
  readonly #nodes: BoundedMap<number, Node>;
  /** Keys are `<parent>/<name>`; null: the name is absent. */
  readonly #entries: BoundedMap<string, CachedEntry | null>;
  readonly #readings = new Map<string, Reading>();
  /** What is in each complete directory. */
  readonly #complete: BoundedMap<number, Map<string, CachedEntry>>;
  readonly #learnings = new Map<number, Learning>();
  readonly #learnedMax: number;
  /** Inodes dropped while entries are being read; null: too many to note. */
  #dropped: Set<number> | null = new Set();
  #entryReadings = 0;
  readonly #watches = new Map<number, Set<Watch>>();

  constructor(capacity: number) {
    this.#nodes = new BoundedMap(capacity);
    this.#complete = new BoundedMap(capacity);
    this.#entries = new BoundedMap(capacity, (key) => this.#forgotten(parentOf(key), nameOf(key)));
    this.#learnedMax = Math.floor(capacity / 4);
  }

  node(ino: number): Node | undefined {
    return this.#nodes.get(ino);
  }

  entry(parent: number, name: string): CachedEntry | null | undefined {
    const entry = this.#entries.get(entryName(parent, name));
    return entry === undefined && this.#complete.get(parent) !== undefined ? null : entry;
  }

  /** All entries of a complete directory; undefined where not all are known. */
  entriesOf(directory: number): ReadonlyMap<string, CachedEntry> | undefined {
    return this.#complete.get(directory);
  }

  /**
   * By inode; of files of the lake, which are no entries, `lake` says the place. Goes through all entries: for what is shown to people. Names
   * that are no UTF-8 are shown as well as can be.
   */
  pathsOf(inos: ReadonlySet<number>, lake: ReadonlyMap<number, LakePlace>): ReadonlyMap<number, string> {
    const paths = new Map<number, string>();
    if (inos.size === 0) return paths;
    const places = new Map([...lake].map(([ino, { directory, name }]) => [ino, entryName(directory, name)]));
    for (const [key, entry] of this.#entries.entries()) {
      if (entry !== null && (entry.type === DT_DIR || inos.has(entry.ino)) && !places.has(entry.ino)) {
        places.set(entry.ino, key);
      }
    }
    for (const ino of inos) {
      const names: string[] = [];
      let at = ino;
      for (let key = places.get(at); key !== undefined && names.length < DEPTH_MAX; key = places.get(at)) {
        names.unshift(Buffer.from(nameOf(key), 'latin1').toString('utf8'));
        at = parentOf(key);
      }
      if (at === ROOT_INO && names.length > 0) paths.set(ino, `/${names.join('/')}`);
    }
    return paths;
  }

  /** Before the commit that makes a directory. */
  beginDirectory(ino: number): Reading {
    return this.#begin(directoryName(ino));
  }

  /** After it: the directory is known to be empty, unless somebody was faster. */
  endDirectory(ino: number, reading: Reading, made: boolean): void {
    if (this.#end(directoryName(ino), reading) && made) this.#complete.set(ino, new Map());
  }

  /** Before the first page of a directory is read, `endLearning` in any case; undefined: another one is reading it. */
  beginLearning(directory: number): Learning | undefined {
    if (this.#learnings.has(directory)) return undefined;
    const learning = { directory, namesMax: this.#learnedMax, names: new Set<string>(), isVoid: false };
    this.#learnings.set(directory, learning);
    return learning;
  }

  /** `read`: all that the pages had, null where they did not come to the end. The directory is complete then, unless somebody else changed it. */
  endLearning(learning: Learning, read: ReadonlyMap<string, CachedEntry> | null): void {
    const { directory, namesMax, names, isVoid } = learning;
    this.#learnings.delete(directory);
    if (read === null || isVoid || read.size > namesMax) return;
    const complete = new Map<string, CachedEntry>();
    for (const name of new Set([...read.keys(), ...names])) {
      const known = this.#entries.get(entryName(directory, name));
      const entry = known === undefined && !names.has(name) ? read.get(name) : known;
      if (entry === undefined) return;
      if (entry !== null) complete.set(name, entry);
    }
    this.#complete.set(directory, complete);
    for (const [name, entry] of complete) this.#entries.set(entryName(directory, name), entry);
  }

  #forgotten(parent: number, name: string): void {
    // That a name is absent a complete directory knows without it.
    if (this.#complete.get(parent)?.has(name) === true) this.#complete.delete(parent);
  }

  putNode(node: Node): void {
    this.#nodes.set(node.ino, node);
    this.#overtake(String(node.ino));
  }

  putEntry(parent: number, name: string, entry: CachedEntry | null): void {
    const key = entryName(parent, name);
    const known = this.#entries.get(key);
    if (entry !== null && known?.told === true && known.version === entry.version) entry.told = true;
    this.#entries.set(key, entry);
    const complete = this.#complete.get(parent);
    if (entry !== null) complete?.set(name, entry);
    else if (complete !== undefined) {
      complete.delete(name);
      this.#entries.delete(key);
    }
    this.#learnings.get(parent)?.names.add(name);
    this.#overtake(key);
  }

  /** The kernel is being told of an entry that is true now. */
  tellEntry(parent: number, name: string, entry: CachedEntry): void {
    const known = this.#entries.get(entryName(parent, name));
    if (known?.version === entry.version) known.told = true;
    else if (known === undefined) this.putEntry(parent, name, { ...entry, told: true });
  }

  /** Like `putEntry`, for a change of ours. */
  changeEntry(parent: number, name: string, entry: CachedEntry | null): void {
    this.putEntry(parent, name, entry);
    this.#disturb(parent);
  }

  /** Tells whether an entry of the directory has changed since; `unwatch` ends it. */
  watch(directory: number): Watch {
    const watch = { directory, changed: false };
    const watches = this.#watches.get(directory);
    if (watches === undefined) this.#watches.set(directory, new Set([watch]));
    else watches.add(watch);
    return watch;
  }

  unwatch(watch: Watch): void {
    const watches = this.#watches.get(watch.directory);
    watches?.delete(watch);
    if (watches?.size === 0) this.#watches.delete(watch.directory);
  }

  #disturb(directory: number): void {
    for (const watch of this.#watches.get(directory) ?? []) watch.changed = true;
  }

  dropNode(ino: number): void {
    this.#nodes.delete(ino);
    if (this.#entryReadings > 0 && this.#dropped !== null) {
      if (this.#dropped.size < DROPPED_MAX) this.#dropped.add(ino);
      else this.#dropped = null;
    }
    this.#overtake(String(ino));
  }

  dropEntry(parent: number, name: string): void {
    const key = entryName(parent, name);
    this.#entries.delete(key);
    this.#complete.delete(parent);
    this.#learnings.get(parent)?.names.add(name);
    this.#disturb(parent);
    this.#overtake(key);
    this.#overtake(directoryName(parent));
  }

  clear(): void {
    this.#nodes.clear();
    this.#entries.clear();
    this.#complete.clear();
    for (const directory of this.#watches.keys()) this.#disturb(directory);
    for (const learning of this.#learnings.values()) learning.isVoid = true;
    if (this.#entryReadings > 0) this.#dropped = null;
    for (const reading of this.#readings.values()) reading.stale = true;
    this.#readings.clear();
  }

  /** Call before reading a record, and `endNode` in any case. */
  beginNode(ino: number): Reading {
    return this.#begin(String(ino));
  }

  beginEntry(parent: number, name: string): Reading {
    this.#entryReadings++;
    return this.#begin(entryName(parent, name));
  }

  /** Whether an inode that was read along with an entry may be kept; call before `endEntry`. */
  mayKeepTarget(ino: number): boolean {
    return this.#dropped?.has(ino) === false && this.#nodes.get(ino) === undefined;
  }

  #begin(key: string): Reading {
    let reading = this.#readings.get(key);
    if (reading === undefined) this.#readings.set(key, (reading = { stale: false, readers: 0 }));
    reading.readers++;
    return reading;
  }

  /** True when nothing changed the record since `reading` began. */
  endNode(ino: number, reading: Reading): boolean {
    return this.#end(String(ino), reading);
  }

  endEntry(parent: number, name: string, reading: Reading): boolean {
    if (--this.#entryReadings === 0 && this.#dropped?.size !== 0) this.#dropped = new Set();
    return this.#end(entryName(parent, name), reading);
  }

  #end(key: string, reading: Reading): boolean {
    reading.readers--;
    if (reading.readers === 0 && this.#readings.get(key) === reading) this.#readings.delete(key);
    return !reading.stale;
  }

  #overtake(key: string): void {
    if (this.#readings.size === 0) return;
    const reading = this.#readings.get(key);
    if (reading === undefined) return;
    reading.stale = true;
    this.#readings.delete(key);
  }
}

function directoryName(ino: number): string {
  return `d${ino}`;
}

function entryName(parent: number, name: string): string {
  return `${parent}/${name}`;
}

function parentOf(entry: string): number {
  return Number.parseInt(entry, 10);
}

function nameOf(entry: string): string {
  return entry.slice(entry.indexOf('/') + 1);
}

export function nodeOf(ino: number, stored: Stored, entriesChangedNs = 0n, subdirectories = 0): Node {
  return {
    ino,
    version: stored.version,
    inode: decodeInode(stored.value, ino),
    entriesChangedNs,
    subdirectories,
  };
}

export function entryOf(parent: number, name: string, stored: Stored): CachedEntry {
  const { ino, type } = decodeDentry(stored.value, parent, name);
  // Whoever sets a name writes the inode in the same commit; where it was another commit, no inode has this version.
  return { ino, type, version: stored.version, heldAt: stored.version };
}
