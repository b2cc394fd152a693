/**
 * A rate that is not exceeded on average: each use is booked behind the last one (virtual scheduling, ITU-T I.371), and waits for
 * its turn. What was not used is not saved up, so there are no bursts.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Clock } from '../../clock.ts';

export class Pace {
  readonly #perSecond: number;
  readonly #clock: Clock;
  #freeAtMs = 0;

  constructor(perSecond: number, clock: Clock) {
    this.#perSecond = perSecond;
    this.#clock = clock;
  }

  /** Milliseconds until `amount` may be used; it is booked. */
  book(amount: number): number {
    const nowMs = this.#clock.monotonicMs();
    const startMs = Math.max(nowMs, this.#freeAtMs);
    this.#freeAtMs = startMs + (amount / this.#perSecond) * 1000;
    return startMs - nowMs;
  }

  /** Waits for the turn of `amount`. Rejects when the signal fires; the amount stays booked. */
  async wait(amount: number, signal: AbortSignal | undefined): Promise<void> {
    const waitMs = this.book(amount);
    if (waitMs >= 1) await sleep(waitMs, undefined, signal === undefined ? {} : { signal });
  }
}
