/**
 * The frames of a journal (journal.ts), and how they are read, also those of one that is damaged.
 *
 *   journal: NUMBER, frames
 *   frame:  u32 length of the body, u32 seal, body
 *   seal:   CRC32C of the body XOR the number of the journal XOR a hash of the byte of the journal at which the frame begins
 *   body:   u8 kind, f64 ino, i64 timeNs, f64 offset, f64 length, bytes
 *     NUMBER `length` is the number of the journal, which is random. For its own seal the number is 0
 *     DATA   bytes written at offset (small files: they have no segments)
 *     RANGE  [offset, offset + length) was written to segments
 *     HOLE   [offset, offset + length) reads as zeros
 *     SIZE   the file's size was set to `length` (truncate; offset 1) or at least to it (offset 0)
 *     SPILL  what DATA said is in segments from here on
 *     SEGMENT the segment `offset` of the inode was begun anew, as its generation `length` (segments.ts): what was in it before is committed, or not wanted
 *     CLEAN  everything of this inode before the byte `offset` of the journal is committed
 *     DROP   nothing of this inode is staged any more, and its segments may serve other files; a later frame begins anew
 *     APPEND what is staged from `offset` on was appended; timeNs is the id under which it is committed (0: it is), if no FLUSH says another
 *     FLUSH  what is staged before the frame is committed next under the id timeNs, appended bytes up to `offset`; `length` 1: of a live file.
 *            With `writeback` each flush of staged bytes has one, before any SYNC that is written while it is under way
 *     WROTE  the bytes are the id of the request that appended last, `length` bytes; it is done when a live file has `offset` bytes
 *     MOVE   the bytes, which a live file has at `length`, go to `offset`, with zeros before them; an APPEND says that they are there
 *     SYNC   everything of this inode before the byte `offset` (0: before this frame) is on the disk and was promised; it is committed
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
 * *lost*. It is one frame where the next one begins at the end that its head says, or there is no place for another. Else nobody knows how many were lost, nor of which inodes; marks name bytes of the
 * journal, so they stay true.
 * What programs wrote is never taken for frames, also where somebody has copied a journal into a volume, be it this one: the seal is of another journal or another place.
 * The journal of a version before has no number: its seals are the CRC32C alone, its marks count frames, and it has no SEGMENT. It is read, and written anew before anything is
 * written to it. Where it is damaged, what is not counted as one frame ends it, which the log says.
 * Failure: the last frame, damaged, is taken for a torn one. Behind a power cut nobody can tell a damaged frame from one that was not synced: the journal ends there. A damaged
 * NUMBER is found from the seals of two frames that follow one another.
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
  NUMBER: 19,
  SEGMENT: 20,
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
/** A frame without bytes, as the one with the number is. */
const BARE_BYTES = HEAD_BYTES + FIXED_BYTES;
/** Where the frame behind that begins. */
export const FIRST_AT = BARE_BYTES;
const KINDS = new Set<number>(Object.values(FrameKind));

/** Of what a frame has behind its fixed part, beside bytes of a program and a version: the id of a request, the record of an inode. */
const ID_BYTES_MAX = 128;
const RECORD_BYTES_MAX = 64 * 1024;

/** As it is found in a journal. */
export interface PlacedFrame extends Frame {
  /** What marks compare with: the byte at which it begins; of a journal without a number, how many frames are before it. */
  readonly at: number;
}

export interface LostFrame {
  /** In the journal, bytes. */
  readonly at: number;
  /** The frames before it. */
  readonly before: number;
  /** As the frame says, which may be what is damaged. Undefined: nobody can tell how many frames were lost, nor of which inodes. */
  readonly ino: number | undefined;
}

export interface JournalContent {
  /** Without those that were lost. */
  readonly frames: PlacedFrame[];
  /** Where the last of them ends. */
  readonly bytes: number;
  readonly lost: readonly LostFrame[];
  /** Undefined: there is none, or the journal is empty. */
  readonly number: number | undefined;
}

export function frameBytes({ bytes }: Frame): number {
  return BARE_BYTES + (bytes?.length ?? 0);
}

export function numberFrame(number: number): Frame {
  return { kind: FrameKind.NUMBER, ino: 0, timeNs: 0n, offset: 0, length: number };
}

/** Of a frame that begins at the byte `at`. */
export function sealOf(crc: number, number: number, at: number): number {
  return (crc ^ number ^ hashOf(at)) >>> 0;
}

/** The finalizer of MurmurHash3, of the lower 32 bits: two places that are a fixed distance apart have nothing in common by it. 0 stays 0. */
function hashOf(at: number): number {
  let hash = at | 0;
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return hash ^ (hash >>> 16);
}

/** Throws `unsupported` for what a newer version left: what is half read is committed twice. `path` is for that message. */
export function readJournal(content: Buffer, path: string): JournalContent {
  const used = usedBytes(content);
  const number = numberOf(content, used);
  const reader = new Reader(content, number);
  const frames: PlacedFrame[] = [];
  const lost: LostFrame[] = [];
  let at = number === undefined ? 0 : FIRST_AT;
  while (at < used) {
    const end = reader.endOfFrame(at);
    if (end !== undefined) {
      frames.push({ ...decode(content, at, end, path), at: number === undefined ? frames.length + lost.length : at });
      at = end;
      continue;
    }
    if (isTorn(content, at, used)) break;
    const next = reader.nextFrame(at, used);
    const ino = inoAt(content, at);
    lost.push({ at, before: frames.length, ino: isOneFrame(content, at, next) && isCount(ino) ? ino : undefined });
    if (next === undefined) break;
    at = next;
  }
  return { frames, bytes: Math.min(at, content.length), lost, number };
}

export function describeLost({ at, ino }: LostFrame): string {
  return ino === undefined
    ? `from byte ${at} on, of which inodes nobody can tell`
    : `byte ${at}, of inode ${ino} as it says`;
}

/** Behind them is the reserve. */
function usedBytes(content: Buffer): number {
  let used = content.length;
  while (used > 0 && content[used - 1] === 0) used--;
  return used;
}

/** What the journal says, or else the seals of two frames that follow one another. */
function numberOf(content: Buffer, used: number): number | undefined {
  const plain = new Reader(content, undefined);
  if (plain.endOfFrame(0) !== undefined)
    return content.readUInt8(HEAD_BYTES) === FrameKind.NUMBER ? content.readDoubleLE(BARE_BYTES - 8) : undefined;
  for (let at = FIRST_AT; at < used; at++) {
    const end = headEnd(content, at);
    const number = end === undefined ? undefined : numberBy(content, at, end);
    const nextEnd = end === undefined ? undefined : headEnd(content, end);
    if (end === undefined || number === undefined || nextEnd === undefined) continue;
    if (numberBy(content, end, nextEnd) === number) return number;
  }
  return undefined;
}

/** The number of a journal in which that is a frame. */
function numberBy(content: Buffer, at: number, end: number): number | undefined {
  if (end > content.length) return undefined;
  return sealOf(crc32c(content.subarray(at + HEAD_BYTES, end)), content.readUInt32LE(at + 4), at);
}

class Reader {
  readonly #content: Buffer;
  /** Undefined: of a version before. */
  readonly #number: number | undefined;

  constructor(content: Buffer, number: number | undefined) {
    this.#content = content;
    this.#number = number;
  }

  /** Undefined: none begins there, or it is damaged. */
  endOfFrame(at: number): number | undefined {
    const content = this.#content;
    if (at + BARE_BYTES > content.length) return undefined;
    const length = content.readUInt32LE(at);
    const end = at + HEAD_BYTES + length;
    if (length < FIXED_BYTES || end > content.length) return undefined;
    const crc = crc32c(content.subarray(at + HEAD_BYTES, end));
    const seal = this.#number === undefined ? crc : sealOf(crc, this.#number, at);
    return seal === content.readUInt32LE(at + 4) ? end : undefined;
  }

  /** Behind one that is damaged; undefined: there is none that can be believed. */
  nextFrame(damaged: number, used: number): number | undefined {
    const end = headEnd(this.#content, damaged);
    if (this.#number === undefined) return end !== undefined && this.endOfFrame(end) !== undefined ? end : undefined;
    for (let at = damaged + 1; at < used; at++)
      if (headEnd(this.#content, at) !== undefined && this.endOfFrame(at) !== undefined) return at;
    return undefined;
  }
}

function inoAt(content: Buffer, at: number): number {
  return content.readDoubleLE(at + HEAD_BYTES + 1);
}

/** Between the two. */
function isOneFrame(content: Buffer, at: number, next: number | undefined): boolean {
  return next !== undefined && (next === headEnd(content, at) || next - at < 2 * BARE_BYTES);
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

function decode(content: Buffer, at: number, end: number, path: string): Frame {
  const body = content.subarray(at + HEAD_BYTES, end);
  const kind = body.readUInt8(0);
  if (!KINDS.has(kind)) {
    const remedy = 'mount it with that version until everything is uploaded';
    throw new PenstockError('unsupported', `${path}: a newer version wrote it (frame of kind ${kind}): ${remedy}`);
  }
  return {
    kind: kind as FrameKind, // one of KINDS
    ino: body.readDoubleLE(1),
    timeNs: body.readBigInt64LE(9),
    offset: body.readDoubleLE(17),
    length: body.readDoubleLE(25),
    bytes: body.subarray(FIXED_BYTES),
  };
}
