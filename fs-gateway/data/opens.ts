/**
 * Which inodes programs have open (open-counts.ts), and what the journal says of it: the next worker, and the kernel's backing files, depend on it.
 *
 * Invariants: an open is in the journal before it is answered; a close at once, or owed to it. An open that only reads does not need the disk: where that fails, this worker knows of
 * it, and the journal when it is written anew (`isBehind`). Until then closes would be owed to it without end, so they are not.
 * Failure: killed while the journal is behind, the next worker does not know of what was opened and closed since.
 */
import type { DiskRoom } from './disk-room.ts';
import type { Journal } from './journal.ts';
import type { Frame } from './journal-frames.ts';
import { closeFrame, countedFrame, openFrame } from './live-frames.ts';
import type { OpenCounts } from './open-counts.ts';
import { closeId } from './recovery.ts';

export interface OpensOptions {
  readonly counts: OpenCounts;
  readonly room: DiskRoom;
  readonly journal: Journal;
  /** Nobody has the inode open any more. */
  readonly lastClosed: (ino: number) => void;
  /** Behind each close. */
  readonly closed: () => void;
}

export class Opens {
  readonly counts: OpenCounts;
  /** The journal lacks opens that only read, and closes: the disk failed meanwhile. Whoever has written it anew says that it does not. */
  isBehind = false;
  readonly #options: OpensOptions;

  constructor(options: OpensOptions) {
    this.counts = options.counts;
    this.#options = options;
  }

  has(ino: number): boolean {
    return this.counts.has(ino);
  }

  inos(): Iterable<number> {
    return this.counts.inos();
  }

  /** Under which id the kernel has the inode open; undefined: it is not open, or through the daemon. */
  backingOf(ino: number): number | undefined {
    return this.counts.backingOf(ino);
  }

  get backed(): Iterable<number> {
    return this.counts.backed;
  }

  /** Under which the kernel has inodes open. */
  get backingIds(): ReadonlySet<number> {
    return new Set(this.counts.backingIds);
  }

  /**
   * `backingId`: 0 through the daemon. It is in the journal before the kernel hears of it. Nothing when the request was counted before. `onlyReads`: it
   * does not need the disk. Where that is only full it throws all the same: the journal goes on to hear of closes, and the next worker would not know what
   * is open.
   */
  opened(ino: number, nowNs: bigint, request: string, backingId = 0, onlyReads = false): void {
    const { room } = this.#options;
    if (this.counts.counted(request)) return;
    try {
      room.append(openFrame(ino, nowNs, backingId, request));
    } catch (error) {
      if (!onlyReads || room.failure === undefined) throw error;
      this.isBehind = true;
    }
    this.counts.opened(ino, 1, backingId);
    this.counts.note(request);
  }

  /** True at the last close; nothing when the request was counted before. */
  closed(ino: number, nowNs: bigint, request: string): boolean {
    const id = closeId(request);
    if (!this.counts.has(ino) || this.counts.counted(id)) return false;
    this.#noteClose(closeFrame(ino, nowNs, 1, request));
    this.counts.note(id);
    return this.#closed(ino, id);
  }

  /** The open that the request had made failed behind that. True when nobody else has the inode open. */
  takeBack(ino: number, nowNs: bigint, request: string): boolean {
    if (!this.counts.counted(request)) return false;
    this.#noteClose(closeFrame(ino, nowNs, 0, request));
    this.counts.forget(request);
    return this.#closed(ino, '');
  }

  #noteClose(frame: Frame): void {
    if (!this.isBehind) this.#options.room.owe(frame);
  }

  #closed(ino: number, id: string): boolean {
    const { journal, room, lastClosed, closed } = this.#options;
    const last = this.counts.closed(ino);
    if (last) lastClosed(ino);
    closed();
    // It is not answered yet.
    if (id !== '' && journal.frames === 0) room.owe(countedFrame(id));
    return last;
  }

  /** An open waits: until `letGo` the inode counts as open for this worker, and not for the next one, which gets the request again. */
  hold(ino: number): void {
    this.counts.hold(ino);
  }

  /** True when nobody else has the inode open. */
  letGo(ino: number): boolean {
    const last = this.counts.letGo(ino);
    if (last) this.#options.lastClosed(ino);
    return last;
  }
}
