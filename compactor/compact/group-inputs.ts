/**
 * The input files of a group on the local disk, each checked before a row of it is believed, and the delete files that apply to them.
 *
 * A flipped bit in a Parquet page can decompress to other values without any error (DuckDB neither writes nor checks page checksums):
 * our own files carry a fingerprint in their names, which is compared with their bytes. A file that fails (wrong size, fingerprint,
 * footer, or pages that do not decode) is named and left where it is.
 * Limits: DOWNLOADS at once; the group's bytes on the scratch disk where the store is not a directory of this machine.
 */
import { join } from 'node:path';
import { describeError, isCode, PenstockError } from '../../lib/errors.ts';
import { sqlText } from '../../lib/sql/duckdb.ts';
import type { SqlRunner } from '../../lib/sql/parquet-footer.ts';
import type { CostMeter } from '../cost/cost.ts';
import { fileFingerprint } from '../parquet-object.ts';
import { fingerprintInName } from '../../lib/lake/file-names.ts';
import type { DeleteFile } from '../../lib/table/delete-manifest.ts';
import type { Schema } from '../../lib/table/schema.ts';
import { contentStatement } from './content.ts';
import type { GroupFile } from './selection.ts';

/** Enough to fill a network link with requests of some megabytes; more only takes memory. */
const DOWNLOADS = 8;

export interface LocalFile extends GroupFile {
  readonly path: string;
}

export interface DamagedFile {
  /** Names it and says what is wrong. */
  readonly message: string;
  /** As the manifest says. */
  readonly rows: number;
}

export interface GroupInputs {
  readonly files: readonly LocalFile[];
  readonly damaged: readonly DamagedFile[];
}

/** What is downloaded stays in `scratchDir`. */
export async function fetchInputs(
  meter: CostMeter,
  sql: SqlRunner,
  wanted: readonly GroupFile[],
  scratchDir: string,
  signal: AbortSignal,
): Promise<GroupInputs> {
  const damaged: DamagedFile[] = [];
  const files: LocalFile[] = [];
  const queue = wanted.entries();
  const work = async (): Promise<void> => {
    for (const [index, file] of queue) {
      signal.throwIfAborted();
      try {
        const path = await localCopy(meter, file, join(scratchDir, `in-${index}.parquet`), signal);
        await checkBytes(file, path, signal);
        files.push({ ...file, path });
      } catch (error) {
        if (!isCode(error, 'corrupt', 'not-found')) throw error;
        damaged.push({ message: describeError(error), rows: file.rows });
      }
    }
  };
  await Promise.all(Array.from({ length: DOWNLOADS }, work));
  files.sort((a, b) => (a.location < b.location ? -1 : 1));
  return { files: await checkFooters(sql, files, damaged), damaged };
}

/**
 * The paths of delete files on the local disk. Throws `not-found`, `corrupt`, `unsupported`: without one of them no row of the group
 * may be rewritten. What is downloaded stays in `scratchDir`.
 */
export async function fetchDeletes(
  meter: CostMeter,
  deletes: readonly DeleteFile[],
  scratchDir: string,
  signal: AbortSignal,
): Promise<ReadonlyMap<DeleteFile, string>> {
  const paths = new Map<DeleteFile, string>();
  const queue = deletes.entries();
  const work = async (): Promise<void> => {
    for (const [index, file] of queue) {
      signal.throwIfAborted();
      if (file.problem !== null) throw new PenstockError('unsupported', file.problem);
      const path = await localCopy(meter, file, join(scratchDir, `delete-${index}.parquet`), signal);
      await checkBytes(file, path, signal);
      paths.set(file, path);
    }
  };
  await Promise.all(Array.from({ length: DOWNLOADS }, work));
  return paths;
}

type StoredFile = Pick<GroupFile, 'location' | 'bytes'>;

async function localCopy(
  meter: CostMeter,
  file: StoredFile,
  scratchPath: string,
  signal: AbortSignal,
): Promise<string> {
  const { store } = meter.lake;
  const key = store.keyOf(file.location);
  if (key === null) throw new PenstockError('not-found', `${file.location} is not in the store ${store.url}`);
  const local = store.localPath(key);
  if (local !== null) {
    meter.addRead(file.bytes);
    return local;
  }
  await store.getFile(key, scratchPath, { signal });
  return scratchPath;
}

async function checkBytes(file: StoredFile, path: string, signal: AbortSignal): Promise<void> {
  let actual: { readonly hash: string; readonly bytes: number };
  try {
    actual = await fileFingerprint(path, signal);
  } catch (error) {
    signal.throwIfAborted();
    throw new PenstockError('not-found', `${file.location} cannot be read: ${describeError(error)}`, { cause: error });
  }
  if (actual.bytes !== file.bytes) {
    throw new PenstockError('corrupt', `${file.location} has ${actual.bytes} bytes instead of ${file.bytes}`);
  }
  const expected = fingerprintInName(file.location);
  if (expected !== null && expected !== actual.hash) {
    throw new PenstockError('corrupt', `${file.location} is damaged: its fingerprint is ${actual.hash}`);
  }
}

/** The files whose footers can be read and have as many rows as the manifest says. */
async function checkFooters(sql: SqlRunner, files: readonly LocalFile[], damaged: DamagedFile[]): Promise<LocalFile[]> {
  const counts = await rowCounts(sql, files);
  return files.filter((file) => {
    const rows = counts.get(file.path);
    if (rows === file.rows) return true;
    const message =
      rows === undefined
        ? `${file.location} is damaged: its footer cannot be read`
        : `${file.location} has ${rows} rows, the manifest says ${file.rows}`;
    damaged.push({ message, rows: file.rows });
    return false;
  });
}

async function rowCounts(sql: SqlRunner, files: readonly LocalFile[]): Promise<ReadonlyMap<string, number>> {
  if (files.length === 0) return new Map();
  const list = files.map((file) => sqlText(file.path)).join(', ');
  try {
    const rows = await sql.query(`SELECT file_name, num_rows FROM parquet_file_metadata([${list}])`);
    return new Map(
      rows.map(({ file_name: name, num_rows: count }) => [typeof name === 'string' ? name : '', Number(count)]),
    );
  } catch (error) {
    if (!isCode(error, 'corrupt', 'io')) throw error;
    if (files.length === 1) return new Map();
    // One bad footer fails the whole list: halve it until the bad ones are alone.
    const middle = files.length >> 1;
    const left = await rowCounts(sql, files.slice(0, middle));
    return new Map([...left, ...(await rowCounts(sql, files.slice(middle)))]);
  }
}

/** The files of which some page cannot be decoded, found by reading each whole: only after a statement has failed on one of them. */
export async function findUndecodable(
  sql: SqlRunner,
  files: readonly LocalFile[],
  schema: Schema,
): Promise<ReadonlyMap<LocalFile, DamagedFile>> {
  const found = new Map<LocalFile, DamagedFile>();
  for (const file of files) {
    try {
      await sql.query(contentStatement([file.path], schema));
    } catch (error) {
      if (!isCode(error, 'corrupt')) throw error;
      const message = `${file.location} is damaged: ${describeError(error)}`;
      found.set(file, { message, rows: file.rows });
    }
  }
  return found;
}
