/**
 * Plans compaction from the manifests: which hours of a dataset need it, and of each which files (selection.ts).
 *
 * Limits: the plan holds what selection needs to know of the files of the hours that are looked at: some 400 bytes a file, and twice that in hours where
 * only some are rewritten.
 */
import type { LiveFile } from '../../lib/table/data-file.ts';
import type { Field, Schema } from '../../lib/table/schema.ts';
import type { TableState } from '../../lib/table/table.ts';
import type { DatasetConfig } from '../../lib/config/pipeline.ts';
import { isCompacted, isSortedIn } from '../../lib/lake/file-names.ts';
import { keyColumns, ROW_GROUP_ROWS, sortOrderOf } from './group-sql.ts';
import { type Range, rangeOf } from './ranges.ts';
import {
  type Candidate,
  type Choice,
  type FileRanges,
  type GroupFile,
  isCompared,
  isMixed,
  isTaken,
  judge,
  select,
  type SelectionLimits,
} from './selection.ts';

/** Columns of the sort order that are looked at: the first may be the same everywhere. */
const ORDER_COLUMNS = 3;
const MS_PER_HOUR = 3_600_000;

export interface Group {
  readonly dataset: string;
  readonly hour: number;
  /** Become few, sorted ones without repeats. */
  readonly files: readonly GroupFile[];
  /** Stay as they are; a reading that is in one of them goes into no new file. */
  readonly compared: readonly GroupFile[];
  /** Of `files`. */
  readonly bytes: number;
  readonly rows: number;
  /** Every file of the hour, with the reason why it is rewritten or not. */
  readonly choices: readonly Choice[];
}

export interface PlanOptions {
  readonly dataset: DatasetConfig;
  readonly limits: SelectionLimits;
  /** Only hours that ended before it, or that are so far ahead that nothing lands there any more. */
  readonly endedBeforeMs: number;
  /** Older ones are past the retention: they are dropped, not compacted. */
  readonly firstHour?: number;
  readonly hour?: number;
  readonly shard?: Shard;
  /** Every file, whatever it is like. */
  readonly everything?: boolean;
}

/** `index` of `count`, from 0, as an Indexed Job numbers its pods. */
export interface Shard {
  readonly index: number;
  readonly count: number;
}

/** Oldest hour first. Those of which no file is rewritten are among them only for `withIdle`. */
export async function planGroups(table: TableState, options: PlanOptions, withIdle = false): Promise<Group[]> {
  const { limits, everything } = options;
  const describe = describer(table, options);
  const hours = new Map<number, Candidate[]>();
  const filter = options.hour === undefined ? {} : { hour: options.hour };
  const deletes = await table.rowDeletes(filter);
  for await (const file of table.liveFiles(filter)) {
    if (isOpen(file.hour, options) || file.hour < (options.firstHour ?? -Infinity)) continue;
    if (options.shard !== undefined && !isInShard(options.shard, table.name, file.hour)) continue;
    const group = hours.get(file.hour) ?? [];
    hours.set(file.hour, group);
    group.push(describe(file));
  }
  const judged = [...hours]
    .sort(([a], [b]) => a - b)
    .map(([hour, files]) => {
      // An order that does not depend on the manifests, so that the same files give the same bytes.
      const ordered = files.sort((a, b) => (a.location < b.location ? -1 : 1));
      return { hour, choices: judge(ordered, deletes, limits, everything) };
    });
  const mixed = new Set(judged.filter(({ choices }) => isMixed(choices)).map(({ hour }) => hour));
  const rangesOf = await readRanges(table, options, mixed);
  return judged
    .map(({ hour, choices }) =>
      groupOf(table.name, hour, mixed.has(hour) ? select(choices, rangesOf, limits) : choices),
    )
    .filter(({ files }) => withIdle || files.length > 0);
}

/** An hour that is years ahead would never be over: its small files would be read by each plan for ever. */
const isOpen = (hour: number, { endedBeforeMs, dataset }: PlanOptions): boolean =>
  (hour + 1) * MS_PER_HOUR > endedBeforeMs && hour * MS_PER_HOUR <= endedBeforeMs + dataset.maxFuture;

function describer(table: TableState, { dataset, limits }: PlanOptions): (file: LiveFile) => Candidate {
  const { metadata, schema } = table;
  const isSorted = isSortedIn(metadata);
  const keys = fieldsOf(schema, keyColumns(dataset, schema));
  return (file) => ({
    location: file.location,
    bytes: Number(file.bytes),
    rows: Number(file.recordCount),
    hour: file.hour,
    sequenceNumber: file.sequenceNumber,
    isSorted: isSorted(file),
    isCompacted: isCompacted(file.location),
    keyedRows: keyedRows(file, keys),
    pieces: piecesOf(file, limits.targetBytes),
  });
}

/** By a second look at the manifests of these hours: most have files of one kind only, and ranges are most of what a file takes. */
async function readRanges(
  table: TableState,
  { dataset }: PlanOptions,
  hours: ReadonlySet<number>,
): Promise<(file: Candidate) => FileRanges> {
  const { schema, metadata } = table;
  const keys = fieldsOf(schema, keyColumns(dataset, schema));
  const names = sortOrderOf(metadata, schema, dataset.sort).map(({ name }) => name);
  const order = fieldsOf(schema, names.slice(0, ORDER_COLUMNS));
  const found = new Map<string, FileRanges>();
  if (hours.size > 0) {
    for await (const file of table.liveFiles({ hours })) {
      const ranges = (fields: readonly Field[]): Range[] => fields.map((field) => rangeOf(file, field));
      found.set(file.location, { keys: ranges(keys), order: ranges(order) });
    }
  }
  return ({ location }) => found.get(location) ?? { keys: [], order: [] };
}

const fieldsOf = (schema: Schema, names: readonly string[]): readonly Field[] =>
  names.flatMap((name) => schema.fields.filter((field) => field.name === name));

function keyedRows(file: LiveFile, keys: readonly Field[]): number {
  if (keys.length === 0) return 0;
  const rows = Number(file.recordCount);
  return keys.reduce((least, { id }) => {
    const { valueCount = null, nullCount = null } = file.columnStats.get(id) ?? {};
    return valueCount === null || nullCount === null ? least : Math.min(least, Number(valueCount - nullCount));
  }, rows);
}

/** A file of ours is cut between its row groups, as it was when it was written; those of others may have larger ones. */
function piecesOf(file: LiveFile, targetBytes: number): number {
  if (!isCompacted(file.location)) return Math.ceil(Number(file.recordCount) / ROW_GROUP_ROWS);
  let pieces = 1;
  let startOffset: bigint | undefined;
  for (const offset of file.splitOffsets ?? []) {
    startOffset ??= offset;
    if (Number(offset - startOffset) < targetBytes) continue;
    pieces++;
    startOffset = offset;
  }
  return pieces;
}

function groupOf(dataset: string, hour: number, choices: readonly Choice[]): Group {
  const taken = choices.filter(isTaken).map(({ file }) => file);
  return {
    dataset,
    hour,
    files: taken,
    compared: choices.filter(isCompared).map(({ file }) => file),
    bytes: taken.reduce((sum, file) => sum + file.bytes, 0),
    rows: taken.reduce((sum, file) => sum + file.rows, 0),
    choices,
  };
}

/** FNV-1a of dataset and hour: the same on every machine and for ever, whatever else there is to do. */
function isInShard(shard: Shard, dataset: string, hour: number): boolean {
  let hash = 0x811c9dc5;
  for (const byte of Buffer.from(`${dataset}\n${hour}`)) hash = Math.imul(hash ^ byte, 0x01000193) >>> 0;
  // The low bits of FNV alone are poor for short texts that differ at the end.
  hash = Math.imul(hash ^ (hash >>> 16), 0x45d9f3b) >>> 0;
  return ((hash ^ (hash >>> 16)) >>> 0) % shard.count === shard.index;
}
