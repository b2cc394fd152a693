import avsc from 'avsc';
import { expect, test } from 'vitest';
import { loadTable } from '../../../lib/table/table.ts';
import type { TestRecord } from '../../support/log-batches.ts';
import {
  compactAll,
  DATASET,
  expectAccounts,
  HOUR_MS,
  type LakeRow,
  landOnce,
  openTestPipeline,
  readRows,
  TestProducer,
  type TestPipeline,
} from '../pipeline.ts';
import { deadLetters } from '../dead-letters.ts';
import { framed, TestRegistry } from './test-registry.ts';

const MICROS = HOUR_MS * 1000;

const SCHEMA = {
  type: 'record',
  name: 'Reading',
  namespace: 'plant',
  fields: [
    { name: 'sensor', type: 'string' },
    { name: 'ts', type: { type: 'long', logicalType: 'timestamp-micros' } },
    { name: 'seen', type: ['null', { type: 'long', logicalType: 'timestamp-millis' }], default: null },
    { name: 'local', type: { type: 'long', logicalType: 'local-timestamp-micros' } },
    { name: 'count', type: 'int' },
    { name: 'total', type: 'long' },
    { name: 'rms', type: 'double' },
    { name: 'gain', type: 'float' },
    { name: 'ok', type: 'boolean' },
    { name: 'price', type: { type: 'bytes', logicalType: 'decimal', precision: 10, scale: 2 } },
    { name: 'id', type: { type: 'string', logicalType: 'uuid' } },
    { name: 'day', type: { type: 'int', logicalType: 'date' } },
    { name: 'at', type: { type: 'int', logicalType: 'time-millis' } },
    { name: 'raw', type: 'bytes' },
    { name: 'hash', type: { type: 'fixed', name: 'Hash', size: 4 } },
    { name: 'state', type: { type: 'enum', name: 'State', symbols: ['IDLE', 'RUN'] } },
    {
      name: 'place',
      type: [
        'null',
        {
          type: 'record',
          name: 'Place',
          fields: [
            { name: 'hall', type: 'string' },
            { name: 'x', type: ['null', 'double'], default: null },
          ],
        },
      ],
      default: null,
    },
    { name: 'samples', type: { type: 'array', items: ['null', 'int'] } },
    {
      name: 'peaks',
      type: { type: 'array', items: { type: 'record', name: 'Peak', fields: [{ name: 'hz', type: 'long' }] } },
    },
    { name: 'labels', type: { type: 'map', values: 'string' } },
  ],
} as const;

interface Typed {
  readonly [name: string]: unknown;
}
function value(n: number, changed: Typed = {}): Typed {
  return {
    sensor: `s-${n}`,
    ts: MICROS + n,
    seen: n % 2 === 0 ? null : HOUR_MS + n,
    local: MICROS + 123_456,
    count: 3 - n,
    total: 4_000_000_000 + n,
    rms: n / 4,
    gain: 0.5,
    ok: n % 2 === 1,
    price: Buffer.from([0xff, 0x85, 0x12 + n]),
    id: '6f1b0a3e-0000-4000-8000-00000000000a',
    day: 20_484,
    at: 3_723_004,
    raw: Buffer.from([0, 0xff, n]),
    hash: Buffer.from([1, 2, 3, 4]),
    state: 'RUN',
    place: n % 2 === 0 ? { hall: 'A "1"', x: 1.5 } : null,
    samples: [n, null, -1],
    peaks: [{ hz: 9_007_199_254_740_990 }, { hz: n }],
    labels: { line: `L${n}` },
    ...changed,
  };
}

async function openAvro(dataset = ''): Promise<{ readonly pipeline: TestPipeline; readonly registry: TestRegistry }> {
  const registry = await TestRegistry.start();
  const pipeline = await openTestPipeline(`${dataset}, value: { format: avro, registry: "${registry.url}" }`);
  return { pipeline, registry };
}

const record = (bytes: Uint8Array): TestRecord => ({
  timestampMs: HOUR_MS,
  key: null,
  value: Buffer.from(bytes),
  headers: [],
});
const encode = (id: number, schema: unknown, ...values: readonly unknown[]): TestRecord[] => {
  const type = avsc.Type.forSchema(schema as avsc.Schema);
  return values.map((entry) => record(framed(id, type.toBuffer(entry))));
};

async function types({ lake }: TestPipeline): Promise<Record<string, unknown>> {
  const table = await loadTable(lake, DATASET);
  const fields = table?.schema.fields.filter((field) => !field.name.startsWith('_')) ?? [];
  return Object.fromEntries(fields.map((field) => [field.name, field.type]));
}

/** What a Parquet reader that is not the one that wrote it says. */
function expectRow(row: LakeRow | undefined, n: number): void {
  expect(row).toMatchObject({
    sensor: `s-${n}`,
    ts: new Date(HOUR_MS),
    seen: n % 2 === 0 ? null : new Date(HOUR_MS + n),
    count: 3 - n,
    total: BigInt(4_000_000_000 + n),
    rms: n / 4,
    gain: 0.5,
    ok: n % 2 === 1,
    price: -314.7 + n / 100,
    day: new Date('2026-01-31'),
    raw: new Uint8Array([0, 0xff, n]),
    hash: new Uint8Array([1, 2, 3, 4]),
    state: 'RUN',
    place: n % 2 === 0 ? { hall: 'A "1"', x: 1.5 } : null,
    samples: [n, null, -1],
    peaks: [{ hz: 9_007_199_254_740_990n }, { hz: BigInt(n) }],
    labels: { line: `L${n}` },
    _event_time: new Date(HOUR_MS),
  });
}

test('every type becomes its column, in small files and after compaction', async () => {
  const { pipeline, registry } = await openAvro();
  registry.byId.set(7, { schema: JSON.stringify(SCHEMA) });
  await new TestProducer(pipeline.log).append(0, encode(7, SCHEMA, value(0), value(1)));
  const { summary } = await landOnce(pipeline);
  expect(summary).toMatchObject({ rows: 2, quarantined: 0 });
  expect(await types(pipeline)).toMatchObject({
    ts: 'timestamptz',
    seen: 'timestamptz',
    local: 'timestamp',
    count: 'int',
    price: 'decimal(10, 2)',
    id: 'uuid',
    day: 'date',
    at: 'time',
    raw: 'binary',
    state: 'string',
    place: {
      type: 'struct',
      fields: [
        { name: 'hall', type: 'string' },
        { name: 'x', type: 'double', required: false },
      ],
    },
    samples: { type: 'list', element: 'int' },
    peaks: { type: 'list', element: { type: 'struct', fields: [{ name: 'hz', type: 'long' }] } },
    labels: { type: 'map', key: 'string', value: 'string' },
  });
  for (const compact of [false, true]) {
    if (compact) expect((await compactAll(pipeline)).problems).toEqual([]);
    const rows = await readRows(pipeline.lake);
    expect(rows).toHaveLength(2);
    expectRow(rows[0], 0);
    expectRow(rows[1], 1);
  }
  // One request for the schema, however many records have it.
  expect(registry.requests).toEqual(['/schemas/ids/7']);
});

test('a schema that grows, widens and nests deeper evolves the table; old files read under it', async () => {
  const { pipeline, registry } = await openAvro();
  const first = {
    type: 'record',
    name: 'R',
    fields: [
      { name: 'ts', type: 'long' },
      { name: 'n', type: 'int' },
      { name: 'f', type: 'float' },
      { name: 'place', type: { type: 'record', name: 'P', fields: [{ name: 'x', type: 'int' }] } },
    ],
  };
  const second = {
    type: 'record',
    name: 'R',
    fields: [
      { name: 'ts', type: 'long' },
      { name: 'n', type: 'long' },
      { name: 'f', type: 'double' },
      {
        name: 'place',
        type: {
          type: 'record',
          name: 'P',
          fields: [
            { name: 'x', type: 'long' },
            { name: 'y', type: ['null', 'string'], default: null },
          ],
        },
      },
      { name: 'new', type: ['null', 'string'], default: null },
    ],
  };
  registry.byId.set(1, { schema: JSON.stringify(first) });
  registry.byId.set(2, { schema: JSON.stringify(second) });
  const old = { ts: HOUR_MS, n: 1, f: 0.5, place: { x: 1 } };
  const late = { ts: HOUR_MS, n: 2 ** 40, f: 0.1, place: { x: 2 ** 40, y: 'deep' }, new: 'field' };
  await new TestProducer(pipeline.log).append(0, [
    ...encode(1, first, old),
    ...encode(2, second, late),
    ...encode(1, first, { ...old, n: 2 }),
  ]);
  expect((await landOnce(pipeline)).summary).toMatchObject({ rows: 3, quarantined: 0 });
  expect(await types(pipeline)).toMatchObject({ n: 'long', f: 'double', new: 'string' });
  await compactAll(pipeline);
  const rows = await readRows(pipeline.lake);
  expect(rows).toMatchObject([
    { n: 1n, f: 0.5, place: { x: 1n, y: null }, new: null },
    { n: BigInt(2 ** 40), f: 0.1, place: { x: BigInt(2 ** 40), y: 'deep' }, new: 'field' },
    { n: 2n, place: { x: 1n, y: null }, new: null },
  ]);
});

test('a schema that refers to others', async () => {
  const { pipeline, registry } = await openAvro();
  const place = { type: 'record', name: 'Place', namespace: 'plant', fields: [{ name: 'x', type: 'int' }] };
  const reading = {
    type: 'record',
    name: 'Reading',
    namespace: 'plant',
    fields: [
      { name: 'ts', type: 'long' },
      { name: 'place', type: 'plant.Place' },
    ],
  };
  registry.bySubject.set('plant.Place/3', { schema: JSON.stringify(place) });
  registry.byId.set(1, {
    schema: JSON.stringify(reading),
    references: [{ name: 'plant.Place', subject: 'plant.Place', version: 3 }],
  });
  const whole = { ...reading, fields: [reading.fields[0], { name: 'place', type: place }] };
  await new TestProducer(pipeline.log).append(0, encode(1, whole, { ts: HOUR_MS, place: { x: 5 } }));
  await landOnce(pipeline);
  expect(await readRows(pipeline.lake)).toMatchObject([{ place: { x: 5 } }]);
});

test('what is no value of its schema is quarantined with the reason, and its neighbours land', async () => {
  const { pipeline, registry } = await openAvro();
  const schema = {
    type: 'record',
    name: 'R',
    fields: [
      { name: 'ts', type: 'long' },
      { name: 'tags', type: { type: 'array', items: 'double' } },
      { name: 'either', type: ['null', 'string', 'int'] },
    ],
  };
  registry.byId.set(1, { schema: JSON.stringify(schema) });
  registry.byId.set(2, { schema: '"string"' });
  registry.byId.set(3, { schema: 'syntax = "proto3";', schemaType: 'PROTOBUF' });
  registry.byId.set(4, { schema: '{"type":"record"' });
  const hollow = { type: 'record', name: 'H', fields: [{ name: 'a', type: { type: 'array', items: 'null' } }] };
  registry.byId.set(5, { schema: JSON.stringify(hollow) });
  const good = { ts: HOUR_MS, tags: [1], either: null };
  const [fine] = encode(1, schema, good);
  const bytes = fine?.value ?? Buffer.alloc(0);
  // The count of the array becomes 2^40.
  const hostile = Buffer.concat([bytes.subarray(0, 5 + 6), Buffer.from([0x80, 0x80, 0x80, 0x80, 0x80, 0x40])]);
  const cases: readonly (readonly [reason: string, value: Uint8Array | null])[] = [
    ['no value', null],
    ['value of 3 bytes: expected a schema id in front', Buffer.from([0, 0, 0])],
    ['value begins with byte 123: expected 0 and the id of a schema', Buffer.from('{"ts": 1}')],
    ['schema 99 is not in the registry', framed(99, Buffer.from([0]))],
    ['schema 2 cannot be used: its values are of type string: expected records', framed(2, Buffer.from([0]))],
    ['schema 3 is of type PROTOBUF: expected AVRO', framed(3, Buffer.from([0]))],
    ['schema 4 cannot be used', framed(4, Buffer.from([0]))],
    ['schema 5 cannot be used: field a is an array of elements that have no bytes', framed(5, Buffer.from([0]))],
    ['not of schema 1: it ends inside of a record', bytes.subarray(0, bytes.length - 3)],
    ['value has 2 bytes behind the record', Buffer.concat([bytes, Buffer.from([1, 2])])],
    ['not of schema 1', hostile],
    [
      'field either: there is no type of column for its values',
      encode(1, schema, { ...good, either: 3 })[0]?.value ?? null,
    ],
  ];
  const both = cases.flatMap(([, bad]) => [record(bytes), { ...record(bytes), value: bad }]);
  await new TestProducer(pipeline.log).append(0, both);
  expect((await landOnce(pipeline)).summary).toMatchObject({ rows: cases.length, quarantined: cases.length });
  const letters = await deadLetters(pipeline);
  for (const [n, [reason]] of cases.entries()) {
    expect(letters.find((letter) => letter['offset'] === BigInt(2 * n + 1))?.['reason']).toContain(reason);
  }
  await expectAccounts(pipeline.lake, { quarantined: cases.length, liveRows: cases.length });
});

test.each([
  ['an outage', { status: 503, body: 'no' }],
  ['a proxy that knows nothing', { status: 404, body: '<html>not found</html>' }],
  ['credentials that are refused', { status: 401, body: '{"error_code":401}' }],
  ['an answer of something else', { status: 200, body: '{"hello":1}' }],
])('%s of the registry quarantines nothing: what has a known schema lands, the rest waits', async (_name, failure) => {
  const { pipeline, registry } = await openAvro();
  const schema = (name: string): unknown => ({ type: 'record', name, fields: [{ name: 'ts', type: 'long' }] });
  for (const id of [1, 2]) registry.byId.set(id, { schema: JSON.stringify(schema(`R${id}`)) });
  await new TestProducer(pipeline.log).append(0, [
    ...encode(1, schema('R1'), { ts: HOUR_MS }, { ts: HOUR_MS }),
    ...encode(2, schema('R2'), { ts: HOUR_MS }),
  ]);
  const stop = new AbortController();
  const problems: string[] = [];
  const run = landOnce(pipeline, {
    once: false,
    signal: stop.signal,
    onStatus: (status) => {
      if (status.kind === 'commit') {
        // The second schema is asked for while the registry is away.
        if (problems.length > 0) stop.abort();
      } else {
        problems.push(status.message);
        if (problems.length === 3) registry.failWith = undefined;
      }
    },
  });
  // It fails from the first request on, so not even the first schema is known.
  registry.failWith = failure;
  await run;
  expect(problems.slice(0, 3).every((problem) => problem.includes(`GET ${registry.url}/schemas/ids/1`))).toBe(true);
  await landOnce(pipeline);
  await expectAccounts(pipeline.lake, { landed: 3, quarantined: 0, liveRows: 3 });
});
