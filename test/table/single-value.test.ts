import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { lowerBound, upperBound } from '../../lib/table/single-value.ts';

const anyString = fc.string({ unit: 'binary', maxLength: 40 });
/** Strings around the edges of UTF-8: the last code points of each length, and of all. */
const edgeString = fc.string({
  unit: fc.constantFrom('a', '\u007f', '\u07ff', '\ud7ff', '\uffff', '\u{10ffff}'),
  maxLength: 24,
});

function must(bytes: Uint8Array | null): Buffer {
  if (bytes === null) throw new Error('no bound');
  return Buffer.from(bytes);
}

describe('bounds of strings', () => {
  it.each([
    ['any', anyString],
    ['edge', edgeString],
  ])('contain the value in UTF-8 byte order and are short (%s strings)', (_, strings) => {
    fc.assert(
      fc.property(strings, (text) => {
        const bytes = Buffer.from(text);
        const lower = must(lowerBound('string', text));
        const upper = upperBound('string', text);
        expect(Buffer.compare(lower, bytes)).toBeLessThanOrEqual(0);
        expect(lower.length).toBeLessThanOrEqual(64);
        // Bounds are strings themselves: a reader decodes them.
        expect(Buffer.from(lower.toString('utf8'))).toEqual(lower);
        if (upper === null) {
          expect(Array.from(text).slice(0, 16)).toEqual(Array.from({ length: 16 }, () => '\u{10ffff}'));
          return;
        }
        expect(Buffer.compare(must(upper), bytes)).toBeGreaterThanOrEqual(0);
        expect(upper.length).toBeLessThanOrEqual(64);
        expect(Buffer.from(must(upper).toString('utf8'))).toEqual(must(upper));
      }),
    );
  });

  it('of a column contain every value of it', () => {
    fc.assert(
      fc.property(fc.array(fc.oneof(anyString, edgeString), { minLength: 1 }), (values) => {
        const sorted = values.map((value) => Buffer.from(value)).sort((a, b) => Buffer.compare(a, b));
        const lower = must(lowerBound('string', sorted[0]?.toString() ?? ''));
        const upper = upperBound('string', sorted.at(-1)?.toString() ?? '');
        for (const value of sorted) {
          expect(Buffer.compare(lower, value)).toBeLessThanOrEqual(0);
          if (upper !== null) expect(Buffer.compare(must(upper), value)).toBeGreaterThanOrEqual(0);
        }
      }),
    );
  });

  it('skip the surrogates and carry over the last code point', () => {
    const prefix = 'x'.repeat(15);
    expect(must(upperBound('string', `${prefix}\ud7ffz`)).toString()).toBe(`${prefix}\ue000`);
    expect(must(upperBound('string', `${prefix}\u{10ffff}z`)).toString()).toBe(`${'x'.repeat(14)}y`);
    expect(upperBound('string', '\u{10ffff}'.repeat(17))).toBeNull();
  });
});

describe('numbers', () => {
  it('keep all 64 bits of a long', () => {
    fc.assert(
      fc.property(fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }), (value) => {
        expect(must(lowerBound('long', value.toString())).readBigInt64LE()).toBe(value);
      }),
    );
    expect(lowerBound('long', (2n ** 63n).toString())).toBeNull();
    expect(lowerBound('int', '2147483648')).toBeNull();
  });

  it('give no bound for NaN, and order both zeros', () => {
    expect(lowerBound('double', 'nan')).toBeNull();
    expect(upperBound('float', 'NaN')).toBeNull();
    expect(Object.is(must(lowerBound('double', '0.0')).readDoubleLE(), -0)).toBe(true);
    expect(Object.is(must(upperBound('double', '-0.0')).readDoubleLE(), 0)).toBe(true);
    expect(must(upperBound('double', 'inf')).readDoubleLE()).toBe(Infinity);
    expect(must(lowerBound('float', '-inf')).readFloatLE()).toBe(-Infinity);
  });

  it('round-trip every double', () => {
    fc.assert(
      fc.property(fc.double({ noNaN: true }), (value) => {
        if (value !== 0) expect(must(lowerBound('double', String(value))).readDoubleLE()).toBe(value);
      }),
    );
  });

  it('write decimals as the shortest two’s complement', () => {
    expect(must(lowerBound('decimal(10, 2)', '1.28')).toString('hex')).toBe('0080');
    expect(must(lowerBound('decimal(10, 2)', '-1.28')).toString('hex')).toBe('80');
    expect(must(lowerBound('decimal(10,2)', '0')).toString('hex')).toBe('00');
    expect(lowerBound('decimal(10, 2)', '1.234')).toBeNull();
  });
});

describe('times', () => {
  it('are microseconds, exact before 1970 and in year 1, with any offset', () => {
    fc.assert(
      fc.property(fc.bigInt({ min: -62_135_596_800_000_000n, max: 253_402_300_799_999_999n }), (us) => {
        const ms = us / 1000n - (us % 1000n < 0n ? 1n : 0n);
        const date = new Date(Number(ms)).toISOString();
        const text = `${date.slice(0, 10)} ${date.slice(11, 23)}${String(us - ms * 1000n).padStart(3, '0')}`;
        expect(must(lowerBound('timestamp', text)).readBigInt64LE()).toBe(us);
        expect(must(lowerBound('timestamptz', `${text}+00`)).readBigInt64LE()).toBe(us);
        expect(must(lowerBound('timestamptz', `${text}-05:30`)).readBigInt64LE()).toBe(us + 19_800_000_000n);
      }),
    );
  });

  it('outside of what can be written have no bound', () => {
    for (const text of ['infinity', '-infinity', '294247-01-10 04:00:54.775806', '0044-03-15 (BC) 00:00:00', '']) {
      expect(lowerBound('timestamp', text)).toBeNull();
    }
    expect(must(lowerBound('date', '1969-12-31')).readInt32LE()).toBe(-1);
  });
});

it('booleans and uuids have their own forms; binary has none', () => {
  expect(lowerBound('boolean', 'false')).toEqual(Buffer.from([0]));
  expect(upperBound('boolean', '1')).toEqual(Buffer.from([1]));
  expect(must(lowerBound('uuid', 'f79c3e09-677c-4bbd-a479-3f349cb785e7')).toString('hex')).toBe(
    'f79c3e09677c4bbda4793f349cb785e7',
  );
  expect(lowerBound('binary', 'AA00')).toBeNull();
});
