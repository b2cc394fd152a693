/**
 * Which event times a dataset takes: each other hour is a directory and a file, so a sensor whose clock is set to any time would make as many as it has
 * readings.
 *
 * A time is measured against when the log took the record, where it says so, and against the lander's (and the metadata engine's) clock. One clock that is
 * off refuses nothing: a reading is of the future when it is ahead of all of them, and too old when it is older than all of them allow.
 */
import type { DatasetConfig } from '../../lib/config/pipeline.ts';

const DAY_MS = 86_400_000;
/** The last that a Date holds. */
const DATE_MS_MAX = 8.64e15;

/** By the clocks of which one may be off, the earliest and the latest of what they say. */
export interface Now {
  readonly earliestMs: number;
  readonly latestMs: number;
}

export class Timely {
  readonly #maxFutureMs: number;
  readonly #maxPastMs: number;
  readonly #now: Now;
  /** Between these a time is timely whatever the log says. */
  readonly #laterThanMicros: number;
  readonly #earlierThanMicros: number;

  constructor({ maxFuture, maxPast = Infinity }: Pick<DatasetConfig, 'maxFuture' | 'maxPast'>, now: Now) {
    this.#maxFutureMs = maxFuture;
    this.#maxPastMs = maxPast;
    this.#now = now;
    this.#laterThanMicros = (now.earliestMs - maxPast) * 1000;
    this.#earlierThanMicros = (now.latestMs + maxFuture) * 1000;
  }

  /** undefined: it is timely; else why not. `appendedMs`: when the log took the record; undefined: it does not say. */
  refusal(eventMicros: number, appendedMs: number | undefined): string | undefined {
    if (eventMicros >= this.#laterThanMicros && eventMicros <= this.#earlierThanMicros) return undefined;
    const eventMs = eventMicros / 1000;
    const latestMs = Math.max(this.#now.latestMs, appendedMs ?? -Infinity);
    if (eventMs > latestMs + this.#maxFutureMs) {
      return `event time of the future: ${iso(eventMs)} is more than ${days(this.#maxFutureMs)} (maxFuture) ahead of ${iso(latestMs)}`;
    }
    const earliestMs = Math.min(this.#now.earliestMs, appendedMs ?? Infinity);
    if (eventMs >= earliestMs - this.#maxPastMs) return undefined;
    return `event time of the past: ${iso(eventMs)} is more than ${days(this.#maxPastMs)} (maxPast) before ${iso(earliestMs)}`;
  }
}

const iso = (ms: number): string => new Date(Math.min(ms, DATE_MS_MAX)).toISOString();
const days = (ms: number): string => `${Number((ms / DAY_MS).toFixed(2))} d`;
