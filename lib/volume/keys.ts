/**
 * The key schema of a volume: where each of its records lives in the MetaEngine. This header is the one place that says so.
 *
 * Every bucket begins with the hash tag `{volume}`: a minitransaction may touch any records of one volume, also on Redis Cluster.
 * `ino` and the other numbers are decimal. Names (file names, xattr names) are latin1 byte strings.
 *
 *   bucket              field            kind     what
 *   {v}meta             format           value    the format record (format.ts)
 *   {v}meta             gc, backup       value    the session that collects garbage, or backs the metadata up (fs-gateway/tools/)
 *   {v}meta             peers            value    the secret of the mounts that serve each other blocks (fs-gateway/peers/)
 *   {v}meta             ids              value    the engine's epoch in which ids were last taken (ids.ts)
 *   {v}n                ino, object      number   id counters; clients take ids in blocks, so a create needs no round trip for one
 *   {v}n                bytes, inodes    number   what statfs reports: bytes and inodes in use
 *   {v}i:<ino >> 8>     ino & 255        value    inode (inode.ts); 256 in a bucket, which Redis keeps as one listpack
 *   {v}d:<parent ino>   name             value    directory entry (dentry.ts): 8 bytes big-endian ino, then the type
 *   {v}t:<dir ino>      m                number   time of the last change of the directory's entries, ns; patched by `max`
 *   {v}t:<dir ino>      s                number   number of subdirectories (nlink - 2); patched by `add`
 *   {v}e:<ino>          page             value    extents of a large file, PAGE_BYTES of the file each (extents.ts)
 *   {v}b:<ino >> 8>     ino & 255        value    content of a small file, up to the format's inlineBytes
 *   {v}x:<ino>          attribute name   value    extended attribute
 *   {v}l:<dir ino>      p                value    lake directory: the pointer to its listing generation (listing.ts)
 *   {v}l:<dir ino>      <segment number> value    immutable segment of a listing
 *   {v}o                ino              value    a file without names, and which mounts still want it (orphan.ts)
 *   {v}u                dir ino      value    quota of a directory, or of the volume (quota.ts)
 *   {v}w                <ino>b, <ino>i  number  bytes and inodes that count to it
 *   {v}c                ino              value    the root of a tree that no name leads to, for a while (building.ts)
 *   {v}y                object key       value    an object of the lake that a clone refers to, for the table's clean-up (references.ts)
 *   {v}q:<mount id>     slot             value    a request that a mount has applied (fs-gateway/meta/repeats.ts)
 *   {v}k                ino              value    locks of a file, held and waited for (lock-record.ts)
 *   {v}p                <mount id>       value    who uses a mount how much (mount-reports.ts)
 *   {v}r                object id        value    an object that gained a reference without an upload, for gc (references.ts)
 *
 * The entries' times and the count of subdirectories are numbers of their own so that creates in one directory never conflict:
 * a create compares the directory's inode only to know that it still exists, and nothing in it changes.
 *
 * Feed shards are `{v}s:<n>`, n = the directory's (for an entry) or the inode's number modulo SHARDS (feed.ts has the messages).
 *
 * Budget: a small empty file is a directory entry (name + 19 bytes + listpack overhead) and an inode of <= 40 bytes: at most 64
 * with the engine's version, the default `hash-max-listpack-value`.
 */
import type { Key, Link } from '../meta/engine.ts';
import { PenstockError } from '../errors.ts';

export const ROOT_INO = 1;
/** Bytes of a file that one page of extents covers. */
export const PAGE_BYTES = 64 * 2 ** 20;
/** A commit publishes to few shards, a client with a small cache subscribes to few. */
export const SHARDS = 16;
const INODE_SHIFT = 8;
const INODE_MASK = 255;

const VOLUME_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/;

export function isVolumeName(name: string): boolean {
  return VOLUME_NAME.test(name);
}

/** A volume's name becomes a hash tag and a part of object keys. Throws `config`. */
export function assertVolumeName(name: string): void {
  if (!isVolumeName(name)) {
    throw new PenstockError(
      'config',
      `'${name}' is not a volume name: expected 1 to 63 letters, digits, '.', '_' or '-', beginning with a letter or digit`,
    );
  }
}

export class VolumeKeys {
  readonly volume: string;
  /** All buckets begin with it. */
  readonly tag: string;
  readonly formatKey: Key;
  readonly gcLock: Key;
  readonly backupLock: Key;
  readonly idsEpoch: Key;
  readonly peerToken: Key;
  readonly counters: string;
  readonly orphans: string;
  readonly locks: string;
  readonly quotas: string;
  readonly usages: string;
  readonly buildings: string;
  readonly lakeReferences: string;
  readonly movedReferences: string;
  readonly mountReports: string;
  /** All inode buckets begin with it. */
  readonly inodePrefix: string;
  readonly pagesPrefix: string;
  readonly listingsPrefix: string;
  /** From a directory entry to its inode, for `MetaEngine.follow`. */
  readonly entryToInode: Link;
  readonly #dataPrefix: string;
  readonly #entriesPrefix: string;
  readonly #numbersPrefix: string;

  constructor(volume: string) {
    assertVolumeName(volume);
    const tag = `{${volume}}`;
    this.volume = volume;
    this.tag = tag;
    this.formatKey = { bucket: `${tag}meta`, field: 'format' };
    this.gcLock = { bucket: `${tag}meta`, field: 'gc' };
    this.backupLock = { bucket: `${tag}meta`, field: 'backup' };
    this.peerToken = { bucket: `${tag}meta`, field: 'peers' };
    this.idsEpoch = { bucket: `${tag}meta`, field: 'ids' };
    this.counters = `${tag}n`;
    this.orphans = `${tag}o`;
    this.locks = `${tag}k`;
    this.quotas = `${tag}u`;
    this.usages = `${tag}w`;
    this.buildings = `${tag}c`;
    this.lakeReferences = `${tag}y`;
    this.movedReferences = `${tag}r`;
    this.mountReports = `${tag}p`;
    this.inodePrefix = `${tag}i:`;
    this.pagesPrefix = `${tag}e:`;
    this.listingsPrefix = `${tag}l:`;
    this.#dataPrefix = `${tag}b:`;
    this.#entriesPrefix = `${tag}d:`;
    this.#numbersPrefix = `${tag}t:`;
    this.entryToInode = { bucketPrefix: this.inodePrefix, shift: INODE_SHIFT };
  }

  counter(name: 'ino' | 'object' | 'bytes' | 'inodes'): Key {
    return { bucket: this.counters, field: name };
  }

  inode(ino: number): Key {
    return { bucket: this.inodePrefix + String(bucketNumber(ino)), field: String(ino % (INODE_MASK + 1)) };
  }

  inlineData(ino: number): Key {
    return { bucket: this.#dataPrefix + String(bucketNumber(ino)), field: String(ino % (INODE_MASK + 1)) };
  }

  entries(directory: number): string {
    return this.#entriesPrefix + String(directory);
  }

  entry(directory: number, name: string): Key {
    return { bucket: this.#entriesPrefix + String(directory), field: name };
  }

  entriesChanged(directory: number): Key {
    return { bucket: this.#numbersPrefix + String(directory), field: 'm' };
  }

  subdirectories(directory: number): Key {
    return { bucket: this.#numbersPrefix + String(directory), field: 's' };
  }

  pages(ino: number): string {
    return this.pagesPrefix + String(ino);
  }

  page(ino: number, page: number): Key {
    return { bucket: this.pages(ino), field: String(page) };
  }

  xattrs(ino: number): string {
    return `${this.tag}x:${ino}`;
  }

  xattr(ino: number, name: string): Key {
    return { bucket: this.xattrs(ino), field: name };
  }

  listingPointer(directory: number): Key {
    return { bucket: this.listing(directory), field: 'p' };
  }

  listingSegment(directory: number, segment: number): Key {
    return { bucket: this.listing(directory), field: String(segment) };
  }

  listing(directory: number): string {
    return this.listingsPrefix + String(directory);
  }

  operations(mountId: string): string {
    return `${this.tag}q:${mountId}`;
  }

  orphan(ino: number): Key {
    return { bucket: this.orphans, field: String(ino) };
  }

  lock(ino: number): Key {
    return { bucket: this.locks, field: String(ino) };
  }

  quota(directory: number): Key {
    return { bucket: this.quotas, field: String(directory) };
  }

  /** What counts to a quota; that of the volume is what statfs reports. */
  usage(directory: number, what: 'bytes' | 'inodes'): Key {
    return directory === ROOT_INO
      ? this.counter(what)
      : { bucket: this.usages, field: `${directory}${what.charAt(0)}` };
  }

  building(root: number): Key {
    return { bucket: this.buildings, field: String(root) };
  }

  lakeReference(objectKey: string): Key {
    return { bucket: this.lakeReferences, field: Buffer.from(objectKey).toString('latin1') };
  }

  movedReference(objectId: number): Key {
    return { bucket: this.movedReferences, field: String(objectId) };
  }

  shard(ino: number): string {
    return `${this.tag}s:${ino % SHARDS}`;
  }

  shards(): string[] {
    return Array.from({ length: SHARDS }, (_, n) => `${this.tag}s:${n}`);
  }

  /** The inode number at (bucket, field) of an inode bucket: the inverse of `inode`. */
  inoOf(bucket: string, field: string): number {
    return Number(bucket.slice(this.inodePrefix.length)) * (INODE_MASK + 1) + Number(field);
  }
}

/** `ino >> 8`, also above 2^31 where the operator would truncate. */
function bucketNumber(ino: number): number {
  return Math.floor(ino / (INODE_MASK + 1));
}
