/** From inode records to what stat(2) shows. */
import { extentBytes } from '../../lib/volume/extents.ts';
import { INODE_INLINE, INODE_PAGED, INODE_TRASHED, isDirectory, S_IFMT, S_IFREG } from '../../lib/volume/inode.ts';
import type { Node } from '../meta/cache.ts';
import type { Attributes, Entry } from './operations.ts';

/** st_blksize: what cp and friends read at a time; the kernel's largest read-ahead request is a multiple. */
const IO_BYTES = 131_072;
const DIRECTORY_BYTES = 4096;
const SECTOR_BYTES = 512;

/** What is written and not committed yet. */
export interface Uncommitted {
  readonly size: number;
  /** Bytes of the file that are staged. */
  readonly stagedBytes: number;
  /** Null: as in the inode. */
  readonly mtimeNs: bigint | null;
  readonly ctimeNs: bigint;
}

export function attributesOf(node: Node, uncommitted?: Uncommitted): Attributes {
  const { inode } = node;
  const directory = isDirectory(inode);
  const size = directory ? DIRECTORY_BYTES : (uncommitted?.size ?? inode.size);
  let { mtimeNs, ctimeNs } = inode;
  // A file in the trash has no name, for all who have it open.
  let nlink = (inode.flags & INODE_TRASHED) !== 0 && !directory ? 0 : inode.nlink;
  if (directory) {
    if (node.entriesChangedNs > inode.mtimeSetNs) mtimeNs = node.entriesChangedNs;
    if (node.entriesChangedNs > ctimeNs) ctimeNs = node.entriesChangedNs;
    if (nlink > 0) nlink += node.subdirectories;
  }
  if (uncommitted !== undefined) {
    mtimeNs = uncommitted.mtimeNs ?? mtimeNs;
    if (uncommitted.ctimeNs > ctimeNs) ctimeNs = uncommitted.ctimeNs;
  }
  return {
    ino: BigInt(node.ino),
    generation: 0n,
    mode: inode.mode,
    nlink,
    uid: inode.uid,
    gid: inode.gid,
    rdev: inode.rdev,
    size: BigInt(size),
    blocks: BigInt(Math.ceil(storedBytes(node, uncommitted) / SECTOR_BYTES)),
    blockSize: IO_BYTES,
    atimeNs: inode.atimeNs,
    mtimeNs,
    ctimeNs,
  };
}

function storedBytes(node: Node, uncommitted: Uncommitted | undefined): number {
  const { inode } = node;
  if (isDirectory(inode)) return DIRECTORY_BYTES;
  if ((inode.mode & S_IFMT) !== S_IFREG) return 0;
  // Holes are known exactly where the extents are in the inode; a file of several pages counts in full.
  const committed = (inode.flags & (INODE_INLINE | INODE_PAGED)) !== 0 ? inode.size : extentBytes(inode.extents);
  if (uncommitted === undefined) return committed;
  return Math.min(uncommitted.size, Math.max(committed, uncommitted.stagedBytes));
}

export function entryOfNode(node: Node, ttlMs: number, uncommitted?: Uncommitted): Entry {
  return { attributes: attributesOf(node, uncommitted), entryTtlMs: ttlMs, attributesTtlMs: ttlMs };
}
