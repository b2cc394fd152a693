/**
 * The arithmetic of a flip, without any engine: from one listing generation to the next.
 *
 * A segment that loses a name is retired whole and its surviving entries move on; so a flip never writes what it removes, and
 * replacing 10,000 files by two writes the pointer only. Live entries beyond INLINE_ENTRIES_MAX become a segment; small segments
 * are merged when there are many (as the runs of a log-structured merge tree).
 */
import { byName, cutSegments, INLINE_ENTRIES_MAX, SEGMENT_ENTRIES_MAX } from './listing.ts';
import type { ListingEntry, ListingPointer } from './listing.ts';

/** More live segments than this, and the small ones are merged at the next spill. */
const SEGMENTS_MERGED_ABOVE = 8;

export interface Flip {
  readonly pointer: ListingPointer;
  readonly newSegments: readonly { readonly segment: number; readonly entries: readonly ListingEntry[] }[];
  /** Merged away: nothing refers to them any more. */
  readonly dropped: readonly number[];
}

/** How many numbers `planFlip` may ask for: a segment holds at least 200 of the longest names. */
export function segmentsNeeded(entries: number): number {
  return 4 + 2 * Math.ceil(entries / 200);
}

/** `segments` are the entries of the pointer's live segments, in its order. Null when nothing changes. */
export function planFlip(
  pointer: ListingPointer,
  segments: readonly (readonly ListingEntry[])[],
  add: readonly ListingEntry[],
  remove: ReadonlySet<string>,
  nowMs: number,
  nextSegment: () => number,
): Flip | null {
  // A name that is added anew replaces the entry it had.
  const gone = new Set([...remove, ...add.map((entry) => entry.name)]);
  const stays = (entry: ListingEntry): boolean => !gone.has(entry.name);
  const removedEntries = pointer.entries.filter((entry) => !stays(entry));
  const touched = pointer.segments.map((_, index) => segments[index]?.some((entry) => !stays(entry)) ?? false);
  if (add.length === 0 && removedEntries.length === 0 && !touched.includes(true)) return null;

  let live = [...pointer.entries.filter(stays), ...add];
  let liveSegments = pointer.segments.filter((_, index) => touched[index] === false);
  const retiredSegments = [...pointer.retiredSegments];
  for (const [index, { segment }] of pointer.segments.entries()) {
    if (touched[index] !== true) continue;
    live.push(...(segments[index]?.filter(stays) ?? []));
    retiredSegments.push({ segment, retiredMs: nowMs });
  }
  const newSegments: { segment: number; entries: readonly ListingEntry[] }[] = [];
  const dropped: number[] = [];
  if (live.length > INLINE_ENTRIES_MAX) {
    if (liveSegments.length >= SEGMENTS_MERGED_ABOVE) {
      const small = new Set(liveSegments.filter((s) => s.entries < SEGMENT_ENTRIES_MAX / 2).map((s) => s.segment));
      for (const [index, { segment }] of pointer.segments.entries()) {
        if (small.has(segment)) live.push(...(segments[index] ?? []));
      }
      dropped.push(...small);
      liveSegments = liveSegments.filter((s) => !small.has(s.segment));
    }
    for (const entries of cutSegments(live.sort(byName))) {
      const segment = nextSegment();
      newSegments.push({ segment, entries });
      liveSegments.push({ segment, entries: entries.length });
    }
    live = [];
  }
  let retiredEntries = [...pointer.retiredEntries, ...removedEntries.map((entry) => ({ ...entry, retiredMs: nowMs }))];
  if (retiredEntries.length > INLINE_ENTRIES_MAX) {
    for (const entries of cutSegments([...retiredEntries].sort(byName))) {
      const segment = nextSegment();
      newSegments.push({ segment, entries });
      // All of it stays for the grace period of the youngest.
      retiredSegments.push({ segment, retiredMs: nowMs });
    }
    retiredEntries = [];
  }
  return {
    pointer: {
      generation: pointer.generation + 1,
      changedMs: nowMs,
      segments: liveSegments,
      entries: live.sort(byName),
      retiredSegments,
      retiredEntries,
    },
    newSegments,
    dropped,
  };
}
