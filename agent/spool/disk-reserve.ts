/**
 * A few blocks kept for the moment the disk is full. What frees a full disk are deliveries, and they need to write too: send intents,
 * acknowledgements, records of gaps, heads of segments. So readings are stored only while the reserve is there; when the disk is full it
 * is given up for the others, and taken anew once there is room for as much again, lest readings and reserve take turns with the rest.
 */
import { open, rm, stat, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { PenstockError } from '../../lib/errors.ts';

/** Room for state frames, intents, and the heads of new segments with many topics and checkpoints. */
const RESERVE_BYTES = 256 * 1024;

export class DiskReserve {
  readonly #dir: string;
  readonly #path: string;
  #isThere: boolean | undefined;

  constructor(dir: string) {
    this.#dir = dir;
    this.#path = join(dir, 'reserve');
  }

  get isGivenUp(): boolean {
    return this.#isThere === false;
  }

  async giveUp(): Promise<void> {
    this.#isThere = false;
    await rm(this.#path, { force: true });
  }

  /** Throws `full` when there is no reserve and no room for one. */
  async require(): Promise<void> {
    this.#isThere ??= (await stat(this.#path).catch(() => undefined))?.size === RESERVE_BYTES;
    if (this.#isThere) return;
    const { bavail, bsize } = await statfs(this.#dir);
    if (bavail * bsize >= 2 * RESERVE_BYTES) this.#isThere = await this.#write();
    if (this.#isThere) return;
    const message = `the disk of the spool ${this.#dir} has less than ${(2 * RESERVE_BYTES) / 1024} KiB left; readings are refused until it has more`;
    throw new PenstockError('full', message, { retryable: true });
  }

  async #write(): Promise<boolean> {
    try {
      const handle = await open(this.#path, 'w');
      // Random bytes are not needed, but real ones are: a hole would reserve nothing.
      await handle.writeFile(Buffer.alloc(RESERVE_BYTES, 0x50)).finally(() => handle.close());
      return true;
    } catch {
      await rm(this.#path, { force: true });
      return false;
    }
  }
}
