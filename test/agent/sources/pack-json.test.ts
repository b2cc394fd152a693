import fc from 'fast-check';
import { expect, test } from 'vitest';
import { isRejected, packJson, parseJson } from '../../../agent/sources/reading-parser.ts';
import type { NewReading } from '../../../agent/spool/frame.ts';
import { PackedReadings } from '../../../agent/spool/packed-readings.ts';

const ARRIVAL_US = 1_790_000_000_000_000;
const common = { input: 'line', topic: 't', priority: 3, eventTime: 'ts' };

/** What both make of a line; undefined: the one that packs leaves it to the other. */
function packed(text: Buffer, key: { readonly field: string } | null): NewReading[] | undefined {
  const target = new PackedReadings('t', 3, 0);
  const around = Buffer.concat([Buffer.from('{'), text, Buffer.from('}')]);
  const isPacked = packJson(around, 1, 1 + text.length, { ...common, key }, ARRIVAL_US, target);
  expect(target.length).toBe(Number(isPacked));
  return isPacked ? [...target] : undefined;
}

test('packs a line of JSON as parseJson reads it, wherever it stands', () => {
  const value = fc.oneof(
    fc.string({ unit: 'grapheme', maxLength: 12 }),
    fc.integer(),
    fc.double({ noNaN: true, noDefaultInfinity: true }),
    fc.constantFrom(null, true, {}, [], '2026-01-02T03:04:05.123456Z', 1_790_000_000_123, 1_790_000_000_123_456, 0, -0),
  );
  const line = fc.dictionary(fc.constantFrom('id', 'ts', 'a', 'b'), value, { maxKeys: 4 });
  let count = 0;
  fc.assert(
    fc.property(line, fc.boolean(), (fields, hasKey) => {
      const text = Buffer.from(JSON.stringify(fields));
      const key = hasKey ? { field: 'id' } : null;
      const found = packed(text, key);
      if (found === undefined) return;
      count += 1;
      const expected = parseJson(text, { ...common, key }, ARRIVAL_US);
      // A frame has no negative zero.
      if (!isRejected(expected)) expect(found).toEqual([{ ...expected, eventUs: expected.eventUs + 0 }]);
    }),
    { numRuns: 2000 },
  );
  expect(count).toBeGreaterThan(500);
});

test.each(['', '[1]', '{"id":"a"', '{"id":"\\u0061"}', '{"id":1.0}', '{"id":{}}', `{"id":"${'a'.repeat(2000)}"}`])(
  'leaves %j to parseJson',
  (text) => {
    expect(packed(Buffer.from(text), { field: 'id' })).toBeUndefined();
  },
);

test('leaves what is not UTF-8 to parseJson, which refuses it', () => {
  const text = Buffer.from('{"id":"a\xff"}', 'latin1');
  expect(packed(text, { field: 'id' })).toBeUndefined();
  expect(isRejected(parseJson(text, { ...common, key: null }, ARRIVAL_US))).toBe(true);
});

test('puts readings into frames of their own where one is full, a large one among them', () => {
  const target = new PackedReadings('t', 3, 1000);
  const reading = (n: number, bytes: number): NewReading => ({
    ...{ topic: 't', key: n % 2 === 0 ? null : `s${n}`, value: Buffer.alloc(bytes, n), priority: 3 },
    ...{ eventUs: 0 - n, arrivalUs: ARRIVAL_US },
  });
  const readings = [100, 200_000, 100_000, 900_000, 0, 5].map((bytes, n) => reading(n, bytes));
  for (const each of readings) target.add(each);
  expect([...target]).toEqual(readings);
  expect(target.payloads.map(({ count }) => count)).toEqual([2, 1, 3]);
});
