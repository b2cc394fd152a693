import { expect, onTestFinished, test, vi } from 'vitest';
import { Staging } from '../../compactor/lander/staging.ts';
import { loadTable } from '../../lib/table/table.ts';
import {
  compactAll,
  DATASET,
  expectAccounts,
  foreignRecord,
  HOUR_MS,
  landOnce,
  openTestPipeline,
  readRows,
  recordOf,
  TestProducer,
  type TestPipeline,
} from './pipeline.ts';

async function columns({ lake }: TestPipeline): Promise<Record<string, unknown>> {
  const table = await loadTable(lake, DATASET);
  const fields = table?.schema.fields.filter((field) => !field.name.startsWith('_')) ?? [];
  return Object.fromEntries(fields.map((field) => [field.name, field.type]));
}

test('types are inferred from the first batch, and new fields become columns at once', async () => {
  const pipeline = await openTestPipeline();
  const producer = new TestProducer(pipeline.log);
  await producer.append(0, [
    foreignRecord({ sensor: 's', ts: HOUR_MS, rms: 0, ok: true, tags: ['a'] }),
    foreignRecord({ sensor: 's', ts: HOUR_MS, rms: 0.5, ok: false, tags: ['b', 'c'], serial: '9007199254740993' }),
  ]);
  await landOnce(pipeline);
  expect(await columns(pipeline)).toEqual({
    sensor: 'string',
    ts: 'long',
    rms: 'double',
    ok: 'boolean',
    tags: 'string',
    serial: 'string',
  });
  await producer.append(0, [
    foreignRecord({ sensor: 't', ts: HOUR_MS, rms: 2, humidity: 40.5 }),
    foreignRecord({ sensor: 'u', ts: HOUR_MS, late: 'field' }),
  ]);
  const later = await landOnce(pipeline);
  expect(later.summary).toMatchObject({ rows: 2, quarantined: 0, lost: 0, files: 1 });
  expect(await columns(pipeline)).toMatchObject({ humidity: 'double', late: 'string' });
  await compactAll(pipeline);
  const rows = await readRows(pipeline.lake);
  expect(rows).toMatchObject([
    { sensor: 's', tags: '["a"]', humidity: null, late: null },
    { sensor: 's', tags: '["b","c"]', serial: '9007199254740993' },
    { sensor: 't', humidity: 40.5, tags: null },
    { sensor: 'u', late: 'field', rms: null },
  ]);
});

test('integers beyond 2^53 are exact', async () => {
  const pipeline = await openTestPipeline();
  const text = (id: string): string => `{"sensor":"s","ts":${HOUR_MS},"id":${id},"inner":{"n":${id}}}`;
  await new TestProducer(pipeline.log).append(0, [
    foreignRecord(text('4294967296')),
    foreignRecord(text('9223372036854775807')),
    foreignRecord(text('-9007199254740993')),
    foreignRecord(text('9223372036854775808')),
  ]);
  expect((await landOnce(pipeline)).summary).toMatchObject({ rows: 3, quarantined: 1 });
  expect((await readRows(pipeline.lake)).map((row) => [row['id'], row['inner']])).toEqual([
    [4294967296n, '{"n":4294967296}'],
    [9223372036854775807n, '{"n":9223372036854775807}'],
    [-9007199254740993n, '{"n":-9007199254740993}'],
  ]);
});

test('a declared schema refuses what it does not name, and grows by a new declaration', async () => {
  const schema = (rest: string): string =>
    `, schema: [{name: sensor, type: string, required: true}, {name: ts, type: timestamptz}, {name: n, type: ${rest}]`;
  const pipeline = await openTestPipeline(schema('int}'));
  const producer = new TestProducer(pipeline.log);
  await producer.append(0, [
    foreignRecord({ sensor: 's', ts: '2026-01-31T08:30:00.123456+01:00', n: 7 }),
    foreignRecord({ sensor: 's', ts: HOUR_MS, n: 2 ** 31 }),
    foreignRecord({ ts: HOUR_MS, n: 1 }),
    foreignRecord({ sensor: 's', ts: HOUR_MS, n: 1, extra: 1 }),
  ]);
  expect((await landOnce(pipeline)).summary).toMatchObject({ rows: 1, quarantined: 3 });
  expect(await readRows(pipeline.lake)).toMatchObject([{ n: 7, _event_time: new Date('2026-01-31T07:30:00.123Z') }]);

  const [dataset] = pipeline.config.datasets;
  if (dataset === undefined || dataset.schema === 'infer') throw new Error('the schema is declared');
  const wider = dataset.schema.map((field) => (field.name === 'n' ? { ...field, type: 'long' as const } : field));
  const grown = { ...dataset, schema: [...wider, { name: 'extra', type: 'double' as const, required: false }] };
  const config = { ...pipeline.config, datasets: [grown] };
  await producer.append(0, [foreignRecord({ sensor: 's', ts: HOUR_MS, n: 2 ** 40, extra: 0.5 })]);
  expect((await landOnce(pipeline, { config })).summary).toMatchObject({ rows: 1, quarantined: 0 });
  await compactAll(pipeline, { config });
  expect(await columns(pipeline)).toEqual({ sensor: 'string', ts: 'timestamptz', n: 'long', extra: 'double' });
  expect((await readRows(pipeline.lake)).map((row) => row['n'])).toEqual([BigInt(2 ** 40), 7n]);

  const narrower = { ...dataset, schema: [{ name: 'sensor', type: 'int' as const, required: false }] };
  await producer.append(0, [foreignRecord({ sensor: 1 })]);
  await expect(landOnce(pipeline, { config: { ...config, datasets: [narrower] } })).rejects.toMatchObject({
    code: 'config',
  });
});

test('event times far away land in their own hours, a bounded number of files a commit', async () => {
  const pipeline = await openTestPipeline(', maxFuture: 36500d');
  const hours = Array.from({ length: 250 }, (_, n) =>
    recordOf({ seq: n, value: { sensor: 's', ts: n === 0 ? 1000 : Date.UTC(2100, 0, 1) + n * 3_600_000, rms: n } }),
  );
  await new TestProducer(pipeline.log).append(0, hours);
  const commits: number[] = [];
  const result = await landOnce(pipeline, {
    onStatus: (status) => status.kind === 'commit' && commits.push(status.totals.files),
  });
  expect(result.summary).toEqual({ records: 250, rows: 250, quarantined: 0, lost: 0, files: 250 });
  expect(commits).toEqual([200, 50]);
  await expectAccounts(pipeline.lake, { landed: 250, liveRows: 250, liveFiles: 250 });
});

test('a record with more names than a dataset has room for takes none of it, and of those with one name too many none is looked at twice', async () => {
  const pipeline = await openTestPipeline();
  const looks = vi.spyOn(Staging.prototype, 'addFields');
  onTestFinished(() => looks.mockRestore());
  const producer = new TestProducer(pipeline.log);
  const names = Array.from({ length: 501 }, (_, index) => [`x${index}`, index] as const);
  const good = { sensor: 's', ts: HOUR_MS };
  await producer.append(0, [foreignRecord({ ...good, ...Object.fromEntries(names) }), foreignRecord(good)]);
  expect((await landOnce(pipeline)).summary).toMatchObject({ rows: 1, quarantined: 1 });
  expect(Object.keys(await columns(pipeline))).toEqual(['sensor', 'ts']);
  looks.mockClear();
  // Each record has a name of its own: 498 of them become columns.
  await producer.append(
    0,
    names.map(([name, value]) => foreignRecord({ ...good, [name]: value })),
  );
  expect((await landOnce(pipeline)).summary).toMatchObject({ rows: 498, quarantined: 3 });
  expect(looks).toHaveBeenCalledTimes(1);
  await expectAccounts(pipeline.lake, { landed: 503, quarantined: 4 });
});
