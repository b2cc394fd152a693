/**
 * A table of an in-process DuckDB that is filled row by row from staged columns (columns.ts) and copied out as Parquet.
 *
 * The caller fills `column(n)` at index `row` for every column and calls `endRow(bytes)`; a full chunk goes over by DuckDB's
 * appender. Columns can be added at the end while rows are there: earlier rows have NULL. In SQL the columns have names of their own,
 * `c0`, `c1`, …: theirs come from outside and may differ only in case, which SQL does not see.
 * Limits: a chunk is handed over at CHUNK_ROWS rows or CHUNK_BYTES_MAX of values, whichever is first.
 */
import {
  BIGINT,
  BLOB,
  BOOLEAN,
  DATE,
  DOUBLE,
  DuckDBDataChunk,
  FLOAT,
  INTEGER,
  TIMESTAMPTZ,
  VARCHAR,
} from '@duckdb/node-api';
import type { DuckDBAppender, DuckDBType } from '@duckdb/node-api';
import duckdb from '@duckdb/node-bindings';
import assert from 'node:assert';
import { type AnyColumn, CHUNK_ROWS, makeColumn, type SqlType } from './columns.ts';
import { type DuckDb, sqlName, sqlText, toPenstockError } from './duckdb.ts';
import { namesInFile, parquetOptions, type ParquetOptions } from './parquet.ts';

const CHUNK_BYTES_MAX = 16 << 20;

const TYPES: Readonly<Record<SqlType, DuckDBType>> = {
  BOOLEAN,
  INTEGER,
  DATE,
  BIGINT,
  FLOAT,
  DOUBLE,
  TIMESTAMPTZ,
  VARCHAR,
  BLOB,
};

export interface ColumnDef {
  readonly name: string;
  readonly type: SqlType;
}

export class RowTable {
  readonly name: string;
  readonly #db: DuckDb;
  readonly #defs: ColumnDef[] = [];
  readonly #columns: AnyColumn[] = [];
  #chunk: DuckDBDataChunk | undefined;
  #appender: DuckDBAppender | undefined;
  /** Where the next row of the chunk is staged. */
  row = 0;
  /** Rows of the table, staged ones included. */
  rows = 0;
  #chunkBytes = 0;

  private constructor(db: DuckDb, name: string) {
    this.#db = db;
    this.name = name;
  }

  static async create(db: DuckDb, name: string, columns: readonly ColumnDef[]): Promise<RowTable> {
    const table = new RowTable(db, name);
    await db.run(
      `CREATE OR REPLACE TABLE ${sqlName(name)} (${columns.map(({ type }, index) => `c${index} ${type}`).join(', ')})`,
    );
    table.#take(columns);
    return table;
  }

  get columns(): readonly ColumnDef[] {
    return this.#defs;
  }

  column(index: number): AnyColumn {
    const column = this.#columns[index];
    assert(column !== undefined, `no column ${index} in ${this.name}`);
    return column;
  }

  async addColumns(columns: readonly ColumnDef[]): Promise<void> {
    this.#moveChunk();
    this.#closeAppender();
    for (const [index, { type }] of columns.entries()) {
      await this.#db.run(`ALTER TABLE ${sqlName(this.name)} ADD COLUMN c${this.#defs.length + index} ${type}`);
    }
    this.#take(columns);
  }

  #take(columns: readonly ColumnDef[]): void {
    for (const def of columns) {
      this.#defs.push(def);
      this.#columns.push(makeColumn(def.type));
    }
    this.#chunk = new DuckDBDataChunk(
      duckdb.create_data_chunk(this.#defs.map((def) => TYPES[def.type].toLogicalType().logical_type)),
    );
  }

  /** Must be awaited before the first row after `create`, `addColumns`, `query`, `clear`: opens the appender. */
  async begin(): Promise<void> {
    this.#appender ??= await this.#db.connection.createAppender(this.name);
  }

  /** The row at `row` is complete; `bytes` is about how large its values are. */
  endRow(bytes: number): void {
    this.rows++;
    this.#chunkBytes += bytes;
    if (++this.row === CHUNK_ROWS || this.#chunkBytes > CHUNK_BYTES_MAX) this.#moveChunk();
  }

  /** Forgets what was set in the row at `row`. */
  undoRow(): void {
    for (const column of this.#columns) column.undo(this.row);
  }

  #moveChunk(): void {
    const rows = this.row;
    if (rows === 0) return;
    assert(this.#chunk !== undefined && this.#appender !== undefined, 'rows were staged before begin()');
    const chunk = this.#chunk.chunk;
    duckdb.data_chunk_reset(chunk);
    duckdb.data_chunk_set_size(chunk, rows);
    for (let k = 0; k < this.#columns.length; k++) {
      this.column(k).moveTo(duckdb.data_chunk_get_vector(chunk, k), rows);
    }
    try {
      this.#appender.appendDataChunk(this.#chunk);
    } catch (error) {
      throw toPenstockError(error);
    }
    this.row = 0;
    this.#chunkBytes = 0;
  }

  #closeAppender(): void {
    const appender = this.#appender;
    this.#appender = undefined;
    try {
      appender?.closeSync();
    } catch (error) {
      throw toPenstockError(error);
    }
  }

  /**
   * Puts the rows in the order of a column, and within a value in the order they came, so that copying them out value by value reads each
   * once.
   */
  async sortBy(column: string): Promise<void> {
    this.#moveChunk();
    this.#closeAppender();
    const [table, sorted] = [sqlName(this.name), sqlName(`sorted ${this.name}`)];
    await this.#db.run(`CREATE OR REPLACE TABLE ${sorted} AS FROM ${table} ORDER BY ${this.#sqlName(column)}, rowid`);
    await this.#db.run(`DROP TABLE ${table}`);
    await this.#db.run(`ALTER TABLE ${sorted} RENAME TO ${table}`);
  }

  /** Writes the rows in which `where.column` has that value (all rows without it) to a new Parquet file, in their order. */
  async copyTo(path: string, parquet: ParquetOptions, where?: { column: string; equals: number }): Promise<number> {
    this.#moveChunk();
    this.#closeAppender();
    const names = namesInFile(parquet.columns);
    const select = parquet.columns.map(({ name, convert }, index) => {
      const column = `t.${this.#sqlName(name)}`;
      return `${convert?.(column) ?? column} AS ${sqlName(names[index] ?? '')}`;
    });
    const filter = where === undefined ? '' : ` WHERE t.${this.#sqlName(where.column)} = ${where.equals}`;
    return this.#db.run(
      `COPY (SELECT ${select.join(', ')} FROM ${sqlName(this.name)} AS t${filter}) ` +
        `TO ${sqlText(path)} (${parquetOptions(parquet)})`,
    );
  }

  #sqlName(column: string): string {
    const index = this.#defs.findIndex((def) => def.name === column);
    assert(index !== -1, `no column '${column}' in ${this.name}`);
    return `c${index}`;
  }

  async drop(): Promise<void> {
    this.#closeAppender();
    await this.#db.run(`DROP TABLE IF EXISTS ${sqlName(this.name)}`);
  }
}
