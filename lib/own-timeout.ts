/**
 * A timeout for what another end sends, in time in which this process could have heard it.
 *
 * What arrived while this process stood still (its core was taken, its memory was swapped out, the machine slept) lies in the kernel unread, and
 * Node runs the timers that came due meanwhile before it reads: `setTimeout` would take a healthy peer, device or broker for silent. So the time
 * passes in ticks, of which a standstill is one however long it lasts, and between two of them what has arrived is read.
 */
const TICKS = 10;

export class OwnTimeout {
  readonly #timer: NodeJS.Timeout;
  #ticks = 0;

  /** `onOver` is called once; not after `clear`. */
  constructor(ms: number, onOver: () => void) {
    this.#timer = setInterval(() => {
      this.#ticks += 1;
      if (this.#ticks < TICKS) return;
      this.clear();
      onOver();
    }, ms / TICKS);
  }

  /** There was a sign of life: the time begins anew. */
  refresh(): void {
    this.#ticks = 0;
  }

  clear(): void {
    clearInterval(this.#timer);
  }
}
