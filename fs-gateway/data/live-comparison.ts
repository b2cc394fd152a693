/**
 * What the comparison of a live file (live-file.ts) with its base read of the backing file: its size, the hashes of its blocks, and small content whole. The flush
 * behind it commits that.
 *
 * Invariant: a block that is loaded to be uploaded is hashed anew, so `hashes` are those of the very bytes that are committed.
 */
import { BlockHashes, HASH_BLOCK_BYTES } from './block-hashes.ts';
import { readUpTo } from './descriptors.ts';
import type { FileHasher, Hole } from './file-hasher.ts';
import { Overlay } from './overlay.ts';

export interface LiveComparisonOptions {
  readonly hasher: FileHasher;
  /** Up to this size a file's content is in the metadata. */
  readonly inlineBytes: number;
  holes(fd: number): readonly Hole[];
}

export class LiveComparison {
  readonly #options: LiveComparisonOptions;
  readonly #fd: number;
  #hashes = new BlockHashes(0);
  #size = 0;
  /** Small content as it is committed. */
  #snapshot: Buffer | undefined;
  #ms = 0;
  #wastedMs = 0;

  constructor(options: LiveComparisonOptions, fd: number) {
    this.#options = options;
    this.#fd = fd;
  }

  get hashes(): BlockHashes {
    return this.#hashes;
  }

  get size(): number {
    return this.#size;
  }

  /** How long it read the file, not what it waited for. */
  get ms(): number {
    return this.#ms;
  }

  /** Which part of that found nothing. */
  get wastedMs(): number {
    return this.#wastedMs;
  }

  /** Reads the file, of this size. Returns what differs from the base, in whole blocks. */
  async changes(size: number, base: BlockHashes): Promise<Overlay> {
    await this.#hash(size);
    const overlay = new Overlay();
    let changed = 0;
    for (const { first, end, hole } of this.#hashes.differences(base)) {
      overlay.set(first * HASH_BLOCK_BYTES, Math.min(end * HASH_BLOCK_BYTES, this.#size), hole ? 'hole' : 'data');
      changed += end - first;
    }
    this.#wastedMs = this.#size === 0 ? 0 : this.#ms * (1 - changed / this.#hashes.count);
    return overlay;
  }

  async #hash(size: number): Promise<void> {
    this.#snapshot = undefined;
    if (size > this.#options.inlineBytes) {
      // A store into a hole since this look counts as one since the block was read.
      const holes = this.#options.holes(this.#fd);
      const { bytes, hashes, ms } = await this.#options.hasher.hash(this.#fd, holes);
      [this.#size, this.#hashes, this.#ms] = [bytes, hashes, ms];
      return;
    }
    const startedMs = performance.now();
    const snapshot = Buffer.alloc(size);
    snapshot.fill(0, readUpTo(this.#fd, snapshot, 0));
    [this.#size, this.#hashes, this.#snapshot] = [size, BlockHashes.of(snapshot), snapshot];
    this.#ms = performance.now() - startedMs;
  }

  /** Bytes that are to be committed, or kept aside: small content as it was compared. */
  load(offset: number, target: Buffer): void {
    if (this.#snapshot === undefined) target.fill(0, readUpTo(this.#fd, target, offset));
    else target.fill(0, this.#snapshot.copy(target, 0, offset, offset + target.length));
    const end = Math.min(offset + target.length, this.#size);
    for (let block = Math.floor(offset / HASH_BLOCK_BYTES); block * HASH_BLOCK_BYTES < end; block++) {
      const from = block * HASH_BLOCK_BYTES;
      const to = Math.min(from + HASH_BLOCK_BYTES, this.#size);
      if (from >= offset && to <= offset + target.length)
        this.#hashes.put(block, target.subarray(from - offset, to - offset));
      else this.#hashes.putUnknown(block);
    }
  }

  /** That is committed, or given up. */
  done(): void {
    this.#snapshot = undefined;
  }
}
