/**
 * Where input goes that is no reading: one NDJSON file per source under `<dataDir>/quarantine`, with the reason and the position.
 *
 *   { "at": "2026-01-31T07:00:00.000Z", "source": "file:/var/log/a.ndjson", "reason": "...", "position": "/var/log/a.ndjson@1234",
 *     "text": "..." | "base64": "..." | neither, when the bound below is reached }
 *
 * Invariants: an item is synced before `put` resolves, and a source moves its checkpoint only afterwards. So nothing disappears; after
 * a crash in between, an item can stand twice (the position tells).
 * Limits: SAMPLE_BYTES_MAX of each input; beyond QUARANTINE_BYTES_MAX per source only reason and position are kept.
 */
import { open, type FileHandle } from 'node:fs/promises';
import { isUtf8 } from 'node:buffer';
import { join } from 'node:path';
import type { Clock } from '../lib/clock.ts';
import { fromSystemError } from '../lib/errors.ts';
import { makeDirectory, syncDirectory } from '../lib/durable-files.ts';

/** Enough to recognise and mostly to repair an input; a broken 2 MB record is kept by its beginning. */
const SAMPLE_BYTES_MAX = 64 * 1024;
const QUARANTINE_BYTES_MAX = 256 * 1024 * 1024;

export interface Rejected {
  readonly reason: string;
  /** Where a person finds it: `PATH@BYTE`. */
  readonly position: string;
  readonly input: Uint8Array;
}

export class Quarantine {
  readonly #dir: string;
  readonly #clock: Clock;
  readonly #files = new Map<string, Promise<{ handle: FileHandle; bytes: number }>>();

  constructor(dir: string, clock: Clock) {
    this.#dir = dir;
    this.#clock = clock;
  }

  /** Resolves when the items are on the disk. Throws `full`, `denied`, `io`. */
  async put(source: string, items: readonly Rejected[]): Promise<void> {
    const path = join(this.#dir, `${source.replaceAll(/[^A-Za-z0-9._-]+/g, '_').slice(0, 100)}.ndjson`);
    try {
      const file = await this.#file(path);
      const keepText = file.bytes < QUARANTINE_BYTES_MAX;
      const at = new Date(this.#clock.nowMs()).toISOString();
      const lines = items.map(({ reason, position, input }) =>
        JSON.stringify({ at, source, reason, position, ...(keepText ? sample(input) : {}) }),
      );
      const bytes = Buffer.from(`${lines.join('\n')}\n`);
      try {
        await file.handle.appendFile(bytes);
        await file.handle.datasync();
      } catch (error) {
        // A full disk leaves a part of a line, which would spoil the next one.
        await file.handle.truncate(file.bytes).catch(() => undefined);
        throw error;
      }
      file.bytes += bytes.length;
    } catch (error) {
      throw fromSystemError(error, `cannot write to the quarantine ${path}`);
    }
  }

  async close(): Promise<void> {
    for (const file of this.#files.values()) await file.then(({ handle }) => handle.close()).catch(() => undefined);
    this.#files.clear();
  }

  #file(path: string): Promise<{ handle: FileHandle; bytes: number }> {
    const known = this.#files.get(path);
    if (known !== undefined) return known;
    const opening = this.#open(path);
    this.#files.set(path, opening);
    opening.catch(() => this.#files.delete(path));
    return opening;
  }

  async #open(path: string): Promise<{ handle: FileHandle; bytes: number }> {
    await makeDirectory(this.#dir);
    const handle = await open(path, 'a');
    await syncDirectory(this.#dir);
    return { handle, bytes: (await handle.stat()).size };
  }
}

function sample(input: Uint8Array): { text: string } | { base64: string } {
  const bytes = Buffer.from(input.buffer, input.byteOffset, Math.min(input.length, SAMPLE_BYTES_MAX));
  // A cut through a character would make the sample look broken where the input is not.
  return isUtf8(input) ? { text: bytes.toString('utf8') } : { base64: bytes.toString('base64') };
}
