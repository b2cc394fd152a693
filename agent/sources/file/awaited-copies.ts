/**
 * Files that hold what an open one holds, all that was read of it or the beginning: copies that copytruncate has made, or is making. They wait
 * for their original to be truncated, because then they are what is left of it, and are files of their own if that does not happen.
 *
 * Limits: a copy waits COPY_WAIT_MS, one that is being made as long as it grows and no longer than COPYING_MS_MAX in all. Copies are written in
 * pieces of MARK_BYTES or more: a smaller file may be a header that many have.
 */
import type { FileHandle } from 'node:fs/promises';
import { Marks } from './file-marks.ts';
import { FollowedFile, type OpenFile } from './followed-file.ts';
import {
  bytesAt,
  fits,
  knownBy,
  MARK_BYTES,
  markOf,
  openFile,
  type FilePosition,
  type FileStats,
  type MarkedOffset,
} from './tailed-file.ts';

const COPY_WAIT_MS = 5000;
const COPYING_MS_MAX = 600_000;

interface Copy {
  readonly size: number;
  readonly isWhole: boolean;
  readonly firstMs: number;
  /** It is whole, or has not grown. */
  readonly sinceMs: number;
}

export class AwaitedCopies {
  /** By inode. */
  readonly #copies = new Map<string, Copy>();

  async waits(
    handle: FileHandle,
    { inode, size }: FileStats,
    openFiles: Iterable<OpenFile>,
    resting: Iterable<[inode: string, position: FilePosition]>,
    nowMs: number,
  ): Promise<boolean> {
    const isWhole = await isCopy(handle, size, openFiles, resting);
    if (isWhole === null) return false;
    const before = this.#copies.get(inode);
    const isSame = before !== undefined && before.isWhole === isWhole && (isWhole || before.size === size);
    const copy = { size, isWhole, firstMs: before?.firstMs ?? nowMs, sinceMs: isSame ? before.sinceMs : nowMs };
    this.#copies.set(inode, copy);
    return nowMs - copy.sinceMs < COPY_WAIT_MS && nowMs - copy.firstMs < COPYING_MS_MAX;
  }

  /** Forgets those that the glob does not match any more. */
  keep(found: ReadonlySet<string>): void {
    for (const inode of this.#copies.keys()) if (!found.has(inode)) this.#copies.delete(inode);
  }

  delete(inode: string): void {
    this.#copies.delete(inode);
  }
}

/** Of any of the files: true, of all that was read of it; false, of its beginning; null, of none. */
async function isCopy(
  handle: FileHandle,
  size: number,
  openFiles: Iterable<OpenFile>,
  resting: Iterable<[inode: string, position: FilePosition]>,
): Promise<boolean | null> {
  const end = size < MARK_BYTES ? null : (await Marks.at(handle, size)).end(size);
  let isPart = false;
  for (const file of openFiles) {
    const position = knownBy(file.lines.position);
    if (position.tail.bytes > 0 && (await fits(handle, position))) return true;
    isPart ||= end !== null && size < position.offset && file instanceof FollowedFile && (await file.holds(end));
  }
  // There may be thousands of these, and a thousand new files to compare: most differ in their first bytes, which are read once.
  const beginning = await bytesAt(handle, 0, MARK_BYTES);
  for (const [inode, position] of resting) {
    const { offset, head, tail } = position;
    if (tail.bytes === 0 || markOf(beginning.subarray(0, head.bytes)).crc !== head.crc) continue;
    if (offset <= size && (await fits(handle, position))) return true;
    isPart ||= end !== null && size < offset && (await holds(inode, position.path, end));
  }
  return isPart ? false : null;
}

/** Whether a file that is not open has all of a content that ends like that. */
async function holds(inode: string, path: string, end: MarkedOffset): Promise<boolean> {
  const handle = await openFile(path, inode);
  if (handle === null) return false;
  try {
    return await fits(handle, end);
  } finally {
    await handle.close();
  }
}
