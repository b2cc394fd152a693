/**
 * The files of one commit of the lander: a Parquet object for each event hour, and one for what did not fit.
 *
 * Invariants: files are named by topic, partitions, offsets, hour, content and attempt: no name is ever written twice.
 * Failure: what is uploaded here and never committed is found by `removeOrphans`, or by the removal of stray dead letters.
 */
import assert from 'node:assert';
import { randomUUID } from 'node:crypto';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { DatasetConfig } from '../../lib/config/pipeline.ts';
import { deadLetterFolder } from '../../lib/lake/quarantine.ts';
import type { DuckDb } from '../../lib/sql/duckdb.ts';
import { readFooters } from '../../lib/sql/parquet-footer.ts';
import type { DataFile } from '../../lib/table/data-file.ts';
import { dataFileKey } from '../../lib/table/keys.ts';
import type { LakeContext } from '../../lib/table/table.ts';
import { dataFileOf, fileFingerprint, hourFolder, hourName, TRACES_KEY } from '../parquet-object.ts';
import { parquetName } from '../../lib/lake/file-names.ts';
import { fileColumn } from './fields.ts';
import type { RoundTraces } from './landing-traces.ts';
import type { StagePlace } from './stage-portion.ts';
import { Staging } from './staging.ts';
import { addedIcebergFields, toIceberg } from './table-fields.ts';

/** Fast to write; the compactor's files get a higher one. */
const LANDER_ZSTD_LEVEL = 1;
const ROW_GROUP_ROWS = 122_880;
/** From here sorting the staged rows once costs less than looking for each hour in all of them. */
const SORT_HOURS_MIN = 8;
/** Files on the scratch disk at once, and footers in memory. */
const BATCH_HOURS = 32;
const PUTS_MAX = 8;
/** Of files that are put at once: what an upload holds in memory grows with the file, up to some parts. */
const PUT_BYTES_MAX = 32 << 20;

export interface CommitScope {
  readonly lake: LakeContext;
  readonly dataset: DatasetConfig;
  readonly db: DuckDb;
  readonly scratchDir: string;
  readonly place: StagePlace;
  readonly traces?: RoundTraces;
}

/** Offsets of a partition that a commit holds records of, inclusive. */
export interface OffsetRange {
  readonly partition: number;
  readonly first: number;
  readonly last: number;
}

export interface StagedFile {
  readonly key: string;
  readonly name: string;
  readonly dataFile: DataFile;
  readonly modifiedMs: number;
}

export interface DeadLetterObject {
  readonly key: string;
  readonly records: number;
  readonly bytes: number;
  readonly reasons: Readonly<Record<string, number>>;
}

/** Oldest hour first. */
export async function writeHours(
  scope: CommitScope,
  staging: Staging,
  ranges: readonly OffsetRange[],
): Promise<StagedFile[]> {
  const hours = [...staging.hours.keys()].sort((a, b) => a - b);
  if (hours.length >= SORT_HOURS_MIN) await staging.sortByHour();
  const files: StagedFile[] = [];
  for (let at = 0; at < hours.length; at += BATCH_HOURS) {
    files.push(...(await writeBatch(scope, staging, ranges, hours.slice(at, at + BATCH_HOURS))));
  }
  return files;
}

interface LocalFile {
  readonly hour: number;
  readonly path: string;
  readonly hash: string;
  readonly bytes: number;
}

async function writeBatch(
  scope: CommitScope,
  staging: Staging,
  ranges: readonly OffsetRange[],
  hours: readonly number[],
): Promise<StagedFile[]> {
  const { lake, dataset } = scope;
  const paths = hours.map(() => join(scope.scratchDir, `land-${randomUUID()}.parquet`));
  try {
    const local: LocalFile[] = [];
    for (const [index, hour] of hours.entries()) {
      const path = paths[index] ?? '';
      await copyHour(scope, staging, ranges, hour, path);
      local.push({ hour, path, ...(await fileFingerprint(path)) });
    }
    const footers = await readFooters(scope.db, paths);
    const files = local.map((file, index): LocalFile & StagedFile => {
      const name = parquetName(fileStem(scope, ranges, file.hour), file.hash);
      const key = dataFileKey(dataset.name, `${hourFolder(file.hour)}/${name}`);
      const footer = footers[index];
      assert(footer !== undefined, 'one footer for each file');
      assert(
        footer.rows === staging.hours.get(file.hour),
        `${hourName(file.hour)}: ${footer.rows} rows were written, ${staging.hours.get(file.hour) ?? 0} were staged`,
      );
      const dataFile = dataFileOf(footer, {
        location: lake.store.location(key),
        hour: file.hour,
        bytes: file.bytes,
        schema: { type: 'struct', fields: [...addedIcebergFields(), ...staging.fields.map(toIceberg)] },
        sortOrderId: null,
        hasNoNan: staging.decoder === null,
      });
      return { ...file, key, name, dataFile, modifiedMs: lake.clock.nowMs() };
    });
    await putAll(lake, files);
    return files;
  } finally {
    await Promise.all(paths.map((path) => rm(path, { force: true })));
  }
}

async function copyHour(
  scope: CommitScope,
  staging: Staging,
  ranges: readonly OffsetRange[],
  hour: number,
  path: string,
): Promise<void> {
  const columns = [...addedIcebergFields(), ...staging.fields].map(fileColumn);
  const traces = scope.traces?.traceparentsOf(hour) ?? [];
  await staging.table.copyTo(
    path,
    {
      columns,
      level: LANDER_ZSTD_LEVEL,
      rowGroupRows: ROW_GROUP_ROWS,
      metadata: {
        'penstock.topic-id': scope.place.topicId,
        'penstock.offsets': offsetRanges(ranges),
        ...(traces.length > 0 && { [TRACES_KEY]: traces.join(' ') }),
      },
    },
    Staging.whereHour(hour),
  );
}

/** Several at once where they are small: a put is mostly waiting, for a disk's sync or a network's answer. */
async function putAll(lake: LakeContext, files: readonly (LocalFile & StagedFile)[]): Promise<void> {
  const largest = Math.max(...files.map((file) => file.bytes));
  const queue = files.values();
  let failed = false;
  const work = async (): Promise<void> => {
    for (const { key, path } of queue) {
      if (failed) return;
      try {
        await lake.store.putFile(key, path);
      } catch (error) {
        failed = true;
        throw error;
      }
    }
  };
  const workers = Math.max(1, Math.min(PUTS_MAX, Math.floor(PUT_BYTES_MAX / largest)));
  // All of them end before the files are removed.
  const ends = await Promise.allSettled(Array.from({ length: workers }, work));
  const first = ends.find((end) => end.status === 'rejected');
  if (first !== undefined) throw first.reason;
}

/** null: everything fitted. */
export async function writeDeadLetters(
  scope: CommitScope,
  { deadLetters }: Staging,
  ranges: readonly OffsetRange[],
): Promise<DeadLetterObject | null> {
  if (deadLetters.count === 0) return null;
  const { lake, dataset, scratchDir } = scope;
  const path = join(scratchDir, `dead-${randomUUID()}.parquet`);
  try {
    await deadLetters.writeTo(path);
    const { hash, bytes } = await fileFingerprint(path);
    const day = new Date(lake.clock.nowMs()).toISOString().slice(0, 10);
    const key = `${deadLetterFolder(lake, dataset.name)}dt=${day}/${parquetName(sourceName(scope, ranges), hash)}`;
    await lake.store.putFile(key, path);
    return { key, records: deadLetters.count, bytes, reasons: deadLetters.reasons };
  } finally {
    await rm(path, { force: true });
  }
}

const fileStem = (scope: CommitScope, ranges: readonly OffsetRange[], hour: number): string =>
  `${hourName(hour)}-${sourceName(scope, ranges)}`;

/** `<topic id>-p0-2-o100-4500`: lowest and highest partition and offset. The exact ranges are in the file's own metadata. */
function sourceName({ place }: CommitScope, ranges: readonly OffsetRange[]): string {
  const partitions = ranges.map((range) => range.partition);
  const first = Math.min(...ranges.map((range) => range.first));
  const last = Math.max(...ranges.map((range) => range.last));
  const topic = place.topicId.replace(/[^A-Za-z0-9_-]/g, '_');
  return `${topic}-p${Math.min(...partitions)}-${Math.max(...partitions)}-o${first}-${last}`;
}

/** `0:100-199,1:5-9`: inclusive offsets by partition. */
export function offsetRanges(ranges: readonly OffsetRange[]): string {
  return ranges.map(({ partition, first, last }) => `${partition}:${first}-${last}`).join(',');
}
