/**
 * What becomes of a live file behind its last close: complete again, once nobody can write it; looked after, as long as somebody has it mapped.
 *
 * Invariants: a file is let go only when a comparison that began when nobody could write it has found it to be what is committed, and what is on the disk is synced.
 * Limits: it is compared again after CALM_FIRST_MS, then in growing intervals up to CALM_MAX_MS, and longer where CALM_SHARE of a core is reached.
 */
import { INODE_INLINE } from '../../lib/volume/inode.ts';
import { LiveFile } from '../data/live-file.ts';
import type { WholeFiles } from '../data/whole-files.ts';
import { contentKey } from '../data/whole-record.ts';
import { keyOf } from './content-of.ts';
import type { Context } from './context.ts';
import type { Filler } from './filler.ts';
import type { Result } from './operations.ts';

const CALM_FIRST_MS = 200;
const CALM_MAX_MS = 2_000;
/** Comparing takes at most this share of a core: a large file is looked at less often. */
const CALM_SHARE = 0.05;

export interface CalmingOptions {
  readonly context: Context;
  readonly whole: WholeFiles;
  readonly filler: Filler;
  /** Commits what it has changed, in its turn. */
  commit(ino: number): Result<void>;
}

export class Calming {
  readonly #options: CalmingOptions;
  readonly #waiting = new Map<number, NodeJS.Timeout>();
  #closed = false;

  constructor(options: CalmingOptions) {
    this.#options = options;
  }

  /** After a flush behind the last close: makes the file complete again, or looks after it while a mapping lives. */
  async #calm(ino: number, pauseMs: number): Promise<void> {
    const { context, whole, filler } = this.#options;
    const file = context.staging.get(ino);
    if (this.#closed || !(file instanceof LiveFile) || context.staging.opens.has(ino)) return;
    if (!file.quiet) {
      this.#later(ino, longer(pauseMs));
      return;
    }
    // Nobody can write it now: what is committed by this flush is final, unless an open comes in between.
    for (let round = 0; round < 2 && !file.isSettled(); round++) await this.#options.commit(ino);
    if (!this.#isFinal(file)) {
      this.#later(ino, pauseMs);
      return;
    }
    const seen = context.view.cachedNode(ino);
    const isInMetadata = seen === undefined || (seen.inode.flags & INODE_INLINE) !== 0 || seen.inode.size === 0;
    const record = isInMetadata || file.isRemoved() ? undefined : await file.sync();
    if (!this.#isFinal(file)) {
      this.#later(ino, pauseMs);
      return;
    }
    // Somebody may have removed it while it was synced.
    const isRemoved = file.isRemoved();
    if (record === undefined || isRemoved) {
      context.staging.release(file);
      // The next reader has it in one request; or nobody would find it.
      whole.drop(ino);
      return;
    }
    // Before it is let go: while the disk has no room for its record it stays a live file, and this is tried again.
    whole.calm(ino, record);
    context.staging.release(file);
    const node = context.view.cachedNode(ino);
    // Another node changed it meanwhile.
    if (node !== undefined && (await keyOf(context, node)) !== contentKey(record.content)) filler.later(ino);
  }

  /** Nobody has it open, nobody could have written it since it was compared, and no flush reads it. */
  #isFinal(file: LiveFile): boolean {
    const { staging } = this.#options.context;
    return (
      file.isSettled() && !staging.opens.has(file.ino) && staging.get(file.ino) === file && file.flushing === undefined
    );
  }

  /** When the last handle is closed, whether its flush succeeded or not. */
  begin(ino: number): void {
    if (!(this.#options.context.staging.get(ino) instanceof LiveFile)) return;
    this.#calm(ino, CALM_FIRST_MS).catch(() => this.#later(ino, CALM_FIRST_MS)); // Its flush has reported it, or a full disk is met by whoever writes to it.
  }

  #later(ino: number, pauseMs: number): void {
    if (this.#closed || this.#waiting.has(ino)) return;
    const timer = setTimeout(() => {
      this.#waiting.delete(ino);
      const startedMs = performance.now();
      Promise.resolve(this.#options.commit(ino))
        .then(() => this.#calm(ino, Math.max(pauseMs, (performance.now() - startedMs) / CALM_SHARE)))
        .catch(() => this.#later(ino, longer(pauseMs))); // The flush has reported it.
    }, pauseMs);
    timer.unref();
    this.#waiting.set(ino, timer);
  }

  close(): void {
    this.#closed = true;
    for (const timer of this.#waiting.values()) clearTimeout(timer);
  }
}

function longer(pauseMs: number): number {
  return Math.max(pauseMs, Math.min(pauseMs * 2, CALM_MAX_MS));
}
