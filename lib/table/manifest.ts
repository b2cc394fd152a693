/**
 * Manifests: Avro files that list data files with their statistics, or delete files (see delete-manifest.ts for those).
 *
 * Spec: https://iceberg.apache.org/spec/#manifests. An entry:
 *   0 status (0 existing, 1 added, 2 deleted) | 1 snapshot_id? | 3 sequence_number? | 4 file_sequence_number? | 2 data_file:
 *   134 content | 100 file_path | 101 file_format | 102 partition | 103 record_count | 104 file_size_in_bytes |
 *   108 column_sizes | 109 value_counts | 110 null_value_counts | 137 nan_value_counts | 125 lower_bounds | 128 upper_bounds |
 *   132 split_offsets | 140 sort_order_id; of delete files also 131 key_metadata | 135 equality_ids | 143 referenced_data_file
 * The ids and numbers of an added entry are null and inherited from the manifest list, so the file stays valid when its commit is
 * tried again on top of another snapshot.
 * Invariants: an entry that is carried over keeps what it had, with the inherited values made explicit.
 */
import { PenstockError } from '../errors.ts';
import { AvroWriter, openAvro } from './avro.ts';
import type { AvroContainer, AvroSchema } from './avro.ts';
import type { ColumnStats, DataFile } from './data-file.ts';
import { stringifyJson } from './json.ts';
import type { ManifestFile } from './manifest-list.ts';
import { HOUR_FIELD, HOUR_FIELD_ID } from './metadata.ts';
import type { PartitionSpec } from './metadata.ts';
import type { Schema } from './schema.ts';

export const EXISTING = 0;
export const ADDED = 1;
export const DELETED = 2;

export interface ManifestEntry {
  readonly status: number;
  /** null: inherited (added entries that are being written). */
  readonly snapshotId: bigint | null;
  readonly sequenceNumber: bigint | null;
  readonly fileSequenceNumber: bigint | null;
  readonly file: DataFile;
}

interface KeyValue<T> {
  readonly key: number;
  readonly value: T;
}
type AvroMap<T> = readonly KeyValue<T>[] | null | undefined;

/** The Avro form; names as in the specification. */
export interface EntryRecord {
  readonly status: number;
  readonly snapshot_id: bigint | null;
  readonly sequence_number: bigint | null;
  readonly file_sequence_number: bigint | null;
  readonly data_file: {
    readonly content?: number;
    readonly file_path: string;
    readonly file_format: string;
    readonly partition: Readonly<Record<string, unknown>>;
    readonly record_count: bigint;
    readonly file_size_in_bytes: bigint;
    readonly column_sizes?: AvroMap<bigint>;
    readonly value_counts?: AvroMap<bigint>;
    readonly null_value_counts?: AvroMap<bigint>;
    readonly nan_value_counts?: AvroMap<bigint>;
    readonly lower_bounds?: AvroMap<Uint8Array>;
    readonly upper_bounds?: AvroMap<Uint8Array>;
    readonly split_offsets?: readonly bigint[] | null;
    readonly sort_order_id?: number | null;
    readonly key_metadata?: Uint8Array | null;
    readonly equality_ids?: readonly number[] | null;
    readonly referenced_data_file?: string | null;
  };
}

function optional(name: string, type: AvroSchema, id: number): AvroSchema {
  return { name, type: ['null', type], default: null, 'field-id': id };
}

function mapById(keyId: number, valueId: number, valueType: AvroSchema): AvroSchema {
  const fields = [
    { name: 'key', type: 'int', 'field-id': keyId },
    { name: 'value', type: valueType, 'field-id': valueId },
  ];
  return { type: 'array', logicalType: 'map', items: { type: 'record', name: `k${keyId}_v${valueId}`, fields } };
}

const hourField = optional(HOUR_FIELD, 'int', HOUR_FIELD_ID);
const dataFileFields = [
  { name: 'record_count', type: 'long', 'field-id': 103 },
  { name: 'file_size_in_bytes', type: 'long', 'field-id': 104 },
  optional('column_sizes', mapById(117, 118, 'long'), 108),
  optional('value_counts', mapById(119, 120, 'long'), 109),
  optional('null_value_counts', mapById(121, 122, 'long'), 110),
  optional('nan_value_counts', mapById(138, 139, 'long'), 137),
  optional('lower_bounds', mapById(126, 127, 'bytes'), 125),
  optional('upper_bounds', mapById(129, 130, 'bytes'), 128),
  optional('split_offsets', { type: 'array', items: 'long', 'element-id': 133 }, 132),
  optional('sort_order_id', 'int', 140),
];
const deleteFileFields = [
  ...dataFileFields,
  optional('key_metadata', 'bytes', 131),
  optional('equality_ids', { type: 'array', items: 'int', 'element-id': 136 }, 135),
  optional('referenced_data_file', 'string', 143),
];

function entryType(partition: readonly AvroSchema[], fileFields: readonly AvroSchema[]): AvroSchema {
  const file: AvroSchema = {
    type: 'record',
    name: 'r2',
    fields: [
      { name: 'content', type: 'int', 'field-id': 134 },
      { name: 'file_path', type: 'string', 'field-id': 100 },
      { name: 'file_format', type: 'string', 'field-id': 101 },
      { name: 'partition', type: { type: 'record', name: 'r102', fields: partition }, 'field-id': 102 },
      ...fileFields,
    ],
  };
  return {
    type: 'record',
    name: 'manifest_entry',
    fields: [
      { name: 'status', type: 'int', 'field-id': 0 },
      optional('snapshot_id', 'long', 1),
      optional('sequence_number', 'long', 3),
      optional('file_sequence_number', 'long', 4),
      { name: 'data_file', type: file, 'field-id': 2 },
    ],
  };
}

/** By hour(_event_time) and nothing else. */
function isHourSpec({ fields }: PartitionSpec): boolean {
  return fields.length === 1 && fields[0]?.['field-id'] === HOUR_FIELD_ID;
}

/** Specs whose manifests of deletes can be written: equality deletes for all hours have none. */
export const isDeleteSpec = (spec: PartitionSpec): boolean => spec.fields.length === 0 || isHourSpec(spec);

/** A manifest that is being written; the counts are what its line in the manifest list needs. */
export class ManifestWriter {
  readonly #avro: AvroWriter;
  readonly content: 0 | 1;
  readonly specId: number;
  readonly isPartitioned: boolean;
  /** Some entry has no hour: one of another writer. */
  hasNullHour = false;
  readonly files: [existing: number, added: number, deleted: number] = [0, 0, 0];
  readonly rows: [existing: bigint, added: bigint, deleted: bigint] = [0n, 0n, 0n];
  /** Lowest of the explicit sequence numbers; null when all are inherited. */
  minSequenceNumber: bigint | null = null;
  hours: { lower: number; upper: number } | null = null;

  /** Throws `unsupported` for a partition spec of another writer: its values could not be kept. */
  constructor(schema: Schema, spec: PartitionSpec, content: 'data' | 'deletes' = 'data') {
    if (!(content === 'data' ? isHourSpec : isDeleteSpec)(spec)) {
      throw new PenstockError(
        'unsupported',
        `partition spec ${spec['spec-id']}: manifests are written for hour(_event_time) only`,
      );
    }
    this.content = content === 'data' ? 0 : 1;
    this.specId = spec['spec-id'];
    this.isPartitioned = spec.fields.length > 0;
    const partition = this.isPartitioned ? [hourField] : [];
    const type = entryType(partition, content === 'data' ? dataFileFields : deleteFileFields);
    this.#avro = new AvroWriter(type, {
      schema: stringifyJson(schema),
      'schema-id': String(schema['schema-id'] ?? 0),
      'partition-spec': stringifyJson(spec.fields),
      'partition-spec-id': String(spec['spec-id']),
      'format-version': '2',
      content,
    });
  }

  /** An estimate while entries are being added. */
  get bytes(): number {
    return this.#avro.bytes;
  }

  add(entry: ManifestEntry): void {
    this.addRecord(toRecord(entry));
  }

  /** An entry as another writer had it, with what it inherited made explicit. */
  addRecord(record: EntryRecord): void {
    this.#avro.write(record);
    const status = record.status as 0 | 1 | 2; // the only three there are
    this.files[status]++;
    this.rows[status] += record.data_file.record_count;
    const hour = record.data_file.partition[HOUR_FIELD];
    if (typeof hour === 'number') {
      this.hours = {
        lower: Math.min(this.hours?.lower ?? hour, hour),
        upper: Math.max(this.hours?.upper ?? hour, hour),
      };
    } else this.hasNullHour = true;
    const sequence = record.sequence_number;
    // Deleted entries keep no data alive, so they do not count for the minimum.
    if (sequence !== null && status !== DELETED && sequence < (this.minSequenceNumber ?? sequence + 1n)) {
      this.minSequenceNumber = sequence;
    }
  }

  finish(): Buffer {
    return this.#avro.finish();
  }
}

/** Decodes as it is iterated, with inherited values filled in. Throws `corrupt` naming the manifest. */
export function* readManifest(bytes: Buffer, manifest: ManifestFile): Generator<ManifestEntry> {
  for (const record of openManifest(bytes, manifest).records()) {
    yield fromRecord(record as EntryRecord, manifest); // the writer's schema describes it; what we use is checked below
  }
}

/** The files that a manifest keeps alive, of data or of deletes, whoever wrote it. */
export function* referencedLocations(bytes: Buffer, manifest: ManifestFile): Generator<string> {
  for (const record of openManifest(bytes, manifest).records()) {
    const { status, data_file: file } = record as EntryRecord; // the same in every manifest
    if (status !== DELETED) yield file.file_path;
  }
}

/** An Avro file that ends after a whole block looks complete: the length in the manifest list says whether it is. */
export function openManifest(bytes: Buffer, manifest: ManifestFile): AvroContainer {
  if (BigInt(bytes.length) !== manifest.bytes) {
    const expected = manifest.bytes.toString();
    throw new PenstockError(
      'corrupt',
      `${manifest.location} has ${bytes.length} bytes, not the ${expected} of the manifest list`,
    );
  }
  return openAvro(bytes, manifest.location);
}

function toRecord({ status, snapshotId, sequenceNumber, fileSequenceNumber, file }: ManifestEntry): EntryRecord {
  const stats = [...file.columnStats];
  const pick = <T>(get: (column: ColumnStats) => T | null): AvroMap<T> =>
    stats.flatMap(([key, column]) => {
      const value = get(column);
      return value === null ? [] : [{ key, value }];
    });
  return {
    status,
    snapshot_id: snapshotId,
    sequence_number: sequenceNumber,
    file_sequence_number: fileSequenceNumber,
    data_file: {
      content: 0,
      file_path: file.location,
      file_format: 'PARQUET',
      partition: { [HOUR_FIELD]: file.hour },
      record_count: file.recordCount,
      file_size_in_bytes: file.bytes,
      column_sizes: pick((column) => column.bytes),
      value_counts: pick((column) => column.valueCount),
      null_value_counts: pick((column) => column.nullCount),
      nan_value_counts: pick((column) => column.nanCount),
      lower_bounds: pick((column) => column.lower && Buffer.from(column.lower)),
      upper_bounds: pick((column) => column.upper && Buffer.from(column.upper)),
      split_offsets: file.splitOffsets ?? null,
      sort_order_id: file.sortOrderId,
    },
  };
}

function fromRecord(record: EntryRecord, manifest: ManifestFile): ManifestEntry {
  const { data_file: file } = record;
  const hour = file.partition[HOUR_FIELD];
  if (file.content !== 0 || file.file_format.toUpperCase() !== 'PARQUET' || typeof hour !== 'number') {
    throw new PenstockError(
      'unsupported',
      `${manifest.location} lists ${file.file_path}: expected a Parquet data file partitioned by ${HOUR_FIELD}`,
    );
  }
  return {
    status: record.status,
    snapshotId: record.snapshot_id ?? manifest.addedSnapshotId,
    sequenceNumber: record.sequence_number ?? manifest.sequenceNumber,
    fileSequenceNumber: record.file_sequence_number ?? manifest.sequenceNumber,
    file: {
      location: file.file_path,
      hour,
      recordCount: file.record_count,
      bytes: file.file_size_in_bytes,
      columnStats: columnStats(file),
      sortOrderId: file.sort_order_id ?? null,
      ...(file.split_offsets ? { splitOffsets: file.split_offsets } : {}),
    },
  };
}

function columnStats(file: EntryRecord['data_file']): ReadonlyMap<number, ColumnStats> {
  type Mutable = { -readonly [P in keyof ColumnStats]: ColumnStats[P] };
  const columns = new Map<number, Mutable>();
  const put = <T>(map: AvroMap<T>, set: (column: Mutable, value: T) => void): void => {
    for (const { key, value } of map ?? []) {
      let column = columns.get(key);
      if (column === undefined) {
        column = { bytes: null, valueCount: null, nullCount: null, nanCount: null, lower: null, upper: null };
        columns.set(key, column);
      }
      set(column, value);
    }
  };
  put(file.column_sizes, (column, value) => (column.bytes = value));
  put(file.value_counts, (column, value) => (column.valueCount = value));
  put(file.null_value_counts, (column, value) => (column.nullCount = value));
  put(file.nan_value_counts, (column, value) => (column.nanCount = value));
  put(file.lower_bounds, (column, value) => (column.lower = value));
  put(file.upper_bounds, (column, value) => (column.upper = value));
  return columns;
}
