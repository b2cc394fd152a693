/**
 * Blocks of one file that are in the store before a commit refers to them, so that a flush has less to upload.
 *
 * Invariants
 * - A block stands for bytes. Those of a live file are known by their hashes: it is used only where a comparison has found the same ones. Those of a staged file
 *   change by `changed` only, which drops it, also while it is being uploaded.
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
  readonly bytes: number;
  /** Undefined while it is being uploaded. */
  extent: Extent | undefined;
  readonly hashes: BlockHashes | undefined;
  readonly begun: Moment;
}

/** A machine that sleeps stops the one, an administrator sets the other. */
interface Moment {
  readonly monotonicMs: number;
  readonly wallMs: number;
}

export class EarlyBlocks {
  readonly #clock: Clock;
  /** By file offset, in the order in which their uploads began. */
  #blocks = new Map<number, EarlyBlock>();
  readonly #uploading = new Set<Promise<unknown>>();
  /** Where uploads were begun. */
  readonly #begun = new Set<number>();

  constructor(clock: Clock = systemClock) {
    this.#clock = clock;
  }

  /** How long the first of them has been waiting for a commit; 0 without one. */
  get oldestMs(): number {
    const [first] = this.#blocks.values();
    return first === undefined ? 0 : this.#ageMs(first);
  }

  /** Whether a block at this offset was uploaded, whatever became of it. */
  wasBegun(offset: number): boolean {
    return this.#begun.has(offset);
  }

  /** An upload of [offset, bytes] that is under way: it resolves with the block's one extent. `hashes`: of a live file. Rejects with it. */
  async add(
    [offset, bytes]: readonly [number, number],
    upload: Promise<readonly Extent[]>,
    hashes?: BlockHashes,
  ): Promise<void> {
    const block: EarlyBlock = { bytes, extent: undefined, hashes, begun: this.#now() };
    this.#blocks.delete(offset);
    this.#blocks.set(offset, block);
    this.#begun.add(offset);
    this.#uploading.add(upload);
    try {
      [block.extent] = await upload;
    } finally {
      this.#uploading.delete(upload);
      if (block.extent === undefined && this.#blocks.get(offset) === block) this.#blocks.delete(offset);
    }
  }

  /** Of a staged file: [from, to) has other bytes now. */
  changed(from: number, to: number): void {
    if (this.#blocks.size === 0) return;
    for (const [offset, { bytes }] of this.#blocks) {
      if (offset < to && offset + bytes > from) this.#blocks.delete(offset);
    }
  }

  /** Resolves when what is being uploaded is here, or has failed. */
  async settled(): Promise<void> {
    while (this.#uploading.size > 0) await Promise.allSettled(this.#uploading);
  }

  /** What a flush may take instead of uploading it, in the order of the offsets: `overlay` is what it commits, `hashes` those of a live file. Keeps nothing else. */
  matching(overlay: Overlay, hashes?: BlockHashes): readonly Extent[] {
    const kept = new Map<number, EarlyBlock>();
    const extents: Extent[] = [];
    for (const [offset, block] of this.#blocks) {
      const { extent } = block;
      if (extent === undefined || this.#ageMs(block) >= AGE_MAX_MS) continue;
      const [range] = overlay.within(offset, offset + extent.length);
      const isWhole = range?.kind === 'data' && range.end - range.start === extent.length;
      if (!isWhole || !isOfBytes(block, offset, hashes)) continue;
      kept.set(offset, block);
      extents.push(extent);
    }
    this.#blocks = kept;
    return extents.sort((a, b) => a.fileOffset - b.fileOffset);
  }

  /** A flush is committed, or found nothing to commit. */
  clear(): void {
    this.#blocks.clear();
    this.#begun.clear();
  }

  #now(): Moment {
    return { monotonicMs: this.#clock.monotonicMs(), wallMs: this.#clock.nowMs() };
  }

  #ageMs({ begun }: EarlyBlock): number {
    const { monotonicMs, wallMs } = this.#now();
    return Math.max(monotonicMs - begun.monotonicMs, Math.abs(wallMs - begun.wallMs));
  }
}

function isOfBytes({ hashes: own }: EarlyBlock, offset: number, hashes: BlockHashes | undefined): boolean {
  return own === undefined || hashes === undefined || hashes.has(offset / HASH_BLOCK_BYTES, own);
}
