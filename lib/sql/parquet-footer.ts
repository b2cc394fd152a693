/** What a Parquet file's footer says, summed over its row groups. */
import assert from 'node:assert';
import { PenstockError } from '../errors.ts';
import { type Row, sqlText } from './duckdb.ts';

/** DuckDB in this process or in a worker. */
export interface SqlRunner {
  query(sql: string): Promise<readonly Row[]>;
}

export interface FooterColumn {
  readonly path: readonly string[];
  readonly bytes: bigint | null;
  readonly valueCount: bigint | null;
  readonly nullCount: bigint | null;
  /** As DuckDB prints the value; null when a row group does not say. */
  readonly min: string | null;
  readonly max: string | null;
}

export interface Footer {
  readonly rows: number;
  /** Where the row groups begin, ascending. */
  readonly splitOffsets: readonly bigint[];
  readonly columns: readonly FooterColumn[];
}

interface Sums {
  bytes: bigint;
  values: bigint;
  nulls: bigint | null;
  min: string | null;
  max: string | null;
  /** A row group with values but without bounds, or with such as cannot be compared: nothing can be said of the file. */
  unbounded: boolean;
}

/** DuckDB joins the names of nested columns by this. */
const PATH_SEPARATOR = ', ';

/** Throws `corrupt` naming the file when it has no footer that can be read. */
export async function readFooter(sql: SqlRunner, path: string): Promise<Footer> {
  const [footer] = await readFooters(sql, [path]);
  assert(footer !== undefined, 'one footer for each path');
  return footer;
}

/** The footers of these files, in their order, by one statement: for small files half of the time is the statement. */
export async function readFooters(sql: SqlRunner, paths: readonly string[]): Promise<Footer[]> {
  const rows = await sql.query(
    'SELECT file_name, path_in_schema, type, row_group_id, row_group_num_rows, num_values, stats_null_count, ' +
      'stats_min_value, stats_max_value, total_compressed_size, dictionary_page_offset, data_page_offset ' +
      `FROM parquet_metadata([${paths.map(sqlText).join(', ')}]) ORDER BY row_group_id, column_id`,
  );
  const byFile = Map.groupBy(rows, (row) => text(row['file_name']));
  return paths.map((path) => footerOf(byFile.get(path) ?? []));
}

function footerOf(rows: readonly Row[]): Footer {
  const columns = new Map<string, Sums>();
  const rowsOfGroup = new Map<bigint, bigint>();
  const offsets = new Map<bigint, bigint>();
  for (const row of rows) {
    const name = text(row['path_in_schema']) ?? '';
    // A file without rows has one line without a column.
    if (name === '') continue;
    const group = integer(row['row_group_id']) ?? 0n;
    rowsOfGroup.set(group, integer(row['row_group_num_rows']) ?? 0n);
    const start = earliest(integer(row['dictionary_page_offset']), integer(row['data_page_offset']));
    if (start !== null) offsets.set(group, earliest(offsets.get(group) ?? null, start) ?? start);
    const sums = columns.get(name) ?? { bytes: 0n, values: 0n, nulls: 0n, min: null, max: null, unbounded: false };
    columns.set(name, sums);
    addGroup(sums, row, text(row['type']) ?? '');
  }
  return {
    rows: Number([...rowsOfGroup.values()].reduce((sum, count) => sum + count, 0n)),
    splitOffsets: [...offsets.values()].sort((a, b) => (a < b ? -1 : 1)),
    columns: [...columns].map(([name, sums]) => ({
      path: name.split(PATH_SEPARATOR),
      bytes: sums.bytes,
      valueCount: sums.values,
      nullCount: sums.nulls,
      min: sums.unbounded ? null : sums.min,
      max: sums.unbounded ? null : sums.max,
    })),
  };
}

function addGroup(sums: Sums, row: Row, physicalType: string): void {
  const values = integer(row['num_values']) ?? 0n;
  const nulls = integer(row['stats_null_count']);
  const min = text(row['stats_min_value']);
  const max = text(row['stats_max_value']);
  sums.bytes += integer(row['total_compressed_size']) ?? 0n;
  sums.values += values;
  sums.nulls = sums.nulls === null || nulls === null ? null : sums.nulls + nulls;
  if (min === null || max === null) {
    if (nulls === null || nulls < values) sums.unbounded = true;
    return;
  }
  const [below, above] = [
    compareText(physicalType, min, sums.min ?? min),
    compareText(physicalType, max, sums.max ?? max),
  ];
  if (Number.isNaN(below) || Number.isNaN(above)) sums.unbounded = true;
  if (sums.min === null || below < 0) sums.min = min;
  if (sums.max === null || above > 0) sums.max = max;
}

const NUMBER = /^(-?)(\d+)(?:\.(\d+))?$/;
const TIME = /^((?:\d{4}-\d\d-\d\d)?(?: ?\d\d:\d\d:\d\d)?)(?:\.(\d+))?(?:\+00)?$/;

/** Compares two values of one column as printed; NaN where that cannot be told, as of years before 0 and behind 9999. */
export function compareText(physicalType: string, a: string, b: string): number {
  if (physicalType === 'DOUBLE' || physicalType === 'FLOAT') return Number(a) - Number(b);
  if (physicalType === 'BYTE_ARRAY' || physicalType === 'BOOLEAN') return compareBytes(a, b);
  const [left, right] = [NUMBER.exec(a), NUMBER.exec(b)];
  if (left !== null && right !== null) return compareDecimals(left, right);
  // Among others decimals of more than 18 digits and uuids.
  if (physicalType === 'FIXED_LEN_BYTE_ARRAY') return left === right ? compareBytes(a, b) : NaN;
  const [earlier, later] = [TIME.exec(a), TIME.exec(b)];
  return earlier !== null && later !== null ? compareBytes(timeKey(earlier), timeKey(later)) : NaN;
}

/** Exactly: a double does not hold 18 digits. Both are printed with the digits of their column's scale. */
function compareDecimals(a: RegExpExecArray, b: RegExpExecArray): number {
  const digits = Math.max(a[3]?.length ?? 0, b[3]?.length ?? 0);
  const unscaled = ([, sign = '', whole = '', fraction = '']: RegExpExecArray): bigint =>
    BigInt(`${sign}${whole}${fraction.padEnd(digits, '0')}`);
  const difference = unscaled(a) - unscaled(b);
  return difference < 0n ? -1 : difference > 0n ? 1 : 0;
}

/** The fraction is printed without its trailing zeros. */
const timeKey = (match: RegExpExecArray): string => `${match[1] ?? ''}.${(match[2] ?? '').padEnd(9, '0')}`;
const compareBytes = (a: string, b: string): number => Buffer.compare(Buffer.from(a), Buffer.from(b));

function earliest(a: bigint | null, b: bigint | null): bigint | null {
  if (a === null || a === 0n) return b;
  return b === null || a < b ? a : b;
}

function integer(value: unknown): bigint | null {
  return typeof value === 'bigint' ? value : typeof value === 'number' ? BigInt(value) : null;
}

function text(value: unknown): string | null {
  if (value === null || value === undefined || typeof value === 'string') return value ?? null;
  throw new PenstockError('corrupt', 'Parquet metadata has another shape than expected');
}
