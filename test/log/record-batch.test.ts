import fc from 'fast-check';
import { expect, test } from 'vitest';
import { RecordBatchBuilder, HeaderBlock } from '../../lib/log/batch-builder.ts';
import { RecordBatchReader, decodeRecords } from '../../lib/log/batch-reader.ts';
import { lz4Decompress } from '../../lib/log/lz4.ts';
import { readBatchHeader, sequenceAfter, stampedHeader } from '../../lib/log/record-batch.ts';
import { snappyDecompress } from '../../lib/log/snappy.ts';
import { varintBytes, writeVarint } from '../../lib/log/varint.ts';
import { encodeBatch } from '../support/log-batches.ts';

const bytes = fc.uint8Array({ maxLength: 200 });
const record = fc.record({
  timestampMs: fc.integer({ min: 0, max: 4_000_000_000_000 }),
  key: fc.option(bytes),
  value: fc.option(fc.oneof(bytes, fc.uint8Array({ minLength: 500, maxLength: 3000 }))),
  headers: fc.array(fc.tuple(fc.string({ maxLength: 20, unit: 'grapheme' }), fc.option(bytes)), { maxLength: 5 }),
});
const identity = fc.record({
  producerId: fc.bigInt({ min: -1n, max: 2n ** 63n - 1n }),
  producerEpoch: fc.integer({ min: -1, max: 32767 }),
  baseSequence: fc.integer({ min: -1, max: 2 ** 31 - 1 }),
});

function plain(value: Uint8Array | null): string | null {
  return value === null ? null : Buffer.from(value).toString('hex');
}

test('what is encoded is decoded, whatever the records', () => {
  fc.assert(
    fc.property(
      fc.array(record, { minLength: 1, maxLength: 20 }),
      identity,
      fc.constantFrom('none', 'zstd'),
      (records, who, compression) => {
        const batch = encodeBatch(records, who, compression);
        expect(readBatchHeader(batch, 0, 'test')).toMatchObject({ ...who, records: records.length, baseOffset: 0n });
        const decoded = decodeRecords(batch, 'test');
        expect(
          decoded.map((r) => [r.timestampMs, plain(r.key), plain(r.value), r.headers.map(([n, v]) => [n, plain(v)])]),
        ).toEqual(
          records.map((r) => [r.timestampMs, plain(r.key), plain(r.value), r.headers.map(([n, v]) => [n, plain(v)])]),
        );
      },
    ),
    { numRuns: 300 },
  );
});

test('no damaged byte passes: any flip behind the leader epoch is reported as corrupt', () => {
  const batch = encodeBatch([
    { timestampMs: 5, key: Buffer.from('k'), value: Buffer.from('some value'), headers: [['seq', Buffer.from('12')]] },
    { timestampMs: 6, key: null, value: Buffer.alloc(300, 'x'), headers: [] },
  ]);
  for (let at = 8; at < batch.length; at++) {
    if (at >= 12 && at < 16) continue; // The leader epoch belongs to the broker and is outside the checksum.
    const damaged = Buffer.from(batch);
    damaged[at] = (damaged[at] ?? 0) ^ (1 << (at % 8));
    expect(() => decodeRecords(damaged, 'machine/3'), `byte ${at}`).toThrow(
      expect.objectContaining({ code: 'corrupt', message: expect.stringContaining('machine/3') as string }),
    );
  }
  for (const length of [0, 11, 60, 61, batch.length - 1]) {
    expect(() => decodeRecords(batch.subarray(0, length), 'machine/3')).toThrow(
      expect.objectContaining({ code: 'corrupt' }),
    );
  }
});

test('a batch whose records lie about their lengths is corrupt although its checksum holds', () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 1, maxLength: 60 }), fc.integer({ min: 1, max: 4 }), (junk, count) => {
      // The junk becomes the record area of a well-formed batch: one honest value holding it, moved to where records are read.
      const honest = encodeBatch([{ timestampMs: 0, key: null, value: junk, headers: [] }]);
      const batch = Buffer.concat([honest.subarray(0, 61), junk]);
      batch.writeInt32BE(batch.length - 12, 8);
      batch.writeInt32BE(count - 1, 23);
      batch.writeInt32BE(count, 57);
      stampedHeader(batch, 7n, 0, 1).copy(batch);
      try {
        decodeRecords(batch, 'test');
      } catch (error) {
        expect(error).toMatchObject({ code: 'corrupt' });
      }
    }),
    { numRuns: 2000 },
  );
});

test('the bytes are those that Kafka documents', () => {
  const batch = encodeBatch(
    [{ timestampMs: 1000, key: Buffer.from('k'), value: Buffer.from('v'), headers: [['h', Buffer.from('x')]] }],
    { producerId: 7n, producerEpoch: 2, baseSequence: 9 },
  );
  expect(batch.subarray(0, 17).toString('hex')).toBe('0000000000000000' + '0000003e' + 'ffffffff' + '02');
  expect(batch.subarray(21, 61).toString('hex')).toBe(
    '0000' +
      '00000000' +
      '00000000000003e8' +
      '00000000000003e8' +
      '0000000000000007' +
      '0002' +
      '00000009' +
      '00000001',
  );
  // length 12: attributes, timestamp delta, offset delta, key, value, one header
  expect(batch.subarray(61).toString('hex')).toBe('18' + '00' + '00' + '00' + '026b' + '0276' + '02' + '0268' + '0278');
});

test('a stored batch carries offset, epoch and append time under a valid checksum, and the sent bytes stay as they were', () => {
  const sent = encodeBatch([
    { timestampMs: 5, key: null, value: Buffer.from('a'), headers: [] },
    { timestampMs: 9, key: null, value: Buffer.from('b'), headers: [] },
  ]);
  const before = Buffer.from(sent);
  const stored = Buffer.concat([stampedHeader(sent, 41n, 3, 777), sent.subarray(61)]);
  expect(sent).toEqual(before);
  expect(decodeRecords(stored, 'test').map((r) => [r.offset, r.timestampMs])).toEqual([
    [41n, 777],
    [42n, 777],
  ]);
});

test('headers are found in any order, and numbers only where the digits are', () => {
  const batch = encodeBatch([
    {
      timestampMs: 0,
      key: null,
      value: null,
      headers: [
        ['agent', Buffer.from('edge-7')],
        ['seq', Buffer.from('1764230400000000')],
        ['none', null],
        ['bad', Buffer.from('12x')],
      ],
    },
  ]);
  const reader = new RecordBatchReader();
  reader.open(batch, 'test');
  expect(reader.next()).toBe(true);
  expect(reader.headerInteger(Buffer.from('seq'))).toBe(1764230400000000);
  expect(reader.headerText(Buffer.from('agent'))).toBe('edge-7');
  expect(reader.header(Buffer.from('none'))).toBeNull();
  expect(reader.headerInteger(Buffer.from('bad'))).toBeNaN();
  expect(reader.header(Buffer.from('absent'))).toBeNull();
  expect(reader.headerText(Buffer.from('agent'))).toBe('edge-7');
  expect(reader.next()).toBe(false);
});

test('a builder that is full says so and keeps what it has', () => {
  const builder = new RecordBatchBuilder(200);
  const block = new HeaderBlock(16);
  block.addAscii('a', '1');
  expect(builder.add(1, null, Buffer.alloc(100, 'x'), block)).toBe(true);
  expect(builder.add(2, null, Buffer.alloc(100, 'y'), block)).toBe(false);
  const decoded = decodeRecords(builder.seal({ producerId: -1n, producerEpoch: -1, baseSequence: -1 }, 'none'), 'test');
  expect(decoded.map((r) => r.value?.toString())).toEqual(['x'.repeat(100)]);
  expect(builder.records).toBe(0);
});

test('zigzag varints have the length that was announced, and sequences wrap to zero', () => {
  const buffer = new Uint8Array(12);
  fc.assert(
    fc.property(fc.integer({ min: -(2 ** 50), max: 2 ** 50 }), (value) => {
      expect(writeVarint(buffer, 0, value)).toBe(varintBytes(value));
    }),
  );
  expect(sequenceAfter(2 ** 31 - 3, 3)).toBe(0);
});

/** 'abc' and a copy of 9 bytes from 3 before; the lz4 one with a literal behind it, as the format wants. */
const RAW_SNAPPY = Buffer.from([12, 8, ...Buffer.from('abc'), 0x15, 3]);
const LZ4_FRAME = Buffer.from('04224d18604082' + '08000000' + '3561626303001078' + '00000000', 'hex');

test('snappy without a stream, as other clients than Kafka’s write it, and lz4 are read up to a bound', () => {
  expect(snappyDecompress(RAW_SNAPPY, 12).toString()).toBe('abcabcabcabc');
  expect(lz4Decompress(LZ4_FRAME, 13).toString()).toBe('abcabcabcabcx');
  expect(() => snappyDecompress(RAW_SNAPPY, 11)).toThrow('more than 11 bytes');
  expect(() => lz4Decompress(LZ4_FRAME, 12)).toThrow('more than 12 bytes');
});

function attempt(work: () => Buffer): Buffer | Error {
  try {
    return work();
  } catch (error) {
    return error as Error;
  }
}

test('whatever the bytes, a decompressor answers within its bound or says what is wrong', () => {
  const flips = fc.array(fc.tuple(fc.nat(), fc.nat(255)), { maxLength: 4 });
  const cut = fc.nat();
  fc.assert(
    fc.property(flips, cut, fc.uint8Array({ maxLength: 40 }), (changes, length, junk) => {
      for (const [decompress, whole] of [
        [snappyDecompress, RAW_SNAPPY],
        [lz4Decompress, LZ4_FRAME],
      ] as const) {
        const damaged = Buffer.from(whole);
        for (const [at, byte] of changes) damaged[at % damaged.length] = byte;
        for (const input of [damaged, whole.subarray(0, length % whole.length), Buffer.concat([damaged, junk])]) {
          const output = attempt(() => decompress(input, 1000));
          if (Buffer.isBuffer(output)) expect(output.length).toBeLessThanOrEqual(1000);
          else expect(output.constructor).toBe(Error);
        }
      }
    }),
    { numRuns: 500 },
  );
});
