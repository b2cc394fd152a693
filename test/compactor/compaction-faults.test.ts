/**
 * Faults at every external write of compaction, before and after it took effect: whatever the first run says, the next one ends in
 * the same rows and the same accounts, at once.
 */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished, test, vi } from 'vitest';
import { GroupLease } from '../../compactor/compact/lease.ts';
import { FaultPlan } from '../support/fault.ts';
import { readings } from './finished-files.ts';
import { faultPoints, faultRecords, withFaults } from './fault-points.ts';
import { compactAll, DATASET, expectAccounts, HOUR_MS, landOnce, openTestPipeline, TestProducer } from './pipeline.ts';

test.each(faultPoints)('compaction: a fault at every %s, %s its effect', async (operation, moment) => {
  for (let call = 0; ; call++) {
    const pipeline = await openTestPipeline();
    await new TestProducer(pipeline.log).append(0, faultRecords());
    await landOnce(pipeline);
    const plan = new FaultPlan({ call, moment, operation });
    await compactAll(withFaults(pipeline, plan)).catch(() => undefined);
    const { problems, notes } = await compactAll(pipeline);
    expect([...problems, ...notes]).toEqual([]);
    await expectAccounts(pipeline.lake, {
      landed: 71,
      quarantined: 1,
      duplicates: 10,
      liveRows: 60,
      smallFiles: 0,
      liveFiles: 1,
    });
    if (plan.fired > 0) continue;
    expect(call).toBeGreaterThan(0);
    return;
  }
});

test('a scratch directory that vanishes is named by the groups that it costs, and what was committed before is told', async () => {
  const pipeline = await openTestPipeline();
  const twoHours = [...readings(0, 10), ...readings(10, 10, 'edge-1', HOUR_MS + 3_600_000)];
  await new TestProducer(pipeline.log).append(0, twoHours);
  await landOnce(pipeline);
  const { summary, problems } = await compactAll(pipeline, {
    onStatus: ({ kind }) => {
      if (kind === 'group') rmSync(join(pipeline.dir, 'scratch'), { recursive: true });
    },
  });
  expect(summary).toMatchObject({ groups: 1, in: 10 });
  expect(problems).toEqual([expect.stringMatching(/2026-01-31T08: scratch directory .*: ENOENT/)]);
  expect((await compactAll(pipeline)).summary).toMatchObject({ groups: 1, in: 10 });
});

test('a lease whose renewal is not answered is still known to be ours', async () => {
  const pipeline = await openTestPipeline();
  const plan = new FaultPlan({ call: 1, moment: 'after', operation: 'commit' });
  vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] });
  onTestFinished(() => void vi.useRealTimers());
  const lease = await GroupLease.take(withFaults(pipeline, plan).lake, DATASET, 1);
  if ('holder' in lease) throw new Error(lease.holder);
  vi.advanceTimersToNextTimer();
  await lease.release();
  expect(plan.fired).toBe(1);
  expect(await lease.isOurs()).toBe(true);
});

test('a lease is not renewed while a renewal is under way, and is released under the version that this one gave', async () => {
  const pipeline = await openTestPipeline();
  const answers = Promise.withResolvers<undefined>();
  let commits = 0;
  const plan = new (class extends FaultPlan {
    override async run<T>(operation: string, effect: () => Promise<T>): Promise<T> {
      const isRenewal = operation === 'commit' && ++commits > 1;
      const result = await effect();
      if (isRenewal) await answers.promise;
      return result;
    }
  })();
  vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] });
  onTestFinished(() => void vi.useRealTimers());
  const lease = await GroupLease.take(withFaults(pipeline, plan).lake, DATASET, 1);
  if ('holder' in lease) throw new Error(lease.holder);
  vi.advanceTimersToNextTimer();
  vi.advanceTimersToNextTimer();
  expect(commits).toBe(2);
  const released = lease.release();
  answers.resolve(undefined);
  const { compare, write } = await released;
  expect(await pipeline.lake.engine.commit({ compare: [compare], write: [write] })).toMatchObject({ ok: true });
});
