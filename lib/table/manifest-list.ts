/**
 * The manifest list of a snapshot: one line per manifest, with the counts and the partition bounds by which a plan skips it.
 *
 * Spec: https://iceberg.apache.org/spec/#manifest-lists, fields 500-519 below. Delete manifests of other writers (content 1) are
 * carried through every commit as they are.
 */
import { AvroWriter, openAvro } from './avro.ts';
import type { AvroSchema } from './avro.ts';

export interface ManifestFile {
  readonly location: string;
  readonly bytes: bigint;
  readonly specId: number;
  /** 0 data, 1 deletes. */
  readonly content: number;
  readonly sequenceNumber: bigint;
  readonly minSequenceNumber: bigint;
  readonly addedSnapshotId: bigint;
  readonly files: readonly [existing: number, added: number, deleted: number];
  readonly rows: readonly [existing: bigint, added: bigint, deleted: bigint];
  /** Bounds of each partition field; null: not known. */
  readonly partitions: readonly PartitionBounds[] | null;
}

export interface PartitionBounds {
  readonly containsNull: boolean;
  readonly containsNan: boolean | null;
  readonly lower: Uint8Array | null;
  readonly upper: Uint8Array | null;
}

interface ManifestRecord {
  readonly manifest_path: string;
  readonly manifest_length: bigint;
  readonly partition_spec_id: number;
  readonly content?: number;
  readonly sequence_number?: bigint;
  readonly min_sequence_number?: bigint;
  readonly added_snapshot_id: bigint;
  readonly existing_files_count: number;
  readonly added_files_count: number;
  readonly deleted_files_count: number;
  readonly existing_rows_count: bigint;
  readonly added_rows_count: bigint;
  readonly deleted_rows_count: bigint;
  readonly partitions?: readonly PartitionRecord[] | null;
}

interface PartitionRecord {
  readonly contains_null: boolean;
  readonly contains_nan?: boolean | null;
  readonly lower_bound?: Uint8Array | null;
  readonly upper_bound?: Uint8Array | null;
}

function field(name: string, type: AvroSchema, id: number): AvroSchema {
  return { name, type, 'field-id': id };
}

function optional(name: string, type: AvroSchema, id: number): AvroSchema {
  return { name, type: ['null', type], default: null, 'field-id': id };
}

const boundsType: AvroSchema = {
  type: 'record',
  name: 'r508',
  fields: [
    field('contains_null', 'boolean', 509),
    optional('contains_nan', 'boolean', 518),
    optional('lower_bound', 'bytes', 510),
    optional('upper_bound', 'bytes', 511),
  ],
};
const listType: AvroSchema = {
  type: 'record',
  name: 'manifest_file',
  fields: [
    field('manifest_path', 'string', 500),
    field('manifest_length', 'long', 501),
    field('partition_spec_id', 'int', 502),
    field('content', 'int', 517),
    field('sequence_number', 'long', 515),
    field('min_sequence_number', 'long', 516),
    field('added_snapshot_id', 'long', 503),
    field('added_files_count', 'int', 504),
    field('existing_files_count', 'int', 505),
    field('deleted_files_count', 'int', 506),
    field('added_rows_count', 'long', 512),
    field('existing_rows_count', 'long', 513),
    field('deleted_rows_count', 'long', 514),
    optional('partitions', { type: 'array', items: boundsType, 'element-id': 508 }, 507),
  ],
};

export function formatManifestList(
  manifests: readonly ManifestFile[],
  snapshot: { readonly id: bigint; readonly parentId: bigint | null; readonly sequenceNumber: bigint },
): Buffer {
  const avro = new AvroWriter(listType, {
    'snapshot-id': snapshot.id.toString(),
    'parent-snapshot-id': snapshot.parentId?.toString() ?? 'null',
    'sequence-number': snapshot.sequenceNumber.toString(),
    'format-version': '2',
  });
  for (const manifest of manifests) avro.write(toRecord(manifest));
  return avro.finish();
}

/** Throws `corrupt` naming `location`. */
export function parseManifestList(bytes: Buffer, location: string): ManifestFile[] {
  // The writer's own schema describes the records.
  return [...openAvro(bytes, location).records()].map((record) => fromRecord(record as ManifestRecord));
}

function toRecord(manifest: ManifestFile): ManifestRecord {
  const [existingFiles, addedFiles, deletedFiles] = manifest.files;
  const [existingRows, addedRows, deletedRows] = manifest.rows;
  return {
    manifest_path: manifest.location,
    manifest_length: manifest.bytes,
    partition_spec_id: manifest.specId,
    content: manifest.content,
    sequence_number: manifest.sequenceNumber,
    min_sequence_number: manifest.minSequenceNumber,
    added_snapshot_id: manifest.addedSnapshotId,
    existing_files_count: existingFiles,
    added_files_count: addedFiles,
    deleted_files_count: deletedFiles,
    existing_rows_count: existingRows,
    added_rows_count: addedRows,
    deleted_rows_count: deletedRows,
    partitions:
      manifest.partitions?.map((bounds) => ({
        contains_null: bounds.containsNull,
        contains_nan: bounds.containsNan,
        lower_bound: bounds.lower && Buffer.from(bounds.lower),
        upper_bound: bounds.upper && Buffer.from(bounds.upper),
      })) ?? null,
  };
}

function fromRecord(record: ManifestRecord): ManifestFile {
  return {
    location: record.manifest_path,
    bytes: record.manifest_length,
    specId: record.partition_spec_id,
    content: record.content ?? 0,
    sequenceNumber: record.sequence_number ?? 0n,
    minSequenceNumber: record.min_sequence_number ?? 0n,
    addedSnapshotId: record.added_snapshot_id,
    files: [record.existing_files_count, record.added_files_count, record.deleted_files_count],
    rows: [record.existing_rows_count, record.added_rows_count, record.deleted_rows_count],
    partitions:
      record.partitions?.map((bounds) => ({
        containsNull: bounds.contains_null,
        containsNan: bounds.contains_nan ?? null,
        lower: bounds.lower_bound ?? null,
        upper: bounds.upper_bound ?? null,
      })) ?? null,
  };
}
