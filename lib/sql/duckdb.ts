/**
 * An embedded DuckDB of this process, closed off: no extension is installed, loaded or downloaded, nothing outside the process's
 * memory and one bounded scratch directory is written except by the statements we run.
 *
 * Limits: `memoryBytes` is DuckDB's own limit (its buffers; the process needs about 100 MB beside it), `scratchBytes` bounds
 * what it may spill. Beyond both a statement fails with `full`.
 */
import {
  DuckDBInstance,
  StatementType,
  type DuckDBConnection,
  type DuckDBResultReader,
  type Json,
} from '@duckdb/node-api';
import { describeError, isCode, PenstockError } from '../errors.ts';

/**
 * What is freed beyond it goes back to the system. By default DuckDB's allocator keeps up to 512 MB of pages that it has freed, which
 * `memory_limit` does not count: after three large sorts a process held 400 MB more (docs/decisions/0006).
 */
const FLUSH_THRESHOLD = '1MB';

export interface DuckDbOptions {
  readonly memoryBytes: number;
  readonly threads: number;
  /** Where it spills. Must exist; owned by the caller (see scratch.ts). */
  readonly scratchDir: string;
  readonly scratchBytes: number;
}

/** A row of a query's answer, by column name. 64-bit integers are bigint. */
export type Row = Readonly<ReturnType<DuckDBResultReader['getRowObjectsJS']>[number]>;

/** The beginning of a query's answer, as JSON values: 64-bit integers, decimals and times are text. */
export interface Selected {
  readonly columns: readonly { readonly name: string; readonly type: string }[];
  readonly rows: readonly (readonly Json[])[];
  /** There are more rows. */
  readonly truncated: boolean;
}

export interface SelectLimits {
  readonly rowsMax: number;
  /** Of the rows as JSON. */
  readonly bytesMax: number;
}

export class DuckDb {
  readonly connection: DuckDBConnection;
  readonly #instance: DuckDBInstance;
  readonly #ownsInstance: boolean;

  private constructor(instance: DuckDBInstance, ownsInstance: boolean, connection: DuckDBConnection) {
    this.#instance = instance;
    this.#ownsInstance = ownsInstance;
    this.connection = connection;
  }

  static async open(options: DuckDbOptions): Promise<DuckDb> {
    const instance = await DuckDBInstance.create(':memory:', {
      threads: String(options.threads),
      memory_limit: `${Math.floor(options.memoryBytes / 1000)}KB`,
      temp_directory: options.scratchDir,
      max_temp_directory_size: `${Math.floor(options.scratchBytes / 1000)}KB`,
      allocator_bulk_deallocation_flush_threshold: FLUSH_THRESHOLD,
      // It gave pages of a file that had the same path before (docs/decisions/0006). The kernel keeps pages, too.
      enable_external_file_cache: 'false',
      autoinstall_known_extensions: 'false',
      autoload_known_extensions: 'false',
      allow_community_extensions: 'false',
      default_null_order: 'nulls_last',
    });
    const db = new DuckDb(instance, true, await instance.connect());
    // By default TZ and LC_ALL of the process: a time without an offset in an erasure's condition would mean another instant on each machine.
    // They cannot be given with the others: their extension is loaded when there is a connection.
    await db.run("SET GLOBAL TimeZone = 'UTC'");
    await db.run("SET GLOBAL Calendar = 'gregorian'");
    return db;
  }

  /**
   * Another connection to the same database, to be used at the same time: statements of one connection wait for each other, also
   * those that run on the main thread. Close it before this one.
   */
  async connect(): Promise<DuckDb> {
    return new DuckDb(this.#instance, false, await this.#instance.connect());
  }

  /** Runs one statement; answers the number of rows it changed or copied. Throws as `toPenstockError` says. */
  async run(sql: string): Promise<number> {
    try {
      const result = await this.connection.run(sql);
      return result.rowsChanged;
    } catch (error) {
      throw toPenstockError(error);
    }
  }

  async query(sql: string): Promise<readonly Row[]> {
    try {
      return (await this.connection.runAndReadAll(sql)).getRowObjectsJS();
    } catch (error) {
      throw toPenstockError(error);
    }
  }

  /** The rows of a query in portions, without holding them all. Another statement of this connection waits for the end. */
  async *stream(sql: string): AsyncGenerator<readonly Row[]> {
    try {
      const result = await this.connection.stream(sql);
      yield* result.yieldRowObjectJs();
    } catch (error) {
      throw toPenstockError(error);
    }
  }

  /**
   * From now on, for good: no file but `paths` can be read, none written, no setting changed, nothing attached or loaded. For text
   * that comes from outside.
   */
  async lockDown(paths: readonly string[]): Promise<void> {
    await this.run(`SET allowed_paths = [${paths.map(sqlText).join(', ')}]`);
    await this.run('SET enable_external_access = false');
    await this.run('SET lock_configuration = true');
  }

  /** Runs one SELECT of somebody else, up to `rowsMax` rows. Throws `usage` for what is no single SELECT or is wrong in it, and `too-large`. */
  async select(sql: string, limits: SelectLimits): Promise<Selected> {
    try {
      const statements = await this.connection.extractStatements(sql).catch((error: unknown) => {
        // Also an empty text and one of comments only, for which DuckDB has no message.
        throw new PenstockError(
          'usage',
          describeError(error)
            .replace(/^Failed to extract statements: /, '')
            .replace(/^.*native callback$/s, 'there is no statement'),
        );
      });
      if (statements.count !== 1) throw new PenstockError('usage', `expected one statement, got ${statements.count}`);
      const statement = await statements.prepare(0);
      if (statement.statementType !== StatementType.SELECT) {
        throw new PenstockError('usage', 'only SELECT is allowed here');
      }
      const reader = await statement.streamAndReadUntil(limits.rowsMax + 1);
      const rows = reader.getRowsJson().slice(0, limits.rowsMax);
      const bytes = Buffer.byteLength(JSON.stringify(rows));
      if (bytes > limits.bytesMax) {
        throw new PenstockError('too-large', `the answer has ${bytes} bytes, at most ${limits.bytesMax}: select less`);
      }
      const types = reader.columnTypes();
      return {
        columns: reader.columnNames().map((name, index) => ({ name, type: String(types[index]) })),
        rows,
        truncated: reader.currentRowCount > limits.rowsMax,
      };
    } catch (error) {
      if (error instanceof PenstockError) throw error;
      const text = describeError(error);
      if (
        /^(Parser|Binder|Catalog|Conversion|Invalid Input|Out of Range|Permission|Not implemented|Mismatch Type|Invalid Type) Error/i.test(
          text,
        )
      ) {
        // The text is all of the error: as a cause it would only be said twice.
        throw new PenstockError('usage', text);
      }
      throw toPenstockError(error);
    }
  }

  /** Makes the running statement fail with `aborted`. */
  interrupt(): void {
    this.connection.interrupt();
  }

  close(): void {
    this.connection.closeSync();
    if (this.#ownsInstance) this.#instance.closeSync();
  }
}

/** Also what it may spill is bounded, and both words come for either. An appender says of the block alone that it has no room. */
const OUT_OF_MEMORY = /Out of Memory|max_temp_directory_size|failed to allocate|could not allocate block/i;

/** A statement needed more than `memoryBytes` and `scratchBytes`: with less data it would not. */
export const isOutOfMemory = (error: unknown): boolean => isCode(error, 'full') && OUT_OF_MEMORY.test(error.message);

/** DuckDB reports kinds of failure as words at the start of the message. */
export function toPenstockError(error: unknown): PenstockError {
  if (error instanceof PenstockError) return error;
  const text = describeError(error);
  if (/^INTERRUPT|Interrupted!/.test(text)) return new PenstockError('aborted', 'query interrupted', { cause: error });
  if (OUT_OF_MEMORY.test(text) || /No space left on device/i.test(text)) {
    // Behind the first line are settings that nobody can make here.
    return new PenstockError('full', `query: ${text.replace(/\n[^]*$/, '')}`);
  }
  // It quotes the value, whatever that says.
  if (text.startsWith('Conversion Error')) return new PenstockError('io', `query: ${text}`, { cause: error });
  // What its Parquet reader says of bytes that are not what a writer made.
  if (
    /Invalid Input Error|Snappy|ZSTD|zstd|No magic bytes|too small to be a Parquet|TProtocolException|Thrift|Serialization|Out of Range Error|corrupt|Parquet|Truncated|Could not read enough bytes/i.test(
      text,
    )
  ) {
    return new PenstockError('corrupt', `query: ${text}`, { cause: error });
  }
  return new PenstockError('io', `query: ${text}`, { cause: error });
}

/** `name` as an SQL identifier. */
export const sqlName = (name: string): string => `"${name.replaceAll('"', '""')}"`;
/** `text` as an SQL string literal. */
export const sqlText = (text: string): string => `'${text.replaceAll("'", "''")}'`;
