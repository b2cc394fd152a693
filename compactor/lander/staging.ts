/**
 * Staging: the records of one commit on their way from the log to Parquet. Each record becomes a row of the dataset, or a row of
 * the dead letters with the reason why it did not fit; nothing is dropped.
 *
 * The hot path makes no object per record but the one of JSON.parse; a record that fails half way is undone column by column.
 * Invariants: `records = rows + quarantined`, always.
 * Limits: OPEN_HOURS_MAX event hours a commit (each becomes a file and about four records of the minitransaction); VALUE_BYTES_MAX.
 */
import { isUtf8 } from 'node:buffer';
import { describeError } from '../../lib/errors.ts';
import type { RecordBatchReader } from '../../lib/log/batch-reader.ts';
import { LongColumn, NumberColumn, StringColumn } from '../../lib/sql/columns.ts';
import type { DuckDb } from '../../lib/sql/duckdb.ts';
import { RowTable } from '../../lib/sql/row-table.ts';
import { DeadLetters } from './dead-letters.ts';
import { isEventTime, MICROS_PER_HOUR, toEpochMicros } from './event-time.ts';
import { ADDED_COLUMNS, HOUR_COLUMN, refuseName } from './field-names.ts';
import type { ValueDecoder } from '../values/value-decoder.ts';
import { DEPTH_MAX, type Field, FieldWriter, parseExactly, shown, stagedType } from './fields.ts';
import { FIT, type Fit, INEXACT, TOO_DEEP } from './fit.ts';
import { Identity } from './identity.ts';
import { missingColumns } from './infer.ts';
import type { Timely } from './timely.ts';
import { typeText } from './scalar-text.ts';

/**
 * Hours are files: what comes from more (clocks that jump, a backfill) waits for the next commit. Each takes about four records of the
 * minitransaction, which are bounded.
 */
export const OPEN_HOURS_MAX = 200;
const VALUE_BYTES_MAX = 1 << 20;
/** What a row holds beside its value: the added columns. */
const ADDED_BYTES = 80;
/** What a row holds for each column at least, whether it has a value there or not. */
const COLUMN_BYTES = 8;

const EVENT_HEADER = Buffer.from('event');
const ARRIVAL_HEADER = Buffer.from('arrival');
const REPLAYED_HEADER = Buffer.from('replayed');

export interface Place {
  readonly topic: string;
  readonly topicId: string;
  readonly partition: number;
}

export interface StagingOptions {
  readonly db: DuckDb;
  readonly dataset: string;
  readonly timely: Timely;
  /** A field that holds the event time. */
  readonly eventTime: string | undefined;
  /** New fields become columns; else a record with one is quarantined. */
  readonly infer: boolean;
  readonly fields: readonly Field[];
  /** null: the values are JSON. */
  readonly decoder: ValueDecoder | null;
}

/**
 * `evolve`: the record has fields without a column: call `addFields`, then stage it again. `full`: its hour does not fit this commit.
 * `schema`: the schema of its value is not known yet: let the decoder prepare for it, and open the staging area again.
 */
export type Outcome = 'staged' | 'evolve' | 'full' | 'schema';

type Parsed = Record<string, unknown>;

export class Staging {
  readonly #options: StagingOptions;
  readonly #table: RowTable;
  readonly #dead: DeadLetters;
  readonly #identity: Identity;
  readonly #offset: LongColumn;
  readonly #partition: NumberColumn;
  readonly #eventTime: LongColumn;
  readonly #arrivalTime: LongColumn;
  readonly #replayed: NumberColumn;
  readonly #hour: NumberColumn;
  #writers: FieldWriter[] = [];
  readonly #byName = new Map<string, FieldWriter>();
  /** Their names in lower case. */
  readonly #lowerCase = new Set<string>();
  /** Row that a writer was last used in, to find the fields that a record lacks. */
  readonly #written: number[] = [];
  #serial = 0;
  readonly #hours = new Map<number, number>();
  #bytes = 0;
  #records = 0;
  #lastHour: number | undefined;

  private constructor(options: StagingOptions, table: RowTable, dead: DeadLetters) {
    this.#options = options;
    this.#table = table;
    this.#dead = dead;
    const column = (name: string): LongColumn | NumberColumn | StringColumn =>
      table.column(table.columns.findIndex((def) => def.name === name));
    const long = (name: string): LongColumn => typed(column(name), LongColumn);
    const number = (name: string): NumberColumn => typed(column(name), NumberColumn);
    const text = (name: string): StringColumn => typed(column(name), StringColumn);
    this.#identity = new Identity(text('_agent'), text('_incarnation'), long('_seq'));
    this.#offset = long('_offset');
    this.#partition = number('_log_partition');
    this.#eventTime = long('_event_time');
    this.#arrivalTime = long('_arrival_time');
    this.#replayed = number('_replayed');
    this.#hour = number(HOUR_COLUMN);
    this.#takeFields(options.fields);
  }

  static async open(options: StagingOptions): Promise<Staging> {
    const added = ADDED_COLUMNS.map(({ name, type }) => ({ name, type: stagedType(type) }));
    const fields = options.fields.map(({ name, type }) => ({ name, type: stagedType(type) }));
    const hour = { name: HOUR_COLUMN, type: 'INTEGER' } as const;
    const table = await RowTable.create(options.db, `rows ${options.dataset}`, [hour, ...added, ...fields]);
    const dead = await DeadLetters.open(options.db, options.dataset);
    const staging = new Staging(options, table, dead);
    await staging.resume();
    return staging;
  }

  get table(): RowTable {
    return this.#table;
  }
  get deadLetters(): DeadLetters {
    return this.#dead;
  }
  get fields(): readonly Field[] {
    return this.#writers.map((writer) => writer.field);
  }
  /** Rows by event hour (hours since the epoch). */
  get hours(): ReadonlyMap<number, number> {
    return this.#hours;
  }
  /** The event hour of the last record; undefined: it did not fit. */
  get lastHour(): number | undefined {
    return this.#lastHour;
  }
  get records(): number {
    return this.#records;
  }
  /** About what is held, from the bytes of the values and the width of the rows. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Prepares for values of one more schema; null: the values are JSON. */
  get decoder(): ValueDecoder | null {
    return this.#options.decoder;
  }

  /** Puts the rows in the order of their hours, to be copied out hour by hour. */
  async sortByHour(): Promise<void> {
    await this.#table.sortBy(HOUR_COLUMN);
  }

  static whereHour(hour: number): { column: string; equals: number } {
    return { column: HOUR_COLUMN, equals: hour };
  }

  /** To be awaited before the first record, and after `addFields`. */
  async resume(): Promise<void> {
    await this.#table.begin();
    await this.#dead.begin();
  }

  async addFields(fields: readonly Field[]): Promise<void> {
    await this.#table.addColumns(fields.map(({ name, type }) => ({ name, type: stagedType(type) })));
    this.#takeFields(fields);
    await this.resume();
  }

  #takeFields(fields: readonly Field[]): void {
    const columns = this.#table.columns;
    for (const field of fields) {
      const index = columns.findIndex((def) => def.name === field.name);
      const writer = new FieldWriter(field, this.#table.column(index), this.#options.decoder !== null);
      this.#writers.push(writer);
      this.#byName.set(field.name, writer);
      this.#lowerCase.add(field.name.toLowerCase());
      this.#written.push(0);
    }
    // A new array, so that the loop over it stays fast after it grew.
    this.#writers = [...this.#writers];
  }

  async drop(): Promise<void> {
    await this.#table.drop();
    await this.#dead.drop();
  }

  /** Stages the record that `reader` stands on. */
  stage(reader: RecordBatchReader, place: Place, offset: number): Outcome {
    const value = reader.value();
    let parsed: unknown;
    if (value === null) return this.#quarantine(reader, place, offset, 'no value');
    if (value.length > VALUE_BYTES_MAX)
      return this.#quarantine(reader, place, offset, `value of ${value.length} bytes: more than 1 MiB`);
    if (this.#options.decoder !== null) return this.#stageTyped(this.#options.decoder, reader, place, offset, value);
    if (!isUtf8(value)) return this.#quarantine(reader, place, offset, 'value is not UTF-8');
    try {
      parsed = JSON.parse(value.toString('utf8'));
    } catch (error) {
      return this.#quarantine(reader, place, offset, `not JSON: ${describeError(error)}`);
    }
    if (!isRecord(parsed)) return this.#quarantine(reader, place, offset, 'not a JSON object');

    let refusal = this.#stageFields(parsed);
    if (refusal === INEXACT) {
      this.#table.undoRow();
      refusal = this.#stageFields(parseExactly(value.toString('utf8')) as Parsed); // the same object as above
      // A number that no column holds exactly, such as 1e20 for a long, stays one: the row must not be taken half filled.
      if (refusal === INEXACT) refusal = 'a number that is not exact in 64 bits';
    }
    if (refusal === 'evolve') {
      this.#table.undoRow();
      return 'evolve';
    }
    if (typeof refusal === 'string') return this.#quarantine(reader, place, offset, refusal);
    return this.#stageAdded(reader, place, offset, parsed, value.length);
  }

  #stageTyped(decoder: ValueDecoder, reader: RecordBatchReader, place: Place, offset: number, value: Buffer): Outcome {
    const decoded = decoder.decode(value);
    if (decoded === null) return 'schema';
    if (typeof decoded === 'string') return this.#quarantine(reader, place, offset, decoded);
    const refusal = this.#stageFields(decoded);
    // A typed value is exact as it is.
    if (refusal === INEXACT) return this.#quarantine(reader, place, offset, 'a number that is not exact in 64 bits');
    if (refusal !== undefined) return this.#quarantine(reader, place, offset, refusal);
    return this.#stageAdded(reader, place, offset, decoded, value.length);
  }

  /** undefined when all fit, INEXACT, or why not. */
  #stageFields(record: Parsed): string | typeof INEXACT | undefined {
    const row = this.#table.row;
    const serial = ++this.#serial;
    const writers = this.#writers;
    let position = 0;
    let count = 0;
    for (const name in record) {
      // Records of one producer have their fields in one order: mostly the next writer is the right one.
      let writer = writers[position];
      if (writer?.name !== name) {
        writer = this.#byName.get(name);
        if (writer === undefined) {
          const refusal = this.#unknownField(name, record);
          if (refusal === undefined) continue;
          return refusal;
        }
        position = writers.indexOf(writer);
      }
      const fit = writer.set(row, record[name]);
      if (fit !== FIT) return fit === INEXACT ? INEXACT : misfit(writer, fit, record[name]);
      this.#written[position] = serial;
      position++;
      count++;
    }
    if (count === writers.length) return undefined;
    for (let k = 0; k < writers.length; k++) {
      if (this.#written[k] === serial) continue;
      const writer = writers[k];
      if (writer !== undefined && !writer.setNull(row)) return `field ${writer.name} is missing: it is required`;
    }
    return undefined;
  }

  /** undefined: nothing is lost when it is left out. */
  #unknownField(name: string, record: Parsed): string | undefined {
    const refusal = refuseName(name);
    if (refusal !== undefined) return refusal;
    if (!this.#options.infer) return `field ${name} is not in the declared schema`;
    if (record[name] === null) return undefined;
    // All columns that its schema asks for are made before.
    if (this.#options.decoder !== null) return `field ${name} of its schema has no column`;
    // Asked here, because to look for new columns takes as long as to land some thousand records.
    const missing = missingColumns(record, (field) => this.#byName.has(field), this.#lowerCase);
    return typeof missing === 'string' ? missing : 'evolve';
  }

  #stageAdded(reader: RecordBatchReader, place: Place, offset: number, record: Parsed, bytes: number): Outcome {
    const table = this.#table;
    const row = table.row;
    const eventMicros = this.#eventMicros(reader, record);
    if (typeof eventMicros === 'string') return this.#quarantine(reader, place, offset, eventMicros);
    const untimely = this.#options.timely.refusal(eventMicros, reader.appendedMs);
    if (untimely !== undefined) return this.#quarantine(reader, place, offset, untimely);
    const arrival = optionalInteger(reader, ARRIVAL_HEADER);
    if (Number.isNaN(arrival)) return this.#quarantine(reader, place, offset, 'header arrival is not a whole number');
    const hour = Math.floor(eventMicros / MICROS_PER_HOUR);
    const inHour = this.#hours.get(hour);
    if (inHour === undefined && this.#hours.size >= OPEN_HOURS_MAX) {
      table.undoRow();
      return 'full';
    }
    const refusal = this.#identity.set(reader, row);
    if (refusal !== undefined) return this.#quarantine(reader, place, offset, refusal);
    this.#hours.set(hour, (inHour ?? 0) + 1);
    this.#hour.set(row, hour);
    this.#offset.set(row, offset);
    this.#partition.set(row, place.partition);
    this.#eventTime.set(row, eventMicros);
    if (arrival === undefined) {
      this.#arrivalTime.setNull(row);
    } else {
      this.#arrivalTime.set(row, arrival);
    }
    const replayed = reader.headerText(REPLAYED_HEADER);
    if (replayed !== null) this.#replayed.set(row, replayed === '1' || replayed === 'true' ? 1 : 0);
    else if (this.#identity.isForeign) this.#replayed.setNull(row);
    else this.#replayed.set(row, 0);
    table.endRow(bytes);
    this.#lastHour = hour;
    this.#records++;
    this.#bytes += Math.max(bytes, COLUMN_BYTES * this.#writers.length) + ADDED_BYTES;
    return 'staged';
  }

  /** The configured field, else the header, else the record's own time. A text is the reason why there is none. */
  #eventMicros(reader: RecordBatchReader, record: Parsed): number | string {
    const field = this.#options.eventTime;
    const value = field === undefined ? undefined : record[field];
    if (value !== undefined && value !== null) {
      const micros = toEpochMicros(value);
      if (Number.isNaN(micros)) return `field ${field ?? ''}: expected an event time, got ${shown(value)}`;
      return isEventTime(micros) ? micros : `field ${field ?? ''}: ${shown(value)} is no time from 1970 to 9999`;
    }
    const header = optionalInteger(reader, EVENT_HEADER);
    if (Number.isNaN(header)) return 'header event is not a whole number';
    if (header !== undefined)
      return isEventTime(header) ? header : `header event: ${header} us is no time from 1970 to 9999`;
    const micros = reader.timestampMs * 1000;
    return isEventTime(micros)
      ? micros
      : `the record's timestamp: ${reader.timestampMs} ms is no time from 1970 to 9999`;
  }

  #quarantine(reader: RecordBatchReader, place: Place, offset: number, reason: string): Outcome {
    this.#table.undoRow();
    this.#dead.add(reader, place, offset, reason);
    this.#lastHour = undefined;
    this.#records++;
    this.#bytes += (reader.value()?.length ?? 0) + ADDED_BYTES;
    return 'staged';
  }
}

/** undefined: absent; NaN: not a whole number. */
function optionalInteger(reader: RecordBatchReader, name: Uint8Array): number | undefined {
  const value = reader.headerInteger(name);
  return Number.isNaN(value) && reader.header(name) === null ? undefined : value;
}

function isRecord(value: unknown): value is Parsed {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function misfit(writer: FieldWriter, fit: Fit, value: unknown): string {
  if (fit === TOO_DEEP) return `field ${writer.name} is nested deeper than ${DEPTH_MAX}`;
  const expected = writer.field.isJson ? 'an object or array' : typeText(writer.field.type);
  return `field ${writer.name}: expected ${expected}, got ${shown(value)}`;
}

function typed<T>(column: unknown, type: new (...args: never[]) => T): T {
  if (column instanceof type) return column;
  throw new Error(`an added column is no ${type.name}`);
}
