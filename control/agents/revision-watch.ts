/**
 * Wakes whoever waits for a change of what agents are to run with, whichever server made it: a number in the engine grows with every change, and
 * is looked at once a second while somebody waits. Invariants: a waiter that began before a change is woken after it; one may be
 * woken without a change, and looks again.
 */

const LOOK_EVERY_MS = 1000;

export class RevisionWatch {
  readonly #read: () => Promise<bigint>;
  readonly #waiting = new Set<() => void>();
  #timer: NodeJS.Timeout | undefined;
  /** At the last look, which may be long ago: who waits first after that is woken for what happened since. */
  #seen: bigint | undefined;

  constructor(read: () => Promise<bigint>) {
    this.#read = read;
  }

  /** Resolves at the next change, when the signal fires, or after `timeoutMs`. */
  next(timeoutMs: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const end = (): void => {
        clearTimeout(timer);
        signal.removeEventListener('abort', end);
        this.#waiting.delete(end);
        if (this.#waiting.size === 0) {
          clearInterval(this.#timer);
          this.#timer = undefined;
        }
        resolve();
      };
      const timer = setTimeout(end, timeoutMs);
      signal.addEventListener('abort', end, { once: true });
      this.#waiting.add(end);
      this.#timer ??= setInterval(() => void this.#look(), LOOK_EVERY_MS);
      if (signal.aborted) end();
    });
  }

  /** This server made a change. */
  changed(): void {
    for (const wake of [...this.#waiting]) wake();
  }

  async #look(): Promise<void> {
    try {
      const revision = await this.#read();
      const isOther = revision !== this.#seen;
      this.#seen = revision;
      if (isOther) this.changed();
    } catch {
      // The engine is down, which the health says; what changed meanwhile is seen at the next look.
    }
  }
}
