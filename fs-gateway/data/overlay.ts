/** Which ranges of a file are changed and not committed yet: `data` that was written, or a `hole` that reads as zeros. */
export interface Range {
  readonly start: number;
  readonly end: number;
  readonly kind: 'data' | 'hole';
}

export class Overlay {
  /** In order, not overlapping; neighbours of one kind are one range. */
  #ranges: Range[] = [];

  get empty(): boolean {
    return this.#ranges.length === 0;
  }

  get ranges(): readonly Range[] {
    return this.#ranges;
  }

  /** The first range that ends behind `offset`. */
  #indexAt(offset: number): number {
    let low = 0;
    let high = this.#ranges.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.#ranges[middle]?.end ?? 0) <= offset) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  set(start: number, end: number, kind: Range['kind']): void {
    if (start >= end) return;
    const last = this.#ranges.at(-1);
    // Writing on at the end is what nearly every program does.
    if (last?.end === start && last.kind === kind) {
      this.#ranges[this.#ranges.length - 1] = { start: last.start, end, kind };
      return;
    }
    let first = this.#indexAt(start);
    const before = this.#ranges[first - 1];
    let from = start;
    let to = end;
    const pieces: Range[] = [];
    if (before?.end === start && before.kind === kind) {
      first--;
      from = before.start;
    }
    let index = first;
    for (let range = this.#ranges[index]; range !== undefined && range.start <= end; range = this.#ranges[++index]) {
      if (range.kind === kind) {
        from = Math.min(from, range.start);
        to = Math.max(to, range.end);
        continue;
      }
      if (range.start < start) pieces.push({ start: range.start, end: start, kind: range.kind });
      if (range.end > end) {
        pieces.push({ start: from, end: to, kind }, { start: end, end: range.end, kind: range.kind });
        this.#ranges.splice(first, index - first + 1, ...pieces);
        return;
      }
    }
    pieces.push({ start: from, end: to, kind });
    this.#ranges.splice(first, index - first, ...pieces);
  }

  /** The ranges in [from, to), clipped. */
  within(from: number, to: number): Range[] {
    const found: Range[] = [];
    for (let index = this.#indexAt(from); ; index++) {
      const range = this.#ranges[index];
      if (range === undefined || range.start >= to) return found;
      found.push({ start: Math.max(range.start, from), end: Math.min(range.end, to), kind: range.kind });
    }
  }

  covers(from: number, to: number): boolean {
    let at = from;
    for (const range of this.within(from, to)) {
      if (range.start > at) return false;
      at = range.end;
    }
    return at >= to;
  }

  /** All of it was written, and no hole was made in it since. */
  coversWithData(from: number, to: number): boolean {
    return this.covers(from, to) && this.within(from, to).every((range) => range.kind === 'data');
  }

  /** Puts the ranges of a newer overlay on top. */
  add(newer: Overlay): void {
    for (const { start, end, kind } of newer.ranges) this.set(start, end, kind);
  }
}
