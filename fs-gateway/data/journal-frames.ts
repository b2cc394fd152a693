/**
 * The frames of a journal (journal.ts), and how they are read, also those of one that is damaged.
 *
 *   frame:  u32 length of the body, u32 CRC32C of the body, body
 *   body:   u8 kind, f64 ino, i64 timeNs, f64 offset, f64 length, bytes
 *     DATA   bytes written at offset (small files: they have no segments)
 *     RANGE  [offset, offset + length) was written to segments
 *     HOLE   [offset, offset + length) reads as zeros
 *     SIZE   the file's size was set to `length` (truncate; offset 1) or at least to it (offset 0)
 *     SPILL  what DATA said is in segments from here on
 *     CLEAN  everything of this inode before the frame number `offset` is committed
 *     DROP   nothing of this inode is staged any more, and its segments may serve other files; a later frame begins anew
 *     APPEND what is staged from `offset` on was appended; timeNs is the id under which it is committed (0: it is), if no FLUSH says another
 *     FLUSH  what is staged before the frame is committed next under the id timeNs, appended bytes up to `offset`; `length` 1: of a live file.
 *            With `writeback` each flush of staged bytes has one, before any SYNC that is written while it is under way
 *     WROTE  the bytes are the id of the request that appended last, `length` bytes; it is done when a live file has `offset` bytes
 *     MOVE   the bytes, which a live file has at `length`, go to `offset`, with zeros before them; an APPEND says that they are there
 *     SYNC   everything of this inode before the frame number `offset` (0: before this one) is on the disk and was promised; it is committed
 *            under the id timeNs (0: not known)
 *     KEEP   somebody has set another mtime: what was staged until now leaves it
 *     OPEN, CLOSE   the inode was opened (`length` times; `offset` is its backing id, 0 through the daemon) or closed; the bytes are the id of
 *            the request. A CLOSE of `length` 0 takes back the open that this request had made
 *     BASE   what is staged from here on is staged upon this version: the bytes are a version of `length` bytes and the inode's record; `offset` is the
 *            session, timeNs the wall clock. `length` 0: upon none
 *     COUNTED  the bytes are the id of a request that opened or closed an inode
 *   DATA and RANGE of an append end in the id of its request (behind the `length` bytes of DATA).
 *
 * Invariants: a frame that is torn ends the journal, as it was not answered. One with whole frames behind it was answered: it is *lost*, and counts as one frame, so that what
 * counts frames stays true. It ends where its head says, if a frame begins there, else at the next frame that there is.
 * Failure: the last frame, damaged, is taken for a torn one. Behind a power cut nobody can tell a damaged frame from one that was not synced: the journal ends there.
 */
import { crc32c } from '@node-rs/crc32';
import { PenstockError } from '../../lib/errors.ts';

export const FrameKind = {
  DATA: 1,
  RANGE: 2,
  HOLE: 3,
  SIZE: 4,
  SPILL: 5,
  CLEAN: 6,
  OPEN: 7,
  CLOSE: 8,
  DROP: 10,
  APPEND: 11,
  SYNC: 12,
  KEEP: 13,
  FLUSH: 14,
  WROTE: 15,
  MOVE: 16,
  COUNTED: 17,
  BASE: 18,
} as const;
export type FrameKind = (typeof FrameKind)[keyof typeof FrameKind];

/** The id in a frame APPEND: what was appended is committed. */
export const NO_APPEND = { from: 0, id: 0n };

export interface Frame {
  readonly kind: FrameKind;
  readonly ino: number;
  readonly timeNs: bigint;
  readonly offset: number;
  readonly length: number;
  readonly bytes?: Uint8Array;
}

export const HEAD_BYTES = 8;
export const FIXED_BYTES = 33;
const KINDS = new Set<number>(Object.values(FrameKind));

export interface LostFrame {
  /** In the journal, bytes. */
  readonly at: number;
  /** As the frame says, which may be what is damaged. */
  readonly ino: number;
}

export interface JournalContent {
  readonly frames: Frame[];
  /** Where the last of them ends. */
  readonly bytes: number;
  readonly lost: readonly LostFrame[];
}

/** What a lost frame counts as. */
export const LOST_FRAME: Frame = { kind: FrameKind.COUNTED, ino: 0, timeNs: 0n, offset: 0, length: 0 };

/** Throws `unsupported` for what a newer version left: what is half read is committed twice. `path` is for that message. */
export function readJournal(content: Buffer, path: string): JournalContent {
  const frames: Frame[] = [];
  const lost: LostFrame[] = [];
  let at = 0;
  while (at < content.length) {
    const read = frameAt(content, at, path);
    if (read !== undefined) {
      frames.push(read.frame);
      at = read.end;
      continue;
    }
    const next = nextFrame(content, at);
    if (next === undefined) break;
    lost.push({ at, ino: content.readDoubleLE(at + HEAD_BYTES + 1) });
    frames.push(LOST_FRAME);
    at = next;
  }
  return { frames, bytes: at, lost };
}

/** Where the body of the frame ends, as its head says; undefined: none begins there. */
function endAt(content: Buffer, at: number): number | undefined {
  if (at + HEAD_BYTES > content.length) return undefined;
  const length = content.readUInt32LE(at);
  const end = at + HEAD_BYTES + length;
  return length < FIXED_BYTES || end > content.length ? undefined : end;
}

function isWhole(content: Buffer, at: number, end: number): boolean {
  return crc32c(content.subarray(at + HEAD_BYTES, end)) === content.readUInt32LE(at + 4);
}

function frameAt(
  content: Buffer,
  at: number,
  path: string,
): { readonly frame: Frame; readonly end: number } | undefined {
  const end = endAt(content, at);
  if (end === undefined || !isWhole(content, at, end)) return undefined;
  const body = content.subarray(at + HEAD_BYTES, end);
  const kind = body.readUInt8(0);
  if (!KINDS.has(kind)) {
    const remedy = 'mount it with that version until everything is uploaded';
    throw new PenstockError('unsupported', `${path}: a newer version wrote it (frame of kind ${kind}): ${remedy}`);
  }
  const frame = {
    kind: kind as FrameKind, // one of KINDS
    ino: body.readDoubleLE(1),
    timeNs: body.readBigInt64LE(9),
    offset: body.readDoubleLE(17),
    length: body.readDoubleLE(25),
    bytes: body.subarray(FIXED_BYTES),
  };
  return { frame, end };
}

/** Behind one that is damaged; undefined: there is none, so that one was torn. What a small file has may look like a frame: so not within it, if its head can be believed. */
function nextFrame(content: Buffer, damaged: number): number | undefined {
  const end = endAt(content, damaged);
  if (end !== undefined && isFrame(content, end)) return end;
  for (let at = damaged + 1; at + HEAD_BYTES + FIXED_BYTES <= content.length; at++) {
    if (isFrame(content, at)) return at;
  }
  return undefined;
}

function isFrame(content: Buffer, at: number): boolean {
  const end = endAt(content, at);
  return end !== undefined && KINDS.has(content.readUInt8(at + HEAD_BYTES)) && isWhole(content, at, end);
}
