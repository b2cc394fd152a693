import { join } from 'node:path';
import fc from 'fast-check';
import { expect, onTestFinished, test } from 'vitest';
import { LongColumn, NumberColumn, StringColumn } from '../../lib/sql/columns.ts';
import { DuckDb } from '../../lib/sql/duckdb.ts';
import { RowTable } from '../../lib/sql/row-table.ts';
import { tempDir } from '../support/temp.ts';

async function openDb(): Promise<DuckDb> {
  const db = await DuckDb.open({ memoryBytes: 5e8, threads: 1, scratchDir: tempDir('sql'), scratchBytes: 1e9 });
  onTestFinished(() => db.close());
  return db;
}

interface TestRow {
  readonly text: string | null;
  readonly long: bigint | null;
  readonly double: number | null;
  /** Staged, then undone, before the row itself. */
  readonly undone: string | null;
  /** The text is taken from the row before where that is possible. */
  readonly repeat: boolean;
}

const text = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 40 }),
  fc.string({ maxLength: 14 }),
  fc.string({ minLength: 40, maxLength: 300 }),
);
const row: fc.Arbitrary<TestRow> = fc.record({
  text: fc.option(text),
  long: fc.option(fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n })),
  double: fc.option(fc.double({ noNaN: true })),
  undone: fc.option(text),
  repeat: fc.boolean(),
});

test('what is staged in columns is what DuckDB and a Parquet file have, whatever was undone or repeated', async () => {
  const db = await openDb();
  const path = join(tempDir('parquet'), 'x.parquet');
  let run = 0;
  await fc.assert(
    // Rows are multiplied to fill several chunks of 2048.
    fc.asyncProperty(
      fc.array(row, { minLength: 1, maxLength: 60 }),
      fc.integer({ min: 1, max: 80 }),
      async (rows, times) => {
        const table = await RowTable.create(db, `t ${run++}`, [
          { name: 'n', type: 'INTEGER' },
          { name: 'text', type: 'VARCHAR' },
          { name: 'long', type: 'BIGINT' },
          { name: 'double', type: 'DOUBLE' },
        ]);
        await table.begin();
        const columns = [0, 1, 2, 3].map((index) => table.column(index));
        const [n, texts, longs, doubles] = columns;
        if (!(n instanceof NumberColumn) || !(texts instanceof StringColumn)) throw new Error('other columns');
        if (!(longs instanceof LongColumn) || !(doubles instanceof NumberColumn)) throw new Error('other columns');
        const expected: unknown[] = [];
        let before: string | null = null;
        for (let k = 0; k < rows.length * times; k++) {
          const from = rows[k % rows.length];
          if (from === undefined) throw new Error('an index within the rows');
          if (from.undone !== null) {
            texts.set(table.row, from.undone);
            longs.setNull(table.row);
            table.undoRow();
          }
          const at = table.row;
          n.set(at, k);
          const repeated: boolean = from.repeat && at > 0 && before !== null;
          const value: string | null = repeated ? before : from.text;
          if (repeated) texts.repeat(at, at - 1);
          else if (value === null || !texts.set(at, value)) texts.setNull(at);
          if (from.long === null) longs.setNull(at);
          else longs.setBigInt(at, from.long);
          if (from.double === null) doubles.setNull(at);
          else doubles.set(at, from.double);
          const kept: string | null = value === null || !value.isWellFormed() ? null : value;
          expected.push({ n: k, text: kept, long: from.long, double: from.double });
          before = kept;
          table.endRow(10);
        }
        const parquetColumns = ['n', 'text', 'long', 'double'].map((name, index) => ({ name, fieldId: index + 1 }));
        await table.copyTo(path, { columns: parquetColumns, level: 1, rowGroupRows: 4096, metadata: {} });
        expect(await db.query(`SELECT * FROM read_parquet('${path}') ORDER BY n`)).toEqual(expected);
        await table.drop();
      },
    ),
    { numRuns: 40 },
  );
});

test('a column that is added later is null in the rows before it', async () => {
  const db = await openDb();
  const table = await RowTable.create(db, 't', [{ name: 'a', type: 'BIGINT' }]);
  const put = async (index: number, value: number): Promise<void> => {
    await table.begin();
    const column = table.column(index);
    if (column instanceof LongColumn) column.set(table.row, value);
    table.endRow(8);
  };
  await put(0, 1);
  await table.addColumns([{ name: 'a "quoted" name', type: 'VARCHAR' }]);
  const added = table.column(1);
  if (added instanceof StringColumn) added.set(table.row, 'x');
  await put(0, 2);
  const path = join(tempDir(), 'x.parquet');
  await table.copyTo(path, {
    columns: ['a', 'a "quoted" name'].map((name, index) => ({ name, fieldId: index + 1 })),
    level: 1,
    rowGroupRows: 4096,
    metadata: {},
  });
  expect(await db.query(`SELECT * FROM read_parquet('${path}')`)).toEqual([
    { a: 1n, 'a "quoted" name': null },
    { a: 2n, 'a "quoted" name': 'x' },
  ]);
});

test('a value that cannot be converted is no damaged file, whatever it says', async () => {
  const db = await openDb();
  await expect(db.query("SELECT CAST('corrupt Parquet' AS INTEGER)")).rejects.toMatchObject({ code: 'io' });
});

test('nothing is fetched: an unknown extension is an error', async () => {
  const db = await openDb();
  await expect(db.query("SELECT * FROM read_parquet('https://127.0.0.1:1/x.parquet')")).rejects.toThrow(
    /extension|httpfs/i,
  );
});
