/** The control plane over Redis and S3: what differs is that files of the lake are no files of this machine. */
import { join } from 'node:path';
import { describe, expect, onTestFinished, test, vi } from 'vitest';
import { parseConfig } from '../../lib/config/load.ts';
import { pipelineSchema } from '../../lib/config/pipeline.ts';
import { openLake, openPipelineLog } from '../../lib/lake/ports.ts';
import { DATASET, foreignRecord, landOnce, TestProducer } from '../compactor/pipeline.ts';
import { startRedis } from '../support/redis.ts';
import { missing } from '../support/services.ts';
import { tempDir } from '../support/temp.ts';
import { startVersitygw } from '../support/versitygw.ts';
import { reading, startControl } from './control.ts';

describe.skipIf(missing('redis-server', 'versitygw'))('on Redis and S3', () => {
  test('SQL and the quarantine read objects of S3, and nothing shows its credentials', async () => {
    const redis = await startRedis();
    onTestFinished(() => redis.stop());
    const s3 = await startVersitygw();
    onTestFinished(() => s3.stop());
    s3.createBucket('lake');
    vi.stubEnv('AWS_ACCESS_KEY_ID', s3.accessKeyId);
    vi.stubEnv('AWS_SECRET_ACCESS_KEY', s3.secretAccessKey);
    onTestFinished(() => void vi.unstubAllEnvs());
    const dir = tempDir('services');
    const yaml = [
      `log: file:${join(dir, 'log')}`,
      `store: s3://lake/prefix?endpoint=${s3.endpoint}&region=us-east-1`,
      `meta: ${redis.url()}`,
      `datasets: [{ name: ${DATASET}, topic: vibration, eventTime: ts }]`,
    ].join('\n');
    const config = parseConfig(yaml, 'pipeline.yaml', pipelineSchema);
    const log = await openPipelineLog(config, dir);
    const ports = await openLake(config, dir, 'test');
    await log.ensureTopic('vibration', { partitions: 1, retentionMs: 86_400_000 });
    await new TestProducer(log).append(0, [reading(1), reading(2), foreignRecord('{"broken')]);
    await landOnce({ dir, yaml, config, log, lake: ports.lake });
    await ports.close();
    await log.close();

    const control = await startControl(config, dir);
    const answer = await control.request('POST', '/v1/sql', { body: { sql: `SELECT count(*) FROM ${DATASET}` } });
    expect(answer.json).toMatchObject({ rows: [['2']] });
    const [object] = (await control.get('/v1/quarantine'))['items'] as { object: string }[];
    const records = await control.get(
      `/v1/quarantine/${DATASET}/records?object=${encodeURIComponent(object?.object ?? '')}`,
    );
    expect(records).toMatchObject({ items: [{ value: '{"broken', key: null }], more: false });
    const overview = await control.request('GET', '/v1/overview');
    expect(overview.json).toMatchObject({ ports: [{ ok: true }, { ok: true }, { ok: true }] });
    expect(overview.text).not.toContain(s3.secretAccessKey);
  });
});
