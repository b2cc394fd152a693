/** Fields of readings may have any name: those that DuckDB uses itself, SQL's words, our internal ones; and of two that differ only in case, one. */
import { expect, test } from 'vitest';
import { parseConfig } from '../../lib/config/load.ts';
import { pipelineSchema } from '../../lib/config/pipeline.ts';
import { commitTable } from '../../lib/table/commit.ts';
import { deadLetters } from './dead-letters.ts';
import {
  compactAll,
  DATASET,
  expectAccounts,
  HOUR_MS,
  landOnce,
  openTestPipeline,
  pipelineYaml,
  readRows,
  recordOf,
  TestProducer,
} from './pipeline.ts';

const NAMES = [
  'filename',
  'FILE_ROW_NUMBER',
  'file_index',
  'rowid',
  'select',
  'c0',
  'c7',
  'c12',
  't',
  '__file',
  '"; DROP TABLE x; --',
  'größe in °C',
  'a.b',
];

/** https://iceberg.apache.org/spec/#reserved-field-ids, by Iceberg's MetadataColumns. */
const OF_ICEBERG = [
  '_file',
  '_pos',
  '_deleted',
  '_spec_id',
  '_partition',
  '_row_id',
  '_last_updated_sequence_number',
  '_PARTITION',
  '_Row_Id',
];

test.each(['Filename', 'FILENAME', 'file_row_number', 'File_Row_Number', 'filename'])(
  'an hour with a field named %s is compacted, repeats left out',
  async (name) => {
    const pipeline = await openTestPipeline();
    const producer = new TestProducer(pipeline.log);
    const at = (seq: number) => recordOf({ seq, value: { sensor: 's', ts: HOUR_MS + seq, [name]: `v${seq}` } });
    await producer.append(0, [at(2), at(0), at(1)]);
    await landOnce(pipeline);
    await producer.append(0, [at(1), at(3)]);
    await landOnce(pipeline);
    const { summary, problems } = await compactAll(pipeline);
    expect(problems).toEqual([]);
    expect(summary).toMatchObject({ groups: 1, in: 5, out: 4, duplicates: 1 });
    expect((await readRows(pipeline.lake)).map((row) => row[name])).toEqual(['v0', 'v1', 'v2', 'v3']);
    await expectAccounts(pipeline.lake, { landed: 5, duplicates: 1 });
  },
);

test('names of all kinds go through landing and compaction with their values', async () => {
  const pipeline = await openTestPipeline();
  const producer = new TestProducer(pipeline.log);
  const values = Object.fromEntries(NAMES.map((name, index) => [name, index + 0.5]));
  for (let seq = 0; seq < 2; seq++) {
    await producer.append(0, [recordOf({ seq, value: { sensor: 's', ts: HOUR_MS + seq, ...values } })]);
    expect((await landOnce(pipeline)).summary).toMatchObject({ rows: 1, quarantined: 0 });
  }
  const { problems } = await compactAll(pipeline);
  expect(problems).toEqual([]);
  const rows = await readRows(pipeline.lake);
  expect(rows).toHaveLength(2);
  for (const row of rows) expect(row).toMatchObject(values);
});

test('the names of Iceberg’s metadata columns become no columns: records with them are quarantined by name, also null ones', async () => {
  const pipeline = await openTestPipeline();
  const producer = new TestProducer(pipeline.log);
  const taken = OF_ICEBERG.map((name, seq) =>
    recordOf({ seq, value: { sensor: 's', ts: HOUR_MS, [name]: seq % 2 === 0 ? 1 : null } }),
  );
  // Before there is a table, where they could be inferred, and after.
  for (let landing = 0; landing < 2; landing++) {
    const good = recordOf({ seq: 100 + landing, value: { sensor: 's', ts: HOUR_MS, _note: 'free' } });
    await producer.append(0, [...taken, good]);
    expect((await landOnce(pipeline)).summary).toMatchObject({ rows: 1, quarantined: OF_ICEBERG.length });
  }
  const reasons = (await deadLetters(pipeline)).map((row) => row['reason']);
  expect(reasons).toEqual(
    [...OF_ICEBERG, ...OF_ICEBERG].map((name) => `field ${name} has the name of a metadata column of Iceberg`),
  );
  const rows = await readRows(pipeline.lake);
  expect(rows.map((row) => row['_note'])).toEqual(['free', 'free']);
  const columns = Object.keys(rows[0] ?? {}).map((name) => name.toLowerCase());
  expect(columns).toContain('_log_partition');
  expect(columns.filter((name) => OF_ICEBERG.includes(name))).toEqual([]);
});

test('of two names that differ only in case the first becomes a column, and records with the other are quarantined by name', async () => {
  const pipeline = await openTestPipeline();
  const producer = new TestProducer(pipeline.log);
  await producer.append(0, [
    recordOf({ seq: 0, value: { sensor: 's', ts: HOUR_MS, Temp: 1 } }),
    recordOf({ seq: 1, value: { sensor: 's', ts: HOUR_MS, temp: 2 } }),
    recordOf({ seq: 2, value: { sensor: 's', ts: HOUR_MS, Temp: 3, TEMP: 4 } }),
    recordOf({ seq: 3, value: { sensor: 's', ts: HOUR_MS, Temp: 5 } }),
  ]);
  expect((await landOnce(pipeline)).summary).toMatchObject({ rows: 2, quarantined: 2 });
  expect((await compactAll(pipeline)).problems).toEqual([]);
  expect((await readRows(pipeline.lake)).map((row) => row['Temp'])).toEqual([1, 5]);
  await expectAccounts(pipeline.lake, { landed: 4, quarantined: 2 });
});

test('two such columns that another program made are both filled, also beside a new one, and the hour is compacted', async () => {
  const pipeline = await openTestPipeline();
  const producer = new TestProducer(pipeline.log);
  await producer.append(0, [recordOf({ seq: 0, value: { sensor: 's', ts: HOUR_MS, Temp: 1 } })]);
  await landOnce(pipeline);
  await commitTable(pipeline.lake, DATASET, async ({ schema, metadata }) => {
    const temp = { id: metadata['last-column-id'] + 1, name: 'temp', required: false, type: 'double' };
    const change = { operation: 'append', add: [], remove: [], summary: {} } as const;
    return { change: { ...change, schema: { ...schema, fields: [...schema.fields, temp] } }, extra: {} };
  });
  await producer.append(0, [recordOf({ seq: 1, value: { sensor: 's', ts: HOUR_MS, Temp: 2, temp: 3, more: 4 } })]);
  expect(await landOnce(pipeline)).toMatchObject({ summary: { rows: 1, quarantined: 0 }, problems: [] });
  expect(await compactAll(pipeline)).toMatchObject({ summary: { groups: 1, out: 2 }, problems: [] });
  // In the file the later column has another name; readers of the table find it by its id.
  const rows = (await readRows(pipeline.lake)).map((row) => Object.values(row).slice(-3));
  expect(rows).toEqual([
    [1, null, null],
    [2, 3, 4],
  ]);
});

test('a declared schema with two names that differ only in case is refused by both names', () => {
  const schema = ', schema: [{ name: Temp, type: double }, { name: temp, type: double }]';
  expect(() => parseConfig(pipelineYaml('/tmp/x', schema), 'pipeline.yaml', pipelineSchema)).toThrow(
    /Temp and temp differ only in case/,
  );
});
