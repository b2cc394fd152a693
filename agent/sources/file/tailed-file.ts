/**
 * One file that is followed: which file it is, whatever name it has at the moment, and how far it is read.
 *
 * A file is recognised by device, inode, when it was made, and *marks*: checksums of its first bytes and of the bytes before the position.
 * Inodes are used again and files are truncated; a file that was made at another time, or whose marks do not fit, is another one. A copy that
 * copytruncate made has another inode and the same marks, and so has a file that was compressed: offsets and marks are always those of the content.
 *
 * Limits: a mark covers MARK_BYTES; a file that was rewritten in its place so that both marks and the length fit is taken for the same one, and so is,
 * where the file system does not say when a file was made (FUSE, NFS before 4.2), one that got the inode of another.
 */
import { crc32c } from '@node-rs/crc32';
import { open, realpath, stat, type FileHandle } from 'node:fs/promises';
import { dirname } from 'node:path';
import { z } from 'zod';
import { systemCode } from '../../../lib/errors.ts';
import type { CheckpointState } from '../../spool/spool-state.ts';

export const MARK_BYTES = 256;

const markSchema = z.strictObject({ bytes: z.int().nonnegative(), crc: z.int().nonnegative() });
const positionSchema = z.strictObject({
  path: z.string(),
  /** Where the file lies, if `path` leads there over a link (/var/log/containers, the folder of a release): there it is when the link leads elsewhere. */
  folder: z.string().exactOptional(),
  /** When the file was made, nanoseconds since the epoch by the clock of then; left out where nobody says. */
  born: z.string().exactOptional(),
  offset: z.int().nonnegative(),
  /** In the middle of an overlong line. */
  skipping: z.boolean(),
  /** Of the first bytes. */
  head: markSchema,
  /** Of the bytes that end at `offset`. */
  tail: markSchema,
  /** The header of a CSV file. */
  columns: z.array(z.string()).nullable(),
  /**
   * Of a container's log: lines between `offset` and `to` are delivered, but for those of the streams in `held`, from there on. `head` and `tail` are
   * the marks of `to`: in other content the same lines are not delivered.
   */
  ahead: z
    .strictObject({
      to: z.int().nonnegative(),
      head: markSchema,
      tail: markSchema,
      held: z.strictObject({
        stdout: z.int().nonnegative().exactOptional(),
        stderr: z.int().nonnegative().exactOptional(),
      }),
    })
    .exactOptional(),
  /** Of a compressed file that was read to its end: its own length, and a checksum of its own last bytes. */
  ended: z.strictObject({ bytes: z.int().nonnegative(), crc: z.int().nonnegative() }).exactOptional(),
});
/** What is stored in the spool with the readings up to `offset`. */
export type FilePosition = z.infer<typeof positionSchema>;

/** An offset of a content, and the marks by which it is known there. */
export type MarkedOffset = Pick<FilePosition, 'offset' | 'head' | 'tail'>;

export type FilePlace = Pick<FilePosition, 'path' | 'folder'>;

export interface FileStats {
  /** `device:inode`. */
  readonly inode: string;
  readonly size: number;
  readonly modifiedMs: number;
}

export const BEGINNING: Omit<FilePosition, 'path'> = {
  offset: 0,
  skipping: false,
  head: { bytes: 0, crc: 0 },
  tail: { bytes: 0, crc: 0 },
  columns: null,
};

/** undefined when it is not ours (another version's). */
export function parsePosition(state: CheckpointState | undefined): FilePosition | undefined {
  return positionSchema.safeParse(state).data;
}

/** Of the file of that inode, to which `path` led a moment ago; where that is over, what is known of it from `before`. */
export async function placeOf(path: string, inode: string, before: FilePlace = { path }): Promise<FilePlace> {
  try {
    const file = await realpath(path);
    // The path may lead to another file by now, whose folder is another one too.
    if ((await statFile(file))?.inode !== inode) return before;
    const folder = dirname(file);
    return folder === dirname(path) ? { path } : { path, folder };
  } catch {
    // It was renamed meanwhile: the next look finds it again.
    return before;
  }
}

/** The same offset of the same content, found at another place. */
export function movedTo({ folder: _, ...position }: FilePosition, place: FilePlace): FilePosition {
  return { ...position, ...place };
}

/** The folder in which what was read at a position is looked for. */
export function folderOf({ path, folder }: FilePlace): string {
  return folder ?? dirname(path);
}

/** null when there is no such regular file. */
export async function statFile(path: string): Promise<FileStats | null> {
  try {
    const stats = await stat(path, { bigint: true });
    if (!stats.isFile()) return null;
    const { dev, ino, size, mtimeMs } = stats;
    return { inode: `${dev}:${ino}`, size: Number(size), modifiedMs: Number(mtimeMs) };
  } catch (error) {
    // A pattern may be longer than a name.
    if (['ENOENT', 'ENOTDIR', 'ENAMETOOLONG'].includes(systemCode(error) ?? '')) return null;
    throw error;
  }
}

/** Opens a path if it still is the file that was found there. */
export async function openFile(path: string, inode: string): Promise<FileHandle | null> {
  let handle: FileHandle;
  try {
    handle = await open(path, 'r');
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return null;
    throw error;
  }
  const stats = await handle.stat({ bigint: true });
  if (`${stats.dev}:${stats.ino}` === inode) return handle;
  await handle.close();
  return null;
}

/** Whether a file is the one, of the same inode, in which `position` was taken: not one that was made since, and `fits`. */
export async function isSameFile(handle: FileHandle, position: FilePosition): Promise<boolean> {
  const { born } = await bornOf(handle);
  const wasMadeSince = born !== undefined && position.born !== undefined && born !== position.born;
  return !wasMadeSince && fits(handle, knownBy(position));
}

/** When a file was made, for its position. */
export async function bornOf(handle: FileHandle): Promise<Pick<FilePosition, 'born'>> {
  const { birthtimeNs } = await handle.stat({ bigint: true });
  return birthtimeNs > 0n && (await tellsBirth()) ? { born: String(birthtimeNs) } : {};
}

let birthIsTold: Promise<boolean> | undefined;
/**
 * Where statx(2) is not allowed (old container runtimes), libuv gives the time of the last change instead, for every file. Node's own one was
 * made before its bytes and permissions were complete, so there the two differ.
 */
function tellsBirth(): Promise<boolean> {
  birthIsTold ??= stat(process.execPath, { bigint: true }).then(
    ({ birthtimeNs, ctimeNs }) => birthtimeNs !== ctimeNs,
    () => false,
  );
  return birthIsTold;
}

/** By what a position is known in a content: at the beginning of a file it has no marks of its own, but what was read behind it has. */
export function knownBy(position: FilePosition): FilePosition {
  const { ahead, tail } = position;
  return ahead === undefined || tail.bytes > 0 ? position : { ...position, ...endOfAhead(ahead) };
}

function endOfAhead({ to, head, tail }: NonNullable<FilePosition['ahead']>): MarkedOffset {
  return { offset: to, head, tail };
}

/** Whether `position` was taken in this content: it is long enough and both marks fit. */
export async function fits(handle: FileHandle, { offset, head, tail }: MarkedOffset): Promise<boolean> {
  return (
    (await handle.stat()).size >= offset &&
    (await crcAt(handle, 0, head.bytes)) === head.crc &&
    (await crcAt(handle, offset - tail.bytes, tail.bytes)) === tail.crc
  );
}

/** What is said of the lines behind the offset is left out where others stand there: the file was truncated while nobody looked. */
export async function withAhead(handle: FileHandle, position: FilePosition): Promise<FilePosition> {
  const { ahead, ...others } = position;
  return ahead === undefined || (await fits(handle, endOfAhead(ahead))) ? position : others;
}

export function markOf(bytes: Buffer): FilePosition['head'] {
  return { bytes: bytes.length, crc: crc32c(bytes) };
}

async function crcAt(handle: FileHandle, start: number, length: number): Promise<number> {
  return length === 0 ? 0 : crc32c(await bytesAt(handle, start, length));
}

export async function bytesAt(handle: FileHandle, start: number, length: number): Promise<Buffer> {
  const bytes = Buffer.alloc(length);
  let filled = 0;
  while (filled < length) {
    const { bytesRead } = await handle.read(bytes, filled, length - filled, start + filled);
    if (bytesRead === 0) break;
    filled += bytesRead;
  }
  return bytes.subarray(0, filled);
}
