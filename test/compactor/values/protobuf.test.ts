import protobuf from 'protobufjs';
import { expect, test } from 'vitest';
import { loadTable } from '../../../lib/table/table.ts';
import type { TestRecord } from '../../support/log-batches.ts';
import { deadLetters } from '../dead-letters.ts';
import {
  compactAll,
  DATASET,
  expectAccounts,
  HOUR_MS,
  landOnce,
  openTestPipeline,
  readRows,
  TestProducer,
  type TestPipeline,
} from '../pipeline.ts';
import { framed, TestRegistry } from './test-registry.ts';

const READING = `
  syntax = "proto3";
  package plant;
  import "google/protobuf/timestamp.proto";
  import "google/protobuf/wrappers.proto";
  enum State { IDLE = 0; RUN = 1; }
  message Other { int64 ts = 1; string note = 2; }
  message Reading {
    message Place { string hall = 1; optional double x = 2; }
    string sensor = 1;
    google.protobuf.Timestamp ts = 2;
    int32 count = 3;
    uint32 large = 4;
    sint64 total = 5;
    double rms = 6;
    optional double maybe = 7;
    bool ok = 8;
    bytes raw = 9;
    State state = 10;
    Place place = 11;
    repeated int32 samples = 12;
    repeated Place places = 13;
    map<string, int64> labels = 14;
    google.protobuf.DoubleValue wrapped = 15;
    oneof kind { string name = 16; int64 number = 17; }
    map<int64, string> byId = 18;
  }
`;

function messageType(text: string, name: string): protobuf.Type {
  const root = new protobuf.Root();
  for (const file of ['timestamp', 'wrappers']) {
    const nested = protobuf.common.get(`google/protobuf/${file}.proto`)?.nested;
    if (nested !== undefined) root.addJSON(nested);
  }
  protobuf.parse(text, root, { keepCase: true });
  return root.lookupType(name);
}

async function openProtobuf(
  dataset = '',
): Promise<{ readonly pipeline: TestPipeline; readonly registry: TestRegistry }> {
  const registry = await TestRegistry.start();
  const pipeline = await openTestPipeline(`${dataset}, value: { format: protobuf, registry: "${registry.url}" }`);
  return { pipeline, registry };
}

/** `path`: the indexes in front of a message, as bytes. */
function encode(id: number, path: readonly number[], type: protobuf.Type, value: Record<string, unknown>): TestRecord {
  const bytes = type.encode(type.fromObject(value)).finish();
  return { timestampMs: HOUR_MS, key: null, value: framed(id, Buffer.concat([Buffer.from(path), bytes])), headers: [] };
}

const SECONDS = HOUR_MS / 1000;
/** Zigzag: one index, 1. */
const SECOND_MESSAGE = [2, 2];

test('every type becomes its column, in small files and after compaction; what is not on the wire is a default or null', async () => {
  const { pipeline, registry } = await openProtobuf();
  registry.byId.set(3, { schema: READING, schemaType: 'PROTOBUF' });
  const type = messageType(READING, 'plant.Reading');
  const full = {
    sensor: 's',
    ts: { seconds: SECONDS, nanos: 123_456_789 },
    count: -5,
    large: 4_000_000_000,
    total: '-9007199254740993',
    rms: Infinity,
    maybe: 0.25,
    ok: true,
    raw: Buffer.from([0, 255]),
    state: 'RUN',
    place: { hall: 'A "1"', x: 0 },
    samples: [1, -2],
    places: [{ hall: 'B' }],
    labels: { line: '9007199254740993' },
    wrapped: { value: 1.5 },
    number: 7,
    byId: { '5': 'five' },
  };
  await new TestProducer(pipeline.log).append(0, [
    encode(3, SECOND_MESSAGE, type, full),
    encode(3, SECOND_MESSAGE, type, { ts: { seconds: SECONDS } }),
  ]);
  expect((await landOnce(pipeline)).summary).toMatchObject({ rows: 2, quarantined: 0 });
  for (const compact of [false, true]) {
    if (compact) expect((await compactAll(pipeline)).problems).toEqual([]);
    const rows = (await readRows(pipeline.lake)).toSorted((a, b) => Number(a['_offset']) - Number(b['_offset']));
    expect(rows).toMatchObject([
      {
        sensor: 's',
        _event_time: new Date(HOUR_MS + 123),
        count: -5,
        large: 4_000_000_000n,
        total: -9007199254740993n,
        rms: Infinity,
        maybe: 0.25,
        ok: true,
        raw: new Uint8Array([0, 255]),
        state: 'RUN',
        place: { hall: 'A "1"', x: 0 },
        samples: [1, -2],
        places: [{ hall: 'B', x: null }],
        labels: { line: 9007199254740993n },
        wrapped: 1.5,
        name: null,
        number: 7n,
      },
      {
        sensor: '',
        count: 0,
        large: 0n,
        total: 0n,
        rms: 0,
        maybe: null,
        ok: false,
        raw: new Uint8Array(),
        state: 'IDLE',
        place: null,
        samples: [],
        places: [],
        wrapped: null,
        name: null,
        number: null,
      },
    ]);
  }
  const table = await loadTable(pipeline.lake, DATASET);
  expect(table?.schema.fields.find((field) => field.name === 'byId')?.type).toMatchObject({ type: 'map', key: 'long' });
});

test('the message is chosen by its indexes, an imported file is asked for, and a nested message can be the record', async () => {
  const { pipeline, registry } = await openProtobuf();
  const common = 'syntax = "proto3"; package plant; message Point { double x = 1; }';
  const main = `syntax = "proto3"; package plant; import "common.proto";
    message Envelope { message Inner { int64 ts = 1; Point at = 2; } }`;
  registry.bySubject.set('common/1', { schema: common, schemaType: 'PROTOBUF' });
  registry.byId.set(4, {
    schema: main,
    schemaType: 'PROTOBUF',
    references: [{ name: 'common.proto', subject: 'common', version: 1 }],
  });
  const root = new protobuf.Root();
  for (const text of [common, main]) protobuf.parse(text, root, { keepCase: true });
  const inner = root.lookupType('plant.Envelope.Inner');
  // Zigzag: two indexes, 0 and 0.
  await new TestProducer(pipeline.log).append(0, [encode(4, [4, 0, 0], inner, { ts: HOUR_MS, at: { x: 2 } })]);
  expect((await landOnce(pipeline)).summary).toMatchObject({ rows: 1, quarantined: 0 });
  expect(await readRows(pipeline.lake)).toMatchObject([{ at: { x: 2 }, _event_time: new Date(HOUR_MS) }]);
});

test('what is no value of its schema is quarantined with the reason, and its neighbours land', async () => {
  const { pipeline, registry } = await openProtobuf();
  const text = 'syntax = "proto3"; message M { int64 ts = 1; Node node = 2; } message Node { Node next = 1; }';
  registry.byId.set(1, { schema: text, schemaType: 'PROTOBUF' });
  registry.byId.set(2, { schema: 'message {', schemaType: 'PROTOBUF' });
  registry.byId.set(5, {
    schema: 'syntax = "proto3"; import "missing.proto"; message M { missing.Type a = 1; }',
    schemaType: 'PROTOBUF',
  });
  const type = messageType(text, 'M');
  const good = encode(1, [0], type, { ts: HOUR_MS });
  const cases: readonly (readonly [reason: string, value: Uint8Array | null])[] = [
    ['schema 2 cannot be used', framed(2, Buffer.from([0]))],
    ['schema 5 cannot be used', framed(5, Buffer.from([0]))],
    ['the message that it names is not in its schema', framed(1, Buffer.from([2, 10]))],
    ['not of schema 1', framed(1, Buffer.from([0, 0x12, 0x7f]))],
    ['not of schema 1', framed(1, Buffer.from([0xfe, 0xff, 0xff, 0xff, 0x0f]))],
    ['field node: there is no type of column for its values', encode(1, [0], type, { node: { next: {} } }).value],
  ];
  await new TestProducer(pipeline.log).append(
    0,
    cases.flatMap(([, bad]) => [good, { ...good, value: bad === null ? null : Buffer.from(bad) }]),
  );
  expect((await landOnce(pipeline)).summary).toMatchObject({ rows: cases.length, quarantined: cases.length });
  const letters = await deadLetters(pipeline);
  for (const [n, [reason]] of cases.entries()) {
    expect(letters.find((letter) => letter['offset'] === BigInt(2 * n + 1))?.['reason']).toContain(reason);
  }
  await expectAccounts(pipeline.lake, { quarantined: cases.length, liveRows: cases.length });
});
