/**
 * A few blocks kept for the moment the disk is full: without them the acknowledgement that would free a segment could not be written,
 * and the spool would stay full for ever.
 */
import { open, rm } from 'node:fs/promises';
import { join } from 'node:path';

/** Room for a state frame and the head of a new segment, with many topics and checkpoints. */
const RESERVE_BYTES = 256 * 1024;
/** A disk that is full is not asked for the reserve again at every group. */
const RESTORE_EVERY_GROUPS = 100;

export class DiskReserve {
  readonly #path: string;
  #isThere = false;
  #groupsUntilRestore = 0;

  constructor(dir: string) {
    this.#path = join(dir, 'reserve');
  }

  async giveUp(): Promise<void> {
    this.#isThere = false;
    this.#groupsUntilRestore = RESTORE_EVERY_GROUPS;
    await rm(this.#path, { force: true });
  }

  /** Called after a group was written; a failure leaves the spool as it is, only without a reserve. */
  async restore(): Promise<void> {
    if (this.#isThere) return;
    this.#groupsUntilRestore -= 1;
    if (this.#groupsUntilRestore > 0) return;
    this.#groupsUntilRestore = RESTORE_EVERY_GROUPS;
    try {
      const handle = await open(this.#path, 'w');
      // Random bytes are not needed, but real ones are: a hole would reserve nothing.
      await handle.write(Buffer.alloc(RESERVE_BYTES, 0x50)).finally(() => handle.close());
      this.#isThere = true;
    } catch {
      await rm(this.#path, { force: true });
    }
  }
}
