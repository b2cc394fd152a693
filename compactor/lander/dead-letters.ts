/**
 * Dead letters: the records of a commit that did not fit, with the reason, as they came. One Parquet object a commit under
 * `quarantine/<dataset>/` (with another program's catalog in the table's folder), referenced from the engine in the same minitransaction as the rows.
 */
import type { RecordBatchReader } from '../../lib/log/batch-reader.ts';
import { LongColumn, NumberColumn, StringColumn } from '../../lib/sql/columns.ts';
import type { DuckDb } from '../../lib/sql/duckdb.ts';
import type { ParquetOptions } from '../../lib/sql/parquet.ts';
import { type ColumnDef, RowTable } from '../../lib/sql/row-table.ts';
import type { Place } from './staging.ts';

const COLUMNS: readonly ColumnDef[] = [
  { name: 'reason', type: 'VARCHAR' },
  { name: 'topic', type: 'VARCHAR' },
  { name: 'topic_id', type: 'VARCHAR' },
  { name: 'partition', type: 'INTEGER' },
  { name: 'offset', type: 'BIGINT' },
  { name: 'timestamp', type: 'TIMESTAMPTZ' },
  { name: 'key', type: 'BLOB' },
  { name: 'value', type: 'BLOB' },
  /** A JSON array of [name, value in base64 or null]. */
  { name: 'headers', type: 'VARCHAR' },
];
const REASON_CHARS_MAX = 500;
/** Kinds of reason counted by name in a commit's record; the rest is summed up. */
const REASONS_MAX = 20;
const OTHER_REASONS = 'other';

export class DeadLetters {
  readonly #table: RowTable;
  readonly #reasons = new Map<string, number>();

  private constructor(table: RowTable) {
    this.#table = table;
  }

  static async open(db: DuckDb, dataset: string): Promise<DeadLetters> {
    return new DeadLetters(await RowTable.create(db, `dead ${dataset}`, COLUMNS));
  }

  get count(): number {
    return this.#table.rows;
  }

  /** How many records for each reason. */
  get reasons(): Readonly<Record<string, number>> {
    return Object.fromEntries(this.#reasons);
  }

  begin(): Promise<void> {
    return this.#table.begin();
  }

  add(reader: RecordBatchReader, place: Place, offset: number, reason: string): void {
    const row = this.#table.row;
    const key = reader.key();
    const value = reader.value();
    const headers = JSON.stringify(reader.headers().map(([name, bytes]) => [name, bytes?.toString('base64') ?? null]));
    const text = (name: string): StringColumn => this.#column(name, StringColumn);
    text('reason').set(row, reason.toWellFormed().slice(0, REASON_CHARS_MAX));
    text('topic').set(row, place.topic);
    text('topic_id').set(row, place.topicId);
    this.#column('partition', NumberColumn).set(row, place.partition);
    this.#column('offset', LongColumn).set(row, offset);
    this.#column('timestamp', LongColumn).set(row, reader.timestampMs * 1000);
    setBytes(text('key'), row, key);
    setBytes(text('value'), row, value);
    if (!text('headers').set(row, headers)) text('headers').setNull(row);
    this.#table.endRow((key?.length ?? 0) + (value?.length ?? 0) + headers.length);
    // The part before the first colon names the kind: `not JSON`, `field rms`.
    const kind = /^[^:]*/.exec(reason)?.[0] ?? reason;
    const counted = this.#reasons.has(kind) || this.#reasons.size < REASONS_MAX ? kind : OTHER_REASONS;
    this.#reasons.set(counted, (this.#reasons.get(counted) ?? 0) + 1);
  }

  #column<T>(name: string, type: new (...args: never[]) => T): T {
    const column: unknown = this.#table.column(COLUMNS.findIndex((def) => def.name === name));
    if (column instanceof type) return column;
    throw new Error(`column ${name} is no ${type.name}`);
  }

  async writeTo(path: string): Promise<void> {
    const parquet: ParquetOptions = {
      columns: COLUMNS.map(({ name }, index) => ({ name, fieldId: index + 1 })),
      level: 3,
      rowGroupRows: 20_480,
      metadata: {},
    };
    await this.#table.copyTo(path, parquet);
  }

  drop(): Promise<void> {
    return this.#table.drop();
  }
}

function setBytes(column: StringColumn, row: number, bytes: Buffer | null): void {
  if (bytes === null) column.setNull(row);
  else column.setBytes(row, bytes);
}
