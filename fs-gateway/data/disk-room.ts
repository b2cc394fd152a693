/**
 * What the staging area does where the disk of the cache directory is full: whoever can give room there does, before a program hears of it. Segments that serve
 * nobody first, then what the caches can fetch again. And what it knows of a disk that takes nothing any more: ext4 makes itself read-only at an I/O error.
 *
 * Invariant: a change that programs ask for leaves the reserve of the journal (journal.ts) to what has happened already.
 * Failure: a disk that fails is told of once, and once when it is written to again.
 * Limits: it ends when nobody has anything left to give; then the error is `full` (ENOSPC, and EDQUOT of a disk quota).
 */
import { dirname } from 'node:path';
import { describeError, fromSystemError, isCode, PenstockError, systemCode } from '../../lib/errors.ts';
import type { Journal } from './journal.ts';
import type { Frame } from './journal-frames.ts';
import type { SegmentRoom, Segments } from './segments.ts';

export interface StagingRoom extends SegmentRoom {
  /** Others in the cache directory give room. False: they have none. */
  giveWay(): boolean;
}

const REMEDY =
  'Look for the errors of the disk in the log of the kernel (dmesg), repair it (fsck) and mount it in its place again; or unmount with --force, and mount with another --cache-dir';

/** The disk of the cache directory has become read-only. */
export class ReadOnlyDiskError extends PenstockError {
  constructor(message: string, cause: unknown) {
    super('denied', message, { cause });
  }
}

export class DiskRoom {
  readonly #journal: Journal;
  readonly #segments: Segments;
  readonly #room: StagingRoom | undefined;
  readonly #what: string;
  readonly #report: (message: string) => void;
  #failure: PenstockError | undefined;

  constructor(
    journal: Journal,
    segments: Segments,
    room: StagingRoom | undefined,
    report: (message: string) => void = () => undefined,
  ) {
    this.#report = report;
    this.#journal = journal;
    this.#segments = segments;
    this.#room = room;
    this.#what = `journal in the cache directory, ${journal.path}`;
  }

  /** What the disk says to whoever writes to it; undefined: it takes that, or is only full. */
  get failure(): PenstockError | undefined {
    return this.#failure;
  }

  /** What it says to be thrown. Others than these say something of a file, and not of the disk. */
  #failed(error: unknown, what: string): PenstockError {
    const code = systemCode(error);
    if (code !== 'EROFS' && code !== 'EIO') return fromSystemError(error, what);
    const failure: PenstockError =
      code === 'EROFS'
        ? new ReadOnlyDiskError(`${what}: ${describeError(error)}`, error)
        : fromSystemError(error, what);
    if (this.#failure === undefined)
      this.#report(
        `the disk of the cache directory cannot be written to: files are read from it and from the store, writes are refused (${describeError(failure)}). ${REMEDY}`,
      );
    this.#failure = failure;
    return failure;
  }

  #worked(): void {
    if (this.#failure === undefined) return;
    this.#failure = undefined;
    this.#report(`the disk of the cache directory takes writes again, ${dirname(this.#journal.path)}`);
  }

  /** Does what may be done again, as often as there comes room for it. Throws `full` and `io`. */
  in(work: () => void, what: string): void {
    for (;;) {
      try {
        work();
        this.#worked();
        return;
      } catch (error) {
        const known = this.#failed(error, what);
        if (!isCode(known, 'full') || !this.#make()) throw known;
      }
    }
  }

  #make(): boolean {
    return this.#segments.giveBackIdle() || this.#room?.giveWay() === true;
  }

  append(frame: Frame): void {
    this.in(() => this.#journal.append(frame), this.#what);
  }

  /** Of what a commit waits for. */
  appendReserved(frame: Frame): void {
    this.in(() => this.#journal.appendReserved(frame), this.#what);
  }

  owe(frame: Frame): void {
    this.#journal.owe(frame);
    while (this.#journal.owes && this.#make()) this.#journal.pay();
  }

  payOrThrow(): void {
    this.in(() => this.#journal.payOrThrow(), this.#what);
  }

  rewrite(frames: () => Iterable<Frame>): void {
    this.in(() => this.#journal.rewrite(frames()), this.#what);
  }

  /** False: the disk is full, or fails. The journal as it stands says the same; it is nobody's loss, so nobody gives room. */
  tryRewrite(frames: Iterable<Frame>): boolean {
    try {
      this.#journal.rewrite(frames);
      this.#worked();
      return true;
    } catch (error) {
      const known = this.#failed(error, this.#what);
      if (known.code === 'full' || known === this.#failure) return false;
      throw known;
    }
  }

  /** Nothing is staged any more. False: the disk fails, and the journal says what it said. */
  tryClear(): boolean {
    try {
      this.#journal.clear();
      return true;
    } catch (error) {
      this.#failed(error, this.#what);
      return false;
    }
  }
}
