/** The SQL of an erasure: a condition in the names of the table's columns, on one file at a time. */
import { FILE, parquetColumn, parquetSource, ROW, sqlType } from '../../lib/lake/sql-types.ts';
import { sqlName, sqlText } from '../../lib/sql/duckdb.ts';
import { namesInFile, parquetOptions } from '../../lib/sql/parquet.ts';
import type { Schema } from '../../lib/table/schema.ts';
import { contentColumns } from '../compact/content.ts';
import { ROW_GROUP_ROWS, ZSTD_LEVEL } from '../compact/group-sql.ts';

/** In parentheses on lines of its own, so that a comment at its end comments out nothing of ours. */
const condition = (where: string): string => `(\n${where}\n)`;

/**
 * Fails where the condition is none on this schema; `type` is its type. Text that is an expression within parentheses and as the
 * condition of a CASE has no parenthesis that closes ours.
 */
export function checkStatement(schema: Schema, where: string): string {
  const columns = schema.fields.map(({ name, type }) => `CAST(NULL AS ${sqlType(type)}) AS ${sqlName(name)}`);
  return `SELECT typeof${condition(where)} AS type, CASE WHEN \n${where}\n THEN 1 END FROM (SELECT ${columns.join(', ')})`;
}

/** (file_index, file_row_number): rows of the hour that delete files of other writers take out. */
export const DELETED_TABLE = 'deleted';

/** `n`: the rows of the file for which the condition is true (null is not), those that other writers deleted included. */
export function countStatement(path: string, schema: Schema, where: string): string {
  return `SELECT count(*) AS n FROM ${rows(path, schema)} WHERE ${condition(where)} IS TRUE`;
}

/** The content (../compact/content.ts) of the rows that stay. */
export function keptStatement(path: string, schema: Schema, where: string, index: number): string {
  return `SELECT ${contentColumns(columnNames(schema))} FROM ${kept(path, schema, where, index)}`;
}

/** Writes the rows that stay, in their order. `index`: of the file in DELETED_TABLE. */
export function rewriteStatement(path: string, target: string, schema: Schema, where: string, index: number): string {
  const options = parquetOptions({
    columns: schema.fields.map(parquetColumn),
    level: ZSTD_LEVEL,
    rowGroupRows: ROW_GROUP_ROWS,
    metadata: {},
  });
  return `COPY (FROM ${kept(path, schema, where, index)}) TO ${sqlText(target)} (${options})`;
}

function kept(path: string, schema: Schema, where: string, index: number): string {
  const isLive = `${ROW} NOT IN (SELECT ${ROW} FROM ${DELETED_TABLE} WHERE ${FILE} = ${index})`;
  return `(FROM ${rows(path, schema, isLive)} WHERE ${condition(where)} IS NOT TRUE)`;
}

function rows(path: string, schema: Schema, which = 'true'): string {
  const names = columnNames(schema);
  const columns = schema.fields.map(({ id }, index) => `c${id} AS ${names[index] ?? ''}`);
  return `(SELECT ${columns.join(', ')} FROM ${parquetSource([path], schema.fields)} WHERE ${which})`;
}

const columnNames = (schema: Schema): readonly string[] => namesInFile(schema.fields.map(parquetColumn)).map(sqlName);
