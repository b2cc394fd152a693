/**
 * The SQL of a compaction. Files are read by Iceberg field ids, so renamed, added and widened columns come out under the current
 * schema. In here a column is called by its id, `c12`: names come from outside, may differ only in case, and may be those that DuckDB
 * gives to the place of a row (`filename`, `file_row_number`).
 *
 * De-duplication is two narrow passes instead of one wide window: first the 64-bit hashes of the identities that occur more than
 * once (mostly none), then, only among rows with such a hash, the exact comparison. The wide rows are then read once, without
 * those rows, and sorted in packed form (packing.ts).
 */
import assert from 'node:assert';
import type { DatasetConfig } from '../../lib/config/pipeline.ts';
import { FILE, parquetColumn, parquetSource, ROW } from '../../lib/lake/sql-types.ts';
import { sqlName, sqlText } from '../../lib/sql/duckdb.ts';
import { namesInFile, parquetOptions } from '../../lib/sql/parquet.ts';
import type { TableMetadata } from '../../lib/table/metadata.ts';
import type { Field, Schema } from '../../lib/table/schema.ts';
import { SORT_TAIL } from '../sort-order.ts';
import { IS_KEPT, LEFT_OUT_TABLE } from './content.ts';
import type { Packing } from './packing.ts';

/** Compared with the lander's 1: a third less bytes for data that is read for years. */
export const ZSTD_LEVEL = 3;
export const ROW_GROUP_ROWS = 122_880;
const IDENTITY = ['_agent', '_incarnation', '_seq'];

const SUSPECTS_TABLE = 'suspects';

export interface OrderField {
  readonly name: string;
  readonly direction: 'ASC' | 'DESC';
  readonly nulls: 'FIRST' | 'LAST';
}

/**
 * The table's own sort order: what the files will be said to be sorted by. Fields with a transform end it (we make none such), and what makes it complete is added.
 */
export function sortOrderOf(
  metadata: TableMetadata,
  schema: Schema,
  fallback: readonly string[],
): readonly OrderField[] {
  const order = metadata['sort-orders'].find((entry) => entry['order-id'] === metadata['default-sort-order-id']);
  const fields: OrderField[] = [];
  for (const field of order?.fields ?? []) {
    const name = schema.fields.find((column) => column.id === field['source-id'])?.name;
    if (name === undefined || field.transform !== 'identity') break;
    fields.push({
      name,
      direction: field.direction === 'asc' ? 'ASC' : 'DESC',
      nulls: field['null-order'] === 'nulls-first' ? 'FIRST' : 'LAST',
    });
  }
  const rest = [...(fields.length === 0 ? fallback : []), ...SORT_TAIL].filter(
    (name) => hasColumn(schema, name) && !fields.some((field) => field.name === name),
  );
  return [...fields, ...rest.map((name) => ({ name, direction: 'ASC', nulls: 'LAST' }) as const)];
}

export interface SortQuery {
  readonly paths: readonly string[];
  readonly schema: Schema;
  readonly order: readonly OrderField[];
}

export interface GroupQuery extends SortQuery {
  readonly dataset: DatasetConfig;
  /** Files whose rows stay where they are: what is in one of them is a repeat in `paths`. In LEFT_OUT_TABLE they come behind `paths`. */
  readonly compared: readonly string[];
}

/** The columns that make two rows the same reading; empty: no de-duplication. */
export function keyColumns(dataset: Pick<DatasetConfig, 'dedup'>, schema: Schema): readonly string[] {
  if (dataset.dedup === 'none') return [];
  const key = dataset.dedup === 'identity' ? IDENTITY : dataset.dedup.key;
  // A key that the data does not have (yet) is null in every row, and null is never a duplicate.
  return key.every((name) => hasColumn(schema, name)) ? key : [];
}

/**
 * Statements that add repeats to LEFT_OUT_TABLE (`hasDeleted`: which has rows); none when nothing can be a duplicate. Of the rows of one
 * identity that stays which is compared with, else the first by partition and offset.
 */
export function duplicateStatements(query: GroupQuery, hasDeleted: boolean): readonly string[] {
  const { schema, paths, compared } = query;
  const key = keyColumns(query.dataset, schema);
  if (key.length === 0) return [];
  const names = key.map((name) => columnOf(schema, name)).join(', ');
  const isLive = hasDeleted ? ` AND ${IS_KEPT}` : '';
  const present = key.map((name) => `${columnOf(schema, name)} IS NOT NULL`).join(' AND ') + isLive;
  const tail = SORT_TAIL.filter((name) => hasColumn(schema, name)).map((name) => columnOf(schema, name));
  const isCompared = `${FILE} >= ${paths.length}`;
  const order = [...(compared.length === 0 ? [] : [`${isCompared} DESC`]), ...tail, FILE, ROW].join(', ');
  const all = parquetSource([...paths, ...compared], schema.fields);
  const met =
    `INSERT INTO ${SUSPECTS_TABLE} SELECT DISTINCT hash(${names}) FROM ${all} WHERE ${isCompared} AND ${present} ` +
    `AND hash(${names}) IN (SELECT hash(${names}) FROM ${source(query)} WHERE ${present})`;
  return [
    `CREATE OR REPLACE TEMP TABLE ${SUSPECTS_TABLE} AS SELECT hash(${names}) AS h FROM ${source(query)} WHERE ${present} ` +
      'GROUP BY 1 HAVING count(*) > 1',
    ...(compared.length === 0 ? [] : [met]),
    `INSERT INTO ${LEFT_OUT_TABLE} SELECT ${FILE}, ${ROW} FROM (` +
      `SELECT ${FILE}, ${ROW}, row_number() OVER (PARTITION BY ${names} ORDER BY ${order}) AS n FROM ` +
      `(SELECT ${[...key.map((name) => columnOf(schema, name)), ...tail, FILE, ROW].join(', ')} ` +
      `FROM ${all} WHERE ${present} AND hash(${names}) IN (SELECT h FROM ${SUSPECTS_TABLE}))` +
      `) WHERE n > 1 AND NOT (${isCompared})`,
  ];
}

/** The statement that writes the sorted rows to `target`: a file, or with `fileBytes` a folder of files `data_<n>.parquet`. */
export function copyStatement(
  query: SortQuery,
  target: string,
  options: {
    readonly packing: Packing;
    readonly hasLeftOut: boolean;
    readonly fileBytes?: number;
    readonly metadata: Readonly<Record<string, string>>;
  },
): string {
  const { schema } = query;
  const { packing } = options;
  const fields = schema.fields.map(parquetColumn);
  const names = namesInFile(fields);
  const columns = fields.map(({ fieldId }, index) => {
    const value = packing.get(fieldId)?.unpack(`p${fieldId}`) ?? `p${fieldId}`;
    return `${value} AS ${sqlName(names[index] ?? '')}`;
  });
  const isConstant = (id: number): boolean => packing.get(id)?.pack === null;
  const sorted = fields
    .filter(({ fieldId }) => !isConstant(fieldId))
    .map(({ fieldId }) => `${packing.get(fieldId)?.pack ?? `c${fieldId}`} AS p${fieldId}`);
  const order = query.order
    .map(({ name, direction, nulls }) => ({ id: fieldOf(schema, name).id, direction, nulls }))
    .filter(({ id }) => !isConstant(id))
    .map(({ id, direction, nulls }) => `p${id} ${direction} NULLS ${nulls}`);
  const rows =
    // A row of which every column is constant is still a row.
    `SELECT ${sorted.length === 0 ? '1' : sorted.join(', ')} FROM ${source(query)}` +
    (options.hasLeftOut ? ` WHERE ${IS_KEPT}` : '') +
    (order.length === 0 ? '' : ` ORDER BY ${order.join(', ')}`);
  const parquet = parquetOptions({
    columns: fields,
    level: ZSTD_LEVEL,
    rowGroupRows: ROW_GROUP_ROWS,
    metadata: options.metadata,
  });
  const split = options.fileBytes === undefined ? '' : `, FILE_SIZE_BYTES ${Math.round(options.fileBytes)}`;
  // DuckDB keeps the order of the inner rows, because it knows that they are sorted.
  return `COPY (SELECT ${columns.join(', ')} FROM (${rows})) TO ${sqlText(target)} (${parquet}${split})`;
}

function source({ paths, schema }: SortQuery): string {
  return parquetSource(paths, schema.fields);
}

const hasColumn = (schema: Schema, name: string): boolean => schema.fields.some((field) => field.name === name);

const columnOf = (schema: Schema, name: string): string => `c${fieldOf(schema, name).id}`;

function fieldOf(schema: Schema, name: string): Field {
  const field = schema.fields.find((candidate) => candidate.name === name);
  assert(field !== undefined, `no column '${name}' in the schema`);
  return field;
}
