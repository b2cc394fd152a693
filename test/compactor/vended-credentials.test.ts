/**
 * Credentials that a catalog hands out: Iceberg's reference of a catalog, whose answers a front adds them to, and an S3 server with accounts
 * that may each do a part. The reference has no client of S3: the front turns locations into paths of the server's folder.
 */
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { rmSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { PutBucketPolicyCommand, S3Client } from '@aws-sdk/client-s3';
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest';
import { datasetStats } from '../../compactor/main.ts';
import { runReplay } from '../../compactor/quarantine/replay.ts';
import { openLake } from '../../lib/lake/ports.ts';
import { readQuarantine } from '../../lib/lake/quarantine.ts';
import { openS3Store } from '../../lib/store/s3/s3-store.ts';
import { vendedIn } from '../../lib/table/foreign/vended-credentials.ts';
import { tableFolder } from '../../lib/table/keys.ts';
import { HANG_MS } from '../support/hang.ts';
import { startIcebergRest } from '../support/iceberg-rest.ts';
import { until } from '../support/mount-guard.ts';
import { missing, requireService } from '../support/services.ts';
import { makeTempDir } from '../support/temp.ts';
import { startVersitygw, type S3Server } from '../support/versitygw.ts';
import { expectWhole, PER_LANDING, records } from './foreign-catalog-pipeline.ts';
import {
  compactAll,
  DATASET,
  landOnce,
  liveFiles,
  openPipelineOf,
  pipelineYaml,
  TestProducer,
  type TestPipeline,
  hoursLater,
} from './pipeline.ts';

const BUCKET = 'lake';
/** Of the environment: may touch no object. */
const OWN = 'own';
const VENDED = ['vended-1', 'vended-2', 'vended-3'];
const secretOf = (account: string): string => `secret-of-${account}`;
const FOREVER = Number.MAX_SAFE_INTEGER;

interface Front {
  readonly url: string;
  /** How often credentials were asked for, with the header of the specification. */
  asked: { loads: number; refreshes: number };
  vend: { readonly account: string; readonly expiresMs: number; readonly token?: string } | null;
  hasEndpoint: boolean;
}

async function startFront(target: string, s3: S3Server): Promise<Front> {
  const [here, there] = [`s3://${BUCKET}/`, `file://${s3.folder}/${BUCKET}/`];
  const credentials = (): object[] =>
    front.vend === null
      ? []
      : [
          { prefix: 's3://another/', config: { 's3.access-key-id': 'x', 's3.secret-access-key': 'x' } },
          {
            prefix: here,
            config: {
              's3.access-key-id': front.vend.account,
              's3.secret-access-key': secretOf(front.vend.account),
              ...(front.vend.token !== undefined && { 's3.session-token': front.vend.token }),
              's3.session-token-expires-at-ms': String(front.vend.expiresMs),
            },
          },
        ];
  const server = createServer((request, response) => {
    void (async () => {
      const parts: Buffer[] = [];
      for await (const part of request) parts.push(part as Buffer); // what a request gives
      const { method = 'GET', url = '', headers } = request;
      const isDelegated = headers['x-iceberg-access-delegation'] === 'vended-credentials';
      if (isDelegated && front.hasEndpoint && url.endsWith('/credentials')) {
        front.asked.refreshes++;
        response.end(JSON.stringify({ 'storage-credentials': credentials() }));
        return;
      }
      const body = Buffer.concat(parts).toString().replaceAll(here, there);
      const type = headers['content-type'] ?? 'application/json';
      const sent = { method, headers: { 'content-type': type }, ...(body !== '' && { body }) };
      const answer = await fetch(`${target}${url}`, sent);
      let text = (await answer.text()).replaceAll(there, here);
      if (isDelegated && text.startsWith('{"metadata-location"')) {
        if (method === 'GET') front.asked.loads++;
        text = `{"storage-credentials":${JSON.stringify(credentials())},${text.slice(1)}`;
      }
      response.writeHead(answer.status, { 'content-type': 'application/json' }).end(text);
    })();
  });
  await once(server.listen(0, '127.0.0.1'), 'listening');
  onTestFinished(() => {
    server.close().closeAllConnections();
  });
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`; // a TCP server's
  const front: Front = {
    url,
    asked: { loads: 0, refreshes: 0 },
    vend: { account: 'vended-1', expiresMs: FOREVER },
    hasEndpoint: true,
  };
  return front;
}

describe.skipIf(missing('iceberg-rest', 'versitygw'))('credentials that a catalog hands out', () => {
  let s3: S3Server;
  let accounts = '';
  beforeAll(async () => {
    accounts = makeTempDir('iam');
    s3 = await startVersitygw('--iam-dir', accounts, '--iam-cache-disable');
    s3.createBucket(BUCKET);
    for (const account of [OWN, ...VENDED]) addAccount(account);
    const { endpoint, accessKeyId, secretAccessKey } = s3;
    const credentials = { accessKeyId, secretAccessKey };
    const root = new S3Client({ endpoint, region: 'us-east-1', forcePathStyle: true, credentials });
    await root.send(new PutBucketPolicyCommand({ Bucket: BUCKET, Policy: JSON.stringify(POLICY) }));
    root.destroy();
    vi.stubEnv('AWS_ACCESS_KEY_ID', OWN);
    vi.stubEnv('AWS_SECRET_ACCESS_KEY', secretOf(OWN));
  });
  afterAll(async () => {
    vi.unstubAllEnvs();
    await s3.stop();
    rmSync(accounts, { recursive: true });
  });

  function admin(...args: string[]): void {
    const { endpoint, accessKeyId, secretAccessKey } = s3;
    const who = ['-a', accessKeyId, '-s', secretAccessKey, '--endpoint-url', endpoint];
    execFileSync(requireService('versitygw'), ['admin', ...who, ...args], { timeout: HANG_MS, stdio: 'pipe' });
  }
  const addAccount = (account: string): void =>
    admin('create-user', '-a', account, '-s', secretOf(account), '-r', 'user');

  function openPipeline(front: Front, prefix: string): Promise<TestPipeline> {
    const catalog = `catalog: { uri: '${front.url}', accessDelegation: vended-credentials }`;
    const store = `store: s3://${BUCKET}/${prefix}?endpoint=${encodeURIComponent(s3.endpoint)}`;
    const yamlOf = (dir: string): string =>
      pipelineYaml(dir, '', `${catalog}\nlander: { commitEvery: 50ms }`).replace(/^store: .*$/m, store);
    return openPipelineOf(yamlOf, { partitions: 2, retentionMs: 86_400_000 });
  }

  test('land, compact and replay with nothing else: dead letters lie in the folder of the table, too', async () => {
    const front = await startFront(await startIcebergRest(), s3);
    const pipeline = await openPipeline(front, 'a');
    const producer = new TestProducer(pipeline.log);
    const told: string[] = [];
    for (let landing = 0; landing < 2; landing++) {
      front.hasEndpoint = landing === 0;
      await producer.append(landing, records(landing * PER_LANDING));
      const onStatus = (status: object): void => void told.push(JSON.stringify(status));
      expect((await landOnce(pipeline, { onStatus })).problems).toEqual([]);
      await expectWhole(pipeline.lake, landing + 1, false);
    }
    // An hour later: what nobody refers to goes, a dead letter stays.
    expect((await compactAll(hoursLater(pipeline, 2))).problems).toEqual([]);
    await expectWhole(pipeline.lake, 2, true);
    // Hidden from Iceberg's own removal of orphans.
    const folder = `${tableFolder(DATASET)}_quarantine/`;
    for await (const [object] of readQuarantine(pipeline.lake.engine, pipeline.lake.volume, DATASET)) {
      expect(object.startsWith(folder), object).toBe(true);
    }
    const options = { config: pipeline.config, lake: pipeline.lake, signal: new AbortController().signal };
    const replay = await runReplay(options);
    expect(replay.summary).toMatchObject({ objects: 2, rows: 0, quarantined: 2 });
    expect(front.asked.refreshes).toBe(1);
    expect(told.join()).not.toContain('secret-of');
    const [file = ''] = await liveFiles(pipeline.lake);
    const own = await openS3Store(new URL(pipeline.lake.store.url));
    onTestFinished(() => own.close());
    const key = pipeline.lake.store.keyOf(file) ?? '';
    await expect(own.get(key)).rejects.toMatchObject({ code: 'denied' });
    expect((await pipeline.lake.store.get(key)).length).toBeGreaterThan(0);
  });

  test('are asked for anew before they end, and when they were taken back', async () => {
    const front = await startFront(await startIcebergRest(), s3);
    front.vend = { account: 'vended-1', expiresMs: Date.now() + 4000 };
    const pipeline = await openPipeline(front, 'b');
    const producer = new TestProducer(pipeline.log);
    const stop = new AbortController();
    const told: string[] = [];
    const onStatus = (status: { kind: string }): void => {
      if (status.kind === 'problem') told.push(JSON.stringify(status));
    };
    const run = landOnce(pipeline, { once: false, signal: stop.signal, onStatus });
    let produced = 0;
    const ended = run.then(() => Promise.reject(new Error('the lander ended')));
    const produce = async (): Promise<void> => {
      await producer.append(0, records(produced).slice(0, PER_LANDING));
      produced += PER_LANDING;
      const all = until(
        `${produced} records`,
        async () => (await datasetStats(pipeline.lake, DATASET)).landed === produced,
      );
      await Promise.race([all, ended]);
    };
    await produce();
    const before = front.asked.refreshes;
    front.vend = { account: 'vended-2', expiresMs: FOREVER };
    while (front.asked.refreshes === before) await produce();
    admin('delete-user', '-a', 'vended-1');
    await produce();
    front.vend = { account: 'vended-3', expiresMs: FOREVER };
    admin('delete-user', '-a', 'vended-2');
    await produce();
    ended.catch(() => undefined);
    stop.abort();
    expect((await run).problems).toEqual([]);
    expect(told).toEqual([]);
    addAccount('vended-1');

    // Those that the store does not take, and missing ones, are named, without a secret.
    const another = await openPipeline(front, 'b');
    await new TestProducer(another.log).append(0, records(0));
    // versitygw knows no sessions.
    front.vend = { account: 'vended-1', expiresMs: FOREVER, token: 'token-of-vended-1' };
    const refused: unknown = await landOnce(another).catch((error: unknown) => error);
    expect(refused).toMatchObject({ code: 'denied', message: expect.stringContaining('InvalidToken') as string });
    expect(String(refused)).not.toMatch(/secret-of|token-of/);
    front.vend = null;
    await expect(landOnce(another)).rejects.toMatchObject({
      code: 'config',
      message: expect.stringContaining('catalog.accessDelegation') as string,
    });
    const config = { ...another.config, store: 'dir:./objects' };
    await expect(openLake(config, another.dir, 'test')).rejects.toMatchObject({ code: 'config' });
  });
});

const statement = (accounts: readonly string[], actions: readonly string[], resource: string): object => ({
  ...{ Effect: 'Allow', Principal: { AWS: accounts }, Action: actions.map((action) => `s3:${action}`) },
  Resource: `arn:aws:s3:::${BUCKET}${resource}`,
});
const OBJECTS = ['GetObject', 'PutObject', 'DeleteObject'];
const POLICY = {
  Version: '2012-10-17',
  Statement: [statement(VENDED, OBJECTS, '/*/tables/*'), statement([OWN, ...VENDED], ['ListBucket'], '')],
};

test('those of the longest prefix count, before the older keys of the configuration', () => {
  const of = (id: string) => ({ 's3.access-key-id': id, 's3.secret-access-key': 's' });
  const storage = ['s3', 's3://b/t/x', 's3://b/t', 's3://b/t2', 's3://b/'].map((prefix) => ({
    prefix,
    config: of(prefix),
  }));
  expect(vendedIn({ 'storage-credentials': storage, config: of('old') }, 's3://b/t')).toMatchObject({
    accessKeyId: 's3://b/t',
    expiresMs: null,
  });
  const config = { ...of('old'), 's3.session-token': 'x', 's3.session-token-expires-at-ms': '17' };
  expect(vendedIn({ config }, 's3://b/t')).toEqual({
    ...{ accessKeyId: 'old', secretAccessKey: 's', sessionToken: 'x' },
    expiresMs: 17,
  });
  for (const none of [undefined, {}, { config: { 's3.access-key-id': 'a' } }, { 'storage-credentials': 'x' }])
    expect(vendedIn(none, 's3://b/t')).toBeNull();
});
