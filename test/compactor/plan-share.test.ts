/** Shares of partitions: whoever comes and goes, a few looks of each lander later all have as many, more or less one, and nothing moves any more. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { planShare } from '../../compactor/lander/plan-share.ts';

/** Each lander decides in turn, as often as it takes; the moves. */
function settle(members: readonly string[], holders: (string | undefined)[]): number {
  let moves = 0;
  for (let quiet = 0; quiet < members.length;) {
    for (const id of members) {
      const { take, give } = planShare(id, members, holders);
      for (const partition of give) expect(holders[partition]).toBe(id);
      for (const partition of take) expect(members).not.toContain(holders[partition]);
      for (const partition of give) holders[partition] = undefined;
      for (const partition of take) holders[partition] = id;
      moves += take.length;
      quiet = take.length + give.length === 0 ? quiet + 1 : 0;
    }
    expect(moves).toBeLessThanOrEqual(holders.length);
  }
  return moves;
}

const countOf = (id: string, holders: readonly (string | undefined)[]): number =>
  holders.filter((holder) => holder === id).length;

test('the shares are even and cover everything', () => {
  const sequence = fc.array(fc.uniqueArray(fc.constantFrom('a', 'b', 'c', 'd', 'e', 'f'), { minLength: 1 }), {
    minLength: 1,
    maxLength: 6,
  });
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 40 }), sequence, (partitions, sets: readonly string[][]) => {
      const holders = new Array<string | undefined>(partitions).fill(undefined);
      for (const members of sets) {
        settle(members, holders);
        expect(holders.every((holder) => holder !== undefined && members.includes(holder))).toBe(true);
        for (const id of members) {
          const count = countOf(id, holders);
          expect([Math.floor(partitions / members.length), Math.ceil(partitions / members.length)]).toContain(count);
        }
      }
    }),
  );
});

test('who lives keeps what it has when one of equals dies', () => {
  const holders: (string | undefined)[] = ['a', 'b', 'c', 'a', 'b', 'c'];
  expect(settle(['a', 'c'], holders)).toBe(2);
  expect(holders.filter((_, partition) => partition % 3 !== 1)).toEqual(['a', 'c', 'a', 'c']);
});

test('who does not take part gives up everything and takes nothing', () => {
  expect(planShare('x', ['a'], ['x', undefined, 'a', 'x'])).toEqual({ take: [], give: [0, 3] });
});
