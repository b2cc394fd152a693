/**
 * One stretch of memory that is cut into blocks and used for as long as the process lives. V8 counts each ArrayBuffer against the limits of its heap, and
 * looks through all of the heap whenever some 10 MiB of new ones have come: a mount that had just begun to read did so for every tenth block. This one is counted once.
 *
 * A buddy allocator (Knuth, The Art of Computer Programming, 2.5): blocks are powers of two, aligned to their size; one is halved until it fits, and two halves that
 * are free are one block again.
 * Invariant: a block is free, or taken once; the blocks never overlap.
 * Limits: `bytes`, a power of two. The system gives a page when it is first written to, and never has it back: the first half is used first.
 */
import assert from 'node:assert/strict';

/** A page: less would save nothing. */
const BLOCK_MIN = 4096;

export class Arena {
  readonly #memory: ArrayBufferLike;
  /** By size; the offsets of blocks of that size. */
  readonly #free = new Map<number, Set<number>>();

  constructor(bytes: number) {
    assert.equal(blockFor(bytes), bytes);
    this.#memory = Buffer.allocUnsafeSlow(bytes).buffer;
    for (let size = BLOCK_MIN; size <= bytes; size *= 2) this.#free.set(size, new Set());
    this.#free.get(bytes)?.add(0);
  }

  /** With whatever was in it before. Undefined: there is no block of that size. */
  take(bytes: number): Buffer | undefined {
    const wanted = blockFor(bytes);
    for (let size = wanted; size <= this.#memory.byteLength; size *= 2) {
      const [offset] = this.#free.get(size) ?? [];
      if (offset === undefined) continue;
      this.#free.get(size)?.delete(offset);
      while (size > wanted) {
        size /= 2;
        this.#free.get(size)?.add(offset + size);
      }
      return Buffer.from(this.#memory, offset, bytes);
    }
    return undefined;
  }

  /** What `take` gave, of its whole length. Memory that is not of here is left to the garbage collector. */
  give(data: Buffer): void {
    if (data.buffer !== this.#memory) return;
    let offset = data.byteOffset;
    let size = blockFor(data.length);
    // Not beyond the arena: there is no set of blocks of twice its size.
    for (; size < this.#memory.byteLength; size *= 2) {
      const buddy = offset ^ size;
      if (this.#free.get(size)?.delete(buddy) !== true) break;
      offset = Math.min(offset, buddy);
    }
    this.#free.get(size)?.add(offset);
  }
}

/** How many bytes of an arena so many take. */
export function blockFor(bytes: number): number {
  return Math.max(BLOCK_MIN, 2 ** Math.ceil(Math.log2(bytes)));
}
