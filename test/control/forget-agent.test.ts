/** An agent that comes back in the moment in which it is forgotten. */
import { join } from 'node:path';
import { expect, onTestFinished, test, vi } from 'vitest';
import { AgentConfigs } from '../../control/agents/agent-configs.ts';
import { ConfigRecords } from '../../control/agents/config-records.ts';
import { AgentGroups } from '../../control/agents/groups.ts';
import { LATE_MS, Reports } from '../../control/agents/reports.ts';
import { Tenants } from '../../control/auth/tenants.ts';
import { openMeta } from '../../lib/registry.ts';
import { tempDir } from '../support/temp.ts';

test('an agent that reports while it is forgotten keeps its configuration and its group', async () => {
  const engine = await openMeta(`sqlite:${join(tempDir('forget'), 'meta.db')}`, { kind: 'test' });
  onTestFinished(() => engine.close());
  const now = { ms: 1000 };
  const clock = { nowMs: () => now.ms, monotonicMs: () => now.ms };
  const [ports, tenants] = [{ engine, volume: 'v' }, new Tenants([])];
  const records = new ConfigRecords(ports, () => [], tenants);
  const [configs, groups] = [new AgentConfigs(records, clock), new AgentGroups(records, tenants, clock)];
  const reports = new Reports(ports, clock, tenants);
  const said = { id: 'edge', address: '127.0.0.1', status: {} };
  await reports.save(said);
  await groups.create('line');
  await groups.setMember('line', 'edge', true);
  await configs.setOwn('edge', { sources: [] }, 'ann', () => undefined);
  const before = await configs.wanted('edge');
  now.ms += LATE_MS + 1;

  const commit = engine.commit.bind(engine);
  const other = new Reports(ports, clock, tenants);
  const spy = vi.spyOn(engine, 'commit').mockImplementationOnce(async (transaction) => {
    await other.save(said);
    return commit(transaction);
  });
  const forget = (): Promise<void> => configs.forget('edge', () => reports.removalOfLate('edge'));
  await expect(forget()).rejects.toMatchObject({
    code: 'conflict',
    message: expect.stringContaining('still reports') as string,
  });
  spy.mockRestore();
  expect(await configs.wanted('edge')).toEqual(before);
  expect((await groups.sizes()).get('line')).toBe(1);
  expect((await new Reports(ports, clock, tenants).all()).has('edge')).toBe(true);

  now.ms += LATE_MS + 1;
  await forget();
  expect(await configs.wanted('edge')).toMatchObject({ version: 'none', group: null });
  expect((await groups.sizes()).get('line')).toBe(0);
  expect((await new Reports(ports, clock, tenants).all()).has('edge')).toBe(false);
  // Its configuration lies nowhere any more.
  expect(await engine.count(records.names.configs)).toBe(0);
});
