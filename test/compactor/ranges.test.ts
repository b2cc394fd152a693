import { expect, test } from 'vitest';
import { mayShare, overlaps, type Range, rangeOf } from '../../compactor/compact/ranges.ts';
import type { ColumnStats, DataFile } from '../../lib/table/data-file.ts';
import { lowerBound, upperBound } from '../../lib/table/single-value.ts';

function range(type: string, min: string | null, max: string | null, more: Partial<ColumnStats> = {}): Range {
  const stats: ColumnStats = {
    ...{ bytes: null, valueCount: 2n, nullCount: 0n, nanCount: 0n },
    lower: min === null ? null : lowerBound(type, min),
    upper: max === null ? null : upperBound(type, max),
    ...more,
  };
  const file: DataFile = {
    ...{ location: '', hour: 0, recordCount: 2n, bytes: 1n, sortOrderId: null },
    columnStats: new Map([[1, stats]]),
  };
  return rangeOf(file, { id: 1, type });
}

test.each([
  ['boolean', 'false', 'true'],
  ['int', '-2', '10'],
  ['long', '-9223372036854775808', '7'],
  ['double', '-inf', '-0.5'],
  ['float', '0', '1.5'],
  ['decimal(38, 2)', '-1000000000000.01', '-0.01'],
  ['date', '1969-12-31', '2026-01-01'],
  ['time', '00:00:00', '23:59:59.999999'],
  ['timestamptz', '1969-12-31 23:59:59.999999+00', '1970-01-01 00:00:00+00'],
  ['string', 'a', 'ﬀ'],
  ['string', 'ﬀ', '😀'],
  ['uuid', '0fffffff-ffff-ffff-ffff-ffffffffffff', 'f0000000-0000-0000-0000-000000000000'],
])('%s: values from %s to %s are told from those above and below', (type, min, max) => {
  const [low, high, both] = [range(type, min, min), range(type, max, max), range(type, min, max)];
  expect([mayShare(low, high), mayShare(low, both), mayShare(both, high)]).toEqual([false, true, true]);
  expect([overlaps(low, both), overlaps(both, high), overlaps(both, both)]).toEqual([false, false, true]);
});

test('what is not known may be anything, and nulls are nothing', () => {
  const one = range('long', '1', '1');
  const any = [range('long', null, '5'), range('double', '1', '1', { nanCount: null }), range('string', 'x', null)];
  for (const unknown of any)
    expect([unknown, mayShare(unknown, one), overlaps(one, unknown)]).toEqual(['any', true, true]);
  const none = range('long', null, null, { nullCount: 2n });
  expect([none, mayShare(none, one), mayShare('any', none), overlaps(none, none)]).toEqual([
    'none',
    false,
    false,
    false,
  ]);
});

test('bounds from before a column was widened compare with those from after it', () => {
  const before = range('long', null, null, { lower: lowerBound('int', '-1'), upper: upperBound('int', '5') });
  expect([mayShare(before, range('long', '5', '6')), mayShare(before, range('long', '6', '6'))]).toEqual([true, false]);
});
