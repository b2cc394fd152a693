/**
 * When the snapshots of a table were made, where what they say cannot be: a clock that was ten years ahead for one commit. Times in a table never go
 * back, so every later snapshot says the same, and none would be old enough to expire for ten years.
 *
 * The witnesses are the store, which knows when a manifest list or a document was written, and the order: nothing was made after what follows it.
 * This machine's clock only says which times are looked at.
 * Failure: what neither witness knows keeps its time, until something that follows it tells.
 * Limits: one listing of the table's metadata folder, and only when a time is ahead. Objects that others keep elsewhere tell nothing.
 */
import { CLOCK_SKEW_MS_MAX } from '../clock.ts';
import { tableFolder } from './keys.ts';
import { type TableMetadata, withTimes } from './metadata.ts';
import type { LakeContext, TableState } from './table.ts';

/** What makes of the table's metadata, and of what it will become, one whose times can be; itself when they can. */
export async function trueTimes(
  ctx: LakeContext,
  { name, metadata, metadataLocation }: TableState,
  nowMs: number,
): Promise<(metadata: TableMetadata) => TableMetadata> {
  const aheadMs = nowMs + CLOCK_SKEW_MS_MAX;
  if (metadata['last-updated-ms'] <= aheadMs && metadata.snapshots.every((made) => made['timestamp-ms'] <= aheadMs)) {
    return (same) => same;
  }
  const writtenMs = new Map<string, number>();
  for await (const { key, modifiedMs } of ctx.store.list(`${tableFolder(name)}metadata/`))
    writtenMs.set(key, modifiedMs);
  const written = (location: string, statedMs: number): number =>
    statedMs <= aheadMs
      ? statedMs
      : Math.min(statedMs, Math.floor(writtenMs.get(ctx.store.keyOf(location) ?? '') ?? Infinity));
  const byId = new Map<bigint, number>();
  const lastMs = written(metadataLocation, metadata['last-updated-ms']);
  let nextMs = lastMs;
  const newestFirst = metadata.snapshots.toSorted((a, b) => (a['sequence-number'] > b['sequence-number'] ? -1 : 1));
  for (const snapshot of newestFirst) {
    nextMs = Math.min(nextMs, written(snapshot['manifest-list'], snapshot['timestamp-ms']));
    byId.set(snapshot['snapshot-id'], nextMs);
  }
  // By all that is known even the first one is ahead: it is this clock that is behind.
  const [first] = newestFirst.slice(-1);
  if (first !== undefined && written(first['manifest-list'], first['timestamp-ms']) > aheadMs) return (same) => same;
  return (current) => withTimes(current, { byId, written, lastMs });
}
