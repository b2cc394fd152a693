/**
 * Commits in the background, in the order in which files were closed or synced, what the local disk has already (`-o writeback`).
 *
 * Invariants
 * - One flush at a time (its uploads are parallel), so that other nodes see commits in the order of the closes.
 * - A file that cannot be committed is tried again, after the others: it is never given up. Its place on the local disk stays.
 * Failure: what is staged is found in the journal by the next worker or the next mount, and queued again.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Clock } from '../../lib/clock.ts';
import type { Result } from './operations.ts';

const RETRY_MS = 5000;

export class Writeback {
  readonly #clock: Clock;
  readonly #flush: (ino: number) => Result<void>;
  /** When each was closed first; in that order, failed ones at the end. */
  readonly #queue = new Map<number, number>();
  #current: { readonly ino: number; readonly sinceMs: number } | undefined;
  #working: Promise<void> | undefined;
  readonly #stopping = new AbortController();

  /** `flush` reports its own errors. */
  constructor(clock: Clock, flush: (ino: number) => Result<void>) {
    this.#clock = clock;
    this.#flush = flush;
  }

  add(ino: number): void {
    if (!this.#queue.has(ino)) this.#queue.set(ino, this.#clock.monotonicMs());
    this.#working ??= this.#work().finally(() => (this.#working = undefined));
  }

  /** How long the oldest has been waiting; 0 when nothing is. */
  get oldestMs(): number {
    const times = [...this.#queue.values(), ...(this.#current === undefined ? [] : [this.#current.sinceMs])];
    return times.length === 0 ? 0 : Math.round(this.#clock.monotonicMs() - Math.min(...times));
  }

  async #work(): Promise<void> {
    for (const [ino, sinceMs] of this.#queue) {
      if (this.#stopping.signal.aborted) return;
      this.#queue.delete(ino);
      this.#current = { ino, sinceMs };
      try {
        await this.#flush(ino);
      } catch {
        this.#queue.set(ino, sinceMs);
        await sleep(RETRY_MS, undefined, { signal: this.#stopping.signal, ref: false }).catch(() => undefined);
      }
      this.#current = undefined;
    }
  }

  /** Ends after the flush under way; call drain() of the file system before. */
  async close(): Promise<void> {
    this.#stopping.abort();
    await this.#working;
  }
}
