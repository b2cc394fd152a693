/** Writers that all commit to one table: they stand in line, and nobody holds it up for good. */
import { expect, test } from 'vitest';
import { systemClock } from '../../lib/clock.ts';
import { commitTable } from '../../lib/table/commit.ts';
import { createTable } from '../../lib/table/table.ts';
import type { LakeContext } from '../../lib/table/table.ts';
import { replaceMethod } from '../support/replace-method.ts';
import { dataFile, liveNames, openLake, SCHEMA, TABLE } from './lake.ts';

const LINE = { bucket: '{lake}commit-turns', field: TABLE };

/** Answers how often it was tried. */
async function commit(lake: LakeContext, name: string): Promise<number> {
  let attempts = 0;
  await commitTable(lake, TABLE, async () => {
    attempts++;
    return { change: { operation: 'append', add: [dataFile(lake.store, name)], remove: [] }, extra: {} };
  });
  return attempts;
}

async function lakes(count: number): Promise<LakeContext[]> {
  const first = await openLake();
  await createTable(first, TABLE, { schema: SCHEMA });
  const others = Array.from({ length: count - 1 }, () => openLake(first.folder));
  return [first, ...(await Promise.all(others))];
}

test('writers that do nothing but commit write hardly anything for nothing, and leave no line behind', async () => {
  const writers = await lakes(4);
  const names = writers.flatMap((_, writer) => Array.from({ length: 10 }, (__, n) => `w${writer}-${n}`));
  const attempts = await Promise.all(
    writers.map(async (lake, writer) => {
      let sum = 0;
      for (const name of names.filter((one) => one.startsWith(`w${writer}-`))) sum += await commit(lake, name);
      return sum;
    }),
  );
  expect(await liveNames(writers[0] ?? (await openLake()))).toEqual(names);
  // Three lose the first race, and now and then a line runs dry. Without a line it is 60 to 80.
  expect(attempts.reduce((sum, one) => sum + one, 0)).toBeLessThan(1.35 * names.length);
  expect(await writers[0]?.engine.read([LINE])).toEqual([null]);
});

test('a writer that was killed in its turn, or far down the line, holds nobody up for longer than a turn', async () => {
  const [lake] = await lakes(1);
  if (lake === undefined) throw new Error('no lake');
  await lake.engine.commit({ write: [{ key: LINE, value: Buffer.from('killed-1\nkilled-2') }] });
  // A turn is 3 s of a clock that runs 50 times too fast.
  const clock = { ...systemClock, monotonicMs: () => 50 * performance.now() };
  expect(await commit({ ...lake, clock }, 'a')).toBe(1);
  expect(await liveNames(lake)).toEqual(['a']);
  expect(await lake.engine.read([LINE])).toEqual([null]);
});

test('one that others took for dead commits all the same, and what is in the line does not matter', async () => {
  const [lake] = await lakes(1);
  if (lake === undefined) throw new Error('no lake');
  await lake.engine.commit({ write: [{ key: LINE, value: Buffer.from([0xff, 0x0a, 0x00, 0x0a]) }] });
  let looks = 0;
  replaceMethod(lake.engine, 'read', (read) => async (keys) => {
    // The second look is the one from within the line.
    if (keys[0]?.bucket === LINE.bucket && ++looks === 2) {
      await lake.engine.commit({ write: [{ key: LINE, value: Buffer.from('another') }] });
    }
    return read.call(lake.engine, keys);
  });
  expect(await commit(lake, 'a')).toBe(1);
  expect(await liveNames(lake)).toEqual(['a']);
  expect((await lake.engine.read([LINE]))[0]?.value.toString()).toBe('another');
});
