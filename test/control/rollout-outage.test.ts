/** Two servers on one Redis that goes away in the middle of a roll-out. */
import { join } from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { parseConfig } from '../../lib/config/load.ts';
import { pipelineSchema } from '../../lib/config/pipeline.ts';
import { DATASET } from '../compactor/pipeline.ts';
import { startRedis, until } from '../support/redis.ts';
import { missing } from '../support/services.ts';
import { tempDir } from '../support/temp.ts';
import { startControl } from './control.ts';
import { configOf, GROUP, rolling } from './fleet.ts';

describe.skipIf(missing('redis-server'))('a roll-out on Redis', () => {
  test('goes on after an outage, with the same agents and without an alarm, whichever of two servers is asked', async () => {
    const redis = await startRedis('--appendonly', 'yes', '--appendfsync', 'always');
    onTestFinished(() => redis.stop());
    const dir = tempDir('rollout');
    const yaml = [
      `log: file:${join(dir, 'log')}`,
      `store: dir:${join(dir, 'objects')}`,
      `meta: ${redis.url()}`,
      `datasets: [{ name: ${DATASET}, topic: vibration }]`,
    ].join('\n');
    const config = parseConfig(yaml, 'pipeline.yaml', pipelineSchema);
    const [control, other] = [await startControl(config, dir), await startControl(config, dir)];
    const { fleet, before, start, until: rolledTo, rollout } = await rolling(control, 6);

    // An agent that waits at the one server hears of a change at the other.
    const waiting = other.request('GET', '/v1/agents/edge-00/config?wait=50', {
      headers: { 'if-none-match': before },
    });
    const next = { body: { config: configOf(7) }, headers: { 'if-match': before } };
    expect((await control.request('PUT', `${GROUP}/config`, next)).status).toBe(204);
    expect((await waiting).json).toMatchObject({ config: configOf(7) });

    // Long enough for the outage to come while the second step soaks, however busy the machine is.
    const after = await start({ soakSeconds: 5 });
    await rolledTo({ step: 1 });
    fleet.says.set(after, { runningSeconds: 0 });
    await fleet.beat();
    const reached = fleet.with(after);
    expect(reached).toHaveLength(3);
    await redis.kill();
    await until(async () => (await control.request('GET', '/readyz')).status === 503);
    expect((await control.request('GET', `${GROUP}/rollout`)).status).toBe(503);
    await redis.start();
    for (const server of [control, other])
      await until(async () => (await server.request('GET', '/readyz')).status === 200);
    await fleet.beat();
    expect(fleet.with(after)).toEqual(reached);
    fleet.says.delete(after);
    await rolledTo({ state: 'done' });
    expect((await rollout()).events).toHaveLength(5);
    expect(await other.get(`${GROUP}/config`)).toMatchObject({ version: after });
  });
});
