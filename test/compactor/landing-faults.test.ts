/**
 * Faults at every external write of landing, before and after it took effect: whatever the first run says, the next one ends with
 * every record landed once.
 */
import { expect, test } from 'vitest';
import { FaultPlan } from '../support/fault.ts';
import { faultPoints, faultRecords, withFaults } from './fault-points.ts';
import { expectAccounts, landOnce, openTestPipeline, readRows, TestProducer } from './pipeline.ts';

test.each(faultPoints)('landing: a fault at every %s, %s its effect', async (operation, moment) => {
  for (let call = 0; ; call++) {
    const pipeline = await openTestPipeline();
    const producer = new TestProducer(pipeline.log);
    const records = faultRecords();
    await producer.append(0, records.slice(0, 40));
    await producer.append(1, records.slice(40));
    const plan = new FaultPlan({ call, moment, operation });
    // It may survive the fault or report it; silence is no sign of either.
    await landOnce(withFaults(pipeline, plan)).catch(() => undefined);
    await landOnce(pipeline);
    await expectAccounts(pipeline.lake, { landed: 71, quarantined: 1, liveRows: 70 });
    const places = (await readRows(pipeline.lake)).map(
      (row) => `${String(row['_log_partition'])}:${String(row['_offset'])}`,
    );
    expect(new Set(places).size).toBe(70);
    if (plan.fired > 0) continue;
    expect(call).toBeGreaterThan(1);
    return;
  }
});
