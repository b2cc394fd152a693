/**
 * Staged columns: the values of up to CHUNK_ROWS rows in typed arrays laid out as DuckDB's vectors are, so that a column of a
 * chunk goes over in one copy. This is what makes 300,000 rows per CPU-second possible: DuckDB's public row and value APIs
 * convert and cross into native code once per value.
 *
 *   BOOLEAN 1 byte | INTEGER, DATE i32 | FLOAT f32 | DOUBLE f64 | BIGINT, TIMESTAMPTZ i64 as two u32 words, low word first
 *   VARCHAR, BLOB: duckdb_string_t, 16 bytes
 *     length <= 12:  u32 length | 12 bytes, zero padded
 *     longer:        u32 length | first 4 bytes | u64 address in the vector's own heap
 *   validity: one bit a row, 1 = present
 *
 * Long strings of a chunk are handed over as ONE blob and the entries then point into it. That layout is not part of DuckDB's
 * promises: it is used only with the version it was tested with (LAYOUT_VERSION); any other takes one call per string.
 *
 * Invariants: the caller writes each column of a row once, by `set…` or `setNull`, or undoes the row with `undo` on all; bytes
 * given to a VARCHAR column are valid UTF-8.
 * Every index into these arrays is below CHUNK_ROWS (the row table sees to it); `?? 0` is only for the type checker.
 * Limits: STRING_BYTES_MAX staged string bytes a column and chunk; the row table hands a chunk over well before.
 */
import duckdb, { type Vector } from '@duckdb/node-bindings';
import assert from 'node:assert';

/** DuckDB's STANDARD_VECTOR_SIZE. */
export const CHUNK_ROWS = duckdb.vector_size();
const LAYOUT_VERSION = 'v1.5.6';
const STRING_BYTES_MAX = 1 << 30;
const TWO_32 = 2 ** 32;
/** Above this, one native call is cheaper than a loop over the characters. */
const LOOP_CHARS_MAX = 48;

export type SqlType =
  'BOOLEAN' | 'INTEGER' | 'DATE' | 'BIGINT' | 'FLOAT' | 'DOUBLE' | 'TIMESTAMPTZ' | 'VARCHAR' | 'BLOB';

export abstract class Column {
  readonly type: SqlType;
  readonly #validity = new Uint8Array(CHUNK_ROWS / 8).fill(255);
  #anyNull = false;

  constructor(type: SqlType) {
    this.type = type;
  }

  setNull(row: number): void {
    this.#anyNull = true;
    this.#validity[row >> 3] = (this.#validity[row >> 3] ?? 0) & ~(1 << (row & 7));
  }

  /** Forgets what was set for `row`, the last one staged. */
  undo(row: number): void {
    if (this.#anyNull) this.#validity[row >> 3] = (this.#validity[row >> 3] ?? 0) | (1 << (row & 7));
  }

  /** Hands the first `rows` values over to a vector of a chunk that was reset, and begins anew. */
  moveTo(vector: Vector, rows: number): void {
    this.copyValues(vector, rows);
    if (!this.#anyNull) return;
    duckdb.vector_ensure_validity_writable(vector);
    duckdb.copy_data_to_vector_validity(vector, 0, this.#validity.buffer, 0, CHUNK_ROWS / 8);
    this.#validity.fill(255);
    this.#anyNull = false;
  }

  protected abstract copyValues(vector: Vector, rows: number): void;
}

type FixedArray =
  Uint8Array<ArrayBuffer> | Int32Array<ArrayBuffer> | Float32Array<ArrayBuffer> | Float64Array<ArrayBuffer>;

/** A value that is one number of the array's kind: BOOLEAN (0 or 1), INTEGER, DATE, FLOAT, DOUBLE. */
export class NumberColumn extends Column {
  readonly #values: FixedArray;

  constructor(type: 'BOOLEAN' | 'INTEGER' | 'DATE' | 'FLOAT' | 'DOUBLE') {
    super(type);
    this.#values =
      type === 'BOOLEAN'
        ? new Uint8Array(CHUNK_ROWS)
        : type === 'FLOAT'
          ? new Float32Array(CHUNK_ROWS)
          : type === 'DOUBLE'
            ? new Float64Array(CHUNK_ROWS)
            : new Int32Array(CHUNK_ROWS);
  }

  set(row: number, value: number): void {
    this.#values[row] = value;
  }

  protected override copyValues(vector: Vector, rows: number): void {
    duckdb.copy_data_to_vector(vector, 0, this.#values.buffer, 0, rows * this.#values.BYTES_PER_ELEMENT);
  }
}

/** 64-bit integers: BIGINT, and TIMESTAMPTZ in microseconds. No BigInt on the hot path. */
export class LongColumn extends Column {
  readonly #words = new Uint32Array(2 * CHUNK_ROWS);

  /** `value` is a safe integer. */
  set(row: number, value: number): void {
    const high = Math.floor(value / TWO_32);
    this.#words[2 * row] = value - high * TWO_32;
    this.#words[2 * row + 1] = high;
  }

  setBigInt(row: number, value: bigint): void {
    this.#words[2 * row] = Number(BigInt.asUintN(32, value));
    this.#words[2 * row + 1] = Number(BigInt.asUintN(32, value >> 32n));
  }

  protected override copyValues(vector: Vector, rows: number): void {
    duckdb.copy_data_to_vector(vector, 0, this.#words.buffer, 0, rows * 8);
  }
}

export class StringColumn extends Column {
  readonly #entries = new Uint32Array(4 * CHUNK_ROWS);
  readonly #entryBytes = new Uint8Array(this.#entries.buffer);
  /** Rows whose bytes are in the heap, in order. */
  readonly #long = new Int32Array(CHUNK_ROWS);
  readonly #oneBlob = duckdb.library_version() === LAYOUT_VERSION;
  #longCount = 0;
  #heap = Buffer.allocUnsafeSlow(65_536);
  #heapBytes = 0;
  /** The row whose bytes were added last. */
  #heapOwner = -1;

  constructor(type: 'VARCHAR' | 'BLOB' = 'VARCHAR') {
    super(type);
  }

  /** False, and nothing set, when `text` has a lone surrogate: it has no UTF-8. */
  set(row: number, text: string): boolean {
    const length = text.length;
    this.#reserve(length * 3);
    const heap = this.#heap;
    let at = this.#heapBytes;
    if (length <= LOOP_CHARS_MAX) {
      let index = 0;
      for (; index < length; index++) {
        const char = text.charCodeAt(index);
        if (char > 127) break;
        heap[at++] = char;
      }
      if (index === length) {
        this.#finish(row, length);
        return true;
      }
    }
    if (!text.isWellFormed()) return false;
    this.#finish(row, heap.write(text, this.#heapBytes, 'utf8'));
    return true;
  }

  /** Bytes that are valid UTF-8 (VARCHAR) or any (BLOB). */
  setBytes(row: number, bytes: Uint8Array): void {
    this.#reserve(bytes.length);
    this.#heap.set(bytes, this.#heapBytes);
    this.#finish(row, bytes.length);
  }

  /** The value of an earlier row of this chunk once more; its bytes are shared. */
  repeat(row: number, earlier: number): void {
    const entries = this.#entries;
    const from = 4 * earlier;
    const to = 4 * row;
    for (let word = 0; word < 4; word++) entries[to + word] = entries[from + word] ?? 0;
    if ((entries[to] ?? 0) > 12) this.#long[this.#longCount++] = row;
  }

  override undo(row: number): void {
    super.undo(row);
    if (this.#longCount === 0 || this.#long[this.#longCount - 1] !== row) return;
    this.#longCount--;
    // Without this, refused records would fill the heap while the chunk stays short. A repeated value's bytes are another row's.
    if (this.#heapOwner === row) this.#heapBytes = this.#entries[4 * row + 2] ?? 0;
  }

  #reserve(bytes: number): void {
    const needed = this.#heapBytes + bytes;
    if (needed <= this.#heap.length) return;
    assert(needed < STRING_BYTES_MAX, 'more string bytes in one chunk than its row table allows');
    const grown = Buffer.allocUnsafeSlow(needed * 2);
    this.#heap.copy(grown, 0, 0, this.#heapBytes);
    this.#heap = grown;
  }

  /** The value's bytes stand at the end of the heap. */
  #finish(row: number, bytes: number): void {
    const entries = this.#entries;
    const at = this.#heapBytes;
    const word = 4 * row;
    entries[word] = bytes;
    entries[word + 1] = 0;
    const inline = this.#entryBytes;
    const to = 16 * row + 4;
    if (bytes > 12) {
      for (let k = 0; k < 4; k++) inline[to + k] = this.#heap[at + k] ?? 0;
      entries[word + 2] = at;
      entries[word + 3] = 0;
      this.#long[this.#longCount++] = row;
      this.#heapOwner = row;
      this.#heapBytes = at + bytes;
    } else {
      entries[word + 2] = 0;
      entries[word + 3] = 0;
      for (let k = 0; k < bytes; k++) inline[to + k] = this.#heap[at + k] ?? 0;
    }
  }

  protected override copyValues(vector: Vector, rows: number): void {
    if (this.#longCount === 0) {
      duckdb.copy_data_to_vector(vector, 0, this.#entries.buffer, 0, rows * 16);
    } else if (this.#oneBlob) {
      this.#copyAsOneBlob(vector, rows);
    } else {
      duckdb.copy_data_to_vector(vector, 0, this.#entries.buffer, 0, rows * 16);
      this.#assignEach(vector);
    }
    this.#longCount = 0;
    this.#heapBytes = 0;
    this.#heapOwner = -1;
  }

  #copyAsOneBlob(vector: Vector, rows: number): void {
    const entries = this.#entries;
    duckdb.vector_assign_string_element_len(vector, 0, this.#heap.subarray(0, this.#heapBytes));
    const first = duckdb.vector_get_data(vector, 16);
    const words = new DataView(first.buffer, first.byteOffset, 16);
    // A refused blob (invalid UTF-8) leaves no entry of this length behind; going on would hand out a stray address.
    assert(words.getUint32(0, true) === this.#heapBytes, 'DuckDB refused the strings of a chunk: not UTF-8');
    const low = words.getUint32(8, true);
    const high = words.getUint32(12, true);
    for (let k = 0; k < this.#longCount; k++) {
      const word = 4 * (this.#long[k] ?? 0);
      const address = low + (entries[word + 2] ?? 0);
      entries[word + 3] = high + (address >= TWO_32 ? 1 : 0);
      entries[word + 2] = address;
    }
    duckdb.copy_data_to_vector(vector, 0, entries.buffer, 0, rows * 16);
  }

  #assignEach(vector: Vector): void {
    for (let k = 0; k < this.#longCount; k++) {
      const row = this.#long[k] ?? 0;
      const start = this.#entries[4 * row + 2] ?? 0;
      const value = this.#heap.subarray(start, start + (this.#entries[4 * row] ?? 0));
      duckdb.vector_assign_string_element_len(vector, row, value);
    }
  }
}

export type AnyColumn = NumberColumn | LongColumn | StringColumn;

export function makeColumn(type: SqlType): AnyColumn {
  switch (type) {
    case 'VARCHAR':
    case 'BLOB':
      return new StringColumn(type);
    case 'BIGINT':
    case 'TIMESTAMPTZ':
      return new LongColumn(type);
    default:
      return new NumberColumn(type);
  }
}
