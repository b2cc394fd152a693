/**
 * What is fetched ahead of its readers: so much of it at a time, and evicted last for a while.
 *
 * Limits: BYTES_MAX of all readers together. What nobody came for within MS_MAX is like all others.
 */
import type { Piece } from './pieces.ts';

/** With the pieces that are written to the cache (two blocks of the default size), and one that is being read, it fills the memory. */
const BYTES_MAX = 40 * 2 ** 20;
const MS_MAX = 2000;

export class FetchedAhead {
  /** Fetched, or being fetched, and not read yet. The oldest first. */
  readonly #pieces = new Map<string, { readonly bytes: number; readonly sinceMs: number }>();
  #bytes = 0;

  has(name: string): boolean {
    return this.#pieces.has(name);
  }

  /** Nobody came for what is older. */
  forgetOld(nowMs: number): void {
    for (const [name, { sinceMs }] of this.#pieces) {
      if (sinceMs > nowMs - MS_MAX) break;
      this.arrived(name);
    }
  }

  /** False: it is too much. */
  add({ name, bytes }: Piece, nowMs: number): boolean {
    // It was fetched for somebody who did not come, and went again.
    this.arrived(name);
    if (this.#bytes + bytes > BYTES_MAX) return false;
    this.#pieces.set(name, { bytes, sinceMs: nowMs });
    this.#bytes += bytes;
    return true;
  }

  /** A reader has come to it, or nobody will. */
  arrived(name: string): void {
    if (this.#pieces.size === 0) return;
    this.#bytes -= this.#pieces.get(name)?.bytes ?? 0;
    this.#pieces.delete(name);
  }
}
