/**
 * Which ranges of a file are changed and not committed yet: `data` that was written, or a `hole` that reads as zeros.
 *
 * Invariants: the ranges are in order and do not overlap; neighbours of one kind are one range. They lie in chunks, none of them empty: one array of all
 * would be moved by every write to a new place, which is what a file of a gigabyte that is written at random spent its time with.
 * Limits: CHUNK_MAX ranges in a chunk, then it is two.
 */
export interface Range {
  readonly start: number;
  readonly end: number;
  readonly kind: 'data' | 'hole';
}

/** To move half of them costs as much as to find their place. */
const CHUNK_MAX = 256;

export class Overlay {
  readonly #chunks: Range[][] = [];
  /** All of them, since the last change. */
  #flat: readonly Range[] | undefined = [];
  #dataBytes = 0;

  get empty(): boolean {
    return this.#chunks.length === 0;
  }

  /** In ranges of `data`. */
  get dataBytes(): number {
    return this.#dataBytes;
  }

  get ranges(): readonly Range[] {
    return (this.#flat ??= this.#chunks.flat());
  }

  /** The chunk of the first range that ends behind `offset`. */
  #chunkAt(offset: number): number {
    return firstBehind(offset, this.#chunks.length, (index) => this.#chunks[index]?.at(-1));
  }

  set(start: number, end: number, kind: Range['kind']): void {
    if (start >= end) return;
    this.#flat = undefined;
    const last = this.#chunks.at(-1);
    const lastRange = last?.at(-1);
    // Writing on at the end is what nearly every program does.
    if (last === undefined || lastRange === undefined || lastRange.end < start) this.#append({ start, end, kind });
    else if (lastRange.end === start && lastRange.kind === kind) {
      last[last.length - 1] = { start: lastRange.start, end, kind };
      if (kind === 'data') this.#dataBytes += end - start;
    } else this.#insert(start, end, kind);
  }

  #append(range: Range): void {
    this.#dataBytes += dataBytesOf(range);
    const last = this.#chunks.at(-1);
    if (last === undefined || last.length >= CHUNK_MAX) this.#chunks.push([range]);
    else last.push(range);
  }

  /** What touches [start, end] is joined to it, or cut where it is of the other kind. */
  #insert(start: number, end: number, kind: Range['kind']): void {
    // A neighbour that ends at `start` touches it.
    const at = this.#chunkAt(start - 1);
    const first = indexAt(this.#chunks[at] ?? [], start - 1);
    let [from, to, count] = [start, end, 0];
    let before: Range | undefined;
    let behind: Range | undefined;
    for (let range = this.#rangeAt(at, first); range !== undefined && range.start <= end;) {
      this.#dataBytes -= dataBytesOf(range);
      if (range.kind === kind) {
        from = Math.min(from, range.start);
        to = Math.max(to, range.end);
      } else {
        if (range.start < start) before = { start: range.start, end: start, kind: range.kind };
        if (range.end > end) behind = { start: end, end: range.end, kind: range.kind };
      }
      range = this.#rangeAt(at, first + ++count);
    }
    const ranges: Range[] = [{ start: from, end: to, kind }];
    if (before !== undefined) ranges.unshift(before);
    if (behind !== undefined) ranges.push(behind);
    for (const range of ranges) this.#dataBytes += dataBytesOf(range);
    this.#replace(at, first, count, ranges);
  }

  /** Counted from the begin of a chunk, also into the next ones. */
  #rangeAt(chunk: number, index: number): Range | undefined {
    for (let ranges = this.#chunks[chunk]; ranges !== undefined; ranges = this.#chunks[++chunk]) {
      if (index < ranges.length) return ranges[index];
      index -= ranges.length;
    }
    return undefined;
  }

  /** `count` ranges from one of a chunk on, which may lie in the next chunks as well. */
  #replace(at: number, index: number, count: number, ranges: readonly Range[]): void {
    const chunk = this.#chunks[at] ?? [];
    let more = count - chunk.splice(index, count, ...ranges).length;
    let whole = at + 1;
    for (let next = this.#chunks[whole]; next !== undefined && more > 0; next = this.#chunks[++whole]) {
      if (next.length > more) {
        next.splice(0, more);
        break;
      }
      more -= next.length;
    }
    this.#chunks.splice(at + 1, whole - at - 1);
    if (chunk.length > CHUNK_MAX) this.#chunks.splice(at + 1, 0, chunk.splice(CHUNK_MAX / 2));
  }

  /** The ranges in [from, to), clipped. */
  within(from: number, to: number): Range[] {
    const found: Range[] = [];
    let chunk = this.#chunkAt(from);
    let index = indexAt(this.#chunks[chunk] ?? [], from);
    for (let ranges = this.#chunks[chunk]; ranges !== undefined; ranges = this.#chunks[++chunk]) {
      for (let range = ranges[index]; range !== undefined; range = ranges[++index]) {
        if (range.start >= to) return found;
        found.push({ start: Math.max(range.start, from), end: Math.min(range.end, to), kind: range.kind });
      }
      index = 0;
    }
    return found;
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
    // Neighbours of one kind are one range.
    const ranges = this.#chunks[this.#chunkAt(from)] ?? [];
    const range = ranges[indexAt(ranges, from)];
    return from >= to || (range !== undefined && range.kind === 'data' && range.start <= from && range.end >= to);
  }

  /** The same without the bytes that were written in [from, to). Holes stay. */
  withoutData(from: number, to: number): Overlay {
    const rest = new Overlay();
    for (const { start, end, kind } of this.ranges) {
      if (kind === 'hole') rest.set(start, end, kind);
      else {
        rest.set(start, Math.min(end, from), kind);
        rest.set(Math.max(start, to), end, kind);
      }
    }
    return rest;
  }

  /** Puts the ranges of a newer overlay on top. */
  add(newer: Overlay): void {
    for (const { start, end, kind } of newer.ranges) this.set(start, end, kind);
  }
}

function dataBytesOf({ start, end, kind }: Range): number {
  return kind === 'data' ? end - start : 0;
}

/** The first range that ends behind `offset`. */
function indexAt(ranges: readonly Range[], offset: number): number {
  return firstBehind(offset, ranges.length, (index) => ranges[index]);
}

/** Of `count` in order, the first that ends behind `offset`; `count` without one. */
function firstBehind(offset: number, count: number, rangeOf: (index: number) => Range | undefined): number {
  let low = 0;
  let high = count;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((rangeOf(middle)?.end ?? 0) <= offset) low = middle + 1;
    else high = middle;
  }
  return low;
}
