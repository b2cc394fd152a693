/**
 * The read-ahead of one open file: while reads follow each other, a window in front of them is fetched, twice as large each time;
 * a jump closes it. So a sequential reader of an object store sees its bandwidth and not its latency, and a random one fetches
 * only the pieces it touches.
 */
const WINDOW_FIRST = 4 * 2 ** 20;
/** At 20 ms a request, 32 MiB in flight are some 1.5 GB/s; fetched-ahead.ts bounds what is ahead of all readers. */
const WINDOW_MAX = 32 * 2 ** 20;

export class ReadAhead {
  #next = 0;
  #window = 0;
  #fetchedTo = 0;

  /** The range to fetch beside a read of [from, to) in a file of `size` bytes, or null. */
  after(from: number, to: number, size: number): { readonly from: number; readonly to: number } | null {
    // The kernel's own read-ahead sends requests slightly out of order.
    const sequential = from <= this.#next && from >= this.#next - WINDOW_FIRST;
    if (!sequential) {
      this.#window = 0;
      this.#next = to;
      this.#fetchedTo = to;
      return null;
    }
    this.#next = Math.max(this.#next, to);
    if (this.#fetchedTo >= size || this.#fetchedTo - this.#next > this.#window / 2) return null;
    this.#window = Math.min(WINDOW_MAX, Math.max(WINDOW_FIRST, this.#window * 2));
    const start = Math.max(this.#fetchedTo, to);
    this.#fetchedTo = Math.min(size, this.#next + this.#window);
    return start < this.#fetchedTo ? { from: start, to: this.#fetchedTo } : null;
  }

  /** Of the range nothing behind `offset` is fetched, for want of room: a later read asks for it again. */
  reached(offset: number): void {
    this.#fetchedTo = Math.min(this.#fetchedTo, offset);
  }
}
