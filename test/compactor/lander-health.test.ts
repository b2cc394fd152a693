/** What a lander that runs on answers on its port, while what it needs goes away and comes back. */
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { LandingHealth } from '../../compactor/lander/landing-health.ts';
import { land } from '../../compactor/main.ts';
import { until } from '../support/mount-guard.ts';
import { missing } from '../support/services.ts';
import { DATASET, HOUR_MS, recordOf, TestProducer } from './pipeline.ts';
import { openRedisPipeline } from './redis-pipeline.ts';

test.skipIf(missing('redis-server'))(
  'is ready when it reads, alive while it cannot, and counts what landed',
  async () => {
    const { redis, dir, config, log } = await openRedisPipeline();
    const stop = new AbortController();
    onTestFinished(() => stop.abort());
    const listening = Promise.withResolvers<string>();
    const landing = land(config, dir, {
      once: false,
      signal: stop.signal,
      scratchRoot: join(dir, 'scratch'),
      listen: '127.0.0.1:0',
      onListening: listening.resolve,
    });
    const url = await listening.promise;
    const get = async (path: string): Promise<{ readonly status: number; readonly text: string }> => {
      const answer = await fetch(url + path);
      return { status: answer.status, text: await answer.text() };
    };
    const isReady = async (): Promise<boolean> => (await get('/readyz')).status === 200;
    // An idle topic is enough.
    await until('it reads', isReady);
    const record = recordOf({ seq: 1, value: { ts: HOUR_MS, seq: 1 } });
    await new TestProducer(log).append(0, [record]);
    const counted = `penstock_lander_records_total{dataset="${DATASET}"} 1`;
    await until('the record has landed', async () => (await get('/metrics')).text.includes(counted));
    expect((await get('/metrics')).text).toContain(`penstock_lander_ready{dataset="${DATASET}"} 1`);
    await redis.kill();
    await new TestProducer(log).append(0, [recordOf({ seq: 2, value: { ts: HOUR_MS, seq: 2 } })]);
    await until('it says what it misses', async () => !(await isReady()));
    expect((await get('/readyz')).text).toContain(`${DATASET}: `);
    expect((await get('/healthz')).status).toBe(200);
    await redis.start();
    await until('it reads again', isReady);
    expect((await get('/other')).status).toBe(404);
    stop.abort();
    await landing;
    await expect(fetch(url)).rejects.toThrow();
  },
);

test('is not alive when a dataset was silent for too long, whatever the others do', () => {
  let monotonicMs = 0;
  const health = new LandingHealth({ nowMs: () => 0, monotonicMs: () => monotonicMs }, ['a', 'b']);
  expect(health.notReady()).toBe('a: its topic was not read yet');
  for (const name of ['a', 'b']) health.turned(name, true);
  expect([health.notAlive(), health.notReady()]).toEqual([null, null]);
  monotonicMs = 10 * 60_000;
  health.failed('a', 'Kafka is away', false);
  monotonicMs = 20 * 60_000;
  expect(health.notReady()).toBe('a: Kafka is away');
  expect(health.notAlive()).toBe('b: nothing for 1200 s');
  health.turned('b', false);
  expect(health.notAlive()).toBe(null);
});

test('counts the spans of traces that were given up, where there are traces', async () => {
  const clock = { nowMs: () => 0, monotonicMs: () => 0 };
  const sink = { dropped: 3, add: () => undefined, close: () => Promise.resolve() };
  expect(await new LandingHealth(clock, ['a'], sink).metrics()).toContain('penstock_lander_spans_dropped 3\n');
  expect(await new LandingHealth(clock, ['a']).metrics()).not.toContain('spans');
});
