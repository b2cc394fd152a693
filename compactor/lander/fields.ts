/**
 * The fields of a dataset: how a JSON value becomes a value of a column, and when it does not.
 *
 * A value is stored exactly or not at all: integers beyond 2^53 are read again from the text (`inexact`), a fraction in a
 * column of integers, a number out of range, a string without UTF-8 are a `misfit`.
 * Objects and arrays are kept as JSON text in string columns that are marked with JSON_DOC.
 */
import { type AnyColumn, LongColumn, NumberColumn, type SqlType, StringColumn } from '../../lib/sql/columns.ts';
import { sqlText } from '../../lib/sql/duckdb.ts';
import type { ParquetColumn } from '../../lib/sql/parquet.ts';
import type { Field as IcebergField, FieldType } from '../../lib/table/schema.ts';
import { parquetColumn, sqlType } from '../../lib/lake/sql-types.ts';
import { toEpochMicros } from './event-time.ts';
import { FIT, type Fit, INEXACT, MISFIT, TOO_DEEP } from './fit.ts';
import { nestedText } from './nested-text.ts';
import { bytesOf, dayOf, scalarText } from './scalar-text.ts';

/** Nested values are walked recursively; deeper ones serve only to exhaust a reader's stack. */
export const DEPTH_MAX = 64;
const INT_MAX = 2 ** 31;
const LONG_LIMIT = 2n ** 63n;
/** The Iceberg `doc` of a string column whose values are JSON text. */
export const JSON_DOC = 'JSON';

export interface Field {
  readonly id: number;
  readonly name: string;
  readonly type: FieldType;
  readonly required: boolean;
  /** Objects and arrays as text. */
  readonly isJson: boolean;
}

/** Types whose values are staged as they are; all others are staged as text and cast when a file is written. */
const STAGED_AS: ReadonlyMap<FieldType, SqlType> = new Map<FieldType, SqlType>([
  ['boolean', 'BOOLEAN'],
  ['int', 'INTEGER'],
  ['long', 'BIGINT'],
  ['float', 'FLOAT'],
  ['double', 'DOUBLE'],
  ['string', 'VARCHAR'],
  ['date', 'DATE'],
  ['timestamptz', 'TIMESTAMPTZ'],
  ['binary', 'BLOB'],
]);

export const stagedType = (type: FieldType): SqlType => STAGED_AS.get(type) ?? 'VARCHAR';

/** The column of a file, from the staged one. */
export function fileColumn(field: Pick<IcebergField, 'id' | 'name' | 'type'>): ParquetColumn {
  const { type } = field;
  const column = parquetColumn(field);
  if (STAGED_AS.has(type)) return column;
  const target = sqlType(type);
  const convert =
    typeof type === 'string'
      ? (staged: string) => `CAST(${staged} AS ${target})`
      : (staged: string) => `from_json_strict(${staged}, ${sqlText(JSON.stringify(target))})`;
  return { ...column, convert };
}

/** Puts the values of one field into its column. */
export class FieldWriter {
  readonly field: Field;
  readonly name: string;
  readonly #isJsonValue: boolean;
  readonly #numbers: NumberColumn | undefined;
  readonly #longs: LongColumn | undefined;
  readonly #strings: StringColumn | undefined;
  readonly #column: AnyColumn;

  /** `allowNonFinite`: NaN and infinities are values like others (JSON has none: there they are numbers out of range). */
  constructor(field: Field, column: AnyColumn, allowNonFinite: boolean) {
    this.field = field;
    this.name = field.name;
    this.#isJsonValue = !allowNonFinite;
    this.#column = column;
    this.#numbers = column instanceof NumberColumn ? column : undefined;
    this.#longs = column instanceof LongColumn ? column : undefined;
    this.#strings = column instanceof StringColumn ? column : undefined;
  }

  setNull(row: number): boolean {
    this.#column.setNull(row);
    return !this.field.required;
  }

  /** `value` is not undefined. */
  set(row: number, value: unknown): Fit {
    if (value === null) return this.setNull(row) ? FIT : MISFIT;
    if (this.#numbers !== undefined) return this.#setNumber(this.#numbers, row, value);
    if (this.#longs !== undefined) return this.#setLong(this.#longs, row, value);
    return this.#strings === undefined ? MISFIT : this.#setText(this.#strings, row, value);
  }

  #setText(column: StringColumn, row: number, value: unknown): Fit {
    const { isJson, type } = this.field;
    if (isJson) return setJson(column, row, value);
    if (type === 'string') return typeof value === 'string' && column.set(row, value) ? FIT : MISFIT;
    if (type === 'binary') {
      const bytes = bytesOf(value);
      if (bytes === null) return MISFIT;
      column.setBytes(row, bytes);
      return FIT;
    }
    const text = typeof type === 'string' ? scalarText(type, value) : nestedText(type, value);
    if (typeof text !== 'string') return text;
    return column.set(row, text) ? FIT : MISFIT;
  }

  #setNumber(column: NumberColumn, row: number, value: unknown): Fit {
    switch (this.field.type) {
      case 'double':
      case 'float':
        if (typeof value === 'bigint') return this.#setNumber(column, row, Number(value));
        if (typeof value !== 'number') return MISFIT;
        if (!Number.isFinite(value) && this.#isJsonValue) return MISFIT;
        column.set(row, value);
        return this.field.type === 'double' || Number.isFinite(Math.fround(value)) || !Number.isFinite(value)
          ? FIT
          : MISFIT;
      case 'boolean':
        if (typeof value !== 'boolean') return MISFIT;
        column.set(row, value ? 1 : 0);
        return FIT;
      case 'int':
        if (typeof value !== 'number' || !Number.isInteger(value) || value < -INT_MAX || value >= INT_MAX)
          return MISFIT;
        column.set(row, value);
        return FIT;
      case 'date': {
        const day = dayOf(value);
        if (day === null) return MISFIT;
        column.set(row, day);
        return FIT;
      }
      default:
        return MISFIT;
    }
  }

  #setLong(column: LongColumn, row: number, value: unknown): Fit {
    if (this.field.type === 'timestamptz') {
      const micros = toEpochMicros(value);
      if (Number.isNaN(micros)) return MISFIT;
      column.set(row, micros);
      return FIT;
    }
    if (typeof value === 'number') {
      if (Number.isSafeInteger(value)) column.set(row, value);
      else return Number.isInteger(value) ? INEXACT : MISFIT;
      return FIT;
    }
    if (typeof value !== 'bigint' || value < -LONG_LIMIT || value >= LONG_LIMIT) return MISFIT;
    column.setBigInt(row, value);
    return FIT;
  }
}

function setJson(column: StringColumn, row: number, value: unknown): Fit {
  if (typeof value !== 'object') return MISFIT;
  const fit = walk(value, DEPTH_MAX);
  if (fit !== FIT) return fit;
  const text = JSON.stringify(value, (_key, part: unknown) =>
    typeof part === 'bigint' ? rawJson(part.toString()) : part,
  );
  return column.set(row, text) ? FIT : MISFIT;
}

/** What JSON.stringify would change or not survive. */
function walk(value: unknown, depth: number): Fit {
  if (typeof value === 'number') {
    if (!Number.isFinite(value)) return MISFIT;
    return Number.isInteger(value) && !Number.isSafeInteger(value) ? INEXACT : FIT;
  }
  if (value === null || typeof value !== 'object') return FIT;
  if (depth === 0) return TOO_DEEP;
  for (const part of Object.values(value)) {
    const fit = walk(part, depth - 1);
    if (fit !== FIT) return fit;
  }
  return FIT;
}

/** ES2026, in Node since 22; not yet in TypeScript's library. */
interface JsonWithSource {
  parse(
    text: string,
    reviver: (key: string, value: unknown, context: { readonly source?: string }) => unknown,
  ): unknown;
  rawJSON(text: string): unknown;
}
const jsonWithSource = JSON as unknown as JsonWithSource; // see above
const rawJson = (text: string): unknown => jsonWithSource.rawJSON(text);
const LARGE_INTEGER = /^-?\d{16,40}$/;

/** Parses JSON with integers beyond 2^53 as bigint. Four times slower than JSON.parse: only for records that need it. */
export function parseExactly(text: string): unknown {
  return jsonWithSource.parse(text, (_key, value, { source }) =>
    typeof value === 'number' && source !== undefined && !Number.isSafeInteger(value) && LARGE_INTEGER.test(source)
      ? BigInt(source)
      : value,
  );
}

/** What a value is, for messages: `1.5`, `"abc…"`, `{"a":1}`. */
export function shown(value: unknown): string {
  const text =
    typeof value === 'object'
      ? kindOf(value)
      : typeof value === 'number' || typeof value === 'bigint'
        ? value.toString()
        : JSON.stringify(value);
  return text.length > 60 ? `${text.slice(0, 60)}…` : text;
}

function kindOf(value: object | null): string {
  if (value === null) return 'null';
  if (value instanceof Uint8Array) return 'bytes';
  return Array.isArray(value) ? 'an array' : 'an object';
}
