/** Roll-outs through the API, with agents that a test lets speak. */
import { expect, test } from 'vitest';
import { openTestPipeline } from '../compactor/pipeline.ts';
import { type Answer, startControl } from './control.ts';
import { configOf, GROUP, rolling, type Rolling } from './fleet.ts';

async function open(agents = 10): Promise<Rolling> {
  const pipeline = await openTestPipeline();
  return rolling(await startControl(pipeline.config, pipeline.dir), agents);
}

test('one agent, then half, then all; what was done can be rolled back', async () => {
  const { control, fleet, before, start, rollout, until, act } = await open();
  const after = await start();
  await fleet.beat();
  expect(fleet.with(after)).toHaveLength(1);
  const [canary] = fleet.with(after);
  expect(
    (await control.request('PUT', `${GROUP}/config`, { body: { config: configOf(3) }, headers: { 'if-match': '*' } }))
      .status,
  ).toBe(409);
  expect((await control.request('POST', `${GROUP}/rollout`, { body: { config: configOf(3) } })).status).toBe(409);
  const { items } = (await control.get(`${GROUP}/agents`)) as { items: readonly { id: string; updated: boolean }[] };
  expect(items.filter(({ updated }) => updated).map(({ id }) => id)).toEqual([canary]);
  await until({ step: 1 });
  await fleet.beat();
  expect(fleet.with(after)).toHaveLength(5);
  expect(fleet.with(after)).toContain(canary);
  await until({ state: 'done', step: 2 });
  expect(fleet.with(after)).toHaveLength(10);
  expect(await control.get(`${GROUP}/config`)).toMatchObject({ version: after, config: configOf(2) });
  expect((await rollout()).events.map(({ text }) => text)).toEqual([
    'begun by local',
    'step 1 of 3: 1 of 10 agents',
    'step 2 of 3: 5 of 10 agents',
    'step 3 of 3: all of 10 agents',
    'done: it is the configuration of the group',
  ]);
  expect(await act('abort')).toBe(409);
  expect(await act('roll-back')).toBe(204);
  await fleet.beat();
  expect(fleet.with(before)).toHaveLength(10);
  expect(await act('roll-back')).toBe(409);
  expect(await control.get(`${GROUP}/config`)).toMatchObject({ version: before, config: configOf(1) });
});

test('a refusal stops it at the first agent; it goes on when a person says so, and abort brings all back', async () => {
  const { control, fleet, before, start, rollout, until, act } = await open();
  const after = await start();
  fleet.says.set(after, { refuses: true });
  await until({ state: 'stopped' });
  expect(fleet.with(before)).toHaveLength(10);
  const metrics = (await control.request('GET', '/metrics')).text;
  expect(metrics).toContain('penstock_rollout_stopped{group="plant-a"} 1');
  expect(metrics).toContain('penstock_agents{late="false"} 10');
  expect(await rollout()).toMatchObject({
    reason: 'of 1 updated agents 1 refused it, 0 fell silent and 0 report a problem (before: 0 %)',
    health: { updated: 1, refused: 1 },
  });
  // Taken as it is: every agent of the next step refuses too, and the share is what it was.
  expect(await act('resume')).toBe(204);
  await until({ step: 1, state: 'running' });
  expect(await act('stop')).toBe(204);
  expect(await rollout()).toMatchObject({ state: 'stopped', reason: 'by local' });
  fleet.says.delete(after);
  await fleet.beat();
  expect(fleet.with(after)).toHaveLength(5);
  expect(await act('abort')).toBe(204);
  await fleet.beat();
  expect(fleet.with(before)).toHaveLength(10);
  expect(await act('resume')).toBe(409);
});

test('a problem that agents did not have before stops it, and so do readings that go to the quarantine', async () => {
  const { fleet, before, start, rollout, until, act } = await open(4);
  fleet.says.set(before, { quarantined: 20, spooled: 980 });
  await fleet.beat();
  const troubled = await start();
  fleet.says.set(troubled, { problem: 'no broker' });
  await until({ state: 'stopped' });
  expect((await rollout()).reason).toContain('1 report a problem');
  expect(await act('abort')).toBe(204);
  await fleet.beat();
  // Now all report that they have the one before again.
  await fleet.beat();
  const wasteful = await start({}, 3);
  fleet.says.set(wasteful, { quarantined: 100, spooled: 900 });
  await until({ state: 'stopped' });
  expect((await rollout()).reason).toBe(
    '10 % of the readings of the updated agents go to the quarantine (before: 2 %)',
  );
  fleet.says.set(wasteful, { quarantined: 25, spooled: 975 });
  await fleet.beat();
  expect(await act('resume')).toBe(204);
  await until({ state: 'done' });
});

test('an agent that does not come along stops it when the patience is over; without a report nothing begins', async () => {
  const { control, fleet, until, rollout } = await open(3);
  const body = { config: configOf(2), patienceSeconds: 1, steps: [{ agents: 1 }, { percent: 100 }] };
  const begin = (): Promise<Answer> =>
    control.request('POST', `${GROUP}/rollout`, { body, headers: { 'idempotency-key': 'once' } });
  const first = await begin();
  expect([first.status, (await begin()).json]).toEqual([201, first.json]);
  const after = String(first.json['version']);
  fleet.says.set(after, { runningSeconds: 0 });
  await until({ state: 'stopped' });
  expect((await rollout()).reason).toBe(
    'step 1 is not over after 1 s: 1 of 1 agents do not run with it yet, 0 are away',
  );
  await control.request('PUT', '/v1/agent-groups/empty');
  const refused = await control.request('POST', '/v1/agent-groups/empty/rollout', { body: { config: configOf(1) } });
  expect([refused.status, refused.json['detail']]).toEqual([
    409,
    'no agent of empty reports: nobody could see how it does',
  ]);
  const steps = [{ percent: 100 }, { agents: 1 }];
  expect((await control.request('POST', `${GROUP}/rollout`, { body: { config: configOf(1), steps } })).status).toBe(
    400,
  );
});
