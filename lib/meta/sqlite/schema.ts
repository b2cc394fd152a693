/**
 * The storage layout of the SQLite adapter, and how its file is opened.
 *
 *   table       columns                                                         what
 *   records     bucket BLOB, field BLOB, session, counter, value BLOB           value records; (session, counter) is the version
 *   numbers     bucket BLOB, field BLOB, value                                  numbers, 64-bit
 *   sessions    id, kind, host, pid, detail, lease_ms, started_ms, renewed_ms,  one row per session until it is ended
 *               renewed_up_ms
 *   operations  session, operation, ordinal, result                             the ring of results of repeated commits
 *   feed        sequence AUTOINCREMENT, shard BLOB, message BLOB                the change feed, the newest FEED_ROWS_MAX or more
 *   engine      id = 1, epoch, inode                                            one row: the epoch and the file it was made for
 *
 * Buckets, fields and shards are BLOBs of their latin1 bytes: TEXT would be cut at NUL and compared by collation. The tables by key
 * are WITHOUT ROWID: one B-tree, so a record costs one look-up and a bucket is contiguous.
 *
 * Invariants
 * - The file is ours (`application_id`) and of our version (`user_version`), or it is refused by name.
 * - The epoch belongs to the inode of the file: a file that was restored or copied into place gets a new epoch and no sessions
 *   when it is next opened, so no session of the old file can go on in it. (Restored in place, byte over byte, under a running
 *   program is not noticed, as with any SQLite database.)
 * Failure: opening is one transaction; two processes that create the file at once make it once.
 * Limits: a file system with shared memory between its users, so one machine (SQLite's rule for WAL).
 */
import { randomUUID } from 'node:crypto';
import { accessSync, constants, mkdirSync, statfsSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { PenstockError, describeError, fromSystemError, type ErrorCode } from '../../errors.ts';

/** `commit`: each commit is on the disk before it is answered. `flush`: only what `flush()` returned for is. */
export type Durability = 'commit' | 'flush';

const APPLICATION_ID = 0x50_53_4d_45; // "PSME"
const SCHEMA_VERSION = 1;
// The write-ahead log is cut to this after a checkpoint: a burst must not keep its space for ever.
const WAL_BYTES_KEPT = 64 << 20;

const TABLES = `
  CREATE TABLE records (
    bucket BLOB NOT NULL, field BLOB NOT NULL, session INTEGER NOT NULL, counter INTEGER NOT NULL, value BLOB NOT NULL,
    PRIMARY KEY (bucket, field)) WITHOUT ROWID;
  CREATE TABLE numbers (
    bucket BLOB NOT NULL, field BLOB NOT NULL, value INTEGER NOT NULL,
    PRIMARY KEY (bucket, field)) WITHOUT ROWID;
  CREATE TABLE sessions (
    id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, host TEXT NOT NULL, pid INTEGER NOT NULL, detail TEXT NOT NULL,
    lease_ms INTEGER NOT NULL, started_ms INTEGER NOT NULL, renewed_ms INTEGER NOT NULL, renewed_up_ms INTEGER NOT NULL);
  CREATE TABLE operations (
    session INTEGER NOT NULL, operation TEXT NOT NULL, ordinal INTEGER NOT NULL, result TEXT NOT NULL,
    PRIMARY KEY (session, operation)) WITHOUT ROWID;
  CREATE TABLE feed (sequence INTEGER PRIMARY KEY AUTOINCREMENT, shard BLOB NOT NULL, message BLOB NOT NULL);
  CREATE TABLE engine (id INTEGER PRIMARY KEY CHECK (id = 1), epoch TEXT NOT NULL, inode TEXT NOT NULL);
  PRAGMA application_id = ${APPLICATION_ID};
  PRAGMA user_version = ${SCHEMA_VERSION};
`;

export interface OpenedFile {
  readonly database: DatabaseSync;
  readonly epoch: string;
  readonly inode: string;
}

const SQLITE_BUSY = 5;
const SQLITE_LOCKED = 6;
const SQLITE_IOERR = 10;
const SQLITE_CANTOPEN = 14;
/** Of the index of the write-ahead log, made at every first open. */
const SHARED_MEMORY_BYTES = 32_768;
/** SQLite's primary result codes (sqlite.org/rescode.html); what is not named here is `io`. */
const ERROR_CODES: Readonly<Record<number, ErrorCode>> = {
  [SQLITE_BUSY]: 'unavailable',
  [SQLITE_LOCKED]: 'unavailable',
  3: 'denied', // PERM
  8: 'denied', // READONLY
  11: 'corrupt', // CORRUPT
  13: 'full', // FULL
  [SQLITE_CANTOPEN]: 'not-found',
  26: 'corrupt', // NOTADB
};

/** SQLite's primary result code of an error, or undefined. */
function resultCode(error: unknown): number | undefined {
  return error instanceof Error && 'errcode' in error && typeof error.errcode === 'number'
    ? error.errcode & 0xff
    : undefined;
}

export function isBusy(error: unknown): boolean {
  const code = resultCode(error);
  return code === SQLITE_BUSY || code === SQLITE_LOCKED;
}

/** Turns an error of node:sqlite into ours, with the file's name. */
export function fromSqliteError(error: unknown, path: string): PenstockError {
  if (error instanceof PenstockError) return error;
  const result = resultCode(error);
  if (result === undefined) return fromSystemError(error, path);
  const { code, why } = folderProblem(result, dirname(path)) ?? {
    code: ERROR_CODES[result] ?? 'io',
    why: describeError(error),
  };
  const what = code === 'corrupt' ? 'is damaged or no metadata database' : 'cannot be used';
  return new PenstockError(code, `${path} ${what}: ${why}`, { cause: error });
}

/** What SQLite's code does not tell. */
function folderProblem(result: number, folder: string): { readonly code: ErrorCode; readonly why: string } | null {
  // SQLite calls it an I/O error where it cannot make its shared memory.
  if (result === SQLITE_IOERR && isDiskFull(folder)) return { code: 'full', why: 'no space left on its disk' };
  if (result === SQLITE_CANTOPEN && !mayWrite(folder))
    return { code: 'denied', why: `${folder} may not be written by this process, or is read-only` };
  return null;
}

function mayWrite(folder: string): boolean {
  try {
    accessSync(folder, constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

function isDiskFull(folder: string): boolean {
  try {
    const { bavail, bsize } = statfsSync(folder);
    return bavail * bsize < SHARED_MEMORY_BYTES;
  } catch {
    return false;
  }
}

/** The inode at `path` now, or null: a file that was replaced or removed under us has another. */
export function inodeOf(path: string): string | null {
  return statSync(path, { bigint: true, throwIfNoEntry: false })?.ino.toString() ?? null;
}

/**
 * Opens or creates the file; its folder is created too. Throws an error that `isBusy` while another process has it locked.
 */
export function openFile(path: string, durability: Durability): OpenedFile {
  mkdirSync(dirname(path), { recursive: true });
  // No busy timeout: SQLite would sleep on the event loop. The callers wait and try again.
  const database = new DatabaseSync(path, { timeout: 0 });
  try {
    // In this order: another process may create the tables at this moment, and they come in one commit with the pragmas.
    if (tableCount(database) > 0) {
      refuseForeign(path, pragma(database, 'application_id'), pragma(database, 'user_version'));
    }
    database.exec('PRAGMA journal_mode = WAL');
    database.exec(`PRAGMA synchronous = ${durability === 'commit' ? 'FULL' : 'NORMAL'}`);
    database.exec(`PRAGMA journal_size_limit = ${WAL_BYTES_KEPT}`);
    return { database, ...claim(database, path) };
  } catch (error) {
    database.close();
    throw error;
  }
}

/** Makes the tables where there are none, and a new epoch where the file is not the one that the epoch was made for. */
function claim(database: DatabaseSync, path: string): { epoch: string; inode: string } {
  database.exec('BEGIN IMMEDIATE');
  try {
    if (tableCount(database) === 0) database.exec(TABLES);
    const inode = inodeOf(path);
    if (inode === null) throw new PenstockError('not-found', `${path} was removed while it was opened`);
    const row = database.prepare('SELECT epoch, inode FROM engine').get();
    let epoch = row?.['inode'] === inode ? String(row['epoch']) : undefined;
    if (epoch === undefined) {
      epoch = randomUUID();
      database.exec('DELETE FROM sessions; DELETE FROM operations');
      database.prepare('INSERT OR REPLACE INTO engine (id, epoch, inode) VALUES (1, ?, ?)').run(epoch, inode);
    }
    database.exec('COMMIT');
    return { epoch, inode };
  } catch (error) {
    if (database.isTransaction) database.exec('ROLLBACK');
    throw error;
  }
}

function refuseForeign(path: string, applicationId: number, version: number): void {
  if (applicationId !== APPLICATION_ID) {
    throw new PenstockError('corrupt', `${path} is a SQLite database of another program, not a metadata database`);
  }
  if (version > SCHEMA_VERSION) {
    throw new PenstockError(
      'unsupported',
      `${path} has the metadata format ${version}, written by a newer Penstock; this one knows up to ${SCHEMA_VERSION}`,
    );
  }
}

function pragma(database: DatabaseSync, name: string): number {
  return Number(database.prepare(`PRAGMA ${name}`).get()?.[name]);
}

function tableCount(database: DatabaseSync): number {
  return Number(database.prepare('SELECT count(*) AS count FROM sqlite_schema').get()?.['count']);
}
