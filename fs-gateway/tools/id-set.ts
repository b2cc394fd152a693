/**
 * A set of ids that come from a counter: one bit each, in pages that exist where an id was added. A hundred million objects are at
 * most 12.5 MB, where a Set of numbers would be gigabytes.
 */
const PAGE_BITS = 65_536;

export class IdSet {
  readonly #pages = new Map<number, Uint8Array>();
  #size = 0;

  get size(): number {
    return this.#size;
  }

  has(id: number): boolean {
    const page = this.#pages.get(Math.floor(id / PAGE_BITS));
    const bit = id % PAGE_BITS;
    return page !== undefined && ((page[bit >> 3] ?? 0) & (1 << (bit & 7))) !== 0;
  }

  add(id: number): void {
    if (this.has(id)) return;
    const number = Math.floor(id / PAGE_BITS);
    let page = this.#pages.get(number);
    if (page === undefined) this.#pages.set(number, (page = new Uint8Array(PAGE_BITS / 8)));
    const bit = id % PAGE_BITS;
    page[bit >> 3] = (page[bit >> 3] ?? 0) | (1 << (bit & 7));
    this.#size++;
  }

  delete(id: number): void {
    if (!this.has(id)) return;
    const page = this.#pages.get(Math.floor(id / PAGE_BITS));
    const bit = id % PAGE_BITS;
    if (page !== undefined) page[bit >> 3] = (page[bit >> 3] ?? 0) & ~(1 << (bit & 7));
    this.#size--;
  }

  *ascending(): Generator<number> {
    for (const [number, page] of [...this.#pages].sort(([a], [b]) => a - b)) {
      for (let bit = 0; bit < PAGE_BITS; bit++) {
        if (((page[bit >> 3] ?? 0) & (1 << (bit & 7))) !== 0) yield number * PAGE_BITS + bit;
      }
    }
  }
}
