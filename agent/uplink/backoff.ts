/** Exponential backoff with full jitter (AWS Architecture Blog, "Exponential Backoff and Jitter"): retries of many agents spread out. */
import { setTimeout as delay } from 'node:timers/promises';

export interface BackoffOptions {
  readonly minMs: number;
  readonly maxMs: number;
  /** After a refusal, which only a person can change (each repeat costs budget and the broker's time); `maxMs` without it. */
  readonly refusedMaxMs?: number;
  /** 0 to 1. */
  readonly random: () => number;
}

export class Backoff {
  readonly #options: BackoffOptions;

  constructor(options: BackoffOptions) {
    this.#options = options;
  }

  /** Waits before the attempt after `attempt` failed ones (from 0); ends early, without an error, when the signal fires. */
  async wait(attempt: number, signal: AbortSignal, isRefusal = false): Promise<void> {
    const { minMs, maxMs, refusedMaxMs, random } = this.#options;
    const ceiling = Math.min(isRefusal ? (refusedMaxMs ?? maxMs) : maxMs, minMs * 2 ** Math.min(attempt, 30));
    await delay(minMs / 2 + random() * (ceiling - minMs / 2), undefined, { signal }).catch(() => {
      // Aborted: the caller looks at the signal.
    });
  }
}
