/** Avro and Protobuf with a registry that is not ours: references, evolution, an id that it does not know. */
import avsc from 'avsc';
import protobuf from 'protobufjs';
import { describe, expect, test } from 'vitest';
import type { TestRecord } from '../../support/log-batches.ts';
import { SchemaRegistryServer } from '../../support/schema-registry.ts';
import { missing } from '../../support/services.ts';
import { deadLetters } from '../dead-letters.ts';
import { HOUR_MS, landOnce, openTestPipeline, readRows, TestProducer } from '../pipeline.ts';
import { framed } from './test-registry.ts';

const record = (value: Buffer): TestRecord => ({ timestampMs: HOUR_MS, key: null, value, headers: [] });

describe.skipIf(missing('apicurio'))('a real schema registry', () => {
  test('Avro and Protobuf, with references and a new version', async () => {
    const registry = await SchemaRegistryServer.start();
    const place = { type: 'record', name: 'Place', namespace: 'plant', fields: [{ name: 'x', type: 'int' }] };
    const fields = [
      { name: 'ts', type: { type: 'long', logicalType: 'timestamp-millis' } },
      { name: 'place', type: 'plant.Place' },
    ];
    const reading = { type: 'record', name: 'Reading', namespace: 'plant', fields };
    const grown = { ...reading, fields: [...fields, { name: 'note', type: ['null', 'string'], default: null }] };
    const references = [{ name: 'plant.Place', subject: 'plant.Place', version: 1 }];
    const avro = (schema: unknown) => ({ schema: JSON.stringify(schema), schemaType: 'AVRO' as const });
    await registry.register('plant.Place', avro(place));
    const first = await registry.register('vibration-value', { ...avro(reading), references });
    const second = await registry.register('vibration-value', { ...avro(grown), references });
    expect(second).not.toBe(first);
    const encoded = (schema: unknown, value: unknown): Buffer => {
      const options = { registry: {} };
      avsc.Type.forSchema(place as avsc.Schema, options);
      return avsc.Type.forSchema(schema as avsc.Schema, options).toBuffer(value);
    };
    const avroPipeline = await openTestPipeline(`, value: { format: avro, registry: "${registry.url}" }`);
    await new TestProducer(avroPipeline.log).append(0, [
      record(framed(first, encoded(reading, { ts: HOUR_MS, place: { x: 1 } }))),
      record(framed(second, encoded(grown, { ts: HOUR_MS, place: { x: 2 }, note: 'new' }))),
      record(framed(987_654, Buffer.from([0]))),
    ]);
    expect((await landOnce(avroPipeline)).summary).toMatchObject({ rows: 2, quarantined: 1 });
    const rows = await readRows(avroPipeline.lake);
    expect(rows.toSorted((a, b) => Number(a['_offset']) - Number(b['_offset']))).toMatchObject([
      { place: { x: 1 }, ts: new Date(HOUR_MS) },
      { place: { x: 2 }, note: 'new' },
    ]);
    expect((await deadLetters(avroPipeline)).map((letter) => letter['reason'])).toEqual([
      'schema 987654 is not in the registry',
    ]);

    const common = 'syntax = "proto3"; package plant; message Point { double x = 1; }';
    const main =
      'syntax = "proto3"; package plant; import "common.proto"; message Sample { int64 ts = 1; Point at = 2; }';
    await registry.register('common', { schema: common, schemaType: 'PROTOBUF' });
    const id = await registry.register('sample-value', {
      schema: main,
      schemaType: 'PROTOBUF',
      references: [{ name: 'common.proto', subject: 'common', version: 1 }],
    });
    const root = new protobuf.Root();
    for (const text of [common, main]) protobuf.parse(text, root, { keepCase: true });
    const sample = root.lookupType('plant.Sample');
    const bytes = sample.encode(sample.fromObject({ ts: HOUR_MS, at: { x: 0.5 } })).finish();
    const pipeline = await openTestPipeline(`, value: { format: protobuf, registry: "${registry.url}" }`);
    await new TestProducer(pipeline.log).append(0, [record(framed(id, Buffer.concat([Buffer.from([0]), bytes])))]);
    expect((await landOnce(pipeline)).summary).toMatchObject({ rows: 1, quarantined: 0 });
    expect(await readRows(pipeline.lake)).toMatchObject([{ ts: BigInt(HOUR_MS), at: { x: 0.5 } }]);
  });
});
