/** Records that the log's retention removed before they landed are named and counted, once, also when nothing had landed before. */
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { datasetStats } from '../../compactor/main.ts';
import { parseConfig } from '../../lib/config/load.ts';
import { pipelineSchema } from '../../lib/config/pipeline.ts';
import { openLake } from '../../lib/lake/ports.ts';
import { PenstockError } from '../../lib/errors.ts';
import { openFileLogAt } from '../../lib/log/file/file-log.ts';
import type { FetchRequest, FetchResult, Log } from '../../lib/log/log.ts';
import { FaultPlan } from '../support/fault.ts';
import { textBatch } from '../support/log-batches.ts';
import { faultyLog } from '../support/log-faulty.ts';
import { until } from '../support/mount-guard.ts';
import { tempDir } from '../support/temp.ts';
import {
  DATASET,
  expectAccounts,
  HOUR_MS,
  landOnce,
  openTestPipeline,
  pipelineYaml,
  readRows,
  recordOf,
  TestProducer,
  type TestPipeline,
  TOPIC,
} from './pipeline.ts';

const RETENTION_MS = 86_400_000;

/** A pipeline over a log of 1 KiB segments whose machine `ran` longer and longer. */
async function openAgeingPipeline(): Promise<{ pipeline: TestPipeline; ran: (ms: number) => void }> {
  const dir = tempDir('ageing');
  const yaml = pipelineYaml(dir);
  const config = parseConfig(yaml, 'pipeline.yaml', pipelineSchema);
  let uptimeMs = 1000;
  const log = await openFileLogAt(join(dir, 'log'), {
    segmentBytes: 1024,
    clock: { nowMs: () => HOUR_MS, monotonicMs: () => uptimeMs },
    boot: { id: Buffer.alloc(16), uptimeMs: () => uptimeMs },
  });
  const ports = await openLake(config, dir, 'test');
  onTestFinished(async () => {
    await ports.close();
    await log.close();
  });
  await log.ensureTopic(TOPIC, { partitions: 2, retentionMs: RETENTION_MS });
  return { pipeline: { dir, yaml, config, log, lake: ports.lake }, ran: (ms) => (uptimeMs += ms) };
}

const numbered = (from: number, count: number) =>
  Array.from({ length: count }, (_, n) => recordOf({ seq: from + n, value: { sensor: 's', ts: HOUR_MS + from + n } }));

async function appendOneByOne(producer: TestProducer, from: number, count: number): Promise<void> {
  for (const record of numbered(from, count)) await producer.append(0, [record]);
}

test('what was gone before the first landing is lost by name and number, once', async () => {
  const { pipeline, ran } = await openAgeingPipeline();
  const producer = new TestProducer(pipeline.log);
  await appendOneByOne(producer, 0, 40);
  ran(RETENTION_MS + HOUR_MS);
  await appendOneByOne(producer, 40, 10);
  const { earliest } = await pipeline.log.offsets(TOPIC, 0);
  const lost = Number(earliest);
  expect(lost).toBeGreaterThan(30);

  const first = await landOnce(pipeline);
  expect(first.problems).toEqual([`vibration/0: offsets 0 to ${lost - 1} were deleted before they landed`]);
  expect(first.summary).toMatchObject({ records: 50 - lost, lost });
  expect((await readRows(pipeline.lake)).map((row) => Number(row['_seq'])).sort((a, b) => a - b)).toEqual(
    Array.from({ length: 50 - lost }, (_, n) => lost + n),
  );
  await expectAccounts(pipeline.lake, { landed: 50 - lost, lost });

  const second = await landOnce(pipeline);
  expect(second).toEqual({ summary: { records: 0, rows: 0, quarantined: 0, lost: 0, files: 0 }, problems: [] });
  await expectAccounts(pipeline.lake, { landed: 50 - lost, lost });
});

test('a loss after which nothing is left to land is committed, too', async () => {
  const { pipeline, ran } = await openAgeingPipeline();
  const producer = new TestProducer(pipeline.log);
  await appendOneByOne(producer, 0, 3);
  expect((await landOnce(pipeline)).summary).toMatchObject({ records: 3, lost: 0 });
  await appendOneByOne(producer, 3, 4);
  // Appends that are refused still roll and clean the partition, so that in the end it is empty.
  const stranger = await pipeline.log.producer();
  for (let n = 0; n < 3; n++) {
    ran(RETENTION_MS + HOUR_MS);
    await expect(stranger.append(TOPIC, 0, textBatch(['x'], stranger, 5))).rejects.toMatchObject({
      code: 'unknown-producer',
    });
  }
  expect(await pipeline.log.offsets(TOPIC, 0)).toMatchObject({ earliest: 7n, end: 7n });

  const { summary, problems } = await landOnce(pipeline);
  expect(summary).toMatchObject({ records: 0, lost: 4 });
  expect(problems).toEqual(['vibration/0: offsets 3 to 6 were deleted before they landed']);
  expect((await landOnce(pipeline)).problems).toEqual([]);
  await expectAccounts(pipeline.lake, { landed: 3, lost: 4 });
});

test('a partition that retention overtook while it was read is read on, also when no other has anything', async () => {
  const pipeline = await openTestPipeline('', 'lander: { commitEvery: 1s }');
  const { lake } = pipeline;
  await new TestProducer(pipeline.log).append(0, numbered(0, 10));
  const fetch = pipeline.log.fetch.bind(pipeline.log);
  let overtaken = 0;
  const log: Log = {
    ...faultyLog(pipeline.log, new FaultPlan()),
    fetch: (request: FetchRequest): Promise<FetchResult> => {
      if (request.partition !== 0 || overtaken++ > 0) return fetch(request);
      return Promise.reject(new PenstockError('not-found', `${TOPIC}/0 has offsets 5 to 10, there is no 0`));
    },
  };
  // A hundred seconds in one.
  const startMs = HOUR_MS - 100 * performance.now();
  const clock = { nowMs: () => Math.floor(startMs + clock.monotonicMs()), monotonicMs: () => 100 * performance.now() };
  const stop = new AbortController();
  const landing = landOnce({ ...pipeline, log, lake: { ...lake, clock } }, { once: false, signal: stop.signal });
  try {
    await until('10 records', async () => (await datasetStats(lake, DATASET)).landed === 10);
  } finally {
    stop.abort();
    await landing;
  }
  await expectAccounts(lake, { landed: 10, liveRows: 10 });
  expect(overtaken).toBeGreaterThan(1);
});
