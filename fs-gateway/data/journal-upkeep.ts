/**
 * Keeps the journal short: it is cleared when nothing is staged and open, and written anew (live-frames.ts) when most of it is of no use any more, or lacks something.
 *
 * Invariants: the segments of a file that is committed or dropped stay until the journal has the word for that: killed before, the next worker needs them. While a
 * promise is under way, whose mark is of the journal as it is, it is not written anew.
 * Failure: a disk that is full, or fails, leaves the journal as it is, which says the same; it is tried again.
 */
import type { Appends } from './appends.ts';
import type { DiskRoom } from './disk-room.ts';
import type { Journal } from './journal.ts';
import type { Frame } from './journal-frames.ts';
import type { JournalSyncs } from './journal-syncs.ts';
import { liveFrames } from './live-frames.ts';
import type { Opens } from './opens.ts';
import type { Bases } from './staged-base.ts';
import type { StagedFile } from './staged-file.ts';

/** Truncating costs as much as some frames. */
const CLEARED_FRAMES_MIN = 1000;

export interface UpkeptJournal {
  readonly journal: Journal;
  readonly syncs: JournalSyncs;
  readonly room: DiskRoom;
  /** What it has to say. */
  readonly files: ReadonlyMap<number, StagedFile>;
  readonly appends: Appends;
  readonly bases: Bases;
  readonly opens: Opens;
}

export class JournalUpkeep {
  readonly #of: UpkeptJournal;
  /** Files whose segments are kept for the next worker. */
  #dropped: StagedFile[] = [];

  constructor(of: UpkeptJournal) {
    this.#of = of;
  }

  /** The journal owes the word that nothing of the file is wanted any more. */
  discardLater(file: StagedFile): void {
    this.#dropped.push(file);
  }

  /** Something is about to be staged of an inode of which nothing is. Throws `full` and `io` when the disk does. */
  beforeAnew(ino: number): void {
    // What is left of its segments would be taken for what is staged now.
    if (this.#dropped.some((file) => file.ino === ino)) this.#of.room.payOrThrow();
    this.#discard();
  }

  #discard(): void {
    if (this.#dropped.length === 0 || this.#of.journal.owes) return;
    for (const file of this.#dropped) file.discard(false);
    this.#dropped = [];
  }

  /** Something of what it says is of no use any more. */
  tidy(): void {
    const { journal, room, files, opens, syncs } = this.#of;
    if (files.size === 0 && opens.counts.size === 0) {
      const clears = journal.frames > CLEARED_FRAMES_MIN || journal.owes || opens.isBehind;
      if (clears && room.tryClear()) opens.isBehind = false;
      this.#discard();
      return;
    }
    journal.pay();
    this.#discard();
    if (journal.overgrown && !syncs.underWay) this.tryRewrite();
  }

  /** Where the disk takes writes again. */
  catchUp(): void {
    const { room, opens, syncs } = this.#of;
    if (!opens.isBehind && room.failure === undefined) return;
    if (!syncs.underWay && this.tryRewrite()) this.#discard();
  }

  /** Of an earlier worker, before anything is flushed. Throws `full` and `io` when the disk does. */
  rewrite(): void {
    this.#of.room.rewrite(() => this.#frames(() => undefined));
  }

  /** False: the disk does not take it. */
  tryRewrite(): boolean {
    const marks = new Map<StagedFile, number>();
    const done = this.#of.room.tryRewrite(this.#frames((file, mark) => marks.set(file, mark)));
    if (!done) return false;
    for (const [file, mark] of marks) file.flushMark = mark;
    this.#of.opens.isBehind = false;
    return true;
  }

  #frames(flushed: (file: StagedFile, mark: number) => void): Iterable<Frame> {
    const { opens, appends, bases, files } = this.#of;
    return liveFrames(opens.counts, appends, bases, files.values(), flushed);
  }
}
