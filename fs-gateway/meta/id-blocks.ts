/**
 * Fresh ids for inodes and objects, taken from the volume's counters in blocks, so that a create asks nobody for one.
 *
 * Invariants: an id is given once over all clients, also when a failover lost the counter's last steps: after a session was lost, the
 * block at hand is dropped and IDS_SKIPPED ids are skipped. Ids that were given before are still in kernels, caches and the store.
 * Limits: a failover that lost more than IDS_SKIPPED ids (a million creates behind the replica) is not covered.
 */
import type { MetaEngine } from '../../lib/meta/engine.ts';
import { takeIds } from '../../lib/volume/ids.ts';
import type { VolumeKeys } from '../../lib/volume/keys.ts';

/** One round trip per so many creates, in the background. */
const ID_BLOCK = 4096;
const IDS_SKIPPED = 1 << 20;

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
  readonly #skip = new Set<IdCounter>();
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

  /** The session is another: the counters may have fallen behind. */
  renew(): void {
    this.#life++;
    this.#blocks.clear();
    this.#skip.add('ino').add('object');
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
      const count = this.#skip.has(counter) ? IDS_SKIPPED : ID_BLOCK;
      // Ids that were taken and never heard of are only skipped.
      const end =
        (await options.retry(async () => takeIds(await options.engine(), options.keys, counter, count))) + count;
      if (life !== this.#life) continue;
      this.#skip.delete(counter);
      this.#blocks.set(counter, { next: end - ID_BLOCK, end });
      return;
    }
  }
}
