/**
 * Reads of value records and numbers by prepared statements; and the instant: a read transaction on a connection of its own, which SQLite keeps
 * showing the state that it began with (isolation.html: snapshot isolation in WAL mode).
 *
 * Invariants: an instant takes no lock that a writer waits for.
 * Limits: while an instant is open, no checkpoint goes past it, so the write-ahead log grows with every commit; it is cut at the next one after it.
 * When it has grown by WAL_GROWTH_MAX, or the disk is free for no more than it has grown, the instant is lost at its next read and the log can be cut.
 * (A process that stands still does not read: its log grows until it goes on or is killed.)
 */
import { statfsSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { DatabaseSync } from 'node:sqlite';
import type { StatementSync } from 'node:sqlite';
import { PenstockError } from '../../errors.ts';
import type { Instant, Key, MetaReader, ScanPage, Stored, Version } from '../engine.ts';
import { InstantLostError } from '../instant-lost.ts';
import { SCAN_LIMIT_MAX, assertBucket, assertBucketPrefix, assertKey } from '../limits.ts';
import type { SessionLease } from '../session-lease.ts';
import { RecordStatements, blob, latin1 } from './minitransaction.ts';
import { fromSqliteError } from './schema.ts';

/** A cursor is this and the last field that was given: the empty field is a legal one, and '' is the start. */
const CURSOR_AFTER = '>';

/** A copy that meets more of it goes without an instant, and a disk bears that much. */
const WAL_GROWTH_MAX = 2 * 2 ** 30;
/** Looking costs as much as reading a record. */
const READS_PER_LOOK = 16;

/** Runs what reads, so that it sees one state. */
type Reading = <T>(action: () => T) => Promise<T>;

export class RecordReader implements MetaReader {
  readonly #records: RecordStatements;
  readonly #reading: Reading;
  readonly #scanFrom: StatementSync;
  readonly #scanAfter: StatementSync;
  readonly #nextBucket: StatementSync;
  readonly #numbers: StatementSync;

  constructor(database: DatabaseSync, records: RecordStatements, reading: Reading) {
    this.#records = records;
    this.#reading = reading;
    const page = 'SELECT field, value, session, counter FROM records WHERE bucket = ? AND field';
    this.#scanFrom = database.prepare(`${page} >= ? ORDER BY field LIMIT ?`);
    this.#scanAfter = database.prepare(`${page} > ? ORDER BY field LIMIT ?`);
    this.#nextBucket = database.prepare(
      `SELECT min(bucket) AS bucket FROM (SELECT min(bucket) AS bucket FROM records WHERE bucket >= ?1
       UNION ALL SELECT min(bucket) FROM numbers WHERE bucket >= ?1)`,
    );
    this.#numbers = database.prepare('SELECT field, value FROM numbers WHERE bucket = ? ORDER BY field');
    this.#numbers.setReadBigInts(true);
  }

  async read(keys: readonly Key[]): Promise<readonly (Stored | null)[]> {
    keys.forEach(assertKey);
    return this.#reading(() => keys.map((key) => this.#records.read(key)));
  }

  async readNumbers(keys: readonly Key[]): Promise<readonly (bigint | null)[]> {
    keys.forEach(assertKey);
    return this.#reading(() => keys.map((key) => this.#records.readNumber(key)));
  }

  async scan(bucket: string, cursor: string, limit: number): Promise<ScanPage> {
    assertBucket(bucket);
    const rowsMax = Math.min(Math.max(limit, 1), SCAN_LIMIT_MAX);
    if (cursor !== '') await nextTurn();
    const statement = cursor === '' ? this.#scanFrom : this.#scanAfter;
    const rows = await this.#reading(() =>
      statement.all(latin1(bucket), latin1(cursor.slice(CURSOR_AFTER.length)), rowsMax),
    );
    const entries = rows.map((row): readonly [string, Stored] => [
      blob(row['field']).toString('latin1'),
      // Written by this adapter in this form (minitransaction.ts).
      { value: blob(row['value']), version: `${String(row['session'])}.${String(row['counter'])}` as Version },
    ]);
    const last = entries.at(-1);
    return { entries, cursor: last === undefined || rows.length < rowsMax ? null : CURSOR_AFTER + last[0] };
  }

  async *buckets(prefix: string): AsyncIterable<string> {
    assertBucketPrefix(prefix);
    const start = latin1(prefix);
    let from = start;
    while (true) {
      const least = from;
      const found = await this.#reading(() => this.#nextBucket.get(least)?.['bucket']);
      if (found == null) return;
      const bucket = blob(found);
      if (!bucket.subarray(0, start.length).equals(start)) return;
      yield bucket.toString('latin1');
      // The next byte string in order.
      from = Buffer.concat([bucket, Buffer.of(0)]);
    }
  }

  async numbers(bucket: string): Promise<readonly (readonly [string, bigint])[]> {
    assertBucket(bucket);
    const rows = await this.#reading(() => this.#numbers.all(latin1(bucket)));
    return rows.map((row) => [blob(row['field']).toString('latin1'), BigInt(String(row['value']))]);
  }
}

export class SqliteInstant implements Instant {
  readonly #database: DatabaseSync;
  readonly #path: string;
  readonly #lease: SessionLease;
  readonly #onClose: () => void;
  readonly #reader: RecordReader;
  readonly #walBytes: number;
  #reads = 0;
  #closed = false;
  #lost = false;

  /** Throws an error that `isBusy` while another process has the file locked. `onClose` is called once. */
  constructor(path: string, lease: SessionLease, onClose: () => void) {
    this.#path = path;
    this.#lease = lease;
    this.#onClose = onClose;
    this.#walBytes = walBytes(path);
    this.#database = new DatabaseSync(path, { timeout: 0 });
    try {
      this.#database.exec('BEGIN');
      // The transaction begins with its first read.
      this.#database.prepare('SELECT epoch FROM engine').get();
      this.#reader = new RecordReader(this.#database, new RecordStatements(this.#database, 0), (action) =>
        this.#reading(action),
      );
    } catch (error) {
      this.#database.close();
      throw error;
    }
  }

  read(keys: readonly Key[]): Promise<readonly (Stored | null)[]> {
    return this.#reader.read(keys);
  }

  readNumbers(keys: readonly Key[]): Promise<readonly (bigint | null)[]> {
    return this.#reader.readNumbers(keys);
  }

  scan(bucket: string, cursor: string, limit: number): Promise<ScanPage> {
    return this.#reader.scan(bucket, cursor, limit);
  }

  buckets(prefix: string): AsyncIterable<string> {
    return this.#reader.buckets(prefix);
  }

  numbers(bucket: string): Promise<readonly (readonly [string, bigint])[]> {
    return this.#reader.numbers(bucket);
  }

  close(): Promise<void> {
    if (!this.#closed) {
      this.#closed = true;
      if (!this.#lost) this.#database.close();
      this.#onClose();
    }
    return Promise.resolve();
  }

  #boundLog(): void {
    if (this.#lost) return;
    const grown = walBytes(this.#path) - this.#walBytes;
    if (grown <= 0) return;
    const { bavail, bsize } = statfsSync(dirname(this.#path));
    if (grown <= WAL_GROWTH_MAX && grown < bavail * bsize) return;
    this.#lost = true;
    this.#database.close();
  }

  async #reading<T>(action: () => T): Promise<T> {
    if (this.#closed) throw new PenstockError('closed', `${this.#path}: the instant was closed`);
    if (!this.#lost) this.#lease.check();
    if (this.#reads++ % READS_PER_LOOK === 0) this.#boundLog();
    if (this.#lost)
      throw new InstantLostError(this.#path, 'its write-ahead log has grown too much, or the disk is full');
    try {
      return action();
    } catch (error) {
      throw fromSqliteError(error, this.#path);
    }
  }
}

function walBytes(path: string): number {
  return statSync(`${path}-wal`, { throwIfNoEntry: false })?.size ?? 0;
}
