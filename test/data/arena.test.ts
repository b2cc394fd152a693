/** The arena: what it gives never overlaps, and what was given back is whole again. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Arena, blockFor } from '../../fs-gateway/data/arena.ts';

const MIB = 2 ** 20;

test('blocks of any sizes, taken and given back in any order, never overlap, and leave one block of all', () => {
  const step = fc.record({ bytes: fc.integer({ min: 1, max: MIB }), gives: fc.nat() });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
      const arena = new Arena(MIB);
      const taken: Buffer[] = [];
      for (const { bytes, gives } of steps) {
        if (gives % 3 === 0) taken.splice(gives % (taken.length + 1), 1).forEach((data) => arena.give(data));
        const data = arena.take(bytes);
        if (data === undefined) continue;
        expect(data.length).toBe(bytes);
        for (const { byteOffset, length } of taken) {
          const isApart = byteOffset >= data.byteOffset + blockFor(bytes) || byteOffset + length <= data.byteOffset;
          expect(isApart).toBe(true);
        }
        taken.push(data);
      }
      for (const data of taken) arena.give(data);
      expect(arena.take(MIB)?.length).toBe(MIB);
      expect(arena.take(1)).toBe(undefined);
    }),
  );
});

test('an arena gives nothing larger than itself, and leaves memory of others alone', () => {
  const arena = new Arena(MIB);
  expect(arena.take(MIB + 1)).toBe(undefined);
  arena.give(Buffer.alloc(MIB));
  expect(arena.take(MIB)?.length).toBe(MIB);
  expect(arena.take(1)).toBe(undefined);
});
