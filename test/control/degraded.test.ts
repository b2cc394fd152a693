import { join } from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { parseConfig } from '../../lib/config/load.ts';
import { pipelineSchema } from '../../lib/config/pipeline.ts';
import { DATASET, landOnce, TestProducer } from '../compactor/pipeline.ts';
import { openLake, openPipelineLog } from '../../lib/lake/ports.ts';
import { startRedis, until } from '../support/redis.ts';
import { missing } from '../support/services.ts';
import { tempDir } from '../support/temp.ts';
import { reading, startControl } from './control.ts';

const TOKEN = 'first-administrator-token-0123456789';

describe.skipIf(missing('redis-server'))('an engine that goes away', () => {
  test('what is known stays on show with its age, and all is well again when it is back', async () => {
    const redis = await startRedis('--appendonly', 'yes', '--appendfsync', 'always');
    onTestFinished(() => redis.stop());
    const dir = tempDir('degraded');
    const yaml = [
      `log: file:${join(dir, 'log')}`,
      `store: dir:${join(dir, 'objects')}`,
      `meta: ${redis.url()}`,
      `datasets: [{ name: ${DATASET}, topic: vibration, eventTime: ts }]`,
    ].join('\n');
    const config = parseConfig(yaml, 'pipeline.yaml', pipelineSchema);
    const log = await openPipelineLog(config, dir);
    const ports = await openLake(config, dir, 'test');
    await log.ensureTopic('vibration', { partitions: 1, retentionMs: 86_400_000 });
    await new TestProducer(log).append(0, [reading(1), reading(2)]);
    await landOnce({ dir, yaml, config, log, lake: ports.lake });
    await ports.close();
    await log.close();

    const control = await startControl(config, dir, TOKEN);
    expect(await control.get('/v1/overview', TOKEN)).toMatchObject({
      datasets: [{ landed: 2 }],
      sessions: { control: 1 },
    });
    expect((await control.request('GET', '/readyz')).status).toBe(200);

    await redis.kill();
    await until(async () => (await control.request('GET', '/readyz')).status === 503);
    const ready = await control.request('GET', '/readyz');
    expect(ready.json).toMatchObject({
      status: 'degraded',
      ports: [
        { name: 'engine', ok: false },
        { name: 'store', ok: true },
        { name: 'log', ok: true },
      ],
    });
    // The token was seen lately: the page still opens, with what was known.
    const overview = await control.get('/v1/overview', TOKEN);
    expect(overview).toMatchObject({ datasets: [{ landed: 2 }], sessions: null, agents: null });
    const metrics = await control.request('GET', '/metrics', { token: TOKEN });
    expect([metrics.status, metrics.text]).toEqual([200, expect.stringContaining('penstock_port_up{port="engine"} 0')]);
    const runs = await control.request('GET', '/v1/runs', { token: TOKEN });
    expect(runs.status).toBe(503);
    expect(runs.headers.get('retry-after')).toBe('3');
    expect((await control.request('GET', '/healthz')).status).toBe(200);

    await redis.start();
    await until(async () => (await control.request('GET', '/readyz')).status === 200);
    expect(await control.get('/v1/runs', TOKEN)).toMatchObject({ items: [{ kind: 'land', rows: 2 }] });
  });

  test('an engine that answers late is waited for at the start, and opened once', async () => {
    const redis = await startRedis();
    onTestFinished(() => redis.stop());
    const dir = tempDir('late');
    const yaml = [
      `log: file:${join(dir, 'log')}`,
      `store: dir:${join(dir, 'objects')}`,
      // The only bound is the one of a probe.
      `meta: ${redis.url(0, '?deadline=60s')}`,
      'datasets: [{ name: unit, topic: unit }]',
    ].join('\n');
    // Longer than that.
    await redis.admin.call('CLIENT', 'PAUSE', '7000', 'ALL');
    const control = await startControl(parseConfig(yaml, 'pipeline.yaml', pipelineSchema), dir, TOKEN);
    const { items } = await control.get('/v1/sessions', TOKEN);
    expect(items).toMatchObject([{ kind: 'control' }]);
  });
});
