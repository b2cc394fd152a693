/** Columns are narrower while they are sorted; the files are the same bytes as without it, whatever the values. */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { contentOf, contentStatement } from '../../compactor/compact/content.ts';
import { copyStatement, type OrderField, type SortQuery } from '../../compactor/compact/group-sql.ts';
import { type Packing, survey } from '../../compactor/compact/packing.ts';
import { sqlType } from '../../lib/lake/sql-types.ts';
import { DuckDb, sqlName, sqlText } from '../../lib/sql/duckdb.ts';
import type { Field, FieldType } from '../../lib/table/schema.ts';
import { tempDir } from '../support/temp.ts';

const ROWS = 1000;

interface Sample {
  readonly type: FieldType;
  /** Of row `n`, as SQL. */
  readonly value: string;
  /** How it is sorted; `as it is` is not packed. */
  readonly packed: string;
}

const SAMPLES: Readonly<Record<string, Sample>> = {
  shuffled: { type: 'long', value: `(n * 7919) % ${ROWS} - 500`, packed: '::USMALLINT' },
  few: { type: 'string', value: "'unit-' || n % 300", packed: '::words_' },
  few_and_none: {
    type: 'string',
    value: "CASE n % 3 WHEN 0 THEN '' WHEN 1 THEN 'Größe ''x''' END",
    packed: '::words_',
  },
  different: { type: 'string', value: "'r' || n", packed: 'as it is' },
  one: { type: 'string', value: "'it''s'", packed: 'constant' },
  one_or_none: { type: 'string', value: "CASE WHEN n % 2 = 0 THEN 'a' END", packed: '::words_' },
  one_with_nul: { type: 'string', value: "'a' || chr(0) || 'b'", packed: 'as it is' },
  few_with_nul: { type: 'string', value: "CASE n % 3 WHEN 0 THEN chr(0) ELSE 'a' || n % 5 END", packed: 'as it is' },
  no_text: { type: 'string', value: 'NULL', packed: 'constant' },
  near: { type: 'long', value: '-9223372036854775807 - 1 + n % 200', packed: '::UTINYINT' },
  far: { type: 'long', value: 'n * 9000000000', packed: 'as it is' },
  ends: {
    type: 'long',
    value: 'CASE WHEN n % 2 = 0 THEN 9223372036854775807 ELSE -9223372036854775808 END',
    packed: 'as it is',
  },
  gaps: { type: 'long', value: 'CASE WHEN n % 5 > 0 THEN 3000000000 + n * 70000 END', packed: '::UINTEGER' },
  no_long: { type: 'long', value: 'NULL', packed: 'constant' },
  int: { type: 'int', value: '-2147483648 + n', packed: '::USMALLINT' },
  wide_int: { type: 'int', value: 'CASE WHEN n % 2 = 0 THEN 2147483647 ELSE -2147483648 END', packed: 'as it is' },
  one_int: { type: 'int', value: '-7', packed: 'constant' },
  at: { type: 'timestamptz', value: 'make_timestamptz(1769842800000000 + n * 1000)', packed: '::UINTEGER' },
  before: { type: 'timestamp', value: 'make_timestamp(-1000000 - n)', packed: '::USMALLINT' },
  once: { type: 'timestamptz', value: 'make_timestamptz(-1)', packed: 'constant' },
  forever: {
    type: 'timestamp',
    value: "CASE WHEN n % 2 = 0 THEN TIMESTAMP 'infinity' ELSE make_timestamp(n) END",
    packed: 'as it is',
  },
  yes: { type: 'boolean', value: 'true', packed: 'constant' },
  maybe: { type: 'boolean', value: 'CASE WHEN n % 3 > 0 THEN n % 2 = 0 END', packed: 'as it is' },
  number: { type: 'double', value: 'sin(n)', packed: 'as it is' },
  odd_number: {
    type: 'double',
    value: "CASE n % 4 WHEN 0 THEN 'nan'::DOUBLE WHEN 1 THEN '-inf'::DOUBLE WHEN 2 THEN -0.0::DOUBLE END",
    packed: 'as it is',
  },
  float: { type: 'float', value: 'n / 3', packed: 'as it is' },
  decimal: { type: 'decimal(20, 4)', value: '-n / 7', packed: 'as it is' },
  date: { type: 'date', value: "DATE '1969-12-30' + n::INTEGER", packed: 'as it is' },
  time: { type: 'time', value: "TIME '00:00:00' + to_microseconds(n * 86399999)", packed: 'as it is' },
  uuid: { type: 'uuid', value: "('00000000-0000-4000-8000-' || lpad(n::VARCHAR, 12, '0'))::UUID", packed: 'as it is' },
  bytes: { type: 'binary', value: "encode(chr(0) || 'x' || n)", packed: 'as it is' },
  list: {
    type: { type: 'list', 'element-id': 900, 'element-required': false, element: 'long' },
    value: '[1, n]',
    packed: 'as it is',
  },
};

const FIELDS: readonly Field[] = Object.entries(SAMPLES).map(([name, { type }], index) => ({
  id: index + 1,
  name,
  required: false,
  type,
}));
const SCHEMA = { type: 'struct', fields: FIELDS } as const;
const ascending = (name: string): OrderField => ({ name, direction: 'ASC', nulls: 'LAST' });
const descending = (name: string): OrderField => ({ name, direction: 'DESC', nulls: 'FIRST' });

async function openDb(): Promise<{ readonly db: DuckDb; readonly dir: string }> {
  const dir = tempDir('packing');
  const db = await DuckDb.open({ memoryBytes: 200e6, threads: 1, scratchDir: dir, scratchBytes: 1e9 });
  onTestFinished(() => db.close());
  return { db, dir };
}

/** Rows `from` to `to` in a file as another writer would make it. */
async function writeInput(db: DuckDb, path: string, from: number, to: number) {
  const columns = FIELDS.map(
    ({ name, type }) => `(${SAMPLES[name]?.value ?? ''})::${sqlType(type)} AS ${sqlName(name)}`,
  );
  const ids = FIELDS.map(
    ({ name, id }) => `${sqlName(name)}: ${name === 'list' ? `{__duckdb_field_id: ${id}, element: 900}` : id}`,
  );
  await db.run(
    `COPY (SELECT ${columns.join(', ')} FROM range(${from}, ${to}) AS t(n)) TO ${sqlText(path)} (FORMAT parquet, FIELD_IDS {${ids.join(', ')}})`,
  );
  return { path, rows: to - from };
}

function queryOf(files: readonly { readonly path: string }[], order: readonly OrderField[]): SortQuery {
  return { paths: files.map(({ path }) => path), schema: SCHEMA, order };
}

async function digestOf(db: DuckDb, query: SortQuery, packing: Packing, target: string): Promise<string> {
  await db.run(copyStatement(query, target, { packing, hasLeftOut: false, metadata: {} }));
  return createHash('sha256').update(readFileSync(target)).digest('hex');
}

test('each column is as narrow as its values allow', async () => {
  const { db, dir } = await openDb();
  const files = [
    await writeInput(db, join(dir, 'a.parquet'), 0, 400),
    await writeInput(db, join(dir, 'b.parquet'), 400, ROWS),
  ];
  const { packing } = await survey(db, { files, schema: SCHEMA, hasLeftOut: false });
  const chosen = FIELDS.map(({ id, name }) => {
    const column = packing.get(id);
    const pack = column === undefined ? 'as it is' : (column.pack ?? 'constant');
    return [name, pack.replace(/^.*(::[A-Za-z]+_?)\d*$/s, '$1')];
  });
  expect(Object.fromEntries(chosen)).toEqual(
    Object.fromEntries(Object.entries(SAMPLES).map(([name, { packed }]) => [name, packed])),
  );
});

test.each([
  ['text, then a number', [ascending('few'), descending('shuffled')]],
  ['text with nulls first, downwards', [descending('few_and_none'), ascending('shuffled')]],
  ['numbers with nulls', [descending('gaps'), ascending('shuffled')]],
  ['times before and after 1970', [ascending('before'), descending('at')]],
  ['a constant and what follows it', [ascending('one'), ascending('no_long'), ascending('shuffled')]],
  ['text that holds a NUL', [ascending('few_with_nul'), descending('one_with_nul'), ascending('shuffled')]],
  ['what is not packed', [ascending('number')]],
])('the same bytes as without packing, sorted by %s', async (_, order) => {
  const { db, dir } = await openDb();
  const files = [
    await writeInput(db, join(dir, 'a.parquet'), 0, 400),
    await writeInput(db, join(dir, 'b.parquet'), 400, ROWS),
  ];
  const query = queryOf(files, order);
  const { content, packing } = await survey(db, { files, schema: SCHEMA, hasLeftOut: false });
  const plain = await digestOf(db, query, new Map(), join(dir, 'plain.parquet'));
  const packed = join(dir, 'packed.parquet');
  expect(await digestOf(db, query, packing, packed)).toBe(plain);
  const [row] = await db.query(contentStatement([packed], SCHEMA));
  expect(contentOf(row)).toEqual(content);
});

test('rows of which every column is constant are still as many', async () => {
  const { db, dir } = await openDb();
  const files = [await writeInput(db, join(dir, 'a.parquet'), 0, ROWS)];
  const schema = { ...SCHEMA, fields: FIELDS.filter(({ name }) => SAMPLES[name]?.packed === 'constant') };
  const query = { ...queryOf(files, [ascending('one')]), schema };
  const { packing } = await survey(db, { files, schema, hasLeftOut: false });
  const plain = await digestOf(db, query, new Map(), join(dir, 'plain.parquet'));
  expect(await digestOf(db, query, packing, join(dir, 'packed.parquet'))).toBe(plain);
});
