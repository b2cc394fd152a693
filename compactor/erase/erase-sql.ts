/** The SQL of an erasure: a condition in the names of the table's columns, on one file at a time. */
import { sqlName, sqlText } from '../../lib/sql/duckdb.ts';
import { namesInFile, parquetOptions } from '../../lib/sql/parquet.ts';
import type { Schema } from '../../lib/table/schema.ts';
import { ROW_GROUP_ROWS, source, ZSTD_LEVEL } from '../compact/group-sql.ts';
import { parquetColumn, sqlType } from '../sql-types.ts';

/** In parentheses on lines of its own, so that a comment at its end comments out nothing of ours. */
const condition = (where: string): string => `(\n${where}\n)`;

/** Fails where the condition is none on this schema. */
export function checkStatement(schema: Schema, where: string): string {
  const columns = schema.fields.map(({ name, type }) => `CAST(NULL AS ${sqlType(type)}) AS ${sqlName(name)}`);
  return `SELECT count(*) FROM (SELECT ${columns.join(', ')}) WHERE ${condition(where)} IS TRUE`;
}

/** `n`: the rows for which the condition is true (null is not). */
export function countStatement(path: string, schema: Schema, where: string): string {
  return `SELECT count(*) AS n FROM ${rows(path, schema)} WHERE ${condition(where)} IS TRUE`;
}

/** Writes the other rows, in their order. */
export function rewriteStatement(path: string, target: string, schema: Schema, where: string): string {
  const options = parquetOptions({
    columns: schema.fields.map(parquetColumn),
    level: ZSTD_LEVEL,
    rowGroupRows: ROW_GROUP_ROWS,
    metadata: {},
  });
  return `COPY (FROM ${rows(path, schema)} WHERE ${condition(where)} IS NOT TRUE) TO ${sqlText(target)} (${options})`;
}

function rows(path: string, schema: Schema): string {
  const names = namesInFile(schema.fields.map(parquetColumn));
  const columns = schema.fields.map(({ id }, index) => `c${id} AS ${sqlName(names[index] ?? '')}`);
  return `(SELECT ${columns.join(', ')} FROM ${source({ paths: [path], schema })})`;
}
