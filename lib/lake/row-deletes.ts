/**
 * Row-level deletes of other writers, as SQL: which rows of which files they take out.
 *
 * Invariants: a row is taken out only by a delete file that applies to its data file (lib/table/row-deletes.ts says which), and only
 * if it is there: a position behind the end of a file is no row.
 * Failure: a delete file that cannot be applied (another format, damaged, without the columns that it compares) throws naming it,
 * before any row is judged.
 * Limits: the places of deleted rows and the keys of equality deletes are in DuckDB's tables, which spill; data files that equality
 * deletes apply to are read, by the columns that these compare.
 */
import { PenstockError } from '../errors.ts';
import { sqlText } from '../sql/duckdb.ts';
import type { SqlRunner } from '../sql/parquet-footer.ts';
import type { LiveFile } from '../table/data-file.ts';
import { type DeleteFile, FILE_PATH_ID } from '../table/delete-manifest.ts';
import type { TableMetadata } from '../table/metadata.ts';
import { currentSchema } from '../table/metadata.ts';
import { RowDeletes } from '../table/row-deletes.ts';
import type { Field } from '../table/schema.ts';
import { FILE, parquetSource, ROW } from './sql-types.ts';

/** The reserved field id of the column `pos` of position deletes. */
const POSITION_ID = 2147483545;
const POSITION_COLUMNS = [
  { id: FILE_PATH_ID, type: 'string' },
  { id: POSITION_ID, type: 'long' },
];

export interface SqlSession extends SqlRunner {
  run(sql: string): Promise<unknown>;
}

export interface ReadableFile extends Pick<LiveFile, 'location' | 'hour' | 'sequenceNumber'> {
  readonly path: string;
  readonly rows: number;
}

/**
 * Makes `table` (file_index, file_row_number): the rows of `files` that `deletes` take out, all of which apply to some of the files.
 * `pathOf`: where a delete file lies on this machine. Returns how many rows they are. Throws `unsupported`, `corrupt`.
 */
export async function leaveOutDeleted(
  sql: SqlSession,
  request: {
    readonly table: string;
    readonly files: readonly ReadableFile[];
    readonly deletes: readonly DeleteFile[];
    readonly metadata: TableMetadata;
    readonly pathOf: (file: DeleteFile) => string;
  },
): Promise<number> {
  const { table, files, deletes, pathOf } = request;
  await sql.run(`CREATE OR REPLACE TEMP TABLE ${table} (${FILE} UBIGINT, ${ROW} BIGINT)`);
  if (deletes.length === 0) return 0;
  const local = deletes.map((file) => ({ file, path: pathOf(file) }));
  for (const { problem } of deletes) if (problem !== null) throw new PenstockError('unsupported', problem);
  await checkColumns(sql, local);
  const positions = local.filter(({ file }) => file.kind === 'position');
  const found: string[] = [];
  if (positions.length > 0) found.push(positionsFound(files, positions));
  for (const group of Map.groupBy(local, ({ file }) => [...file.equalityIds].sort((a, b) => a - b).join()).values()) {
    const equality = group.filter(({ file }) => file.kind === 'equality');
    if (equality.length > 0) found.push(equalsFound(files, equality, request.metadata));
  }
  await sql.run(`INSERT INTO ${table} SELECT DISTINCT * FROM (${found.join(' UNION ALL ')})`);
  const [row] = await sql.query(`SELECT count(*) AS n FROM ${table}`);
  return Number(row?.['n']);
}

interface LocalDelete {
  readonly file: DeleteFile;
  readonly path: string;
}

/** A column that is not there would be read as nulls, and null equals null. */
async function checkColumns(sql: SqlRunner, deletes: readonly LocalDelete[]): Promise<void> {
  for (const { file, path } of deletes) {
    const wanted = file.kind === 'position' ? POSITION_COLUMNS.map(({ id }) => id) : file.equalityIds;
    const [row] = await sql
      .query(
        `SELECT (SELECT list(field_id) FROM parquet_schema(${sqlText(path)})) AS ids, ` +
          `(SELECT num_rows FROM parquet_file_metadata(${sqlText(path)})) AS n`,
      )
      .catch((error: unknown) => {
        throw new PenstockError('corrupt', `${file.location} is damaged: its footer cannot be read`, { cause: error });
      });
    const ids = new Set((Array.isArray(row?.['ids']) ? row['ids'] : []).map(Number));
    const missing = wanted.find((id) => !ids.has(id));
    if (missing !== undefined) {
      throw new PenstockError('corrupt', `${file.location} has no column with field id ${missing}`);
    }
    if (Number(row?.['n']) !== file.rows) {
      throw new PenstockError(
        'corrupt',
        `${file.location} has ${Number(row?.['n'])} rows, the manifest says ${file.rows}`,
      );
    }
  }
}

const number = (value: bigint): string => value.toString();

function positionsFound(files: readonly ReadableFile[], deletes: readonly LocalDelete[]): string {
  const deleteValues = deletes.map(({ file }, index) => `(${index}, ${number(file.sequenceNumber)})`);
  const fileValues = files.map(
    ({ location, sequenceNumber, rows }, index) =>
      `(${index}, ${sqlText(location)}, ${number(sequenceNumber)}, ${rows})`,
  );
  const source = parquetSource(
    deletes.map(({ path }) => path),
    POSITION_COLUMNS,
  );
  return (
    `SELECT f.i, d.c${POSITION_ID} FROM ${source} AS d ` +
    `JOIN (VALUES ${deleteValues.join(', ')}) AS s(i, sequence) ON d.${FILE} = s.i ` +
    `JOIN (VALUES ${fileValues.join(', ')}) AS f(i, location, sequence, n) ` +
    `ON d.c${FILE_PATH_ID} = f.location AND f.sequence <= s.sequence AND d.c${POSITION_ID} BETWEEN 0 AND f.n - 1`
  );
}

/** Rows that are equal to a delete in all of its columns, null to null; `deletes` compare the same columns. */
function equalsFound(files: readonly ReadableFile[], deletes: readonly LocalDelete[], metadata: TableMetadata): string {
  const fields = comparedFields(deletes, metadata);
  const keys = fields.map(({ id }) => `c${id}`);
  const index = new RowDeletes(deletes.map(({ file }) => file));
  const touched = files.flatMap((file, i) => (index.of(file).length === 0 ? [] : [{ file, i }]));
  const touchedValues = touched.map(({ file, i }, local) => `(${local}, ${i}, ${number(file.sequenceNumber)})`);
  const deleteValues = deletes.map(({ file }, i) => `(${i}, ${number(file.sequenceNumber)})`);
  const rows = parquetSource(
    touched.map(({ file }) => file.path),
    fields,
  );
  const deleted = parquetSource(
    deletes.map(({ path }) => path),
    fields,
  );
  // The newest delete of a key decides: it applies wherever an older one does.
  const newest =
    `SELECT ${keys.map((key) => `d.${key}`).join(', ')}, max(s.sequence) AS sequence FROM ${deleted} AS d ` +
    `JOIN (VALUES ${deleteValues.join(', ')}) AS s(i, sequence) ON d.${FILE} = s.i GROUP BY ALL`;
  const same = keys.map((key) => `t.${key} IS NOT DISTINCT FROM k.${key}`).join(' AND ');
  return (
    `SELECT f.i, t.${ROW} FROM ${rows} AS t ` +
    `JOIN (VALUES ${touchedValues.join(', ')}) AS f(local, i, sequence) ON t.${FILE} = f.local ` +
    `JOIN (${newest}) AS k ON ${same} AND f.sequence < k.sequence`
  );
}

/** A column that was dropped since is still compared: files that have it keep it under its id. */
function comparedFields(deletes: readonly LocalDelete[], metadata: TableMetadata): readonly Field[] {
  const [first] = deletes;
  const schemas = [currentSchema(metadata), ...metadata.schemas.toReversed()];
  return (first?.file.equalityIds ?? []).map((id) => {
    const field = schemas.flatMap(({ fields }) => fields).find((candidate) => candidate.id === id);
    if (field !== undefined && typeof field.type === 'string') return field;
    const location = first?.file.location ?? '';
    throw new PenstockError(
      'unsupported',
      `${location}: equality deletes by field ${id}, which is no column of a primitive type at the top level`,
    );
  });
}
