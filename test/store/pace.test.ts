import { expect, it } from 'vitest';
import { Pace } from '../../lib/store/s3/pace.ts';

it('keeps the rate, forgets what was not used, and gives up with its signal', async () => {
  let nowMs = 5000;
  const pace = new Pace(100, { nowMs: () => 0, monotonicMs: () => nowMs });
  expect([1, 1, 50, 1].map((amount) => pace.book(amount))).toEqual([0, 10, 20, 520]);
  nowMs += 300;
  expect(pace.book(1)).toBe(230);
  nowMs += 10_000;
  expect([pace.book(1), pace.book(1)]).toEqual([0, 10]);
  pace.book(1_000_000);
  await expect(pace.wait(1, AbortSignal.abort())).rejects.toThrow(/abort/i);
});
