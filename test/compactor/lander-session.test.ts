/** A lander that runs on while the engine that holds its truth is killed and comes back. */
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { datasetStats, land, openLake } from '../../compactor/main.ts';
import { parseConfig } from '../../lib/config/load.ts';
import { pipelineSchema } from '../../lib/config/pipeline.ts';
import { openPipelineLog } from '../../lib/lake/ports.ts';
import { eventually } from '../support/processes.ts';
import { startRedis } from '../support/redis.ts';
import { missing } from '../support/services.ts';
import { tempDir } from '../support/temp.ts';
import { DATASET, HOUR_MS, recordOf, TestProducer, TOPIC } from './pipeline.ts';

test.skipIf(missing('redis-server'))('goes on with a new session when Redis was killed and restarted', async () => {
  const redis = await startRedis('--appendonly', 'yes');
  onTestFinished(() => redis.stop());
  const dir = tempDir('lander-session');
  const yaml = [
    `log: file:${join(dir, 'log')}`,
    `store: dir:${join(dir, 'objects')}`,
    `meta: ${redis.url()}`,
    `datasets: [{ name: ${DATASET}, topic: ${TOPIC}, eventTime: ts }]`,
    `lander: { commitEvery: 20ms }`,
  ].join('\n');
  const config = parseConfig(yaml, 'pipeline.yaml', pipelineSchema);
  const log = await openPipelineLog(config, dir);
  onTestFinished(() => log.close());
  await log.ensureTopic(TOPIC, { partitions: 1, retentionMs: 86_400_000 });
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
