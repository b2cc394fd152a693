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
import type { DuckDb } from '../../lib/sql/duckdb.ts';
import type { ParquetColumn } from '../../lib/sql/parquet.ts';
import type { DataFile } from '../../lib/table/data-file.ts';
import { dataFileKey } from '../../lib/table/keys.ts';
import type { LakeContext } from '../../lib/table/table.ts';
import { describeDataFile, fileFingerprint, hourFolder, hourName, parquetName } from '../parquet-object.ts';
import type { StagePlace } from './stage-portion.ts';
import { Staging } from './staging.ts';
import { addedIcebergFields, toIceberg } from './table-fields.ts';

/** Fast to write; the compactor's files get a higher one. */
const LANDER_ZSTD_LEVEL = 1;
const ROW_GROUP_ROWS = 122_880;

export interface CommitScope {
  readonly lake: LakeContext;
  readonly dataset: DatasetConfig;
  readonly db: DuckDb;
  readonly scratchDir: string;
  readonly place: StagePlace;
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
  const files: StagedFile[] = [];
  for (const hour of [...staging.hours.keys()].sort((a, b) => a - b)) {
    files.push(await writeHour(scope, staging, ranges, hour));
  }
  return files;
}

async function writeHour(
  scope: CommitScope,
  staging: Staging,
  ranges: readonly OffsetRange[],
  hour: number,
): Promise<StagedFile> {
  const { lake, dataset, scratchDir } = scope;
  const path = join(scratchDir, `land-${randomUUID()}.parquet`);
  try {
    const columns: ParquetColumn[] = [...addedIcebergFields(), ...staging.fields].map(({ id, name }) => ({
      name,
      fieldId: id,
    }));
    await staging.table.copyTo(
      path,
      {
        columns,
        level: LANDER_ZSTD_LEVEL,
        rowGroupRows: ROW_GROUP_ROWS,
        metadata: { 'penstock.topic-id': scope.place.topicId, 'penstock.offsets': offsetRanges(ranges) },
      },
      Staging.whereHour(hour),
    );
    const { hash, bytes } = await fileFingerprint(path);
    const name = parquetName(fileStem(scope, ranges, hour), hash);
    const key = dataFileKey(dataset.name, `${hourFolder(hour)}/${name}`);
    const dataFile = await describeDataFile(scope.db, path, {
      location: lake.store.location(key),
      hour,
      bytes,
      schema: { type: 'struct', fields: [...addedIcebergFields(), ...staging.fields.map(toIceberg)] },
      sortOrderId: null,
      hasNoNan: true,
    });
    assert(
      Number(dataFile.recordCount) === staging.hours.get(hour),
      `${hourName(hour)}: ${dataFile.recordCount} rows were written, ${staging.hours.get(hour) ?? 0} were staged`,
    );
    await lake.store.putFile(key, path);
    return { key, name, dataFile, modifiedMs: lake.clock.nowMs() };
  } finally {
    await rm(path, { force: true });
  }
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
    const key = `quarantine/${dataset.name}/dt=${day}/${parquetName(sourceName(scope, ranges), hash)}`;
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
