/**
 * Retention by whole segments, done by the holder of the append lock: a partition without appends keeps what it has.
 */
import { rmSync } from 'node:fs';
import { syncDirectory } from '../../durable-files.ts';
import type { EndMark } from './end-mark.ts';
import { listSegments, segmentPath } from './layout.ts';
import { Segment } from './segment.ts';

interface Retained {
  readonly directory: string;
  readonly retentionMs: number;
}

/** Removes, oldest first, the segments whose youngest record is past its retention: that one is as old as the next segment's first. */
export async function removeExpired(partition: Retained, mark: EndMark, nowMs: number): Promise<void> {
  const bases = listSegments(partition.directory);
  let removed = false;
  for (const [index, base] of bases.entries()) {
    const next = bases[index + 1];
    if (base >= mark.segmentBase || next === undefined || !isExpired(partition, next, nowMs)) break;
    rmSync(segmentPath(partition.directory, base), { force: true });
    removed = true;
  }
  if (removed) await syncDirectory(partition.directory);
}

/** Whether the first batch of the segment was appended before the retention period; an empty segment is not expired. */
export function isExpired(partition: Retained, base: bigint, nowMs: number): boolean {
  const segment = new Segment(partition.directory, base);
  let appendedMs = Infinity;
  try {
    segment.scan(0, base, segment.size(), (header) => {
      appendedMs = header.maxTimestampMs;
      return false;
    });
  } finally {
    segment.close();
  }
  return appendedMs + partition.retentionMs < nowMs;
}
