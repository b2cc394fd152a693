/**
 * Blocks of one live file that are in the store before a commit refers to them, so that a flush has less to upload.
 *
 * Invariants
 * - A block stands for bytes, known by the hashes of what was uploaded: it is used only where a comparison has found the same hashes.
 * - It is used by one commit at most. What a comparison does not find changed may be committed already, and what was committed and written over has
 *   lost its reference: gc may be about to delete it. So whatever a flush does not use is dropped.
 * - It is not used when it is older than AGE_MAX_MS: gc takes objects without a reference for abandoned after an hour.
 * Failure: what was uploaded and never used is garbage for gc.
 */
import { systemClock } from '../../lib/clock.ts';
import type { Clock } from '../../lib/clock.ts';
import type { Extent } from '../../lib/volume/extents.ts';
import { type BlockHashes, HASH_BLOCK_BYTES } from './block-hashes.ts';
import type { Overlay } from './overlay.ts';

const AGE_MAX_MS = 20 * 60_000;

interface EarlyBlock {
  readonly extent: Extent;
  readonly hashes: BlockHashes;
  readonly uploaded: Moment;
}

/** A machine that sleeps stops the one, an administrator sets the other. */
interface Moment {
  readonly monotonicMs: number;
  readonly wallMs: number;
}

export class EarlyBlocks {
  readonly #clock: Clock;
  /** By file offset, in the order in which their uploads ended. */
  #blocks = new Map<number, EarlyBlock>();
  readonly #uploading = new Set<Promise<unknown>>();

  constructor(clock: Clock = systemClock) {
    this.#clock = clock;
  }

  /** How long the first of them has been waiting for a commit; 0 without one. */
  get oldestMs(): number {
    const [first] = this.#blocks.values();
    return first === undefined ? 0 : this.#ageMs(first);
  }

  /** An upload that is under way: it resolves with the block's one extent. */
  async add(hashes: BlockHashes, upload: Promise<readonly Extent[]>): Promise<void> {
    const uploaded = this.#now();
    this.#uploading.add(upload);
    try {
      const [extent] = await upload;
      if (extent !== undefined) this.#blocks.set(extent.fileOffset, { extent, hashes, uploaded });
    } finally {
      this.#uploading.delete(upload);
    }
  }

  /** Resolves when what is being uploaded is here, or has failed. */
  async settled(): Promise<void> {
    while (this.#uploading.size > 0) await Promise.allSettled(this.#uploading);
  }

  /** What a flush may take instead of uploading it, in the order of the offsets: `overlay` is what it commits, `hashes` those of the file. Keeps nothing else. */
  matching(overlay: Overlay, hashes: BlockHashes): readonly Extent[] {
    const kept = new Map<number, EarlyBlock>();
    for (const [offset, block] of this.#blocks) {
      const [range] = overlay.within(offset, offset + block.extent.length);
      const isWhole = range?.kind === 'data' && range.end - range.start === block.extent.length;
      if (isWhole && this.#ageMs(block) < AGE_MAX_MS && hashes.has(offset / HASH_BLOCK_BYTES, block.hashes))
        kept.set(offset, block);
    }
    this.#blocks = kept;
    return [...kept.values()].map(({ extent }) => extent).sort((a, b) => a.fileOffset - b.fileOffset);
  }

  /** A flush is committed, or found nothing to commit. */
  clear(): void {
    this.#blocks.clear();
  }

  #now(): Moment {
    return { monotonicMs: this.#clock.monotonicMs(), wallMs: this.#clock.nowMs() };
  }

  #ageMs({ uploaded }: EarlyBlock): number {
    const { monotonicMs, wallMs } = this.#now();
    return Math.max(monotonicMs - uploaded.monotonicMs, Math.abs(wallMs - uploaded.wallMs));
  }
}
