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
 * Invariants: a frame that is torn (behind what its head says there are zeros, or nothing) ends the journal, as it was not answered. One with anything behind it was answered: it is
 * *lost*. It counts as one frame where the next one begins at the end that its head says, or there is no place for another, so that what counts frames stays true. Else nobody
 * knows how many were lost: what counts frames is then believed as far as it is true for any number of them (recovery.ts).
 * What programs wrote is never taken for frames where a head can be believed: nothing is looked for within its body. Behind a head that cannot, the bytes of a file look like
 * frames where somebody has copied a journal into a volume. So frames behind what was not counted are used only if they follow one another to the end of the journal; what does
 * not is lost.
 * Failure: the last frame, damaged, is taken for a torn one. Behind a power cut nobody can tell a damaged frame from one that was not synced: the journal ends there. Frames in the
 * bytes of a file that end where its frame ends cannot be told from others, when the head of that frame is damaged.
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
/** A frame without bytes. */
const BARE_BYTES = HEAD_BYTES + FIXED_BYTES;
const KINDS = new Set<number>(Object.values(FrameKind));

/** Of what a frame has behind its fixed part, beside bytes of a program and a version: the id of a request, the record of an inode. */
const ID_BYTES_MAX = 128;
const RECORD_BYTES_MAX = 64 * 1024;

export interface LostFrame {
  /** In the journal, bytes. */
  readonly at: number;
  /** The frames before it. */
  readonly before: number;
  /** As the frame says, which may be what is damaged. Undefined: nobody can tell how many frames were lost, nor of which inodes. */
  readonly ino: number | undefined;
}

export interface JournalContent {
  /** Also lost ones (`lostAtMost`). */
  readonly frames: Frame[];
  /** Where the last of them ends. */
  readonly bytes: number;
  readonly lost: readonly LostFrame[];
}

/**
 * Throws `unsupported` for what a newer version left: what is half read is committed twice. `path` is for that message. `isUsed`: what is found behind a
 * lost frame is replayed, and not only looked at.
 */
export function readJournal(content: Buffer, path: string, isUsed: boolean): JournalContent {
  const used = usedBytes(content);
  const frames: Frame[] = [];
  const lost: LostFrame[] = [];
  let at = 0;
  while (at < used) {
    const read = frameAt(content, at, path);
    if (read !== undefined) {
      frames.push(read.frame);
      at = read.end;
      continue;
    }
    if (isTorn(content, at, used)) break;
    const { next, atMost } = behindDamaged(content, at, used, isUsed);
    const ino = inoAt(content, at);
    lost.push({ at, before: frames.length, ino: atMost === 1 && isCount(ino) ? ino : undefined });
    if (next === undefined) break;
    frames.push(lostFrame(atMost));
    at = next;
  }
  return { frames, bytes: at, lost };
}

/** Where the next frame begins, if one can be believed, and how many may be lost before it. */
function behindDamaged(
  content: Buffer,
  at: number,
  used: number,
  isUsed: boolean,
): { readonly next: number | undefined; readonly atMost: number } {
  const end = headEnd(content, at);
  if (end !== undefined && isCountedLost(content, at, end)) return { next: end, atMost: 1 };
  const next = nextFrame(content, end ?? at + 1, used, isUsed);
  return { next, atMost: next === undefined ? Infinity : Math.max(1, Math.floor((next - at) / BARE_BYTES)) };
}

export function describeLost({ at, ino }: LostFrame): string {
  return ino === undefined
    ? `from byte ${at} on, of which inodes nobody can tell`
    : `byte ${at}, of inode ${ino} as it says`;
}

/** In the place of so many frames, or fewer. */
function lostFrame(atMost: number): Frame {
  return { kind: FrameKind.COUNTED, ino: 0, timeNs: 0n, offset: 0, length: atMost };
}

/** How many frames were lost where this one stands; 0: it is none that was lost. */
export function lostAtMost({ kind, length }: Frame): number {
  return kind === FrameKind.COUNTED ? length : 0;
}

/** Behind them is the reserve. */
function usedBytes(content: Buffer): number {
  let used = content.length;
  while (used > 0 && content[used - 1] === 0) used--;
  return used;
}

function inoAt(content: Buffer, at: number): number {
  return content.readDoubleLE(at + HEAD_BYTES + 1);
}

/** There is nothing behind it. Of a head that was torn itself there is no more than a head. */
function isTorn(content: Buffer, at: number, used: number): boolean {
  return used <= (headEnd(content, at) ?? at + BARE_BYTES);
}

/** Where a frame ends that was not written whole, or is damaged; undefined: its head cannot be believed. */
function headEnd(content: Buffer, at: number): number | undefined {
  if (at + BARE_BYTES > content.length) return undefined;
  const bytes = content.readUInt32LE(at) - FIXED_BYTES;
  const body = at + HEAD_BYTES;
  const kind = content.readUInt8(body);
  const [offset, length] = [content.readDoubleLE(body + 17), content.readDoubleLE(body + 25)];
  if (!KINDS.has(kind) || ![inoAt(content, at), offset, length].every(isCount)) return undefined;
  const own = kind === FrameKind.DATA || kind === FrameKind.BASE ? bytes - length : bytes;
  return own < 0 || own > ownBytesMax(kind) ? undefined : at + BARE_BYTES + bytes;
}

function isCount(value: number): boolean {
  return Number.isSafeInteger(value) && value >= 0;
}

function ownBytesMax(kind: number): number {
  if (kind === FrameKind.MOVE) return Infinity;
  return kind === FrameKind.BASE ? RECORD_BYTES_MAX : ID_BYTES_MAX;
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

/** Behind one that is damaged; undefined: there is none that can be believed. */
function nextFrame(content: Buffer, from: number, used: number, isUsed: boolean): number | undefined {
  const broken = new Set<number>();
  for (let at = from; at < used; at++) {
    if (headEnd(content, at) === undefined || !isFrame(content, at)) continue;
    if (!isUsed || runsToEnd(content, at, used, broken)) return at;
  }
  return undefined;
}

/** `broken`: where frames begin that do not, as far as that is known. */
function runsToEnd(content: Buffer, from: number, used: number, broken: Set<number>): boolean {
  let at = from;
  while (!broken.has(at)) {
    if (isTorn(content, at, used)) return true;
    const end = endAt(content, at);
    if (end === undefined || !(isWhole(content, at, end) || isCountedLost(content, at, end))) return false;
    broken.add(at);
    at = end;
  }
  return false;
}

/** A damaged one that ends where its head says. */
function isCountedLost(content: Buffer, at: number, end: number): boolean {
  return headEnd(content, at) === end && isFrame(content, end);
}

function isFrame(content: Buffer, at: number): boolean {
  const end = endAt(content, at);
  return end !== undefined && isWhole(content, at, end);
}
