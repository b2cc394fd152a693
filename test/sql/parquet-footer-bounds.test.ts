/** The bounds of a file with several row groups are those of all its values, of every type: readers skip a file by them. */
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { DuckDb, sqlText } from '../../lib/sql/duckdb.ts';
import { readFooter } from '../../lib/sql/parquet-footer.ts';
import { tempDir } from '../support/temp.ts';

/** Less than a row group of the smaller value, then the other: the second row group decides. */
async function boundsOf(type: string, first: string, second: string): Promise<readonly [string | null, string | null]> {
  const dir = tempDir('footer');
  const db = await DuckDb.open({ memoryBytes: 300e6, threads: 1, scratchDir: dir, scratchBytes: 1e9 });
  try {
    const path = join(dir, 'a.parquet');
    const value = (text: string): string => `${sqlText(text)}::${type}`;
    await db.run(
      `COPY (SELECT CASE WHEN i < 3000 THEN ${value(first)} ELSE ${value(second)} END AS v FROM range(6000) r(i)) ` +
        `TO ${sqlText(path)} (FORMAT parquet, ROW_GROUP_SIZE 2048)`,
    );
    const { columns, splitOffsets } = await readFooter(db, path);
    expect(splitOffsets).toHaveLength(3);
    return [columns[0]?.min ?? null, columns[0]?.max ?? null];
  } finally {
    db.close();
  }
}

test.each([
  ['BIGINT', '9', '10'],
  ['DOUBLE', '-10.0', '9.0'],
  ['DECIMAL(38, 2)', '9.00', '10.00'],
  ['DECIMAL(38, 2)', '-10.00', '-9.00'],
  ['DECIMAL(18, 2)', '1234567890123456.77', '1234567890123456.78'],
  ['DECIMAL(9, 3)', '-0.001', '0.010'],
  ['TIME', '07:00:00.1', '07:00:00.12'],
  ['DATE', '1969-12-31', '1970-01-01'],
  ['TIMESTAMP', '1969-12-31 23:59:59.9', '1970-01-01 00:00:00'],
  ['TIMESTAMPTZ', '1969-12-31 23:59:59+00', '1969-12-31 23:59:59.5+00'],
  ['VARCHAR', '10', '9'],
  ['UUID', '0fffffff-ffff-ffff-ffff-ffffffffffff', 'f0000000-0000-0000-0000-000000000000'],
  ['BOOLEAN', 'false', 'true'],
])('%s from %s to %s, whichever comes first', async (type, least, most) => {
  expect(await boundsOf(type, least, most)).toEqual([least, most]);
  expect(await boundsOf(type, most, least)).toEqual([least, most]);
});

test.each([
  ['DATE', '2020-01-01', '0044-03-15 (BC)'],
  ['TIMESTAMP', '2020-01-01 00:00:00', '10000-01-01 00:00:00'],
  ['TIMESTAMPTZ', '2020-01-01 00:00:00+00', 'infinity'],
  ['DOUBLE', '1.0', 'nan'],
  ['DOUBLE', '1.0', 'inf'],
])('%s %s and %s: no bound is better than a wrong one', async (type, first, second) => {
  for (const [a, b] of [
    [first, second],
    [second, first],
  ] as const) {
    expect(await boundsOf(type, a, b)).toContain(null);
  }
});
