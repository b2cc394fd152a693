/**
 * How long a peer is waited for, in time in which this process could have heard of it.
 *
 * What a peer sent while this process stood still (its core was taken, its memory was swapped out) lies in the kernel unread, and Node runs the
 * timers that came due meanwhile before it reads: a timeout would take a healthy peer for slow. So patience is spent in ticks, of which a standstill
 * is one however long it lasts, and between two of them everything that has arrived is read.
 */
export interface PeerLimits {
  /** Between two signs of life. One that waits for the store says so meanwhile. */
  readonly silenceMs: number;
  readonly deadlineMs: number;
}

/** The resolution of the limits; a standstill counts as one. */
const TICKS_OF_SILENCE = 10;

export class Patience {
  readonly #tickMs: number;
  readonly #timer: NodeJS.Timeout;
  #silentMs = 0;
  #spentMs = 0;

  /** `giveUp` is called once, with the reason; not after `end`. */
  constructor({ silenceMs, deadlineMs }: PeerLimits, giveUp: (text: string) => void) {
    this.#tickMs = silenceMs / TICKS_OF_SILENCE;
    this.#timer = setInterval(() => {
      this.#silentMs += this.#tickMs;
      this.#spentMs += this.#tickMs;
      if (this.#silentMs < silenceMs && this.#spentMs < deadlineMs) return;
      this.end();
      giveUp(this.#silentMs < silenceMs ? `not done within ${deadlineMs} ms` : `no sign of life for ${silenceMs} ms`);
    }, this.#tickMs);
  }

  noteLife(): void {
    this.#silentMs = 0;
  }

  end(): void {
    clearInterval(this.#timer);
  }
}
