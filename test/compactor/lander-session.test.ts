/** A lander that runs on while the engine that holds its truth is killed and comes back. */
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { datasetStats, land, openLake } from '../../compactor/main.ts';
import { eventually } from '../support/processes.ts';
import { missing } from '../support/services.ts';
import { DATASET, HOUR_MS, recordOf, TestProducer } from './pipeline.ts';
import { openRedisPipeline } from './redis-pipeline.ts';

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
