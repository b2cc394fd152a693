/**
 * Another program that deletes rows of a table without rewriting data files, as Flink and Spark do; and a naive reader, by another
 * Parquet library and with the rules of the specification written out again, that says which rows are live.
 */
import { randomUUID } from 'node:crypto';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { sqlType } from '../../lib/lake/sql-types.ts';
import { DuckDb, sqlName, sqlText } from '../../lib/sql/duckdb.ts';
import { openAvro } from '../../lib/table/avro.ts';
import { commitDraft } from '../../lib/table/commit-loop.ts';
import { dataFileKey, tableFolder } from '../../lib/table/keys.ts';
import { manifestsOf, readTableObject } from '../../lib/table/live-files.ts';
import { formatManifestList } from '../../lib/table/manifest-list.ts';
import { ADDED, DELETED, type EntryRecord, ManifestWriter } from '../../lib/table/manifest.ts';
import {
  currentSchema,
  currentSnapshot,
  HOUR_FIELD,
  newSnapshotId,
  type TableMetadata,
  withSnapshot,
} from '../../lib/table/metadata.ts';
import { type LakeContext, loadTable } from '../../lib/table/table.ts';
import { tempDir } from '../support/temp.ts';
import { DATASET, type LakeRow, readParquet } from './pipeline.ts';

/** null: without partitions. */
type Partition = number | null;
type Value = string | number | null;

export interface Deletes {
  readonly content: 1 | 2;
  readonly hour: Partition;
  /** The columns of the file: name, Iceberg type, field id. */
  readonly columns: readonly { readonly name: string; readonly type: string; readonly id: number }[];
  readonly rows: readonly (readonly Value[])[];
  readonly equalityIds?: readonly number[];
  readonly dataFile?: string;
  readonly format?: string;
}

const PATH = { name: 'file_path', type: 'string', id: 2147483546 };
const POSITION = { name: 'pos', type: 'long', id: 2147483545 };

export function positions(
  hour: Partition,
  rows: readonly (readonly [location: string, position: number])[],
  more: Partial<Deletes> = {},
): Deletes {
  return { content: 1, hour, columns: [PATH, POSITION], rows, ...more };
}

/** Rows with these values in the columns of these names. */
export async function equals(
  lake: LakeContext,
  hour: Partition,
  names: readonly string[],
  rows: readonly (readonly Value[])[],
): Promise<Deletes> {
  const { fields } = currentSchema((await mustLoad(lake)).metadata);
  const columns = names.map((name) => {
    const field = fields.find((candidate) => candidate.name === name);
    if (typeof field?.type !== 'string') throw new Error(`no column ${name}`);
    return { name, type: field.type, id: field.id };
  });
  return { content: 2, hour, columns, rows, equalityIds: columns.map(({ id }) => id) };
}

async function mustLoad(lake: LakeContext) {
  const table = await loadTable(lake, DATASET);
  if (table === null) throw new Error('no table');
  return table;
}

/** Commits a snapshot with one delete file for each of `deletes`, in one manifest for each partition spec. Returns their keys. */
export async function commitDeletes(lake: LakeContext, ...deletes: readonly Deletes[]): Promise<string[]> {
  const files = await Promise.all(deletes.map(async (file) => ({ file, ...(await write(lake, file)) })));
  await commitDraft(lake, DATASET, async (state) => {
    const metadata = withUnpartitionedSpec(state.metadata);
    const snapshotId = newSnapshotId();
    const { objects, snapshot } = await draft(lake, metadata, snapshotId, files);
    return {
      metadata: withSnapshot(metadata, snapshot),
      objects: objects.map((object) => ({ ...object, reusable: false })),
      extra: {},
    };
  });
  return files.map(({ key }) => key);
}

interface Written {
  readonly file: Deletes;
  readonly key: string;
  readonly bytes: number;
}

/** The objects of a snapshot that adds delete files on top of the current one. */
export async function draft(lake: LakeContext, metadata: TableMetadata, snapshotId: bigint, files: readonly Written[]) {
  const { store } = lake;
  const folder = `${tableFolder(DATASET)}metadata/`;
  const parent = currentSnapshot(metadata);
  const sequenceNumber = metadata['last-sequence-number'] + 1n;
  const objects: { key: string; bytes: Buffer }[] = [];
  const manifests = [...(await manifestsOf(store, parent))];
  for (const isPartitioned of [true, false]) {
    const own = files.filter(({ file }) => (file.hour !== null) === isPartitioned);
    const spec = metadata['partition-specs'].find(({ fields }) => fields.length > 0 === isPartitioned);
    if (own.length === 0 || spec === undefined) continue;
    const writer = new ManifestWriter(currentSchema(metadata), spec, 'deletes');
    for (const written of own) writer.addRecord(entryOf(lake, snapshotId, written));
    const object = { key: `${folder}${randomUUID()}-m0.avro`, bytes: writer.finish() };
    objects.push(object);
    manifests.push({
      location: store.location(object.key),
      bytes: BigInt(object.bytes.length),
      specId: spec['spec-id'],
      content: 1,
      sequenceNumber,
      minSequenceNumber: sequenceNumber,
      addedSnapshotId: snapshotId,
      files: writer.files,
      rows: writer.rows,
      partitions: null,
    });
  }
  const identity = { id: snapshotId, parentId: parent?.['snapshot-id'] ?? null, sequenceNumber };
  const list = { key: `${folder}snap-${snapshotId}.avro`, bytes: formatManifestList(manifests, identity) };
  const snapshot = {
    'snapshot-id': snapshotId,
    ...(parent === null ? {} : { 'parent-snapshot-id': parent['snapshot-id'] }),
    'sequence-number': sequenceNumber,
    'timestamp-ms': Math.max(lake.clock.nowMs(), parent?.['timestamp-ms'] ?? 0),
    'manifest-list': store.location(list.key),
    summary: {
      ...parent?.summary,
      operation: 'delete',
      'total-delete-files': String(
        manifests.reduce((sum, { content, files: [existing, added] }) => sum + content * (existing + added), 0),
      ),
    },
    'schema-id': metadata['current-schema-id'],
  };
  return { objects: [...objects, list], snapshot };
}

function entryOf({ store }: LakeContext, snapshotId: bigint, { file, key, bytes }: Written): EntryRecord {
  return {
    status: ADDED,
    snapshot_id: snapshotId,
    sequence_number: null,
    file_sequence_number: null,
    data_file: {
      content: file.content,
      file_path: store.location(key),
      file_format: file.format ?? 'PARQUET',
      partition: file.hour === null ? {} : { [HOUR_FIELD]: file.hour },
      record_count: BigInt(file.rows.length),
      file_size_in_bytes: BigInt(bytes),
      equality_ids: file.equalityIds ?? null,
      referenced_data_file: file.dataFile ?? null,
    },
  };
}

export async function write(lake: LakeContext, { columns, rows }: Deletes): Promise<{ key: string; bytes: number }> {
  const folder = tempDir('deletes');
  const path = join(folder, 'deletes.parquet');
  const db = await DuckDb.open({ memoryBytes: 200e6, threads: 1, scratchDir: folder, scratchBytes: 1e9 });
  try {
    const literal = (value: Value): string =>
      value === null ? 'NULL' : typeof value === 'string' ? sqlText(value) : String(value);
    const values = rows.map((row) => `(${row.map(literal).join(', ')})`).join(', ');
    const names = columns.map(({ name }) => sqlName(name)).join(', ');
    const casts = columns.map(({ name, type }) => `CAST(${sqlName(name)} AS ${sqlType(type)}) AS ${sqlName(name)}`);
    const ids = columns.map(({ name, id }) => `${sqlName(name)}: ${id}`).join(', ');
    await db.run(
      `COPY (SELECT ${casts.join(', ')} FROM (VALUES ${values}) AS v(${names})) ` +
        `TO ${sqlText(path)} (FORMAT parquet, FIELD_IDS {${ids}})`,
    );
  } finally {
    db.close();
  }
  const key = dataFileKey(DATASET, `deletes-${randomUUID()}.parquet`);
  const { bytes } = await lake.store.putFile(key, path);
  await rm(path);
  return { key, bytes };
}

function withUnpartitionedSpec(metadata: TableMetadata): TableMetadata {
  const specs = metadata['partition-specs'];
  if (specs.some(({ fields }) => fields.length === 0)) return metadata;
  return { ...metadata, 'partition-specs': [...specs, { 'spec-id': specs.length, fields: [] }] };
}

/** Every live row, by the naive reader. */
export async function rowsWithoutDeleted(lake: LakeContext): Promise<LakeRow[]> {
  const { metadata, currentSnapshot: snapshot } = await mustLoad(lake);
  const { fields } = currentSchema(metadata);
  const entries: (EntryRecord & { sequence: bigint; specId: number })[] = [];
  for (const manifest of await manifestsOf(lake.store, snapshot)) {
    const bytes = await readTableObject(lake.store, manifest.location);
    for (const found of openAvro(bytes, manifest.location).records()) {
      const entry = found as EntryRecord;
      const sequence = entry.sequence_number ?? manifest.sequenceNumber;
      if (entry.status !== DELETED) entries.push({ ...entry, sequence, specId: manifest.specId });
    }
  }
  const read = (location: string): Promise<LakeRow[]> => readParquet(lake, lake.store.keyOf(location) ?? '');
  const deletes = await Promise.all(
    entries
      .filter(({ data_file: file }) => file.content !== 0)
      .map(async (entry) => ({ ...entry, rows: await read(entry.data_file.file_path) })),
  );
  const live: LakeRow[] = [];
  for (const data of entries.filter(({ data_file: file }) => file.content === 0)) {
    const { file_path: path, partition } = data.data_file;
    const near = deletes.filter(
      ({ data_file: file }) =>
        file.partition[HOUR_FIELD] === partition[HOUR_FIELD] ||
        (file.content === 2 && file.partition[HOUR_FIELD] === undefined) ||
        file.referenced_data_file === path,
    );
    for (const [position, row] of (await read(path)).entries()) {
      const isDeleted = near.some(({ data_file: file, sequence, rows }) => {
        if (file.content === 1) {
          const named = rows.some((one) => one['file_path'] === path && Number(one['pos']) === position);
          return sequence >= data.sequence && named;
        }
        const names = (file.equality_ids ?? []).map((id) => fields.find((field) => field.id === id)?.name ?? '');
        const equal = (one: LakeRow): boolean =>
          names.every((name) => isDeepStrictEqual(one[name] ?? null, row[name] ?? null));
        return sequence > data.sequence && rows.some(equal);
      });
      if (!isDeleted) live.push(row);
    }
  }
  return live;
}
