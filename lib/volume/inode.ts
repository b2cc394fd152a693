/**
 * The inode record.
 *
 *   u8      format (1)
 *   varint  flags (INODE_*)
 *   varint  mode            st_mode: type and permission bits
 *   varint  nlink           directories: 0 when removed, else 2; the subdirectories are a number of their own (keys.ts)
 *   varint  uid, varint gid
 *   i64     ctime           ns since the epoch
 *   signed  mtime - ctime, signed atime - ctime
 *   varint  quota root (with QUOTA)
 *   by type:
 *     file       varint size; without INLINE and PAGED: the extents (extents.ts)
 *     directory  varint parent ino (0: the root's own); signed mtimeSet - ctime
 *     symlink    bytes target
 *     device     varint rdev
 *   u32     CRC32C of all before
 *
 * A directory's mtime: `mtimeNs` was set at `mtimeSetNs` (by utimensat, or at its creation); it holds until an entry changes later
 * than that (the number `m` of keys.ts). So creates need not write the inode, and utimensat can set any time.
 *
 * Limits: a file is at most FILE_BYTES_MAX; inode numbers and sizes are below 2^53, so they are plain numbers in memory.
 */
import { ByteReader, ByteWriter } from './bytes.ts';
import { readExtents, writeExtents } from './extents.ts';
import type { Extent } from './extents.ts';

export const S_IFMT = 0o170000;
export const S_IFSOCK = 0o140000;
export const S_IFLNK = 0o120000;
export const S_IFREG = 0o100000;
export const S_IFBLK = 0o060000;
export const S_IFDIR = 0o040000;
export const S_IFCHR = 0o020000;
export const S_IFIFO = 0o010000;

/** The content is a record of its own (`{v}b`), shorter than `size` when the rest is zeros. */
export const INODE_INLINE = 1;
/** The extents are in pages (`{v}e`). */
export const INODE_PAGED = 2;
/** There are extended attributes. */
export const INODE_XATTRS = 4;
/** A lake directory: its entries come from a listing generation. */
export const INODE_LISTING = 8;
/** Content and names are not ours to change: a file of the lake. */
export const INODE_IMMUTABLE = 16;
/** There is a quota root; only in the record, in memory it is `quota`. */
const INODE_QUOTA = 32;
/** Of the trash, or in it: it was removed, and what it has was too. */
export const INODE_TRASHED = 64;
/** Of a snapshot: nothing of it changes. */
export const INODE_FROZEN = 128;
/** Its access, or its default, access control list is among the extended attributes (fs-gateway/vfs/acl.ts). */
export const INODE_ACCESS_ACL = 256;
export const INODE_DEFAULT_ACL = 512;
const FLAGS_KNOWN = 1023;

export const FILE_BYTES_MAX = 2 ** 50;
const FORMAT = 1;

export interface Inode {
  readonly flags: number;
  readonly mode: number;
  readonly nlink: number;
  readonly uid: number;
  readonly gid: number;
  readonly rdev: number;
  readonly size: number;
  readonly atimeNs: bigint;
  readonly mtimeNs: bigint;
  readonly ctimeNs: bigint;
  /** The directory whose quota it counts to (quota.ts), a quota root itself: its own number; 0: none. */
  readonly quota: number;
  /** Directories: the inode of `..`. */
  readonly parent: number;
  /** Directories: when `mtimeNs` was set. */
  readonly mtimeSetNs: bigint;
  readonly target: Buffer | null;
  readonly extents: readonly Extent[];
}

const scratch = new ByteWriter();

export function isDirectory(inode: Inode): boolean {
  return (inode.mode & S_IFMT) === S_IFDIR;
}

export function isRegular(inode: Inode): boolean {
  return (inode.mode & S_IFMT) === S_IFREG;
}

/** What the `bytes` of the volume and of quotas count of it: the size of a file, and nothing of a symbolic link. */
export function countedBytes(inode: Inode): number {
  return isRegular(inode) ? inode.size : 0;
}

export function encodeInode(inode: Inode): Buffer {
  const writer = scratch.reset();
  writer.u8(FORMAT).varint(inode.quota === 0 ? inode.flags : inode.flags | INODE_QUOTA);
  writer.varint(inode.mode).varint(inode.nlink).varint(inode.uid).varint(inode.gid);
  writer
    .i64(inode.ctimeNs)
    .signed(inode.mtimeNs - inode.ctimeNs)
    .signed(inode.atimeNs - inode.ctimeNs);
  if (inode.quota !== 0) writer.varint(inode.quota);
  switch (inode.mode & S_IFMT) {
    case S_IFREG:
      writer.varint(inode.size);
      if ((inode.flags & (INODE_INLINE | INODE_PAGED)) === 0) writeExtents(writer, inode.extents);
      break;
    case S_IFDIR:
      writer.varint(inode.parent).signed(inode.mtimeSetNs - inode.ctimeNs);
      break;
    case S_IFLNK:
      writer.bytes(inode.target ?? Buffer.alloc(0));
      break;
    default:
      writer.varint(inode.rdev);
  }
  return writer.finish();
}

/** Throws `corrupt` naming the inode. */
export function decodeInode(record: Buffer, ino: number): Inode {
  const reader = new ByteReader(record, `inode ${ino}`);
  const format = reader.u8();
  if (format !== FORMAT) throw reader.damaged(`format ${format}, expected ${FORMAT}`);
  const recorded = reader.varint();
  if (recorded > FLAGS_KNOWN) throw reader.damaged(`unknown flags ${recorded}`);
  const flags = recorded & ~INODE_QUOTA;
  const mode = reader.varint();
  const nlink = reader.varint();
  const uid = reader.varint();
  const gid = reader.varint();
  const ctimeNs = reader.i64();
  const mtimeNs = ctimeNs + reader.signed();
  const atimeNs = ctimeNs + reader.signed();
  const quota = flags === recorded ? 0 : reader.varint();
  let size = 0;
  let rdev = 0;
  let parent = 0;
  let mtimeSetNs = 0n;
  let target: Buffer | null = null;
  let extents: readonly Extent[] = [];
  switch (mode & S_IFMT) {
    case S_IFREG:
      size = reader.varint();
      if ((flags & (INODE_INLINE | INODE_PAGED)) === 0) extents = readExtents(reader);
      break;
    case S_IFDIR:
      parent = reader.varint();
      mtimeSetNs = ctimeNs + reader.signed();
      break;
    case S_IFLNK:
      target = reader.bytes();
      size = target.length;
      break;
    case S_IFCHR:
    case S_IFBLK:
    case S_IFIFO:
    case S_IFSOCK:
      rdev = reader.varint();
      break;
    default:
      throw reader.damaged(`mode 0${mode.toString(8)} has no known type`);
  }
  reader.end();
  const attributes = { flags, mode, nlink, uid, gid, rdev, size, quota };
  return { ...attributes, atimeNs, mtimeNs, ctimeNs, parent, mtimeSetNs, target, extents };
}

/** A new inode with all three times `nowNs`; the rest by `fields`. */
export function newInode(mode: number, uid: number, gid: number, nowNs: bigint, fields: Partial<Inode> = {}): Inode {
  return {
    flags: 0,
    mode,
    nlink: (mode & S_IFMT) === S_IFDIR ? 2 : 1,
    uid,
    gid,
    rdev: 0,
    size: 0,
    atimeNs: nowNs,
    mtimeNs: nowNs,
    ctimeNs: nowNs,
    quota: 0,
    parent: 0,
    mtimeSetNs: nowNs,
    target: null,
    extents: [],
    ...fields,
  };
}
