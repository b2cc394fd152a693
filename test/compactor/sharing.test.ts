/** Several landers of a dataset, each with its share of the partitions: in files and SQLite. On Kafka, Redis and S3: test/e2e/sharing.test.ts. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { datasetStats } from '../../compactor/main.ts';
import { PenstockError } from '../../lib/errors.ts';
import { openLake } from '../../lib/lake/ports.ts';
import { moveOffsets, readOffsets } from '../../lib/lake/offsets.ts';
import type { FetchRequest, FetchResult, Log } from '../../lib/log/log.ts';
import type { LakeContext } from '../../lib/table/table.ts';
import { FaultPlan } from '../support/fault.ts';
import { faultyLog } from '../support/log-faulty.ts';
import { until } from '../support/mount-guard.ts';
import {
  DATASET,
  expectAccounts,
  HOUR_MS,
  landOnce,
  LASTING,
  openTestPipeline,
  recordOf,
  TestProducer,
  TOPIC,
} from './pipeline.ts';
import { expectSharedLanding, LEASE_MS } from './sharing.ts';

const readings = (count: number) =>
  Array.from({ length: count }, (_, seq) => recordOf({ seq, value: { ts: HOUR_MS, seq } }));

test('landers that are killed, paused beyond the lease, ended and started land each record once', async () => {
  const pipeline = await openTestPipeline('', 'lander: { commitEvery: 200ms }', 6);
  writeFileSync(join(pipeline.dir, 'pipeline.yaml'), pipeline.yaml);
  await expectSharedLanding(pipeline, 5);
});

test('the commit of a lander that was robbed of one partition fails as a whole', async () => {
  const pipeline = await openTestPipeline('', 'lander: { commitEvery: 1h }');
  const { lake } = pipeline;
  const producer = new TestProducer(pipeline.log);
  for (const partition of [0, 1]) await producer.append(partition, readings(100));
  const stop = new AbortController();
  const told: string[] = [];
  const fetch = pipeline.log.fetch.bind(pipeline.log);
  // When everything is staged, another lander, which takes the first for dead, has partition 0; then the first one commits.
  const log: Log = {
    ...faultyLog(pipeline.log, new FaultPlan()),
    fetch: async (request: FetchRequest): Promise<FetchResult> => {
      const result = await fetch(request);
      if (!stop.signal.aborted && request.partition === 1 && request.offset === 100n) {
        const [from] = await readOffsets(lake.engine, lake.volume, DATASET, [0]);
        if (from?.landed == null) throw new Error('partition 0 has no lander');
        const theft = moveOffsets(lake.volume, DATASET, [{ from, to: { ...from.landed, lander: 'another' } }]);
        expect(await lake.engine.commit(theft)).toMatchObject({ ok: true });
        stop.abort();
      }
      return result;
    },
  };
  const result = await landOnce(
    { ...pipeline, log },
    {
      once: false,
      signal: stop.signal,
      onStatus: (status) => status.kind === 'problem' && told.push(status.message),
    },
  );
  expect(result.summary).toMatchObject({ records: 0, files: 0 });
  expect(told).toEqual([]);
  await expectAccounts(lake, { landed: 0, liveRows: 0 });
  expect((await landOnce(pipeline)).summary.records).toBe(200);
  await expectAccounts(lake, { landed: 200, liveRows: 200 });
});

test('a lander that cannot land leaves its share to one that can', async () => {
  const pipeline = await openTestPipeline('', 'lander: { commitEvery: 50ms }');
  const producer = new TestProducer(pipeline.log);
  const ports = await openLake(pipeline.config, pipeline.dir, 'other', LASTING);
  onTestFinished(() => ports.close());
  const stop = new AbortController();
  const shares = { broken: -1, whole: -1 };
  const landing = (name: 'broken' | 'whole', lake: LakeContext): Promise<unknown> =>
    landOnce(
      { ...pipeline, lake },
      {
        once: false,
        signal: stop.signal,
        leaseMs: LEASE_MS,
        onShare: (_, { partitions }) => (shares[name] = partitions),
      },
    );
  const store = new Proxy(ports.lake.store, {
    get: (target, name) => {
      const value: unknown = Reflect.get(target, name);
      if (typeof value !== 'function') return value;
      if (name !== 'putFile') return value.bind(target) as unknown;
      return () => Promise.reject(new PenstockError('unavailable', 'no route to the store'));
    },
  });
  const runs = [landing('broken', { ...ports.lake, store }), landing('whole', pipeline.lake)];
  try {
    await until('half of the partitions for each', () => Promise.resolve(shares.broken === 1 && shares.whole === 1));
    for (const partition of [0, 1]) await producer.append(partition, readings(50));
    await until('all of them for the one that can', () => Promise.resolve(shares.broken === 0 && shares.whole === 2));
    await until('100 records', async () => (await datasetStats(pipeline.lake, DATASET)).landed === 100);
  } finally {
    stop.abort();
    await Promise.all(runs);
  }
  await expectAccounts(pipeline.lake, { landed: 100, liveRows: 100 });
});

test('two landers that run on have one partition each, and the one that stays has both at once', async () => {
  const pipeline = await openTestPipeline('', 'lander: { commitEvery: 50ms }');
  const stops = [new AbortController(), new AbortController()] as const;
  const unlanded = new Map<string, number>();
  const run = (name: string, stop: AbortController): Promise<unknown> =>
    landOnce(pipeline, {
      once: false,
      signal: stop.signal,
      leaseMs: LEASE_MS,
      onShare: (_, held) => unlanded.set(`${name} ${held.partitions}`, held.unlanded),
    });
  const runs = [run('a', stops[0]), run('b', stops[1])];
  await until('one for each', () => Promise.resolve(unlanded.has('a 1') && unlanded.has('b 1')));
  unlanded.clear();
  stops[0].abort();
  await runs[0];
  await until('both', () => Promise.resolve(unlanded.has('b 2')));
  await new TestProducer(pipeline.log).append(1, readings(10), TOPIC);
  await until('10 records', async () => (await datasetStats(pipeline.lake, DATASET)).landed === 10);
  stops[1].abort();
  await runs[1];
  expect([...unlanded.values()].every((records) => records >= 0 && records <= 10)).toBe(true);
});
