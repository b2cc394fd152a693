/** A pipeline of one partition whose engine is a Redis that can be killed and keeps what it acknowledged. */
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import { parseConfig } from '../../lib/config/load.ts';
import { type PipelineConfig, pipelineSchema } from '../../lib/config/pipeline.ts';
import { openPipelineLog } from '../../lib/lake/ports.ts';
import type { Log } from '../../lib/log/log.ts';
import { startRedis, type RedisServer } from '../support/redis.ts';
import { tempDir } from '../support/temp.ts';
import { DATASET, TOPIC } from './pipeline.ts';

export interface RedisPipeline {
  readonly redis: RedisServer;
  readonly dir: string;
  readonly config: PipelineConfig;
  readonly log: Log;
}

export async function openRedisPipeline(): Promise<RedisPipeline> {
  const redis = await startRedis('--appendonly', 'yes');
  onTestFinished(() => redis.stop());
  const dir = tempDir('lander');
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
  return { redis, dir, config, log };
}
