/** A roll-out whose server is killed. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import type { Rollout } from '../../control/agents/records.ts';
import { openTestPipeline } from '../compactor/pipeline.ts';
import { Control } from './control.ts';
import { Fleet, GROUP, rolling } from './fleet.ts';
import { HANG_MS } from '../support/hang.ts';

test('the server is killed in the middle: the next one goes on with the same agents, and each step happens once', async () => {
  const pipeline = await openTestPipeline();
  const file = join(pipeline.dir, 'pipeline.yaml');
  writeFileSync(file, pipeline.yaml);
  const bin = join(import.meta.dirname, '../../bin/penstock');
  const serve = async (): Promise<{ readonly control: Control; readonly kill: () => Promise<void> }> => {
    const child = spawn(bin, ['serve', '-c', file, '--port', '0'], { stdio: ['ignore', 'ignore', 'ignore', 'ipc'] });
    onTestFinished(() => void child.kill('SIGKILL'));
    const [{ url }] = (await once(child, 'message', { signal: AbortSignal.timeout(HANG_MS) })) as [{ url: string }];
    const kill = async (): Promise<void> => {
      const ended = once(child, 'exit');
      child.kill('SIGKILL');
      await ended;
    };
    return { control: new Control({ url, loopbackOnly: true }, kill), kill };
  };
  const first = await serve();
  const { fleet, start, until } = await rolling(first.control, 8);
  const after = await start();
  await until({ step: 1 });
  // They have it, and not long enough: the step is not over.
  fleet.says.set(after, { runningSeconds: 0 });
  await fleet.beat();
  const reached = fleet.with(after);
  expect(reached).toHaveLength(4);
  await first.kill();

  const second = await serve();
  const again = new Fleet(second.control.request.bind(second.control), 8);
  again.says.set(after, { runningSeconds: 0 });
  await again.beat();
  expect(again.with(after)).toEqual(reached);
  again.says.delete(after);
  await expect
    .poll(
      async () => {
        await again.beat();
        return second.control.get(`${GROUP}/rollout`);
      },
      { interval: 100 },
    )
    .toMatchObject({ state: 'done' });
  const { events } = await second.control.get(`${GROUP}/rollout`);
  expect((events as Rollout['events']).map(({ text }) => text)).toEqual([
    'begun by local',
    'step 1 of 3: 1 of 8 agents',
    'step 2 of 3: 4 of 8 agents',
    'step 3 of 3: all of 8 agents',
    'done: it is the configuration of the group',
  ]);
});
