/**
 * Numbers of open files, and who of them has to hear that something written is not in the volume.
 *
 * Invariant: every handle that was open when it happened is told by its next fsync or close, once, whoever met the error first (as `errseq_t` of
 * Linux): a flush in the background, or the fsync of another program. A flush that failed and is tried again is no such error: who
 * syncs behind it syncs all. Who has lost a lock to another mount is told by its unlock or fsync, once, or else by each close: a process that has
 * inherited the descriptor closes it too when it ends, and asks for no answer.
 * Failure: the worker killed before, the log and `stats` (`keptAside`) tell. Limits: LOST_MAX inodes, of those that are open, and as many locks.
 */
import { describeError, PenstockError } from '../../lib/errors.ts';
import { BoundedMap } from '../meta/bounded-map.ts';
import type { Result } from './operations.ts';

const LOST_MAX = 4096;

interface Lost {
  readonly message: string;
  /** Handles below were open. */
  readonly before: bigint;
  readonly told: Set<bigint>;
}

export class Handles {
  /** Handles of a previous worker are below: they begin at another millisecond. */
  #next = BigInt(Date.now()) << 20n;
  readonly #lost = new BoundedMap<number, Lost>(LOST_MAX);
  #lostOfAny: Lost | undefined;
  /** By the handle through which the lock was set. */
  readonly #lostLocks = new BoundedMap<bigint, string>(LOST_MAX);

  next(): bigint {
    return this.#next++;
  }

  /** Something that was written to an open inode is not in the volume, and will not be. */
  lost(ino: number, message: string): void {
    this.#lost.set(ino, { message, before: this.#next, told: new Set() });
  }

  /** The same, and nobody knows of which inode: each handle is told. */
  lostOfAny(message: string): void {
    this.#lostOfAny = { message, before: this.#next, told: new Set() };
  }

  /** What was written under a lock may have met what its next holder wrote. */
  lostLock(handle: bigint, message: string): void {
    this.#lostLocks.set(handle, message);
  }

  /** At an unlock or fsync: throws `io` where the handle has lost a lock, and has not been told yet. */
  tellLostLock(handle: bigint): void {
    const message = this.#lostLocks.get(handle);
    this.#lostLocks.delete(handle);
    if (message !== undefined) throw new PenstockError('io', message);
  }

  /** No program has the handle any more. */
  released(handle: bigint): void {
    this.#lostLocks.delete(handle);
  }

  /** The last handle is closed. */
  closed(ino: number): void {
    this.#lost.delete(ino);
  }

  /** A close by this handle: throws `io` where it has not been told yet. */
  closing(ino: number, handle: bigint, run: () => Result<void>): Result<void> {
    return this.#telling(ino, handle, run, () => {
      const message = this.#lostLocks.get(handle);
      if (message !== undefined) throw new PenstockError('io', message);
    });
  }

  /** The same for an fsync. */
  syncing(ino: number, handle: bigint, run: () => Result<void>): Result<void> {
    return this.#telling(ino, handle, run, () => this.tellLostLock(handle));
  }

  #telling(ino: number, handle: bigint, run: () => Result<void>, tellLock: () => void): Result<void> {
    const told = (error: unknown): never => {
      const lost = this.#lost.get(ino);
      // Of another error it would learn, once that is mended, that all is well.
      if (lost !== undefined && describeError(error) === lost.message) lost.told.add(handle);
      throw error;
    };
    try {
      const running = run();
      if (running instanceof Promise) return running.then(() => this.#tell(ino, handle, tellLock), told);
    } catch (error) {
      told(error);
    }
    this.#tell(ino, handle, tellLock);
  }

  #tell(ino: number, handle: bigint, tellLock: () => void): void {
    for (const lost of [this.#lost.get(ino), this.#lostOfAny]) {
      if (lost === undefined || handle >= lost.before || lost.told.has(handle)) continue;
      lost.told.add(handle);
      throw new PenstockError('io', lost.message);
    }
    tellLock();
  }
}
