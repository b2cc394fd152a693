/** Landers that share the partitions of a topic, on Kafka, Redis and S3; what Kafka's own tools see of them, and what others do to that. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Admin, Kafka, logLevel } from 'kafkajs';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { parseConfig } from '../../lib/config/load.ts';
import { pipelineSchema } from '../../lib/config/pipeline.ts';
import { openLake, openPipelineLog } from '../../lib/lake/ports.ts';
import { checkSnapshot } from '../compactor/known-records.ts';
import { DATASET, HOUR_MS, landOnce, recordOf, type TestPipeline, TestProducer, TOPIC } from '../compactor/pipeline.ts';
import { expectSharedLanding, LEASE_MS } from '../compactor/sharing.ts';
import { datasetStats } from '../../compactor/main.ts';
import { KafkaBroker } from '../support/kafka.ts';
import { until } from '../support/mount-guard.ts';
import { startRedis, type RedisServer } from '../support/redis.ts';
import { missing } from '../support/services.ts';
import { tempDir } from '../support/temp.ts';
import { startVersitygw, type S3Server } from '../support/versitygw.ts';
import { LONG_MS } from '../support/hang.ts';

const GROUP = `penstock-lander-${DATASET}`;

let broker: KafkaBroker;
let redis: RedisServer;
let s3: S3Server;
let admin: Admin;

async function withPipeline(
  volume: string,
  topic: string,
  partitions: number,
  use: (pipeline: TestPipeline) => Promise<void>,
): Promise<void> {
  const dir = tempDir('sharing');
  const yaml = [
    `log: kafka://${broker.plain}`,
    `store: s3://lake/${volume}?endpoint=${encodeURIComponent(s3.endpoint)}&region=us-east-1`,
    `meta: ${redis.url()}?volume=${volume}`,
    `datasets: [{ name: ${DATASET}, topic: ${topic}, eventTime: ts, sort: [sensor, ts] }]`,
    `topics: { partitions: ${partitions}, retention: 7d }`,
    'lander: { commitEvery: 200ms }',
  ].join('\n');
  writeFileSync(join(dir, 'pipeline.yaml'), yaml);
  const config = parseConfig(yaml, 'pipeline.yaml', pipelineSchema);
  const log = await openPipelineLog(config, dir);
  await log.ensureTopic(topic, { partitions, retentionMs: 7 * 86_400_000 });
  const ports = await openLake(config, dir, 'test');
  try {
    await use({ dir, yaml, config, log, lake: ports.lake });
  } finally {
    await ports.close();
    await log.close();
  }
}

describe.skipIf(missing('kafka', 'redis-server', 'versitygw'))('landers that share', () => {
  beforeAll(async () => {
    [broker, redis, s3] = await Promise.all([KafkaBroker.start(), startRedis(), startVersitygw()]);
    s3.createBucket('lake');
    vi.stubEnv('AWS_ACCESS_KEY_ID', s3.accessKeyId);
    vi.stubEnv('AWS_SECRET_ACCESS_KEY', s3.secretAccessKey);
    admin = new Kafka({ brokers: [broker.plain], logLevel: logLevel.NOTHING }).admin();
    await admin.connect();
  });
  afterAll(async () => {
    vi.unstubAllEnvs();
    await admin.disconnect();
    await Promise.all([broker.close(), redis.stop(), s3.stop()]);
  });

  test('land each record once, whatever is killed, paused, ended or started', { timeout: LONG_MS }, async () => {
    await withPipeline('kills', TOPIC, 6, (pipeline) => expectSharedLanding(pipeline, 10));
  });

  /** By partition, as Kafka's own tools ask for it. */
  async function groupOffsets(topic: string): Promise<number[]> {
    const [of] = await admin.fetchOffsets({ groupId: GROUP, topics: [topic] });
    return (of?.partitions ?? []).sort((a, b) => a.partition - b.partition).map(({ offset }) => Number(offset));
  }

  test('another program that is a member of the group takes nothing from a lander, and is named', async () => {
    const topic = 'contested';
    await withPipeline('contested', topic, 2, async (pipeline) => {
      await pipeline.log.ensureTopic(topic, { partitions: 2, retentionMs: 86_400_000 });
      const consumer = new Kafka({ brokers: [broker.plain], logLevel: logLevel.NOTHING }).consumer({ groupId: GROUP });
      await consumer.connect();
      try {
        await consumer.subscribe({ topic, fromBeginning: true });
        let consumed = 0;
        await consumer.run({
          eachMessage: async () => {
            consumed++;
          },
        });
        const producer = new TestProducer(pipeline.log);
        const records = Array.from({ length: 50 }, (_, n) =>
          recordOf({ seq: n, value: { sensor: 's', ts: HOUR_MS + n } }),
        );
        await producer.append(0, records.slice(0, 30), topic);
        await producer.append(1, records.slice(30), topic);
        await until('the other program to have all', () => consumed === 50);
        const told: string[] = [];
        const { summary, problems } = await landOnce(pipeline, {
          onStatus: (status) => status.kind === 'problem' && told.push(status.message),
        });
        expect({ rows: summary.rows, problems }).toEqual({ rows: 50, problems: [] });
        expect(told).toEqual([expect.stringMatching(new RegExp(`in group ${GROUP}: another program is a member`))]);
        expect((await landOnce(pipeline)).summary.records).toBe(0);
        await checkSnapshot(pipeline);
      } finally {
        await consumer.disconnect();
      }
    });
  });

  test('tell the group where they are; what others write there, and new partitions, harm nothing', async () => {
    const topic = 'growing';
    await withPipeline('growing', topic, 2, async (pipeline) => {
      const producer = new TestProducer(pipeline.log);
      let produced = 0;
      const produce = async (partition: number): Promise<void> => {
        const records = Array.from({ length: 10 }, (_, n) =>
          recordOf({ seq: produced + n, value: { sensor: 's', ts: HOUR_MS } }),
        );
        await producer.append(partition, records, topic);
        produced += 10;
      };
      const landed = (): Promise<void> =>
        until(`${produced} records`, async () => (await datasetStats(pipeline.lake, DATASET)).landed === produced);
      const stop = new AbortController();
      const partitions = new Map<string, number>();
      const runs = ['a', 'b'].map((name) =>
        landOnce(pipeline, {
          once: false,
          signal: stop.signal,
          leaseMs: LEASE_MS,
          onShare: (_, held) => partitions.set(name, held.partitions),
        }),
      );
      try {
        await until('one partition each', () => partitions.get('a') === 1 && partitions.get('b') === 1);
        for (const partition of [0, 1, 0]) await produce(partition);
        await landed();
        await until('the group to be there', async () => (await groupOffsets(topic)).join() === '20,10');
        await admin.setOffsets({
          groupId: GROUP,
          topic,
          partitions: [
            { partition: 0, offset: '3' },
            { partition: 1, offset: '9999' },
          ],
        });
        for (const partition of [0, 1]) await produce(partition);
        await landed();
        await until('the group to be there again', async () => (await groupOffsets(topic)).join() === '30,20');

        // Nothing arrives in the old ones.
        await admin.createPartitions({ topicPartitions: [{ topic, count: 4 }] });
        await until('two partitions each', () => partitions.get('a') === 2 && partitions.get('b') === 2);
        await produce(3);
        await landed();
        await checkSnapshot(pipeline);
      } finally {
        stop.abort();
        await Promise.all(runs);
      }
    });
  });
});
