/**
 * Fresh ids for inodes and objects, taken from the volume's counters in blocks, so that a create asks nobody for one.
 *
 * Invariants: an id is given once over all clients (lib/volume/ids.ts). After a session was lost the block at hand is dropped: a failover may
 * have lost that it was taken.
 */
import type { MetaEngine } from '../../lib/meta/engine.ts';
import { takeIds } from '../../lib/volume/ids.ts';
import type { VolumeKeys } from '../../lib/volume/keys.ts';

/** One round trip per so many creates, in the background. */
const ID_BLOCK = 4096;

export type IdCounter = 'ino' | 'object';

interface Block {
  next: number;
  readonly end: number;
}

const NOTHING: Block = { next: 1, end: 1 };

export interface IdBlocksOptions {
  readonly keys: VolumeKeys;
  engine(): MetaEngine | Promise<MetaEngine>;
  retry<T>(call: () => Promise<T>): Promise<T>;
}

export class IdBlocks {
  readonly #options: IdBlocksOptions;
  readonly #blocks = new Map<IdCounter, Block>();
  readonly #refills = new Map<IdCounter, Promise<void>>();
  /** Counts the sessions. */
  #life = 0;

  constructor(options: IdBlocksOptions) {
    this.#options = options;
  }

  /** At once while the block lasts. */
  next(counter: IdCounter): number | Promise<number> {
    const block = this.#blocks.get(counter) ?? NOTHING;
    if (block.next >= block.end) return this.#refill(counter).then(() => this.next(counter));
    // The next block is fetched well before this one ends. A failed fetch is met by whoever finds the block empty.
    if (block.end - block.next === ID_BLOCK / 4) this.#refill(counter).catch(() => undefined);
    return block.next++;
  }

  /** The session is another. */
  renew(): void {
    this.#life++;
    this.#blocks.clear();
  }

  #refill(counter: IdCounter): Promise<void> {
    let refill = this.#refills.get(counter);
    if (refill === undefined) {
      refill = this.#take(counter).finally(() => this.#refills.delete(counter));
      this.#refills.set(counter, refill);
    }
    return refill;
  }

  async #take(counter: IdCounter): Promise<void> {
    const options = this.#options;
    while (true) {
      const life = this.#life;
      // Ids that were taken and never heard of are only skipped.
      const next = await options.retry(async () => takeIds(await options.engine(), options.keys, counter, ID_BLOCK));
      if (life !== this.#life) continue;
      this.#blocks.set(counter, { next, end: next + ID_BLOCK });
      return;
    }
  }
}
