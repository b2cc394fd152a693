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
import { isOfOneFile } from './staged-bound.ts';

const RETRY_MS = 5000;

interface Waiting {
  readonly sinceMs: number;
  readonly committed: PromiseWithResolvers<void>;
}

export class Writeback {
  readonly #clock: Clock;
  readonly #flush: (ino: number) => Result<void>;
  /** In the order in which they were closed first; failed ones at the end. */
  readonly #queue = new Map<number, Waiting>();
  #current: { readonly ino: number; readonly sinceMs: number } | undefined;
  #working: Promise<void> | undefined;
  /** Rejects when the store or the metadata engine cannot be reached. */
  #outage = outage();
  readonly #stopping = new AbortController();

  /** `flush` reports its own errors. */
  constructor(clock: Clock, flush: (ino: number) => Result<void>) {
    this.#clock = clock;
    this.#flush = flush;
  }

  /** Resolves when it is committed in its turn; never, when the mount ends before. */
  add(ino: number): Promise<void> {
    let waiting = this.#queue.get(ino);
    if (waiting === undefined) {
      waiting = { sinceMs: this.#clock.monotonicMs(), committed: Promise.withResolvers() };
      this.#queue.set(ino, waiting);
    }
    this.#working ??= this.#work();
    return waiting.committed.promise;
  }

  /** The same; rejects when one before it, or it, meets an outage. Both are tried again. */
  inTurn(ino: number): Promise<void> {
    return Promise.race([this.add(ino), this.#outage.promise]);
  }

  /** How long the oldest has been waiting; 0 when nothing is. */
  get oldestMs(): number {
    const times = [
      ...this.#queue.values().map(({ sinceMs }) => sinceMs),
      ...(this.#current === undefined ? [] : [this.#current.sinceMs]),
    ];
    return times.length === 0 ? 0 : Math.round(this.#clock.monotonicMs() - Math.min(...times));
  }

  async #work(): Promise<void> {
    for (const [ino, waiting] of this.#queue) {
      if (this.#stopping.signal.aborted) return;
      this.#queue.delete(ino);
      this.#current = { ino, sinceMs: waiting.sinceMs };
      try {
        await this.#flush(ino);
        waiting.committed.resolve();
      } catch (error) {
        if (!isOfOneFile(error)) {
          this.#outage.reject(error);
          this.#outage = outage();
        }
        const again = this.#queue.get(ino);
        if (again === undefined) this.#queue.set(ino, waiting);
        else waiting.committed.resolve(again.committed.promise);
        await sleep(RETRY_MS, undefined, { signal: this.#stopping.signal, ref: false }).catch(() => undefined);
      }
      this.#current = undefined;
    }
    // In the turn in which the queue was found empty: what is added in the next one begins anew.
    this.#working = undefined;
  }

  /** Ends after the flush under way; call drain() of the file system before. */
  async close(): Promise<void> {
    this.#stopping.abort();
    await this.#working;
  }
}

/** Nobody may be waiting for it. */
function outage(): PromiseWithResolvers<never> {
  const resolvers = Promise.withResolvers<never>();
  resolvers.promise.catch(() => undefined);
  return resolvers;
}
