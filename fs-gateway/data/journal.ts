/**
 * The journal of staged changes: what was written through this mount and is not committed yet. It survives the worker (kill -9): the
 * next worker of the mount replays it and goes on. What it consists of: journal-frames.ts.
 *
 * Invariants: a write is answered after its frame was written (to the page cache: it survives the process, not the machine; fsync and
 * close wait for the store, or with `writeback` for `sync`). A torn frame ends the journal: it was not answered (of damaged ones: journal-frames.ts). One that a full disk tore
 * is cut off before another is written, so nothing that is answered later stands behind it.
 * Behind the frames are zeros, the *reserve*: their place on the disk is ours already. What has happened (a close, a commit), and what a commit waits for,
 * is written into it on a full disk; a change that programs ask for never is.
 * Failure: what finds the reserve used up is owed to the journal, in memory, until there is room. Killed while it owes, the next worker takes a file for
 * open or staged that is not: what is committed is committed once more.
 * Limits: RESERVE_BYTES, which are some 4,000 closes and commits. Rewritten with what is live (live-frames.ts) when it passes REWRITE_BYTES, and twice what was live the
 *   last time.
 */
import { crc32c } from '@node-rs/crc32';
import { randomInt } from 'node:crypto';
import {
  closeSync,
  constants,
  copyFileSync,
  existsSync,
  fdatasync,
  fdatasyncSync,
  fstatSync,
  fsyncSync,
  ftruncateSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
  writevSync,
} from 'node:fs';
import type { Stats } from 'node:fs';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { describeError } from '../../lib/errors.ts';
import {
  describeLost,
  FIXED_BYTES,
  frameBytes,
  FrameKind,
  HEAD_BYTES,
  numberFrame,
  readJournal,
  sealOf,
} from './journal-frames.ts';
import type { Frame, LostFrame, PlacedFrame } from './journal-frames.ts';

const sync = promisify(fdatasync);

const EMPTY = new Uint8Array();
const REWRITE_BYTES = 32 * 2 ** 20;
const RESERVE_BYTES = 256 * 1024;
const ZEROS = Buffer.alloc(RESERVE_BYTES);
const OPENED = constants.O_RDWR | constants.O_CREAT;

export interface JournalDamage {
  /** In order, not empty. */
  readonly lost: readonly LostFrame[];
  /** What to tell of it. */
  readonly message: string;
}

export class Journal {
  readonly path: string;
  #fd: number;
  #bytes = 0;
  /** Of the file: from `#bytes` on there are zeros. */
  #length = 0;
  /** Frames written since the journal was last empty or rewritten. */
  #frames = 0;
  /** Of its seals. One that was emptied, or is written anew, has another. */
  #number = 0;
  #isOlder = false;
  #rewriteAt = REWRITE_BYTES;
  /** There may be a part of a frame behind `#bytes`. */
  #torn = false;
  #damage: JournalDamage | undefined;
  /** Frames that the disk had no room for, in order. */
  #owed: Frame[] = [];
  readonly #head = Buffer.alloc(HEAD_BYTES + FIXED_BYTES);
  readonly #fixed = this.#head.subarray(HEAD_BYTES);
  /** The fdatasync under way, and the one that begins behind it for all who came meanwhile. */
  #syncing: Promise<void> | undefined;
  #nextSync: Promise<void> | undefined;
  /** A power cut could bring back the one that was replaced. */
  #isUnnamed = false;

  constructor(dir: string) {
    this.path = join(dir, 'journal');
    this.#fd = openSync(this.path, OPENED, 0o600);
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
    const syncing = this.#syncAll().finally(() => {
      if (this.#syncing === syncing) this.#syncing = undefined;
    });
    this.#syncing = syncing;
    return syncing;
  }

  async #syncAll(): Promise<void> {
    this.#syncName();
    await sync(this.#fd);
  }

  #syncName(): void {
    if (this.#isUnnamed) syncFolder(dirname(this.path));
    this.#isUnnamed = false;
  }

  get frames(): number {
    return this.#frames;
  }

  /** Where the next frame begins: what marks name. */
  get end(): number {
    return this.#bytes;
  }

  /** What `read` found is of a version before: `rewrite` comes before any other frame. */
  get isOlder(): boolean {
    return this.#isOlder;
  }

  get overgrown(): boolean {
    return this.#bytes > this.#rewriteAt;
  }

  /**
   * What an earlier worker left. `sameBoot`: what was lost in between is in `damage`; else the journal ends there. Throws `unsupported` for what a newer
   * version left.
   */
  read(sameBoot = true): PlacedFrame[] {
    const content = readFileSync(this.path);
    const { frames, bytes, lost, number } = readJournal(content, this.path);
    this.#number = number ?? 0;
    this.#isOlder = number === undefined && bytes > 0;
    this.#bytes = bytes;
    this.#length = content.length;
    this.#frames = frames.length;
    const rest = content.subarray(bytes);
    this.#torn = !rest.equals(Buffer.alloc(rest.length));
    const [first] = lost;
    if (first === undefined) return frames;
    const before = sameBoot ? frames : frames.slice(0, first.before);
    const behind = frames.slice(before.length);
    // Of what was not synced a power cut may have left any part.
    if (sameBoot || behind.some(({ kind }) => kind === FrameKind.SYNC))
      this.#damage = {
        lost,
        message: `${this.#describe(lost, sameBoot)}. ${this.#keepDamaged(content)}`,
      };
    return before;
  }

  /** What `read` found; undefined: it is whole. */
  get damage(): JournalDamage | undefined {
    return this.#damage;
  }

  #describe(lost: readonly LostFrame[], sameBoot: boolean): string {
    const where = lost.map(describeLost).join('; ');
    const what = sameBoot
      ? 'of what was written to it something is lost. What others have changed since where anything is staged is kept, and what is staged there is put aside'
      : 'what stands behind that is not used, some of which may have been promised';
    return `${this.path} is damaged (${where}): ${what}`;
  }

  /** What to tell of that. On a full disk what is staged counts more than the copy. */
  #keepDamaged(content: Buffer): string {
    const copy = this.#copyFor(content);
    try {
      if (!existsSync(copy)) writeFileSync(copy, content, { mode: 0o600, flush: true });
      return `It is kept as it was found in ${copy}`;
    } catch (error) {
      rmSync(copy, { force: true });
      return `No copy of it as it was found could be kept (${describeError(error)})`;
    }
  }

  /** One that is not there, or has just that: a worker that cannot start is started again and again. */
  #copyFor(content: Buffer): string {
    for (let number = 1; ; number++) {
      const copy = `${this.path}.damaged.${number}`;
      const size = statSync(copy, { throwIfNoEntry: false })?.size;
      if (size === undefined || (size === content.length && readFileSync(copy).equals(content))) return copy;
    }
  }

  /** Throws Node's error when the disk does; then the frame is not there. Leaves the reserve as it is. */
  append(frame: Frame): void {
    this.payOrThrow();
    this.#extend(frameBytes(frame));
    this.#append(frame);
  }

  /** The same of what a commit waits for, which gives the disk room: from the reserve. */
  appendReserved(frame: Frame): void {
    this.payOrThrow();
    this.#append(frame);
  }

  /** So that a frame of so many bytes has its place before the reserve. */
  #extend(bytes: number): void {
    this.#cutTorn();
    const least = this.#bytes + bytes + RESERVE_BYTES;
    if (this.#length >= least) return;
    try {
      // Twice the reserve, so that few frames have to do it.
      for (const most = least + RESERVE_BYTES; this.#length < most;) {
        this.#length += writeSync(this.#fd, ZEROS, 0, Math.min(ZEROS.length, most - this.#length), this.#length);
      }
    } catch (error) {
      if (this.#length < least) throw error;
    }
  }

  #cutTorn(): void {
    if (!this.#torn) return;
    ftruncateSync(this.#fd, this.#bytes);
    this.#length = this.#bytes;
    this.#torn = false;
  }

  /** Of what has happened already: a disk that is full does not undo it. It comes before the next frame. */
  owe(frame: Frame): void {
    // The last one counts: each commit makes one, and a disk may stay full for long.
    if (frame.kind === FrameKind.BASE)
      this.#owed = this.#owed.filter(({ kind, ino }) => kind !== FrameKind.BASE || ino !== frame.ino);
    this.#owed.push(frame);
    this.pay();
  }

  get owes(): boolean {
    return this.#owed.length > 0;
  }

  /** There may be room now. */
  pay(): void {
    try {
      this.payOrThrow();
    } catch {
      // Whoever writes the next frame hears of the disk.
    }
  }

  /** The same. Throws Node's error when there is not. */
  payOrThrow(): void {
    for (let frame = this.#owed[0]; frame !== undefined; frame = this.#owed[0]) {
      this.#append(frame);
      this.#owed.shift();
    }
  }

  #append(frame: Frame): void {
    this.#cutTorn();
    if (this.#bytes === 0) {
      const number = newNumber();
      this.#put(numberFrame(number), 0);
      this.#number = number;
    }
    this.#put(frame, this.#number);
    this.#frames++;
  }

  #put(frame: Frame, number: number): void {
    this.#torn = true;
    this.#bytes += this.#write(this.#fd, frame, this.#bytes, number);
    this.#length = Math.max(this.#length, this.#bytes);
    this.#torn = false;
  }

  #write(fd: number, frame: Frame, at: number, number: number): number {
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
    const crc = isBare ? fixed : crc32c(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length), fixed);
    head.writeUInt32LE(sealOf(crc, number, at), 4);
    const total = HEAD_BYTES + FIXED_BYTES + bytes.length;
    // Nearly every write of a large file is one of a frame without bytes.
    let written = isBare ? writeSync(fd, head, 0, total, at) : writevSync(fd, [head, bytes], at);
    // A disk that is nearly full takes a part; the rest is what it says the error for.
    while (written < total)
      written += writeSync(fd, Buffer.concat([head, bytes]), written, total - written, at + written);
    return total;
  }

  /** Replaces the journal by these frames, atomically. Throws Node's error when the disk does; then it is as it was. */
  rewrite(frames: Iterable<Frame>): void {
    const temporary = `${this.path}.new`;
    const fd = openSync(temporary, OPENED | constants.O_TRUNC, 0o600);
    const number = newNumber();
    let count = 0;
    let bytes = 0;
    try {
      bytes += this.#write(fd, numberFrame(number), 0, 0);
      for (const frame of frames) {
        bytes += this.#write(fd, frame, bytes, number);
        count++;
      }
      const end = bytes + RESERVE_BYTES;
      for (let at = bytes; at < end;) at += writeSync(fd, ZEROS, 0, end - at, at);
      fdatasyncSync(fd);
      this.#replaceBy(fd, temporary);
    } catch (error) {
      closeSync(fd);
      rmSync(temporary, { force: true });
      // To try it again with each write would take what is left of a full disk's time.
      this.#rewriteAt = this.#bytes + REWRITE_BYTES;
      throw error;
    }
    this.#bytes = bytes;
    this.#length = bytes + RESERVE_BYTES;
    this.#rewriteAt = Math.max(REWRITE_BYTES, 2 * bytes);
    this.#frames = count;
    this.#number = number;
    this.#isOlder = false;
    this.#torn = false;
    this.#owed = [];
    try {
      this.#syncName();
    } catch {
      // It is the journal for all that. A promise (`sync`) tries it again, and is refused until it is done.
    }
  }

  /** From here on frames go to the file that is at the path. */
  #replaceBy(fd: number, temporary: string): void {
    renameSync(temporary, this.path);
    const replaced = this.#fd;
    this.#fd = fd;
    this.#isUnnamed = true;
    const close = (): void => closeSync(replaced);
    // One that is under way has its number.
    if (this.#syncing === undefined) close();
    else void this.#syncing.then(close, close);
  }

  /** Somebody has removed it, or what it is in, or has mounted another disk there: nobody will find what is written into it. */
  get isRemoved(): boolean {
    const there = statSync(this.path, { throwIfNoEntry: false });
    return there === undefined || !isSameFile(there, fstatSync(this.#fd));
  }

  /** Puts it back, the same. Throws Node's errors. */
  restore(): void {
    const temporary = `${this.path}.new`;
    let fd: number | undefined;
    try {
      copyFileSync(`/proc/self/fd/${this.#fd}`, temporary);
      fd = openSync(temporary, OPENED, 0o600);
      fsyncSync(fd);
      this.#replaceBy(fd, temporary);
    } catch (error) {
      if (fd !== undefined) closeSync(fd);
      rmSync(temporary, { force: true });
      throw error;
    }
    this.#syncName();
  }

  /** Nothing is staged any more. */
  clear(): void {
    ftruncateSync(this.#fd);
    this.#bytes = this.#length = 0;
    this.#rewriteAt = REWRITE_BYTES;
    this.#frames = 0;
    this.#torn = false;
    this.#owed = [];
  }

  /** The reserve is for who is killed. */
  close(): void {
    try {
      ftruncateSync(this.#fd, this.#bytes);
    } catch {
      // A disk that became read-only: the next worker finds zeros.
    }
    closeSync(this.#fd);
  }
}

function newNumber(): number {
  return randomInt(1, 2 ** 32);
}

export function isSameFile(a: Stats, b: Stats): boolean {
  return a.ino === b.ino && a.dev === b.dev;
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
