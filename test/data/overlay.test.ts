/** The ranges of a staged file beside a list of its bytes. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Overlay } from '../../fs-gateway/data/overlay.ts';
import type { Range } from '../../fs-gateway/data/overlay.ts';

/** More ranges than a chunk has. */
const BYTES = 3000;

type Kind = Range['kind'];

function rangesOf(bytes: readonly (Kind | undefined)[], from: number, to: number): Range[] {
  const ranges: Range[] = [];
  for (let at = from; at < to; at++) {
    const kind = bytes[at];
    const last = ranges.at(-1);
    if (kind === undefined) continue;
    if (last?.end === at && last.kind === kind) ranges[ranges.length - 1] = { ...last, end: at + 1 };
    else ranges.push({ start: at, end: at + 1, kind });
  }
  return ranges;
}

const place = fc.integer({ min: 0, max: BYTES - 1 });
const kinds = fc.constantFrom<Kind>('data', 'data', 'data', 'hole');
const few = fc.integer({ min: 0, max: 3 });
const many = fc.integer({ min: 0, max: BYTES });

test('whatever is written and punched, its ranges are those of the bytes', () => {
  const change = fc.tuple(place, fc.oneof({ weight: 9, arbitrary: few }, many), kinds);
  // Apart from each other, so that there are chunks to write over, and to cut.
  const seeds = fc.uniqueArray(fc.integer({ min: 0, max: BYTES / 2 - 1 }), { minLength: 0, maxLength: BYTES / 2 });
  fc.assert(
    fc.property(seeds, fc.array(change, { maxLength: 60 }), place, few, (apart, changes, from, length) => {
      const overlay = new Overlay();
      const bytes = Array.from<Kind | undefined>({ length: BYTES });
      const set = (start: number, end: number, kind: Kind): void => {
        overlay.set(start, end, kind);
        bytes.fill(kind, start, end);
      };
      for (const at of apart) set(2 * at, 2 * at + 1, 'data');
      for (const [start, bytesChanged, kind] of changes) set(start, Math.min(BYTES, start + bytesChanged), kind);
      expect(overlay.ranges).toEqual(rangesOf(bytes, 0, BYTES));
      expect(overlay.dataBytes).toBe(bytes.filter((kind) => kind === 'data').length);
      expect(overlay.empty).toBe(bytes.every((kind) => kind === undefined));
      const to = Math.min(BYTES, from + 1 + length);
      const asked = bytes.slice(from, to);
      expect(overlay.within(from, to)).toEqual(rangesOf(bytes, from, to));
      expect(overlay.covers(from, to)).toBe(asked.every((kind) => kind !== undefined));
      expect(overlay.coversWithData(from, to)).toBe(asked.every((kind) => kind === 'data'));
    }),
    { numRuns: 300 },
  );
});
