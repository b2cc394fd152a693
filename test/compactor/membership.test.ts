/** Who is taken for dead, and when. */
import { hostname } from 'node:os';
import { expect, onTestFinished, test } from 'vitest';
import { Membership } from '../../compactor/lander/membership.ts';
import { landersBucket, type LanderRecord } from '../../lib/lake/landers.ts';
import type { LakeContext } from '../../lib/table/table.ts';
import { DATASET, openTestPipeline } from './pipeline.ts';

/** Above what a kernel gives out. */
const NO_PID = 2 ** 22 + 1;

async function tell(lake: LakeContext, id: string, changed: Partial<LanderRecord>): Promise<void> {
  const key = { bucket: landersBucket(lake.volume), field: id };
  const record = { host: hostname(), pid: NO_PID, space: 'elsewhere', datasets: [DATASET], startedMs: 0, ...changed };
  await lake.engine.commit({ write: [{ key, value: Buffer.from(JSON.stringify(record)) }], operation: id });
}

test('process ids are compared within one boot of a machine: another machine of its name has others', async () => {
  const { lake } = await openTestPipeline();
  const membership = await Membership.join(lake, 'a', [DATASET]);
  onTestFinished(() => membership.leave());
  const key = { bucket: landersBucket(lake.volume), field: 'a' };
  const [own] = await lake.engine.read([key]);
  const { space } = JSON.parse(own?.value.toString() ?? '{}') as LanderRecord;
  await tell(lake, 'killed', { space });
  await tell(lake, 'namesake', { space: space.replace(/[0-9a-f]{32}/, '0'.repeat(32)) });
  await tell(lake, 'older', { space: space.replace(/ [0-9a-f]{32}/, '') });
  await membership.look();
  expect([...membership.members(DATASET)].sort()).toEqual(['a', 'namesake', 'older']);
});
