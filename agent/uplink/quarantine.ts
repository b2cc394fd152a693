/**
 * Readings that no log will take, kept beside the spool as NDJSON (`{ at, topic, seq, reason, key, value }`, the value in base64) for a person
 * to look at. A line is on disk before the reading counts as given up; after a crash in between it may stand there twice.
 */
import { open, type FileHandle } from 'node:fs/promises';
import type { Clock } from '../../lib/clock.ts';
import { fromSystemError } from '../../lib/errors.ts';

export interface Quarantined {
  readonly topic: string;
  readonly seq: bigint;
  readonly reason: string;
  readonly key: string | null;
  readonly value: string;
}

export class Quarantine {
  readonly #path: string;
  readonly #clock: Clock;
  #file: FileHandle | undefined;
  /** By topic: a reading that could not be passed comes again. */
  readonly #lastSeqs = new Map<string, bigint>();
  #count = 0;

  constructor(path: string, clock: Clock) {
    this.#path = path;
    this.#clock = clock;
  }

  get count(): number {
    return this.#count;
  }

  async add(entry: Quarantined): Promise<void> {
    if (this.#lastSeqs.get(entry.topic) === entry.seq) return;
    const at = new Date(this.#clock.nowMs()).toISOString();
    try {
      this.#file ??= await open(this.#path, 'a');
      await this.#file.appendFile(`${JSON.stringify({ at, ...entry, seq: String(entry.seq) })}\n`);
      await this.#file.datasync();
      this.#lastSeqs.set(entry.topic, entry.seq);
      this.#count++;
    } catch (error) {
      throw fromSystemError(error, `cannot write ${this.#path}`);
    }
  }

  async close(): Promise<void> {
    await this.#file?.close();
  }
}
