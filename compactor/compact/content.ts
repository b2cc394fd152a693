/** Which rows of a group go into its new files, and what they are: the same before and after, or nothing is committed. */
import { dirname } from 'node:path';
import { PenstockError } from '../../lib/errors.ts';
import { FILE, parquetSource, ROW } from '../../lib/lake/sql-types.ts';
import type { Row } from '../../lib/sql/duckdb.ts';
import type { SqlRunner } from '../../lib/sql/parquet-footer.ts';
import type { Schema } from '../../lib/table/schema.ts';

/** (file_index, file_row_number): the rows that go into no new file. First those that delete files take out, then repeats. */
export const LEFT_OUT_TABLE = 'left_out';
export const IS_KEPT = `(${FILE}, ${ROW}) NOT IN (SELECT (${FILE}, ${ROW}) FROM ${LEFT_OUT_TABLE})`;

/** Equal for the same rows, in whatever order and files. */
export interface Content {
  readonly rows: number;
  /** The sum of a 64-bit hash of each row, all its columns together. */
  readonly hashes: string;
}

/** In a SELECT over `parquetSource`: what `contentOf` reads. */
export function contentColumns(columns: readonly string[]): string {
  return `count(*) AS row_count, coalesce(sum(hash(${columns.join(', ')})::HUGEINT), 0)::VARCHAR AS row_hashes`;
}

export function contentOf(row: Row | undefined): Content {
  const hashes = row?.['row_hashes'];
  return { rows: Number(row?.['row_count']), hashes: typeof hashes === 'string' ? hashes : '' };
}

/** Decodes every page of the files. */
export function contentStatement(paths: readonly string[], schema: Schema): string {
  return `SELECT ${contentColumns(schema.fields.map(({ id }) => `c${id}`))} FROM ${parquetSource(paths, schema.fields)}`;
}

/** Reads back what was written: a fault of the disk, the memory or the writer must not replace good files. Throws `corrupt`. */
export async function expectContent(
  sql: SqlRunner,
  paths: readonly string[],
  schema: Schema,
  expected: Content,
): Promise<void> {
  const [row] = await sql.query(contentStatement(paths, schema));
  const { rows, hashes } = contentOf(row);
  if (rows === expected.rows && hashes === expected.hashes) return;
  throw new PenstockError(
    'corrupt',
    `what was written does not read back as what went in (${rows} rows, expected ${expected.rows}): nothing was committed; ` +
      `the disk of ${dirname(paths[0] ?? '')} or the memory of this machine may be faulty`,
  );
}
