import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { PenstockError } from '../../lib/errors.ts';
import { AvroWriter, openAvro } from '../../lib/table/avro.ts';
import type { ColumnStats, DataFile } from '../../lib/table/data-file.ts';
import { parseJson, stringifyJson } from '../../lib/table/json.ts';
import {
  ADDED,
  DELETED,
  EXISTING,
  ManifestWriter,
  readManifest,
  referencedLocations,
} from '../../lib/table/manifest.ts';
import { formatManifestList, parseManifestList } from '../../lib/table/manifest-list.ts';
import type { ManifestFile } from '../../lib/table/manifest-list.ts';
import { newMetadata, parseMetadata, formatMetadata, partitionSpec } from '../../lib/table/metadata.ts';
import { SCHEMA } from './lake.ts';

const metadata = newMetadata({
  uuid: 'u',
  location: 'file:///t',
  schema: SCHEMA,
  sortFields: [],
  properties: {},
  nowMs: 1,
});
const manifest: ManifestFile = {
  location: 'file:///t/m.avro',
  bytes: 1n,
  specId: 0,
  content: 0,
  sequenceNumber: 9n,
  minSequenceNumber: 3n,
  addedSnapshotId: 2n ** 63n - 1n,
  files: [1, 2, 3],
  rows: [1n, 2n, 2n ** 62n],
  partitions: [
    { containsNull: false, containsNan: null, lower: Buffer.from([1, 0, 0, 0]), upper: Buffer.from([2, 0, 0, 0]) },
  ],
};

const int64 = fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n });
const bytes = fc.uint8Array({ maxLength: 20 }).map((array) => Buffer.from(array));
const orNull = <T>(values: fc.Arbitrary<T>): fc.Arbitrary<T | null> => fc.option(values);
const stats: fc.Arbitrary<ColumnStats> = fc.record({
  // What is wholly unknown is not written at all, so it would not come back.
  bytes: int64,
  valueCount: orNull(int64),
  nullCount: orNull(int64),
  nanCount: orNull(int64),
  lower: orNull(bytes),
  upper: orNull(bytes),
});
const dataFile: fc.Arbitrary<DataFile> = fc.record(
  {
    location: fc.string({ unit: 'grapheme' }),
    hour: fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 }),
    recordCount: int64,
    bytes: int64,
    columnStats: fc.array(fc.tuple(fc.nat(1000), stats)).map((entries) => new Map(entries)),
    sortOrderId: orNull(fc.nat(5)),
    splitOffsets: fc.array(int64),
  },
  { requiredKeys: ['location', 'hour', 'recordCount', 'bytes', 'columnStats', 'sortOrderId'] },
);

function writer(): ManifestWriter {
  return new ManifestWriter(SCHEMA, partitionSpec(metadata, 0));
}

describe('a manifest', () => {
  it('gives back every entry, all 64 bits of it, with inherited numbers filled in', () => {
    fc.assert(
      fc.property(fc.array(dataFile, { maxLength: 20 }), (files) => {
        const out = writer();
        for (const file of files)
          out.add({ status: ADDED, snapshotId: null, sequenceNumber: null, fileSequenceNumber: null, file });
        const bytes = out.finish();
        const entries = [...readManifest(bytes, { ...manifest, bytes: BigInt(bytes.length) })];
        expect(entries.map(({ file }) => file)).toEqual(files);
        for (const entry of entries) {
          expect(entry).toMatchObject({
            snapshotId: manifest.addedSnapshotId,
            sequenceNumber: 9n,
            fileSequenceNumber: 9n,
          });
        }
      }),
      { numRuns: 50 },
    );
  });

  it('counts what its line in the list needs', () => {
    const out = writer();
    const file = {
      location: 'a',
      hour: 5,
      recordCount: 10n,
      bytes: 1n,
      columnStats: new Map<number, ColumnStats>(),
      sortOrderId: null,
    };
    out.add({ status: EXISTING, snapshotId: 1n, sequenceNumber: 7n, fileSequenceNumber: 7n, file });
    out.add({
      status: DELETED,
      snapshotId: 2n,
      sequenceNumber: 3n,
      fileSequenceNumber: 3n,
      file: { ...file, location: 'b', hour: -2 },
    });
    out.add({
      status: ADDED,
      snapshotId: 2n,
      sequenceNumber: null,
      fileSequenceNumber: null,
      file: { ...file, location: 'c' },
    });
    expect([out.files, out.rows, out.minSequenceNumber, out.hours]).toEqual([
      [1, 1, 1],
      [10n, 10n, 10n],
      7n,
      { lower: -2, upper: 5 },
    ]);
    const bytes = out.finish();
    expect([...referencedLocations(bytes, { ...manifest, bytes: BigInt(bytes.length) })]).toEqual(['a', 'c']);
    expect(() => [...referencedLocations(bytes, { ...manifest, bytes: 1n })]).toThrow(
      /m\.avro has \d+ bytes, not the 1/,
    );
  });

  it('is refused for a partition spec whose values could not be kept', () => {
    const spec = {
      'spec-id': 1,
      fields: [{ 'source-id': 1, 'field-id': 1001, name: 'sensor', transform: 'identity' }],
    };
    expect(() => new ManifestWriter(SCHEMA, spec)).toThrow(/partition spec 1/);
  });
});

describe('a damaged Avro file', () => {
  const schema = {
    type: 'record',
    name: 'r',
    fields: [
      { name: 's', type: 'string' },
      { name: 'n', type: 'long' },
    ],
  };
  const avro = new AvroWriter(schema, { note: 'x' });
  for (let n = 0n; n < 2000n; n++) avro.write({ s: `value ${n.toString()}`, n });
  const whole = avro.finish();
  const headerLength = new AvroWriter(schema, { note: 'x' }).finish().length;
  const read = (content: Buffer): unknown[] => [...openAvro(content, 'file:///m.avro').records()];

  it('that is cut in a block is corrupt by name; cut behind the header it is empty', () => {
    expect(read(whole)).toHaveLength(2000);
    const lengths = new Set([...Array(headerLength + 50).keys(), whole.length - 1, whole.length - 17]);
    for (let length = headerLength + 50; length < whole.length; length += 97) lengths.add(length);
    for (const length of lengths) {
      const cut = whole.subarray(0, length);
      if (length === headerLength) expect(read(cut)).toEqual([]);
      else expect(() => read(cut)).toThrow(/m\.avro is a damaged Avro file/);
    }
  });

  it('with any byte changed is corrupt by name or still readable, never another error', () => {
    fc.assert(
      fc.property(fc.nat(whole.length - 1), fc.integer({ min: 1, max: 255 }), (at, flip) => {
        const copy = Buffer.from(whole);
        copy[at] = (copy[at] ?? 0) ^ flip;
        try {
          read(copy);
        } catch (error) {
          expect(error).toBeInstanceOf(PenstockError);
          expect(error).toMatchObject({ code: 'corrupt' });
        }
      }),
      { numRuns: 300 },
    );
  });
});

it('a manifest list round-trips', () => {
  const deletes = { ...manifest, location: 'file:///t/d.avro', content: 1, partitions: null };
  const list = formatManifestList([manifest, deletes], { id: 5n, parentId: null, sequenceNumber: 1n });
  expect(parseManifestList(list, 'file:///t/l.avro')).toEqual([manifest, deletes]);
});

describe('table metadata', () => {
  it('keeps 63-bit ids and attributes of other writers', () => {
    const id = 8_526_374_859_607_182_931n;
    const snapshot = {
      'snapshot-id': id,
      'sequence-number': 1n,
      'timestamp-ms': 5,
      'manifest-list': 'file:///l',
      summary: { operation: 'append' },
      'schema-id': 0,
    };
    const foreign = { ...metadata, snapshots: [snapshot], 'current-snapshot-id': id, 'x-extra': { deep: [1] } };
    expect(parseMetadata(formatMetadata(foreign), 'file:///m')).toEqual(foreign);
    expect(formatMetadata(foreign).toString()).toContain('"current-snapshot-id":8526374859607182931');
  });

  it('of another version or shape is refused by name', () => {
    const read = (text: string) => () => parseMetadata(Buffer.from(text), 'file:///m');
    expect(read('{"format-version": 3}')).toThrow(/file:\/\/\/m has format version 3/);
    expect(read('{')).toThrow(/file:\/\/\/m is not JSON/);
    expect(read(stringifyJson({ ...metadata, schemas: [] }))).toThrow(/file:\/\/\/m: schemas/);
  });

  it('numbers in JSON are exact', () => {
    expect(parseJson('[9007199254740993, 1.5, 9007199254740991, 1e300]')).toEqual([
      9007199254740993n,
      1.5,
      9007199254740991,
      1e300,
    ]);
    expect(stringifyJson({ a: 2n ** 63n - 1n })).toBe('{"a":9223372036854775807}');
  });
});

it('a count that damage made huge ends where the bytes end, not hours later', () => {
  const count = Buffer.from([0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01]);
  const hostile = Buffer.concat([Buffer.from('Obj\x01', 'latin1'), count, Buffer.alloc(20)]);
  expect(() => parseManifestList(hostile, 'file:///t/l.avro')).toThrow(/l\.avro is a damaged Avro file/);
});
