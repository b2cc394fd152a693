/**
 * The journal of staged changes: what was written through this mount and is not committed yet. It survives the worker (kill -9): the
 * next worker of the mount replays it and goes on.
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
 * Invariants: a write is answered after its frame was written (to the page cache: it survives the process, not the machine; fsync and
 * close wait for the store, or with `writeback` for `sync`). A torn frame ends the journal: it was not answered. One that a full disk tore
 * is cut off before another is written, so nothing that is answered later stands behind it.
 * What has happened (a close, a commit) and finds the disk full is owed to the journal, in memory, until there is room.
 * Failure: killed while it owes, the next worker takes a file for open or staged that is not: what is committed is committed once more.
 * Limits: rewritten with what is live when it passes REWRITE_BYTES, and twice what was live the last time.
 */
import { crc32c } from '@node-rs/crc32';
import {
  closeSync,
  constants,
  fdatasync,
  fdatasyncSync,
  fsyncSync,
  ftruncateSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeSync,
  writevSync,
} from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { PenstockError } from '../../lib/errors.ts';

const sync = promisify(fdatasync);

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

const HEAD_BYTES = 8;
const FIXED_BYTES = 33;
const EMPTY = new Uint8Array();
const REWRITE_BYTES = 32 * 2 ** 20;
/** Appending: where a frame goes does not depend on what was cut off before. */
const NEW_FILE = constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC | constants.O_APPEND;
const KINDS = new Set<number>(Object.values(FrameKind));

export class Journal {
  readonly path: string;
  #fd: number;
  #bytes = 0;
  /** Frames written since the journal was last empty or rewritten. */
  #frames = 0;
  #rewriteAt = REWRITE_BYTES;
  /** There may be a part of a frame behind `#bytes`. */
  #torn = false;
  /** Frames that the disk had no room for, in order. */
  #owed: Frame[] = [];
  readonly #head = Buffer.alloc(HEAD_BYTES + FIXED_BYTES);
  readonly #fixed = this.#head.subarray(HEAD_BYTES);
  /** The fdatasync under way, and the one that begins behind it for all who came meanwhile. */
  #syncing: Promise<void> | undefined;
  #nextSync: Promise<void> | undefined;

  constructor(dir: string) {
    this.path = join(dir, 'journal');
    this.#fd = openSync(this.path, 'a', 0o600);
    syncFolder(dir);
  }

  /** What was written until now survives a power cut when this resolves. */
  sync(): Promise<void> {
    if (this.#syncing === undefined) return this.#beginSync();
    this.#nextSync ??= this.#syncing.then(
      () => this.#beginSync(),
      () => this.#beginSync(),
    );
    return this.#nextSync;
  }

  #beginSync(): Promise<void> {
    this.#nextSync = undefined;
    const syncing = sync(this.#fd).finally(() => {
      if (this.#syncing === syncing) this.#syncing = undefined;
    });
    this.#syncing = syncing;
    return syncing;
  }

  get frames(): number {
    return this.#frames;
  }

  get overgrown(): boolean {
    return this.#bytes > this.#rewriteAt;
  }

  /** What an earlier worker left, up to the first torn frame. Throws `unsupported` for what a newer version left: what is half read is committed twice. */
  read(): Frame[] {
    const content = readFileSync(this.path);
    const frames: Frame[] = [];
    let at = 0;
    while (at + HEAD_BYTES <= content.length) {
      const length = content.readUInt32LE(at);
      const end = at + HEAD_BYTES + length;
      if (length < FIXED_BYTES || end > content.length) break;
      const body = content.subarray(at + HEAD_BYTES, end);
      const kind = body.readUInt8(0);
      if (crc32c(body) !== content.readUInt32LE(at + 4)) break;
      if (!KINDS.has(kind)) {
        const remedy = 'mount it with that version until everything is uploaded';
        throw new PenstockError(
          'unsupported',
          `${this.path}: a newer version wrote it (frame of kind ${kind}): ${remedy}`,
        );
      }
      frames.push({
        kind: kind as FrameKind, // one of KINDS
        ino: body.readDoubleLE(1),
        timeNs: body.readBigInt64LE(9),
        offset: body.readDoubleLE(17),
        length: body.readDoubleLE(25),
        bytes: body.subarray(FIXED_BYTES),
      });
      at = end;
    }
    this.#bytes = at;
    this.#frames = frames.length;
    this.#torn = at < content.length;
    return frames;
  }

  /** Throws Node's error when the disk does; then the frame is not there. */
  append(frame: Frame): void {
    this.#payOrThrow();
    this.#append(frame);
  }

  /** Of what has happened already: a disk that is full does not undo it. It comes before the next frame. */
  owe(frame: Frame): void {
    this.#owed.push(frame);
    this.pay();
  }

  get owes(): boolean {
    return this.#owed.length > 0;
  }

  /** There may be room now. */
  pay(): void {
    try {
      this.#payOrThrow();
    } catch {
      // Whoever writes the next frame hears of the disk.
    }
  }

  #payOrThrow(): void {
    for (let frame = this.#owed[0]; frame !== undefined; frame = this.#owed[0]) {
      this.#append(frame);
      this.#owed.shift();
    }
  }

  #append(frame: Frame): void {
    if (this.#torn) ftruncateSync(this.#fd, this.#bytes);
    this.#torn = true;
    this.#bytes += this.#write(this.#fd, frame);
    this.#torn = false;
    this.#frames++;
  }

  #write(fd: number, frame: Frame): number {
    const head = this.#head;
    head.writeUInt8(frame.kind, HEAD_BYTES);
    head.writeDoubleLE(frame.ino, HEAD_BYTES + 1);
    head.writeBigInt64LE(frame.timeNs, HEAD_BYTES + 9);
    head.writeDoubleLE(frame.offset, HEAD_BYTES + 17);
    head.writeDoubleLE(frame.length, HEAD_BYTES + 25);
    const bytes = frame.bytes ?? EMPTY;
    head.writeUInt32LE(FIXED_BYTES + bytes.length, 0);
    const fixed = crc32c(this.#fixed);
    const isBare = bytes.length === 0;
    head.writeUInt32LE(isBare ? fixed : crc32c(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length), fixed), 4);
    const total = HEAD_BYTES + FIXED_BYTES + bytes.length;
    // Nearly every write of a large file is one of a frame without bytes.
    let written = isBare ? writeSync(fd, head) : writevSync(fd, [head, bytes]);
    // A disk that is nearly full takes a part; the rest is what it says the error for.
    while (written < total) written += writeSync(fd, Buffer.concat([head, bytes]), written);
    return total;
  }

  /** Replaces the journal by these frames, atomically. Throws Node's error when the disk does; then it is as it was. */
  rewrite(frames: Iterable<Frame>): void {
    const temporary = `${this.path}.new`;
    const fd = openSync(temporary, NEW_FILE, 0o600);
    let count = 0;
    let bytes = 0;
    try {
      for (const frame of frames) {
        bytes += this.#write(fd, frame);
        count++;
      }
      fdatasyncSync(fd);
      renameSync(temporary, this.path);
    } catch (error) {
      closeSync(fd);
      rmSync(temporary, { force: true });
      // To try it again with each write would take what is left of a full disk's time.
      this.#rewriteAt = this.#bytes + REWRITE_BYTES;
      throw error;
    }
    syncFolder(join(this.path, '..'));
    closeSync(this.#fd);
    this.#fd = fd;
    this.#bytes = bytes;
    this.#rewriteAt = Math.max(REWRITE_BYTES, 2 * bytes);
    this.#frames = count;
    this.#torn = false;
    this.#owed = [];
  }

  /** Nothing is staged any more. */
  clear(): void {
    ftruncateSync(this.#fd);
    this.#bytes = 0;
    this.#rewriteAt = REWRITE_BYTES;
    this.#frames = 0;
    this.#torn = false;
    this.#owed = [];
  }

  close(): void {
    closeSync(this.#fd);
  }
}

/** Names made in it survive a power cut. */
export function syncFolder(dir: string): void {
  const fd = openSync(dir, 'r');
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
