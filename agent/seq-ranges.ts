/** Sets of sequence numbers as few ranges: ascending, disjoint, not touching. */
export interface SeqRange {
  readonly first: number;
  /** Inclusive. */
  readonly last: number;
}

/** The same numbers in as few ranges as they need, without those that end at or below `floor`. */
export function mergeRanges(ranges: readonly SeqRange[], floor = 0): SeqRange[] {
  const merged: SeqRange[] = [];
  for (const range of ranges.toSorted((a, b) => a.first - b.first)) {
    if (range.last <= floor) continue;
    const previous = merged.at(-1);
    if (previous !== undefined && range.first <= previous.last + 1) {
      merged[merged.length - 1] = { first: previous.first, last: Math.max(previous.last, range.last) };
    } else merged.push(range);
  }
  return merged;
}

/** The first range that ends at or behind `seq`. */
export function rangeAtOrBehind(ranges: readonly SeqRange[], seq: number): SeqRange | undefined {
  let low = 0;
  let high = ranges.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((ranges[middle]?.last ?? 0) < seq) low = middle + 1;
    else high = middle;
  }
  return ranges[low];
}

export function includes(ranges: readonly SeqRange[], seq: number): boolean {
  return (rangeAtOrBehind(ranges, seq)?.first ?? Infinity) <= seq;
}

/** Whether every number of `range` is in one of `ranges`. */
export function covers(ranges: readonly SeqRange[], range: SeqRange): boolean {
  const found = rangeAtOrBehind(ranges, range.first);
  return found !== undefined && found.first <= range.first && range.last <= found.last;
}

/** The parts of `range` that are in none of `ranges`. */
export function without(range: SeqRange, ranges: readonly SeqRange[]): SeqRange[] {
  const parts: SeqRange[] = [];
  let first = range.first;
  for (const other of ranges) {
    if (other.last < first) continue;
    if (other.first > range.last) break;
    if (other.first > first) parts.push({ first, last: other.first - 1 });
    first = other.last + 1;
  }
  if (first <= range.last) parts.push({ first, last: range.last });
  return parts;
}

export function countOf(ranges: readonly SeqRange[]): number {
  return ranges.reduce((sum, { first, last }) => sum + last - first + 1, 0);
}
