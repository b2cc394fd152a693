/** A lander that runs on while the engine that holds its truth is killed and comes back. */
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { datasetStats, land, openLake } from '../../compactor/main.ts';
import { eventually } from '../support/processes.ts';
import { missing } from '../support/services.ts';
import { TcpProxy } from '../support/tcp-proxy.ts';
import { DATASET, HOUR_MS, openTestPipeline, recordOf, TestProducer } from './pipeline.ts';
import { openRedisPipeline } from './redis-pipeline.ts';
import { freePort } from '../support/ports.ts';

test.skipIf(missing('redis-server'))('goes on with a new session when Redis was killed and restarted', async () => {
  const { redis, dir, config, log } = await openRedisPipeline();
  const producer = new TestProducer(log);
  const append = (from: number): Promise<void> => {
    const reading = (seq: number) => recordOf({ seq, value: { ts: HOUR_MS, seq } });
    return producer.append(
      0,
      Array.from({ length: 100 }, (_, n) => reading(from + n)),
    );
  };

  const stop = new AbortController();
  onTestFinished(() => stop.abort());
  let records = 0;
  const landing = land(config, dir, {
    once: false,
    signal: stop.signal,
    scratchRoot: join(dir, 'scratch'),
    onStatus: (status) => {
      if (status.kind === 'commit') records += status.totals.records;
    },
  });
  await append(0);
  await eventually('the first commit', () => records === 100);
  await redis.kill();
  await append(100);
  await redis.start();
  await append(200);
  await eventually('the commits after the restart', () => records === 300);
  stop.abort();
  expect(await landing).toEqual({
    summary: { records: 300, rows: 300, quarantined: 0, lost: 0, files: expect.any(Number) as number },
    problems: [],
  });

  const ports = await openLake(config, dir, 'test');
  onTestFinished(() => ports.close());
  expect(await datasetStats(ports.lake, DATASET)).toMatchObject({ landed: 300, liveRows: 300, quarantined: 0 });
});

/** A lander that has landed one record, lost its session, and has no way to the engine: until `restore`. */
async function openLostLander() {
  const { redis, dir, config, log } = await openRedisPipeline();
  const nowhere = await freePort();
  let reachable = Infinity;
  const proxy = await TcpProxy.start(() => (reachable-- > 0 ? redis.port : nowhere));
  onTestFinished(() => proxy.close());
  const producer = new TestProducer(log);
  const append = (seq: number): Promise<void> => producer.append(0, [recordOf({ seq, value: { ts: HOUR_MS, seq } })]);
  const stop = new AbortController();
  onTestFinished(() => stop.abort());
  const seen = { records: 0, away: 0 };
  const landing = land({ ...config, meta: `redis://127.0.0.1:${proxy.port}/0?deadline=2s` }, dir, {
    once: false,
    signal: stop.signal,
    scratchRoot: join(dir, 'scratch'),
    onStatus: (status) => {
      if (status.kind === 'commit') seen.records += status.totals.records;
      else if (!status.lasting && status.message.includes('has no session')) seen.away++;
    },
  });
  landing.catch(() => undefined); // Each test expects what it says.
  await append(0);
  await eventually('the first commit', () => seen.records === 1);
  proxy.cut();
  await redis.kill();
  await redis.start();
  // The lander's one connection finds that the epoch is another; from then on there is no way to the engine.
  reachable = 1;
  proxy.restore();
  await Promise.race([landing, eventually('attempts to have a session again', () => seen.away >= 2)]);
  const restore = (): void => void (reachable = Infinity);
  return { landing, stop, seen, append, restore };
}

test.skipIf(missing('redis-server'))('waits for an engine that is away when its session is lost', async () => {
  const { landing, stop, seen, append, restore } = await openLostLander();
  await append(1);
  restore();
  await eventually('the commit after the outage', () => seen.records === 2);
  stop.abort();
  expect((await landing).summary).toMatchObject({ records: 2, rows: 2 });
});

test.skipIf(missing('redis-server'))('ends without trouble when it is told to while the engine is away', async () => {
  const { landing, stop } = await openLostLander();
  stop.abort();
  expect(await landing).toMatchObject({ summary: { records: 1, rows: 1 }, problems: [] });
});

test('an engine that is away at the start is an error at once', async () => {
  const { config, dir } = await openTestPipeline();
  const meta = `redis://127.0.0.1:${await freePort()}/0?deadline=200ms`;
  const options = { once: false, signal: new AbortController().signal, scratchRoot: join(dir, 'scratch') };
  await expect(land({ ...config, meta }, dir, options)).rejects.toMatchObject({ code: 'unavailable' });
});
