/**
 * What the staging area does where the disk of the cache directory is full: whoever can give room there does, before a program hears of it. Segments that serve
 * nobody first, then what the caches can fetch again.
 *
 * Invariant: a change that programs ask for leaves the reserve of the journal (journal.ts) to what has happened already.
 * Limits: it ends when nobody has anything left to give; then the error is `full` (ENOSPC, and EDQUOT of a disk quota).
 */
import { fromSystemError, isCode } from '../../lib/errors.ts';
import type { Frame, Journal } from './journal.ts';
import type { SegmentRoom, Segments } from './segments.ts';

export interface StagingRoom extends SegmentRoom {
  /** Others in the cache directory give room. False: they have none. */
  giveWay(): boolean;
}

export class DiskRoom {
  readonly #journal: Journal;
  readonly #segments: Segments;
  readonly #room: StagingRoom | undefined;
  readonly #what: string;

  constructor(journal: Journal, segments: Segments, room: StagingRoom | undefined) {
    this.#journal = journal;
    this.#segments = segments;
    this.#room = room;
    this.#what = `journal in the cache directory, ${journal.path}`;
  }

  /** Does what may be done again, as often as there comes room for it. Throws `full` and `io`. */
  in(work: () => void, what: string): void {
    for (;;) {
      try {
        work();
        return;
      } catch (error) {
        const known = fromSystemError(error, what);
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

  /** False: the disk is full. The journal as it stands says the same; it is nobody's loss, so nobody gives room. */
  tryRewrite(frames: Iterable<Frame>): boolean {
    try {
      this.#journal.rewrite(frames);
      return true;
    } catch (error) {
      if (!isCode(fromSystemError(error, this.#what), 'full')) throw error;
      return false;
    }
  }
}
