/**
 * Plans compaction from the manifests: which hours of a dataset need it and which files belong to each group.
 *
 * A group is a whole hour, so that a repeat that came late is found wherever the first one lies. An hour needs compaction when it has
 * a file that is not sorted (everything the lander writes), one that row-level deletes of another writer apply to (until then readers
 * of whole files see the deleted rows), or several sorted files outside of the size window that would fit together.
 * Limits: the plan holds location, size and rows of the files of the hours that need work: some 300 bytes a file.
 */
import type { LiveFile } from '../../lib/table/data-file.ts';
import type { RowDeletes } from '../../lib/table/row-deletes.ts';
import type { TableState } from '../../lib/table/table.ts';

/** Iceberg's own window: files between 75 % and 180 % of the target are left as they are. */
const SIZE_WINDOW_MIN = 0.75;
const MS_PER_HOUR = 3_600_000;

export interface GroupFile {
  readonly location: string;
  readonly bytes: number;
  readonly rows: number;
  readonly hour: number;
  readonly sequenceNumber: bigint;
  readonly isSorted: boolean;
}

export interface Group {
  readonly dataset: string;
  readonly hour: number;
  readonly files: readonly GroupFile[];
  readonly bytes: number;
  readonly rows: number;
  readonly reason: 'unsorted files' | 'row-level deletes' | 'small files';
}

export interface PlanOptions {
  readonly targetBytes: number;
  /** Only hours that ended before it. */
  readonly endedBeforeMs: number;
  /** Older ones are past the retention: they are dropped, not compacted. */
  readonly firstHour?: number;
  readonly hour?: number;
  readonly shard?: Shard;
}

/** `index` of `count`, from 0, as an Indexed Job numbers its pods. */
export interface Shard {
  readonly index: number;
  readonly count: number;
}

/** Oldest hour first. */
export async function planGroups(table: TableState, options: PlanOptions): Promise<Group[]> {
  const sortOrderId = table.metadata['default-sort-order-id'];
  const hours = new Map<number, GroupFile[]>();
  const filter = options.hour === undefined ? {} : { hour: options.hour };
  const deletes = await table.rowDeletes(filter);
  for await (const file of table.liveFiles(filter)) {
    if ((file.hour + 1) * MS_PER_HOUR > options.endedBeforeMs || file.hour < (options.firstHour ?? -Infinity)) continue;
    if (options.shard !== undefined && !isInShard(options.shard, table.name, file.hour)) continue;
    const group = hours.get(file.hour) ?? [];
    hours.set(file.hour, group);
    group.push(groupFile(file, sortOrderId));
  }
  return [...hours]
    .sort(([a], [b]) => a - b)
    .flatMap(([hour, files]) => groupOf(table.name, hour, files, deletes, options));
}

function groupFile(file: LiveFile, sortOrderId: number): GroupFile {
  return {
    location: file.location,
    bytes: Number(file.bytes),
    rows: Number(file.recordCount),
    hour: file.hour,
    sequenceNumber: file.sequenceNumber,
    isSorted: sortOrderId !== 0 && file.sortOrderId === sortOrderId,
  };
}

function groupOf(
  dataset: string,
  hour: number,
  files: readonly GroupFile[],
  deletes: RowDeletes,
  options: PlanOptions,
): Group[] {
  // An order that does not depend on the manifests, so that the same files give the same bytes.
  const ordered = [...files].sort((a, b) => (a.location < b.location ? -1 : 1));
  const bytes = ordered.reduce((sum, file) => sum + file.bytes, 0);
  const rows = ordered.reduce((sum, file) => sum + file.rows, 0);
  const group = { dataset, hour, files: ordered, bytes, rows };
  if (ordered.some((file) => !file.isSorted)) return [{ ...group, reason: 'unsorted files' }];
  if (ordered.some((file) => deletes.of(file).length > 0)) return [{ ...group, reason: 'row-level deletes' }];
  const small = ordered.filter((file) => file.bytes < SIZE_WINDOW_MIN * options.targetBytes).length;
  // The last file of an hour is small by nature: one is no reason.
  return small > 1 ? [{ ...group, reason: 'small files' }] : [];
}

/** FNV-1a of dataset and hour: the same on every machine and for ever, whatever else there is to do. */
function isInShard(shard: Shard, dataset: string, hour: number): boolean {
  let hash = 0x811c9dc5;
  for (const byte of Buffer.from(`${dataset}\n${hour}`)) hash = Math.imul(hash ^ byte, 0x01000193) >>> 0;
  // The low bits of FNV alone are poor for short texts that differ at the end.
  hash = Math.imul(hash ^ (hash >>> 16), 0x45d9f3b) >>> 0;
  return ((hash ^ (hash >>> 16)) >>> 0) % shard.count === shard.index;
}
