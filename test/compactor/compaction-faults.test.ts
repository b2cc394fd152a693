/**
 * Faults at every external write of compaction, before and after it took effect: whatever the first run says, the next one ends in
 * the same rows and the same accounts, at once.
 */
import { expect, test } from 'vitest';
import { FaultPlan } from '../support/fault.ts';
import { faultPoints, faultRecords, withFaults } from './fault-points.ts';
import { compactAll, expectAccounts, landOnce, openTestPipeline, TestProducer } from './pipeline.ts';

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
