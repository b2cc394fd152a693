/**
 * One minitransaction by prepared statements, inside a SQLite transaction that the caller began and will commit.
 *
 * Invariants: everything that can refuse a minitransaction (a compare, an overflow) is found before its first change, so that
 * one refused member of a group leaves the group's transaction as it was.
 */
import type { DatabaseSync, SQLOutputValue, StatementSync } from 'node:sqlite';
import {
  RING_SIZE,
  type CommitResult,
  type Compare,
  type Key,
  type Minitransaction,
  type Mismatch,
  type Patch,
  type Stored,
  type Version,
} from '../engine.ts';
import { isInt64, overflow } from '../limits.ts';
import { PenstockError } from '../../errors.ts';

/** Old results are deleted in steps, as each step looks at the whole ring of the session. */
const RING_STEP = 512;

export function latin1(text: string): Buffer {
  return Buffer.from(text, 'latin1');
}

/** node:sqlite gives BLOBs as Uint8Array of their own memory. */
export function blob(value: SQLOutputValue | undefined): Buffer {
  if (!(value instanceof Uint8Array))
    throw new PenstockError('corrupt', 'a column of the metadata database is not a BLOB');
  return Buffer.from(value.buffer, value.byteOffset, value.byteLength);
}

export class RecordStatements {
  readonly #read: StatementSync;
  readonly #count: StatementSync;
  readonly #isEmpty: StatementSync;
  readonly #write: StatementSync;
  readonly #delete: StatementSync;
  readonly #readNumber: StatementSync;
  readonly #writeNumber: StatementSync;
  readonly #deleteNumber: StatementSync;
  readonly #publish: StatementSync;
  readonly #readOperation: StatementSync;
  readonly #writeOperation: StatementSync;
  readonly #dropOperations: StatementSync;
  readonly #session: number;
  /** The counter of this session's versions. The session is ours alone, so it needs no place in the file. */
  #counter = 0;
  #operationOrdinal = 0;

  constructor(database: DatabaseSync, session: number) {
    this.#session = session;
    const numbers = (sql: string): StatementSync => {
      const statement = database.prepare(sql);
      statement.setReadBigInts(true);
      return statement;
    };
    this.#read = database.prepare('SELECT value, session, counter FROM records WHERE bucket = ? AND field = ?');
    this.#count = database.prepare('SELECT count(*) AS count FROM records WHERE bucket = ?');
    this.#isEmpty = database.prepare('SELECT 1 FROM records WHERE bucket = ? LIMIT 1');
    this.#write = database.prepare(
      'INSERT OR REPLACE INTO records (bucket, field, session, counter, value) VALUES (?, ?, ?, ?, ?)',
    );
    this.#delete = database.prepare('DELETE FROM records WHERE bucket = ? AND field = ?');
    this.#readNumber = numbers('SELECT value FROM numbers WHERE bucket = ? AND field = ?');
    this.#writeNumber = database.prepare('INSERT OR REPLACE INTO numbers (bucket, field, value) VALUES (?, ?, ?)');
    this.#deleteNumber = database.prepare('DELETE FROM numbers WHERE bucket = ? AND field = ?');
    this.#publish = database.prepare('INSERT INTO feed (shard, message) VALUES (?, ?)');
    this.#readOperation = database.prepare('SELECT result FROM operations WHERE session = ? AND operation = ?');
    this.#writeOperation = database.prepare(
      'INSERT INTO operations (session, operation, ordinal, result) VALUES (?, ?, ?, ?)',
    );
    this.#dropOperations = database.prepare('DELETE FROM operations WHERE session = ? AND ordinal <= ?');
  }

  read(key: Key): Stored | null {
    const row = this.#read.get(latin1(key.bucket), latin1(key.field));
    if (row === undefined) return null;
    return { value: blob(row['value']), version: versionOf(Number(row['session']), Number(row['counter'])) };
  }

  readNumber(key: Key): bigint | null {
    const value = this.#readNumber.get(latin1(key.bucket), latin1(key.field))?.['value'];
    return typeof value === 'bigint' ? value : null;
  }

  count(bucket: string): number {
    return Number(this.#count.get(latin1(bucket))?.['count']);
  }

  /** Throws `too-large` at an overflow; then nothing was changed. */
  apply(transaction: Minitransaction): CommitResult {
    const { operation } = transaction;
    if (operation !== undefined) {
      const stored = this.#readOperation.get(this.#session, operation)?.['result'];
      if (typeof stored === 'string') return decodeResult(stored, this.#session);
    }
    const mismatches = this.#compareAll(transaction.compare ?? []);
    if (mismatches.length > 0) return { ok: false, mismatches };
    const patched = this.#patchedValues(transaction.patch ?? []);

    const counter = ++this.#counter;
    for (const { key, value } of transaction.write ?? []) {
      const bucket = latin1(key.bucket);
      const field = latin1(key.field);
      if (value === null) this.#delete.run(bucket, field);
      else this.#write.run(bucket, field, this.#session, counter, value);
    }
    (transaction.patch ?? []).forEach(({ number }, i) => {
      const value = patched[i];
      if (value == null) this.#deleteNumber.run(latin1(number.bucket), latin1(number.field));
      else this.#writeNumber.run(latin1(number.bucket), latin1(number.field), value);
    });
    for (const { shard, message } of transaction.publish ?? []) this.#publish.run(latin1(shard), message);
    if (operation !== undefined) this.#remember(operation, counter, patched);
    return { ok: true, version: versionOf(this.#session, counter), numbers: patched, repeated: false };
  }

  #compareAll(compares: readonly Compare[]): Mismatch[] {
    const mismatches: Mismatch[] = [];
    compares.forEach((compare, index) => {
      if ('key' in compare) {
        const current = this.read(compare.key);
        if ((current?.version ?? null) !== compare.version) mismatches.push({ index, kind: 'value', current });
      } else if ('emptyBucket' in compare) {
        if (this.#isEmpty.get(latin1(compare.emptyBucket)) === undefined) return;
        mismatches.push({ index, kind: 'bucket', count: this.count(compare.emptyBucket) });
      } else {
        const current = this.readNumber(compare.number) ?? 0n;
        const holds = 'atLeast' in compare ? current >= compare.atLeast : current <= compare.atMost;
        if (!holds) mismatches.push({ index, kind: 'number', current });
      }
    });
    return mismatches;
  }

  /** The value of each patched number after its patch, without changing anything. */
  #patchedValues(patches: readonly Patch[]): (bigint | null)[] {
    const pending = new Map<string, bigint | null>();
    return patches.map((patch) => {
      const { bucket, field } = patch.number;
      // A patch sees what an earlier one of the same commit did. The length keeps two addresses from having one name.
      const name = `${bucket.length}:${bucket}${field}`;
      const seen = pending.get(name);
      const before = seen === undefined ? this.readNumber(patch.number) : seen;
      let after: bigint | null = null;
      if ('add' in patch) after = (before ?? 0n) + patch.add;
      else if ('max' in patch) after = before === null || before < patch.max ? patch.max : before;
      if (after !== null && !isInt64(after)) throw overflow(bucket, field);
      pending.set(name, after);
      return after;
    });
  }

  #remember(operation: string, counter: number, numbers: readonly (bigint | null)[]): void {
    const ordinal = ++this.#operationOrdinal;
    this.#writeOperation.run(this.#session, operation, ordinal, encodeResult(counter, numbers));
    if (ordinal % RING_STEP === 0) this.#dropOperations.run(this.#session, ordinal - RING_SIZE);
  }
}

function versionOf(session: number, counter: number): Version {
  return `${session}.${counter}` as Version; // the brand's only maker in this adapter
}

/** `counter number number ...`, an absent number as `-`. */
function encodeResult(counter: number, numbers: readonly (bigint | null)[]): string {
  return [counter, ...numbers.map((number) => number ?? '-')].join(' ');
}

function decodeResult(text: string, session: number): CommitResult {
  const [counter, ...numbers] = text.split(' ');
  return {
    ok: true,
    version: versionOf(session, Number(counter)),
    numbers: numbers.map((number) => (number === '-' ? null : BigInt(number))),
    repeated: true,
  };
}
