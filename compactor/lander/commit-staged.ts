/**
 * Turns what is staged into files and makes them true: upload, then ONE minitransaction with the table's pointer, the directory
 * listings, the landed offsets, the counters and the reference to the dead letters.
 *
 * Invariants
 * - The offsets are compared with what this run began from: whoever lands the same records twice (a zombie, a second lander, a
 *   repeat after a lost answer) fails here as a whole, with `conflict`, and starts over from the true offsets.
 * - Files are named by topic, partitions, offsets, hour, content and attempt: no name is ever written twice.
 * Failure: a crash before the commit leaves objects that nothing refers to; `removeOrphans` finds those in the table's folder,
 * and dead letters that no record refers to are harmless.
 */
import assert from 'node:assert';
import { randomUUID } from 'node:crypto';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { DatasetConfig } from '../../lib/config/pipeline.ts';
import { PenstockError } from '../../lib/errors.ts';
import type { Minitransaction } from '../../lib/meta/engine.ts';
import type { DuckDb } from '../../lib/sql/duckdb.ts';
import type { ParquetColumn } from '../../lib/sql/parquet.ts';
import { commitTable } from '../../lib/table/commit.ts';
import type { DataFile } from '../../lib/table/data-file.ts';
import { dataFileKey } from '../../lib/table/keys.ts';
import type { Schema } from '../../lib/table/schema.ts';
import { createTable, type LakeContext } from '../../lib/table/table.ts';
import { prepareListing } from '../../lib/volume/lake-listing.ts';
import { addToCounters } from '../../lib/lake/counters.ts';
import { describeDataFile, fileFingerprint, hourFolder, hourName, parquetName } from '../parquet-object.ts';
import { addedIcebergFields, fitsSchema, schemaChange, toIceberg } from './table-fields.ts';
import { moveOffsets, readOffsets } from '../../lib/lake/offsets.ts';
import { quarantineWrite } from '../../lib/lake/quarantine.ts';
import { Staging } from './staging.ts';
import { SORT_TAIL } from '../sort-order.ts';
import type { StagePlace } from './stage-portion.ts';
import { hasMoved } from './stage-portion.ts';
import type { PartitionCursor } from './topic-source.ts';

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

export interface LandTotals {
  readonly records: number;
  readonly rows: number;
  readonly quarantined: number;
  readonly files: number;
  readonly bytes: number;
}

interface StagedFile {
  readonly key: string;
  readonly name: string;
  readonly dataFile: DataFile;
  readonly modifiedMs: number;
}

/** Throws `conflict` when others have landed from these offsets, or changed the schema in another way. */
export async function commitStaged(
  scope: CommitScope,
  staging: Staging,
  cursors: readonly PartitionCursor[],
): Promise<LandTotals> {
  const moved = cursors.filter(hasMoved);
  const files: StagedFile[] = [];
  for (const hour of [...staging.hours.keys()].sort((a, b) => a - b)) {
    files.push(await writeHour(scope, staging, moved, hour));
  }
  const deadLetters = staging.deadLetters.count > 0 ? await writeDeadLetters(scope, staging, moved) : null;
  const totals = {
    records: staging.records,
    rows: staging.table.rows,
    quarantined: staging.deadLetters.count,
    files: files.length,
    bytes: files.reduce((sum, file) => sum + Number(file.dataFile.bytes), 0),
  };
  const own = ownRecords(scope, moved, totals, deadLetters);
  if (files.length > 0) await commitRows(scope, staging, moved, files, own);
  else await commitWithoutRows(scope, moved, own);
  return totals;
}

type OwnRecords = Pick<Required<Minitransaction>, 'compare' | 'write' | 'patch'>;

function ownRecords(
  { lake, dataset, place }: CommitScope,
  moved: readonly PartitionCursor[],
  totals: LandTotals,
  deadLetters: {
    readonly key: string;
    readonly bytes: number;
    readonly reasons: Readonly<Record<string, number>>;
  } | null,
): OwnRecords {
  const offsets = moveOffsets(
    lake.volume,
    dataset.name,
    moved.map(({ from, next, leaderEpoch }) => ({ from, to: { topicId: place.topicId, next, leaderEpoch } })),
  );
  const reference =
    deadLetters === null
      ? []
      : [
          quarantineWrite(lake.volume, dataset.name, deadLetters.key, {
            records: totals.quarantined,
            bytes: deadLetters.bytes,
            reasons: deadLetters.reasons,
            committedMs: lake.clock.nowMs(),
          }),
        ];
  return {
    compare: offsets.compare,
    write: [...offsets.write, ...reference],
    patch: addToCounters(lake.volume, dataset.name, {
      landed: totals.records,
      quarantined: totals.quarantined,
      files: totals.files,
      bytes: totals.bytes,
    }),
  };
}

async function commitRows(
  scope: CommitScope,
  staging: Staging,
  moved: readonly PartitionCursor[],
  files: readonly StagedFile[],
  own: OwnRecords,
): Promise<void> {
  const { lake, dataset } = scope;
  const { fields } = staging;
  const sortFields = dataset.sort.filter((name) => fields.some((field) => field.name === name));
  const schema: Schema = { type: 'struct', fields: [...addedIcebergFields(), ...fields.map(toIceberg)] };
  await createTable(lake, dataset.name, {
    schema,
    sortFields: [...sortFields, ...SORT_TAIL].map((name) => ({ name })),
  });
  const add = files.map((file) => file.dataFile);
  await commitTable(lake, dataset.name, async (state) => {
    await assertOffsets(scope, moved);
    if (!fitsSchema(state.schema, state.metadata['last-column-id'], fields)) {
      throw new PenstockError('conflict', `the schema of ${dataset.name} was changed by another writer`);
    }
    const changed = schemaChange(state.schema, fields);
    const listing = await prepareListing(
      lake.engine,
      lake.volume,
      dataset.name,
      files.map(({ key, name, dataFile, modifiedMs }) => ({
        hour: dataFile.hour,
        add: [{ name, key, bytes: Number(dataFile.bytes), modifiedMs }],
        remove: [],
      })),
      lake.clock.nowMs(),
    );
    return {
      change: {
        operation: 'append',
        add,
        remove: [],
        summary: { 'penstock.topic-id': scope.place.topicId, 'penstock.offsets': offsetRanges(moved) },
        ...(changed === undefined ? {} : { schema: changed }),
      },
      extra: {
        compare: [...own.compare, ...listing.compare],
        write: [...own.write, ...listing.write],
        patch: [...own.patch, ...listing.patch],
        publish: listing.publish,
      },
    };
  });
}

/** Everything was quarantined, or there was nothing but markers: the table stays as it is. */
async function commitWithoutRows(
  scope: CommitScope,
  moved: readonly PartitionCursor[],
  own: OwnRecords,
): Promise<void> {
  const result = await scope.lake.engine.commit({ ...own, operation: randomUUID() });
  if (!result.ok) await assertOffsets(scope, moved);
}

async function assertOffsets(scope: CommitScope, moved: readonly PartitionCursor[]): Promise<void> {
  const { lake, dataset } = scope;
  const partitions = moved.map((cursor) => cursor.partition);
  const now = await readOffsets(lake.engine, lake.volume, dataset.name, partitions);
  const lost = now.find((stored, index) => stored.version !== moved[index]?.from.version);
  if (lost === undefined) return;
  throw new PenstockError(
    'conflict',
    `${dataset.name}: partition ${lost.partition} has been landed by another lander up to offset ${lost.landed?.next ?? 0}`,
  );
}

async function writeHour(
  scope: CommitScope,
  staging: Staging,
  moved: readonly PartitionCursor[],
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
        metadata: { 'penstock.topic-id': scope.place.topicId, 'penstock.offsets': offsetRanges(moved) },
      },
      Staging.whereHour(hour),
    );
    const { hash, bytes } = await fileFingerprint(path);
    const name = parquetName(fileStem(scope, moved, hour), hash);
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

async function writeDeadLetters(
  scope: CommitScope,
  staging: Staging,
  moved: readonly PartitionCursor[],
): Promise<{ readonly key: string; readonly bytes: number; readonly reasons: Readonly<Record<string, number>> }> {
  const { lake, dataset, scratchDir } = scope;
  const path = join(scratchDir, `dead-${randomUUID()}.parquet`);
  try {
    await staging.deadLetters.writeTo(path);
    const { hash, bytes } = await fileFingerprint(path);
    const day = new Date(lake.clock.nowMs()).toISOString().slice(0, 10);
    const key = `quarantine/${dataset.name}/dt=${day}/${parquetName(sourceName(scope, moved), hash)}`;
    await lake.store.putFile(key, path);
    return { key, bytes, reasons: staging.deadLetters.reasons };
  } finally {
    await rm(path, { force: true });
  }
}

const fileStem = (scope: CommitScope, moved: readonly PartitionCursor[], hour: number): string =>
  `${hourName(hour)}-${sourceName(scope, moved)}`;

/** `<topic id>-p0-2-o100-4500`: lowest and highest partition and offset. The exact ranges are in the file's own metadata. */
function sourceName({ place }: CommitScope, moved: readonly PartitionCursor[]): string {
  const partitions = moved.map((cursor) => cursor.partition);
  const first = Math.min(...moved.map((cursor) => cursor.start));
  const last = Math.max(...moved.map((cursor) => cursor.next)) - 1;
  const topic = place.topicId.replace(/[^A-Za-z0-9_-]/g, '_');
  return `${topic}-p${Math.min(...partitions)}-${Math.max(...partitions)}-o${first}-${last}`;
}

/** `0:100-199,1:5-9`: inclusive offsets by partition. */
function offsetRanges(moved: readonly PartitionCursor[]): string {
  return moved.map(({ partition, start, next }) => `${partition}:${start}-${next - 1}`).join(',');
}
