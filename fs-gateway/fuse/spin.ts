/**
 * Looking again and again for a short while before sleeping: being woken costs more than what is waited for when that is near. After
 * MISSES_MAX looks in vain only one in RETRY is tried: a machine with other work, and a wait for something far away, keep their CPU.
 */
import type { PollPair } from './native.ts';

const MISSES_MAX = 8;
const RETRY = 16;

export class Spin {
  readonly #poll: PollPair;
  readonly #limitMs: number;
  #misses = 0;

  constructor(poll: PollPair, limitMs: number) {
    this.#poll = poll;
    this.#limitMs = limitMs;
  }

  /** What became ready; 0: nothing. */
  wait(startMs: number): number {
    if (this.#misses >= MISSES_MAX && this.#misses % RETRY !== 0) {
      this.#misses++;
      return 0;
    }
    do {
      const ready = this.#poll.wait(0);
      if (ready !== 0) {
        this.#misses = 0;
        return ready;
      }
    } while (performance.now() - startMs < this.#limitMs);
    this.#misses++;
    return 0;
  }
}
