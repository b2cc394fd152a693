/** What is read once for all who ask for it, as long as it serves. A reading that failed is not kept: the next who asks tries again. */
import type { Clock } from '../lib/clock.ts';

export class SharedReading<T> {
  readonly #clock: Clock;
  readonly #freshMs: number;
  #kept: { readonly value: Promise<T>; readonly version: number; readonly atMs: number } | undefined;

  constructor(clock: Clock, freshMs: number) {
    this.#clock = clock;
    this.#freshMs = freshMs;
  }

  /** Reads anew after `freshMs`, or for another `version` than the one before. */
  async get(read: () => Promise<T>, version = 0): Promise<T> {
    const nowMs = this.#clock.monotonicMs();
    if (this.#kept?.version !== version || nowMs - this.#kept.atMs >= this.#freshMs) {
      this.#kept = { value: read(), version, atMs: nowMs };
    }
    const kept = this.#kept;
    try {
      return await kept.value;
    } catch (error) {
      if (this.#kept === kept) this.#kept = undefined;
      throw error;
    }
  }

  /** What the last `get` gave or will give; undefined when there is none. */
  get kept(): Promise<T> | undefined {
    return this.#kept?.value;
  }

  forget(): void {
    this.#kept = undefined;
  }
}
