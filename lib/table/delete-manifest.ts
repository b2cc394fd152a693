/**
 * Manifests of delete files (content 1): what other writers leave when they delete rows without rewriting data files.
 *
 * Spec: https://iceberg.apache.org/spec/#row-level-deletes, format version 2: position deletes (content 1 of a file) and equality
 * deletes (content 2), as Parquet.
 * Invariants: a delete file that we cannot apply is read all the same, with the reason, so that it holds up the hours that it is
 * about and nothing else.
 */
import type { ManifestFile } from './manifest-list.ts';
import { type EntryRecord, isDeleteSpec, openManifest } from './manifest.ts';
import { HOUR_FIELD, type PartitionSpec, partitionSpec, type TableMetadata } from './metadata.ts';

const POSITION_DELETES = 1;
const EQUALITY_DELETES = 2;
/** The reserved field id of the column `file_path` of position deletes. */
export const FILE_PATH_ID = 2147483546;

export interface DeleteFile {
  readonly kind: 'position' | 'equality';
  readonly location: string;
  readonly bytes: number;
  readonly rows: number;
  readonly sequenceNumber: bigint;
  /** The partition; null: written under a spec without partitions. */
  readonly hour: number | null;
  /** Position deletes of one data file only say which. */
  readonly dataFile: string | null;
  /** Field ids of the columns that equality deletes compare. */
  readonly equalityIds: readonly number[];
  /** Why it cannot be applied, naming it; null: it can. */
  readonly problem: string | null;
}

export interface DeleteEntry {
  readonly status: number;
  readonly file: DeleteFile;
  /** The whole entry, with inherited values filled in. */
  readonly record: EntryRecord;
}

/** Throws `corrupt` naming the manifest. */
export function* readDeleteManifest(
  bytes: Buffer,
  manifest: ManifestFile,
  metadata: TableMetadata,
): Generator<DeleteEntry> {
  const spec = partitionSpec(metadata, manifest.specId);
  for (const found of openManifest(bytes, manifest).records()) {
    const entry = found as EntryRecord; // the writer's schema describes it; what we use is checked below
    const record = {
      ...entry,
      snapshot_id: entry.snapshot_id ?? manifest.addedSnapshotId,
      sequence_number: entry.sequence_number ?? manifest.sequenceNumber,
      file_sequence_number: entry.file_sequence_number ?? manifest.sequenceNumber,
    };
    yield { status: record.status, record, file: deleteFileOf(record, record.sequence_number, spec) };
  }
}

function deleteFileOf({ data_file: file }: EntryRecord, sequenceNumber: bigint, spec: PartitionSpec): DeleteFile {
  const isPosition = file.content === POSITION_DELETES;
  const hour = file.partition[HOUR_FIELD];
  return {
    kind: isPosition ? 'position' : 'equality',
    location: file.file_path,
    bytes: Number(file.file_size_in_bytes),
    rows: Number(file.record_count),
    sequenceNumber,
    hour: typeof hour === 'number' ? hour : null,
    dataFile: isPosition ? onlyDataFile(file) : null,
    equalityIds: file.equality_ids ?? [],
    problem: problemOf(file, spec),
  };
}

function problemOf(file: EntryRecord['data_file'], spec: PartitionSpec): string | null {
  const refuse = (why: string): string => `${file.file_path}: ${why}`;
  const format = file.file_format.toUpperCase();
  if (format === 'PUFFIN') return refuse('deletion vectors (format version 3) are not supported');
  if (format !== 'PARQUET') return refuse(`delete files of format ${format} are not supported, only Parquet`);
  if (file.key_metadata != null) return refuse('encrypted delete files are not supported');
  if (file.content !== POSITION_DELETES && file.content !== EQUALITY_DELETES) {
    return refuse(`content ${file.content ?? 0} in a manifest of deletes`);
  }
  if (file.content === EQUALITY_DELETES && (file.equality_ids ?? []).length === 0) {
    return refuse('equality deletes without the ids of their columns');
  }
  const isKnown = isDeleteSpec(spec) && (spec.fields.length === 0 || typeof file.partition[HOUR_FIELD] === 'number');
  return isKnown ? null : refuse(`its partition is not one of ${HOUR_FIELD} (partition spec ${spec['spec-id']})`);
}

/** Writers before `referenced_data_file` said it by equal bounds of the paths; bounds that were cut short are never equal. */
function onlyDataFile(file: EntryRecord['data_file']): string | null {
  if (file.referenced_data_file != null) return file.referenced_data_file;
  const bound = (bounds: EntryRecord['data_file']['lower_bounds']): string | null => {
    const found = bounds?.find(({ key }) => key === FILE_PATH_ID)?.value;
    return found === undefined ? null : Buffer.from(found).toString('utf8');
  };
  const lower = bound(file.lower_bounds);
  return lower !== null && lower === bound(file.upper_bounds) ? lower : null;
}
