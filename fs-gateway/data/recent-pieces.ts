/**
 * The verified pieces that are in memory: the last that readers wanted, and all that are on their way into the disk cache.
 *
 * Invariants: who asks for room gets it in the order of asking, so that large pieces get theirs too. A piece stays until the disk cache has it, unless it waits
 * longer than PUT_PATIENCE_MS: a disk that is much slower than the store holds nobody up.
 * Limits: MEMORY_BYTES of pieces, those included for which room was taken and that are still being fetched. Beside that, on a disk that hangs, PUTS_MAX of them.
 */
import type { BlockCache } from './block-cache.ts';
import type { FetchedAhead } from './fetched-ahead.ts';
import { PieceMemory } from './piece-memory.ts';
import type { Piece } from './pieces.ts';

const MEMORY_BYTES = 64 * 2 ** 20;
const PUTS_MAX = 2;
/** With a full memory that is 200 MB/s. */
const PUT_PATIENCE_MS = 200;

export class RecentPieces {
  readonly #cache: BlockCache;
  readonly #ahead: FetchedAhead;
  readonly #memory = new PieceMemory(MEMORY_BYTES);
  /** The oldest first. */
  readonly #pieces = new Map<string, Buffer>();
  /** On their way into the cache, PUTS_MAX at most. They are in memory until they are there. */
  readonly #putting = new Map<string, Promise<void>>();
  /** Those that wait for it. */
  readonly #toPut = new Map<string, { readonly piece: Piece; readonly sinceMs: number }>();
  /** The last of those that wait for room, and how many they are. */
  #queue: Promise<unknown> = Promise.resolve();
  #queued = 0;

  constructor(cache: BlockCache, ahead: FetchedAhead) {
    this.#cache = cache;
    this.#ahead = ahead;
  }

  has(name: string): boolean {
    return this.#pieces.has(name);
  }

  get(name: string): Buffer | undefined {
    return this.#pieces.get(name);
  }

  /** One after another: a piece that needs all of the memory would wait for ever while smaller ones came before it. */
  whenFits<T>(bytes: number, take: () => T): Promise<T> {
    this.#queued++;
    const taken = this.#queue.then(async () => {
      try {
        const sinceMs = performance.now();
        while (!this.#makeRoom(bytes)) {
          // What waits for a disk that hangs becomes old without anything that wakes us, and what it was given never comes back.
          if (performance.now() - sinceMs > PUT_PATIENCE_MS && this.#memory.fits(bytes, this.#beingPut())) break;
          await this.#memory.changed(PUT_PATIENCE_MS);
        }
        return take();
      } finally {
        this.#queued--;
      }
    });
    this.#queue = taken.catch(() => undefined); // Its owner hears of it.
    return taken;
  }

  #beingPut(): Buffer[] {
    return [...this.#putting.keys()].flatMap((name) => this.#pieces.get(name) ?? []);
  }

  /** Evicts what is oldest, read before unread, until a piece of so many bytes fits. False: not yet. */
  #makeRoom(bytes: number): boolean {
    if (this.#memory.willFit(bytes)) return this.#memory.fits(bytes);
    const nowMs = performance.now();
    for (const unread of [false, true]) {
      for (const [name, oldest] of this.#pieces) {
        if (this.#memory.willFit(bytes)) return this.#memory.fits(bytes);
        if (this.#putting.has(name) || (this.#ahead.has(name) && !unread)) continue;
        if ((this.#toPut.get(name)?.sinceMs ?? -Infinity) > nowMs - PUT_PATIENCE_MS) continue;
        this.#pieces.delete(name);
        this.#toPut.delete(name);
        this.#ahead.arrived(name);
        this.#memory.give(oldest);
      }
    }
    return this.#memory.fits(bytes);
  }

  /** For what nobody waits for: there is room, or will be in the next turn of the event loop, and nobody is in line for it. */
  makesRoom(bytes: number): boolean {
    this.#makeRoom(bytes);
    return this.#queued === 0 && this.#memory.willFit(bytes);
  }

  /** Memory of a piece to come, with whatever was in it before: for `keep`, or to be given back. */
  take(bytes: number): Buffer {
    return this.#memory.take(bytes);
  }

  give(memory: Buffer): void {
    this.#memory.give(memory);
  }

  /** As PieceMemory does. */
  lend(data: Buffer): () => void {
    return this.#memory.lend(data);
  }

  /** `data` is ours from here on. `toCache`: the disk cache is to have it too. False: it was here already. */
  keep(piece: Piece, data: Buffer, toCache: boolean): boolean {
    const { name } = piece;
    if (this.#pieces.has(name)) {
      this.#memory.give(data);
      return false;
    }
    this.#pieces.set(name, data);
    if (toCache) this.#toPut.set(name, { piece, sinceMs: performance.now() });
    this.#putNext();
    this.#memory.wake();
    return true;
  }

  #putNext(): void {
    for (const [name, { piece }] of this.#toPut) {
      if (this.#putting.size >= PUTS_MAX) return;
      this.#toPut.delete(name);
      const data = this.#pieces.get(name);
      if (data === undefined) continue;
      const put = this.#cache.put(piece, data).finally(() => {
        this.#putting.delete(name);
        this.#putNext();
        this.#memory.wake();
      });
      this.#putting.set(name, put);
    }
  }

  /** Resolves when the cache has the piece, where it is being written to it. */
  whenPut(name: string): Promise<void> | undefined {
    return this.#putting.get(name);
  }

  /** Resolves when the cache has what there is. */
  async allPut(): Promise<void> {
    while (this.#putting.size > 0) await Promise.all(this.#putting.values());
  }
}
