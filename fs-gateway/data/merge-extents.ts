/** The extents of a file after a flush, in one pass over both lists: what the overlay does not cover, and what was uploaded. */
import { extentsWithin } from '../../lib/volume/extents.ts';
import type { Extent } from '../../lib/volume/extents.ts';
import type { Range } from './overlay.ts';
import type { ByteRange } from './uploader.ts';

/** All three lists in the order of their offsets; `uploaded` lies within the ranges. */
export function mergeExtents(
  base: readonly Extent[],
  ranges: readonly Range[],
  uploaded: readonly Extent[],
  size: number,
): Extent[] {
  const kept: Extent[] = [];
  let first = 0;
  for (const extent of base) {
    const end = extent.fileOffset + extent.length;
    while (first < ranges.length && (ranges[first]?.end ?? 0) <= extent.fileOffset) first++;
    let at = extent.fileOffset;
    for (let index = first; at < end; index++) {
      const range = ranges[index];
      if (range === undefined || range.start >= end) {
        kept.push(...extentsWithin([extent], at, end));
        break;
      }
      if (range.start > at) kept.push(...extentsWithin([extent], at, range.start));
      at = Math.max(at, range.end);
    }
  }
  const merged: Extent[] = [];
  let next = 0;
  for (const extent of uploaded) {
    for (let old = kept[next]; old !== undefined && old.fileOffset < extent.fileOffset; old = kept[++next])
      merged.push(old);
    merged.push(extent);
  }
  merged.push(...kept.slice(next));
  return merged.at(-1) !== undefined ? extentsWithin(merged, 0, size) : merged;
}

/** The parts of [from, to) that no range covers. */
export function gaps(
  ranges: readonly { readonly start: number; readonly end: number }[],
  from: number,
  to: number,
): { readonly start: number; readonly end: number }[] {
  const found: { start: number; end: number }[] = [];
  let at = from;
  for (const range of ranges) {
    if (range.start >= to) break;
    if (range.start > at) found.push({ start: at, end: range.start });
    at = Math.max(at, range.end);
  }
  if (at < to) found.push({ start: at, end: to });
  return found;
}

/** What of the data in these ranges is not in the extents, which are in order. */
export function withoutExtents(ranges: readonly Range[], extents: readonly Extent[]): readonly ByteRange[] {
  const there = extents.map(({ fileOffset, length }) => ({ start: fileOffset, end: fileOffset + length }));
  return ranges.flatMap(({ start, end, kind }) => (kind === 'data' ? gaps(there, start, end) : []));
}
