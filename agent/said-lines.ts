/** Lines of the log about what comes and goes: each is said once, and again when that is long ago, so that a link that flaps fills no log. */
import type { Clock } from '../lib/clock.ts';

const SAID_AGAIN_MS = 3_600_000;
/** Different texts that are remembered; the oldest are forgotten. */
const TEXTS_MAX = 200;

export class SaidLines {
  readonly #log: (line: string) => void;
  readonly #clock: Clock;
  readonly #saidMs = new Map<string, number>();

  constructor(log: (line: string) => void, clock: Clock) {
    this.#log = log;
    this.#clock = clock;
  }

  say(line: string): void {
    const nowMs = this.#clock.monotonicMs();
    if (nowMs - (this.#saidMs.get(line) ?? -Infinity) < SAID_AGAIN_MS) return;
    this.#saidMs.delete(line);
    this.#saidMs.set(line, nowMs);
    for (const oldest of this.#saidMs.keys()) {
      if (this.#saidMs.size <= TEXTS_MAX) break;
      this.#saidMs.delete(oldest);
    }
    this.#log(line);
  }
}
