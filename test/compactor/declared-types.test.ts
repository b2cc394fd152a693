/** Declared columns of every type, from JSON values: exact or quarantined; schemas that grow; nested ids in every file. */
import { parquetMetadataAsync, parquetSchema } from 'hyparquet';
import { expect, test } from 'vitest';
import { parseConfig } from '../../lib/config/load.ts';
import { pipelineSchema } from '../../lib/config/pipeline.ts';
import { loadTable } from '../../lib/table/table.ts';
import { deadLetters } from './dead-letters.ts';
import {
  compactAll,
  DATASET,
  foreignRecord,
  HOUR_MS,
  landOnce,
  liveFiles,
  openTestPipeline,
  pipelineYaml,
  readRows,
  TestProducer,
  type TestPipeline,
} from './pipeline.ts';

const declared = (...fields: readonly string[]): string =>
  `, schema: [{ name: ts, type: long }, { name: sensor, type: string }, ${fields.join(', ')}]`;

function withSchema(pipeline: TestPipeline, dataset: string): TestPipeline {
  return { ...pipeline, config: parseConfig(pipelineYaml(pipeline.dir, dataset), 'p.yaml', pipelineSchema) };
}

const ALL = declared(
  '{ name: price, type: "decimal(10, 2)" }',
  '{ name: id, type: uuid }',
  '{ name: at, type: time }',
  '{ name: local, type: timestamp }',
  '{ name: raw, type: binary }',
  '{ name: place, type: { struct: [{ name: hall, type: string }, { name: n, type: long }, { name: t, type: timestamptz }] } }',
  '{ name: samples, type: { list: double } }',
  '{ name: peaks, type: { list: { struct: [{ name: hz, type: int }] } } }',
  '{ name: labels, type: { map: { key: string, value: { list: string } } } }',
);

test('values of every declared type are exact, in small files and after compaction', async () => {
  const pipeline = await openTestPipeline(ALL);
  const value = {
    ts: HOUR_MS,
    sensor: 's',
    price: 12.5,
    id: '6F1B0A3E-0000-4000-8000-00000000000A',
    at: '01:02:03.5',
    local: '2026-01-31T07:00:00.5',
    raw: 'AAH/',
    place: { hall: 'A "1"', n: 1, t: '2026-01-31T08:00:00.123+01:00' },
    samples: [1, null, 2.5],
    peaks: [{ hz: 50 }, {}],
    labels: { line: ['a', 'b'] },
  };
  const large = JSON.stringify({ ...value, price: '99999999.99' }).replace('"n":1', '"n":9007199254740993');
  await new TestProducer(pipeline.log).append(0, [
    foreignRecord(value),
    foreignRecord(large),
    foreignRecord({ ts: HOUR_MS, place: null }),
  ]);
  expect((await landOnce(pipeline)).summary).toMatchObject({ rows: 3, quarantined: 0 });
  for (const compact of [false, true]) {
    if (compact) expect((await compactAll(pipeline)).problems).toEqual([]);
    const rows = (await readRows(pipeline.lake)).toSorted((a, b) => Number(a['_offset']) - Number(b['_offset']));
    expect(rows).toMatchObject([
      {
        price: 12.5,
        raw: new Uint8Array([0, 1, 255]),
        place: { hall: 'A "1"', n: 1n, t: new Date(HOUR_MS + 123) },
        samples: [1, null, 2.5],
        peaks: [{ hz: 50 }, { hz: null }],
        labels: { line: ['a', 'b'] },
      },
      { price: 99999999.99, place: { n: 9007199254740993n } },
      { price: null, id: null, place: null, samples: null, labels: null },
    ]);
    await expectNestedIds(pipeline);
  }
});

/** Readers match nested fields by id too: every leaf of every file has the id that the table's schema gives it. */
async function expectNestedIds({ lake }: TestPipeline): Promise<void> {
  const table = await loadTable(lake, DATASET);
  const place = table?.schema.fields.find((field) => field.name === 'place');
  for (const location of await liveFiles(lake)) {
    const bytes = await lake.store.get(lake.store.keyOf(location) ?? '');
    const file = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength) as ArrayBuffer;
    const found = parquetSchema(await parquetMetadataAsync(file)).children.find(
      ({ element }) => element.name === 'place',
    );
    expect(found?.element.field_id).toBe(place?.id);
    expect(found?.children.map(({ element }) => [element.name, element.field_id])).toEqual(
      typeof place?.type === 'object' && place.type.type === 'struct'
        ? place.type.fields.map((field) => [field.name, field.id])
        : [],
    );
  }
}

test('what would lose something is quarantined with the field and what was expected', async () => {
  const pipeline = await openTestPipeline(ALL);
  const cases: readonly (readonly [field: string, value: unknown])[] = [
    ['price: expected decimal(10, 2)', 12.345],
    ['price: expected decimal(10, 2)', 123456789],
    ['price: expected decimal(10, 2)', '1e3'],
    ['id: expected uuid', 'not-a-uuid'],
    ['at: expected time', '24:00:00'],
    ['local: expected timestamp', '2026-02-30T00:00:00'],
    ['raw: expected binary', 'not base64!'],
    ['place: expected an object', [1]],
    ['place: expected an object', { hall: 'A', other: 1 }],
    ['place: expected an object', { n: 1.5 }],
    ['samples: expected an array', { 0: 1 }],
    ['samples: expected an array', ['1']],
    ['peaks: expected an array', [{ hz: 2 ** 31 }]],
    ['labels: expected an object', { a: 'no list' }],
  ];
  await new TestProducer(pipeline.log).append(
    0,
    cases.map(([field, value]) => foreignRecord({ ts: HOUR_MS, sensor: 's', [field.split(':')[0] ?? '']: value })),
  );
  expect((await landOnce(pipeline)).summary).toMatchObject({ rows: 0, quarantined: cases.length });
  const letters = await deadLetters(pipeline);
  for (const [n, [reason]] of cases.entries()) {
    expect(letters.find((letter) => letter['offset'] === BigInt(n))?.['reason']).toContain(`field ${reason}`);
  }
});

test('a declaration may grow inside of structs and widen numbers and decimals, never the other way', async () => {
  const place = (...fields: readonly string[]): string => `{ name: place, type: { struct: [${fields.join(', ')}] } }`;
  const first = declared(
    '{ name: price, type: "decimal(5, 2)" }',
    place('{ name: x, type: int }'),
    '{ name: n, type: int }',
  );
  const second = declared(
    '{ name: price, type: "decimal(12, 2)" }',
    place('{ name: y, type: string }', '{ name: x, type: long }'),
    '{ name: n, type: long }',
  );
  const pipeline = await openTestPipeline(first);
  const producer = new TestProducer(pipeline.log);
  await producer.append(0, [foreignRecord({ ts: HOUR_MS, price: 1.25, place: { x: 1 }, n: 1 })]);
  await landOnce(pipeline);
  const grown = withSchema(pipeline, second);
  await producer.append(0, [
    foreignRecord({ ts: HOUR_MS, price: '1234567890.25', place: { x: 2 ** 40, y: 'new' }, n: 2 ** 40 }),
  ]);
  expect((await landOnce(grown)).summary).toMatchObject({ rows: 1, quarantined: 0 });
  await compactAll(grown);
  expect(await readRows(pipeline.lake)).toMatchObject([
    { price: 1.25, place: { x: 1n, y: null }, n: 1n },
    { price: 1234567890.25, place: { x: BigInt(2 ** 40), y: 'new' }, n: BigInt(2 ** 40) },
  ]);
  await producer.append(0, [foreignRecord({ ts: HOUR_MS })]);
  await expect(landOnce(withSchema(pipeline, declared('{ name: n, type: double }')))).rejects.toThrow(
    'field n: the table has long, which cannot become double',
  );
});

test('a type that does not exist, or two nested fields of one name, are errors of the configuration', () => {
  const parse = (dataset: string) => () => parseConfig(pipelineYaml('/tmp', dataset), 'p.yaml', pipelineSchema);
  expect(parse(declared('{ name: a, type: varchar }'))).toThrow('expected boolean, int, long');
  expect(parse(declared('{ name: a, type: { struct: [{ name: b, type: int }, { name: B, type: int }] } }'))).toThrow(
    'schema',
  );
  expect(parse(', value: { format: avro }')).toThrow('value.registry: missing');
  expect(parse(', value: { registry: "http://h" }')).toThrow('JSON values have no registry');
});
