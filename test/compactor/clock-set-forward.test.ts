/** A clock that is set forward between the put of an object and the commit that refers to it: the object may be taken for an orphan. */
import { expect, test } from 'vitest';
import { removeOrphans } from '../../lib/table/maintenance.ts';
import type { LakeContext } from '../../lib/table/table.ts';
import {
  compactAll,
  DATASET,
  expectAccounts,
  HOUR_MS,
  landOnce,
  openTestPipeline,
  recordOf,
  TestProducer,
} from './pipeline.ts';

const YEAR_MS = 365 * 86_400_000;

/** The lake with a clock that, after the first file is put, says a year more than before; `clean` runs in that moment. */
function withJump(lake: LakeContext, clean: () => Promise<void>): LakeContext {
  let aheadMs = 0;
  const { store, clock } = lake;
  const putFile: typeof store.putFile = async (...args) => {
    const info = await store.putFile(...args);
    if (aheadMs === 0) {
      aheadMs = YEAR_MS;
      await clean();
    }
    return info;
  };
  const jumpingStore = new Proxy(store, {
    get: (target, name) => {
      if (name === 'putFile') return putFile;
      const value: unknown = Reflect.get(target, name);
      return typeof value === 'function' ? (value.bind(target) as unknown) : value;
    },
  });
  const jumpingClock = { nowMs: () => clock.nowMs() + aheadMs, monotonicMs: () => clock.monotonicMs() };
  return { ...lake, store: jumpingStore, clock: jumpingClock };
}

test('files that were put before the jump are put again, by the lander and by the compactor', async () => {
  const pipeline = await openTestPipeline();
  const { lake } = pipeline;
  const producer = new TestProducer(pipeline.log);
  const append = (seq: number): Promise<void> =>
    producer.append(0, [recordOf({ seq, value: { sensor: 's', ts: HOUR_MS + seq } })]);
  await append(0);
  await landOnce(pipeline);
  await append(1);

  /** What another compactor would do whose store gives the objects the new time. */
  const removeAll = async (): Promise<void> => {
    const marker = { ...lake, store: agedStore(lake) };
    expect((await removeOrphans(marker, DATASET, { graceMs: 3_600_000 })).objects).toBe(1);
  };
  const told: string[] = [];
  const landed = await landOnce(
    { ...pipeline, lake: withJump(lake, removeAll) },
    { onStatus: (status) => status.kind === 'problem' && told.push(status.message) },
  );
  expect(told).toEqual([expect.stringContaining('the clock was set forward')]);
  expect(landed).toMatchObject({ summary: { records: 1 }, problems: [] });
  await expectAccounts(lake, { landed: 2, liveRows: 2 });

  const first = await compactAll({ ...pipeline, lake: withJump(lake, removeAll) });
  expect(first.notes).toEqual([expect.stringContaining('the clock was set forward')]);
  expect((await compactAll(pipeline)).summary).toMatchObject({ groups: 1, out: 2 });
  await expectAccounts(lake, { landed: 2, liveRows: 2 });
});

/** The store as it is after the jump: what is put from now on is a year younger than what is there. */
function agedStore({ store }: LakeContext): LakeContext['store'] {
  return new Proxy(store, {
    get: (target, name) => {
      if (name === 'list') {
        return async function* (...args: Parameters<typeof store.list>) {
          for await (const info of target.list(...args)) yield { ...info, modifiedMs: info.modifiedMs - YEAR_MS };
        };
      }
      const value: unknown = Reflect.get(target, name);
      return typeof value === 'function' ? (value.bind(target) as unknown) : value;
    },
  });
}
