/**
 * Who may still store something. Under `reject` a spool takes readings up to `maxBytes`; those of a topic that the log refuses only while it is
 * half full, because they stay until somebody repairs that: the rest is for topics that the log takes.
 */
import { PenstockError } from '../../lib/errors.ts';
import type { DropPolicy } from './dropping.ts';
import { PackedReadings, type Readings } from './packed-readings.ts';

const PRESSURE_SHARE = 1 / 2;

export interface RoomOptions {
  readonly dir: string;
  readonly maxBytes: number;
  readonly whenFull: 'reject' | DropPolicy;
}

export class Room {
  /** Whether the log refuses a topic; set when there is an uplink, which knows. */
  isRefused: (topic: string) => boolean = () => false;
  readonly #options: RoomOptions;

  constructor(options: RoomOptions) {
    this.#options = options;
  }

  /** Space is short enough to be made by writing segments anew. */
  isScarce(bytes: number): boolean {
    return bytes > PRESSURE_SHARE * this.#options.maxBytes;
  }

  /** Why a spool that holds so many bytes does not take the readings, or null. */
  refusalOf(readings: Readings, bytes: number): PenstockError | null {
    if (this.#options.whenFull !== 'reject' || !this.isScarce(bytes)) return null;
    if (bytes > this.#options.maxBytes) return this.fullError();
    const topics = readings instanceof PackedReadings ? [readings.topic] : readings.map(({ topic }) => topic);
    const refused = [...new Set(topics)].find((topic) => this.isRefused(topic));
    if (refused === undefined) return null;
    const message = `the log refuses topic ${refused}, and the spool ${this.#options.dir} is half full: no more of its readings are taken until the log takes them, or there is room`;
    return new PenstockError('full', message, { retryable: true });
  }

  fullError(): PenstockError {
    const message = `the spool ${this.#options.dir} is full (${this.#options.maxBytes} bytes); readings are refused until the uplink has delivered some`;
    return new PenstockError('full', message, { retryable: true });
  }
}
