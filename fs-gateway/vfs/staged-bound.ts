/**
 * Keeps what all files together have staged within a bound: a write that would be above it waits while the largest are flushed.
 *
 * Invariants
 * - A write is admitted in the turn in which the sum is below the bound, so the sum passes it by one write at most.
 * - Files without names are not counted: nothing of them is ever uploaded, and nobody could wait for them.
 * - Who waits is let through, or hears an error. A file of another program that cannot be committed (a quota) is left alone for so long; where the store
 *   cannot be reached the write fails with that, as its own fsync would.
 * Limits: FLUSHES_AT_ONCE flushes; with `writeback` they take their turn in the order of the closes.
 */
import { isCode, PenstockError } from '../../lib/errors.ts';
import type { StagedFile } from '../data/staged-file.ts';
import type { Context } from './context.ts';
import type { Result } from './operations.ts';

/** A flush is of one file: as many as keep the slots of the uploader busy with small ones. */
const FLUSHES_AT_ONCE = 4;

export interface StagedBoundOptions {
  readonly context: Context;
  readonly bytesMax: number;
  /** Commits what is staged of a file, in its turn. Rejects when it could not be. */
  commit(ino: number): Result<void>;
}

export class StagedBound {
  readonly #options: StagedBoundOptions;
  /** At least what is staged: the sum as of the last look, and what was written since. */
  #bytes = Infinity;
  readonly #flushes = new Map<number, Promise<void>>();

  constructor(options: StagedBoundOptions) {
    this.#options = options;
  }

  /** So many bytes were staged. */
  wrote(bytes: number): void {
    this.#bytes += bytes;
  }

  /** To look at every file with each write would cost more than the write: only where the sum may be above the bound. */
  isReached(): boolean {
    const { bytesMax } = this.#options;
    if (this.#bytes < bytesMax) return false;
    this.#bytes = 0;
    for (const file of this.#options.context.staging.files.values()) {
      if (!this.#isUnnamed(file)) this.#bytes += file.stagedBytes;
    }
    return this.#bytes >= bytesMax;
  }

  #isUnnamed({ ino }: StagedFile): boolean {
    return this.#options.context.view.cachedNode(ino)?.inode.nlink === 0;
  }

  /** Resolves in a turn in which there is room for a write to the file. */
  async room(ino: number): Promise<void> {
    const failed = new Set<number>();
    let error: Error | undefined;
    while (this.isReached()) {
      const next = this.#flushes.size < FLUSHES_AT_ONCE ? this.#largest(failed) : undefined;
      if (next !== undefined) {
        this.#begin(next);
        continue;
      }
      if (this.#flushes.size === 0) throw this.#hopeless(error);
      const ends = [...this.#flushes].map(([each, flush]) =>
        flush.catch((reason: unknown) => {
          failed.add(each);
          error = reason instanceof Error ? reason : new Error(String(reason));
        }),
      );
      await Promise.race(ends);
      if (error !== undefined && (failed.has(ino) || !isOfOneFile(error))) throw error;
    }
  }

  #begin(file: StagedFile): void {
    const flush = this.#flush(file).finally(() => this.#flushes.delete(file.ino));
    this.#flushes.set(file.ino, flush);
    flush.catch(() => undefined); // Whoever waits hears of it; the file stays staged and is tried again.
  }

  async #flush({ ino, active }: StagedFile): Promise<void> {
    await this.#options.commit(ino);
    if (this.#options.context.staging.get(ino)?.active !== active) return;
    throw new PenstockError('io', `nothing of inode ${ino} was committed`);
  }

  #largest(failed: ReadonlySet<number>): StagedFile | undefined {
    let largest: StagedFile | undefined;
    let most = 0;
    for (const file of this.#options.context.staging.files.values()) {
      // What a flush has begun to commit it will give back.
      const bytes = file.isUnsettled ? file.stagedBytes : file.active.dataBytes;
      if (bytes <= most) continue;
      if (failed.has(file.ino) || this.#flushes.has(file.ino) || this.#isUnnamed(file)) continue;
      largest = file;
      most = bytes;
    }
    return largest;
  }

  #hopeless(cause: unknown): PenstockError {
    const { bytesMax } = this.#options;
    return new PenstockError('full', `${bytesMax} bytes are staged that cannot be committed`, { cause });
  }
}

/** And not of the store or the metadata engine, which others would meet as well. */
export function isOfOneFile(error: unknown): boolean {
  return isCode(error, 'quota', 'conflict', 'corrupt', 'io') || !(error instanceof PenstockError);
}
