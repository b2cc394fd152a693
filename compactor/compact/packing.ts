/**
 * How the columns of a group are held while its rows are sorted: each as narrow as its values allow. What a sort costs is mostly the bytes
 * that it moves, compares and spills; DuckDB packs columns by itself only where it knows their ranges, and of many files it does not.
 *
 * - A column with one value in all rows (or none) is not sorted at all: the value is written beside the rows.
 * - Text with few different values (sensors, units, versions), none with a NUL, is sorted as its number in the ordered list of them, a DuckDB ENUM.
 * - Whole numbers and times are sorted as the difference to the smallest, in as few bytes as the largest takes.
 *
 * Invariants: the packed order is the order of the values, and unpacked each value is what was read: the files are the same bytes
 * as without packing (test/compactor/packing.test.ts).
 * Limits: a list has at most WORDS_MAX texts of WORD_BYTES_MAX bytes together. Two passes over the narrow columns, a twentieth of the sort.
 */
import type { SqlRunner } from '../../lib/sql/parquet-footer.ts';
import { parquetSource, sqlType } from '../../lib/lake/sql-types.ts';
import { sqlText, type Row } from '../../lib/sql/duckdb.ts';
import type { Field, Schema } from '../../lib/table/schema.ts';
import { type Content, contentColumns, contentOf, IS_KEPT } from './content.ts';

export interface PackedColumn {
  /** What is sorted, as SQL over the source's column; null: nothing, every row has the same. */
  readonly pack: string | null;
  /** The value again, as SQL over what `pack` gave, for which it is told the name. */
  readonly unpack: (packed: string) => string;
}

/** By field id. A column that is not in it is sorted as it is. */
export type Packing = ReadonlyMap<number, PackedColumn>;

/** What an ENUM numbers in two bytes. */
const WORDS_MAX = 65_535;
/** An ENUM is held in memory that nothing spills. */
const WORD_BYTES_MAX = 4_000_000;
/** grouping_id() tells at most 63 columns apart. */
const COLUMNS_A_PASS = 32;
const WORDS_TABLE = 'words';

interface Countable {
  readonly bytes: number;
  readonly toNumber: (value: string) => string;
  readonly fromNumber: (number: string) => string;
}

const WHOLE: Countable = { bytes: 8, toNumber: (value) => value, fromNumber: (number) => number };
const COUNTABLE: Readonly<Record<string, Countable>> = {
  boolean: { bytes: 1, toNumber: (value) => `${value}::TINYINT`, fromNumber: (number) => `(${number})::BOOLEAN` },
  int: { ...WHOLE, bytes: 4, fromNumber: (number) => `(${number})::INTEGER` },
  long: WHOLE,
  timestamp: {
    bytes: 8,
    toNumber: (value) => `epoch_us(${value})`,
    fromNumber: (number) => `make_timestamp(${number})`,
  },
  timestamptz: {
    bytes: 8,
    toNumber: (value) => `epoch_us(${value})`,
    fromNumber: (number) => `make_timestamptz(${number})`,
  },
};

const UNSIGNED = [
  { name: 'UTINYINT', bytes: 1 },
  { name: 'USMALLINT', bytes: 2 },
  { name: 'UINTEGER', bytes: 4 },
] as const;

export interface SurveyInput {
  readonly files: readonly { readonly path: string; readonly rows: number }[];
  readonly schema: Schema;
  /** LEFT_OUT_TABLE has rows of these files. */
  readonly hasLeftOut: boolean;
}

/** What the rows of a group are, and how they are sorted best. */
export interface Survey {
  readonly content: Content;
  readonly packing: Packing;
}

/** Makes ENUM types in the worker's database that the packing refers to. Throws `corrupt` for pages that do not decode. */
export async function survey(sql: SqlRunner, input: SurveyInput): Promise<Survey> {
  const { content, numbers } = await packNumbers(sql, input);
  return { content, packing: new Map([...numbers, ...(await packTexts(sql, input))]) };
}

/** With the content, because both take a look at every row. */
async function packNumbers(
  sql: SqlRunner,
  { files, schema, hasLeftOut }: SurveyInput,
): Promise<{ readonly content: Content; readonly numbers: Map<number, PackedColumn> }> {
  const columns = schema.fields.flatMap((field) => {
    const countable = typeof field.type === 'string' ? COUNTABLE[field.type] : undefined;
    return countable === undefined ? [] : [{ field, countable }];
  });
  const facts = columns.map(({ field: { id }, countable: { toNumber } }) => {
    const [least, most] = [toNumber(`min(c${id})`), toNumber(`max(c${id})`)];
    return `count(c${id}) AS n${id}, (${least})::BIGINT AS least${id}, (${most})::BIGINT AS most${id}`;
  });
  const content = contentColumns(schema.fields.map(({ id }) => `c${id}`));
  const [row] = await sql.query(
    `SELECT ${[content, ...facts].join(', ')} FROM ${sourceOf(files, schema)}` +
      (hasLeftOut ? ` WHERE ${IS_KEPT}` : ''),
  );
  const numbers = new Map<number, PackedColumn>();
  for (const { field, countable } of columns) {
    const packed = packNumber(field, countable, row ?? {});
    if (packed !== null) numbers.set(field.id, packed);
  }
  return { content: contentOf(row), numbers };
}

function packNumber(field: Field, { bytes, toNumber, fromNumber }: Countable, facts: Row): PackedColumn | null {
  const { id } = field;
  const [least, most, count] = [facts[`least${id}`], facts[`most${id}`], facts[`n${id}`]];
  if (count === 0n) return constantNull(field);
  // Infinite times have no number.
  if (typeof least !== 'bigint' || typeof most !== 'bigint') return null;
  // In quotes, because the minus of the smallest number would be taken off after the cast.
  const base = `CAST('${least}' AS BIGINT)`;
  const isEverywhere = count === facts['row_count'];
  if (least === most && isEverywhere) return { pack: null, unpack: () => fromNumber(base) };
  const narrow = UNSIGNED.find((type) => most - least < 1n << BigInt(8 * type.bytes));
  if (narrow === undefined || narrow.bytes >= bytes) return null;
  return {
    pack: `(${toNumber(`c${id}`)} - ${base})::${narrow.name}`,
    unpack: (packed) => fromNumber(`${packed}::BIGINT + ${base}`),
  };
}

async function packTexts(sql: SqlRunner, input: SurveyInput): Promise<Map<number, PackedColumn>> {
  const packing = new Map<number, PackedColumn>();
  const fields = await repeatedTexts(sql, input);
  for (let start = 0; start < fields.length; start += COLUMNS_A_PASS) {
    const portion = fields.slice(start, start + COLUMNS_A_PASS);
    const columns = portion.map(({ id }) => `c${id}`);
    const list = columns.join(', ');
    // In each of the grouping sets all columns but one are null.
    await sql.query(
      `CREATE OR REPLACE TEMP TABLE ${WORDS_TABLE} AS SELECT coalesce(${list}, NULL) AS word, grouping_id(${list}) AS others ` +
        `FROM ${sourceOf(input.files, input.schema)} GROUP BY GROUPING SETS (${columns.map((column) => `(${column})`).join(', ')})`,
    );
    const facts = await sql.query(
      'SELECT others, count(*) AS groups, count(word) AS words, sum(strlen(word)) AS bytes, min(word) AS least, ' +
        'bool_or(contains(word, chr(0))) AS has_nul ' +
        `FROM ${WORDS_TABLE} GROUP BY others`,
    );
    for (const [index, field] of portion.entries()) {
      const others = (1n << BigInt(portion.length)) - 1n - (1n << BigInt(portion.length - 1 - index));
      const row = facts.find((fact) => BigInt(Number(fact['others'])) === others);
      const packed = await packText(sql, field, others, row);
      if (packed !== null) packing.set(field.id, packed);
    }
    await sql.query(`DROP TABLE ${WORDS_TABLE}`);
  }
  return packing;
}

async function packText(
  sql: SqlRunner,
  field: Field,
  others: bigint,
  facts: Row | undefined,
): Promise<PackedColumn | null> {
  const words = Number(facts?.['words'] ?? 0);
  if (words === 0) return constantNull(field);
  // A statement's text ends at a NUL, and to sort by an ENUM DuckDB makes a text of its words that it parses.
  if (facts?.['has_nul'] === true) return null;
  const least = facts?.['least'];
  if (facts?.['groups'] === 1n && typeof least === 'string') {
    return { pack: null, unpack: () => sqlText(least) };
  }
  if (words > WORDS_MAX || Number(facts?.['bytes']) > WORD_BYTES_MAX) return null;
  const type = `words_${field.id}`;
  await sql.query(`DROP TYPE IF EXISTS ${type}`);
  await sql.query(
    `CREATE TYPE ${type} AS ENUM (SELECT word FROM ${WORDS_TABLE} WHERE others = ${others} AND word IS NOT NULL ORDER BY word)`,
  );
  return { pack: `c${field.id}::${type}`, unpack: (packed) => `${packed}::VARCHAR` };
}

/** The text columns in which the largest file repeats itself: to list the values of one that never does would cost as much as the sort. */
async function repeatedTexts(sql: SqlRunner, { files, schema }: SurveyInput): Promise<readonly Field[]> {
  const texts = schema.fields.filter(({ type }) => type === 'string');
  if (texts.length === 0) return [];
  const largest = files.reduce((most, file) => (file.rows > most.rows ? file : most));
  const counts = texts.map(({ id }) => `count(DISTINCT c${id}) AS n${id}`).join(', ');
  const [row] = await sql.query(`SELECT count(*) AS n, ${counts} FROM ${sourceOf([largest], schema)}`);
  return texts.filter(({ id }) => {
    const count = Number(row?.[`n${id}`]);
    return count <= 1 || count * 2 <= Number(row?.['n']);
  });
}

const constantNull = (field: Field): PackedColumn => ({
  pack: null,
  unpack: () => `NULL::${sqlType(field.type)}`,
});

function sourceOf(files: SurveyInput['files'], schema: Schema): string {
  return parquetSource(
    files.map(({ path }) => path),
    schema.fields,
  );
}
