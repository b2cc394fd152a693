/** Everything that can be run twice, at once, or over a topic that is not what it was. */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { openLake, openPipelineLog } from '../../lib/lake/ports.ts';
import type { FetchRequest, FetchResult, Log } from '../../lib/log/log.ts';
import { FaultPlan } from '../support/fault.ts';
import type { TestRecord } from '../support/log-batches.ts';
import { faultyLog } from '../support/log-faulty.ts';
import {
  compactAll,
  expectAccounts,
  HOUR_MS,
  landOnce,
  LASTING,
  openTestPipeline,
  readRows,
  recordOf,
  TestProducer,
  TOPIC,
  type TestPipeline,
} from './pipeline.ts';

const readings = (from: number, count: number, hours = 1): TestRecord[] =>
  Array.from({ length: count }, (_, n) =>
    recordOf({ seq: from + n, value: { sensor: `s-${n % 3}`, ts: HOUR_MS + (n % hours) * 3_600_000, rms: n } }),
  );

/** A second process's view: its own engine session and store. */
async function rival(pipeline: TestPipeline): Promise<TestPipeline> {
  const ports = await openLake(pipeline.config, pipeline.dir, 'rival', LASTING);
  const log = await openPipelineLog(pipeline.config, pipeline.dir);
  onTestFinished(async () => {
    await ports.close();
    await log.close();
  });
  return { ...pipeline, lake: ports.lake, log };
}

async function offsets(pipeline: TestPipeline): Promise<string[]> {
  const rows = await readRows(pipeline.lake);
  return rows.map((row) => `${String(row['_log_partition'])}:${String(row['_offset'])}`).sort();
}

test('two landers at once: each record lands once', async () => {
  const pipeline = await openTestPipeline('', 'lander: { commitEvery: 1ms, fileBytes: 1MB }');
  const producer = new TestProducer(pipeline.log);
  await producer.append(0, readings(0, 5000));
  await producer.append(1, readings(5000, 5000));
  const other = await rival(pipeline);
  const results = await Promise.all([landOnce(pipeline), landOnce(other), landOnce(pipeline)]);
  expect(results.reduce((sum, result) => sum + result.summary.records, 0)).toBe(10_000);
  await expectAccounts(pipeline.lake, { landed: 10_000, liveRows: 10_000 });
  expect(new Set(await offsets(pipeline)).size).toBe(10_000);
});

test('two compactors at once: one does a group, the other leaves it with a reason', async () => {
  const pipeline = await openTestPipeline();
  const producer = new TestProducer(pipeline.log);
  for (let part = 0; part < 3; part++) {
    await producer.append(0, readings(part * 100, 120, 4));
    await landOnce(pipeline);
  }
  const other = await rival(pipeline);
  const results = await Promise.all([compactAll(pipeline), compactAll(other)]);
  expect(results.flatMap((result) => result.problems)).toEqual([]);
  expect(results.reduce((sum, result) => sum + result.summary.groups, 0)).toBe(4);
  await expectAccounts(pipeline.lake, { landed: 360, liveFiles: 4, smallFiles: 0 });
});

test('a compactor that was passed by while it worked gives up, and nothing is lost', async () => {
  const pipeline = await openTestPipeline();
  const producer = new TestProducer(pipeline.log);
  await producer.append(0, readings(0, 100));
  await landOnce(pipeline);
  await producer.append(0, readings(50, 100));
  await landOnce(pipeline);
  const other = await rival(pipeline);
  // The rival is handed every lease: it sees a clock an hour ahead, as after a pause of this process.
  const ahead = { nowMs: () => Date.now() + 3_600_000, monotonicMs: () => performance.now() };
  const results = await Promise.all([
    compactAll(pipeline),
    compactAll({ ...other, lake: { ...other.lake, clock: ahead } }),
  ]);
  expect(results.reduce((sum, result) => sum + result.summary.groups, 0)).toBeGreaterThanOrEqual(1);
  await compactAll(pipeline);
  await expectAccounts(pipeline.lake, { landed: 200, duplicates: 50, liveRows: 150, liveFiles: 1 });
});

test('a topic that was deleted and made anew is landed from its beginning', async () => {
  const pipeline = await openTestPipeline();
  await new TestProducer(pipeline.log).append(0, readings(0, 50));
  await landOnce(pipeline);
  await pipeline.log.deleteTopic(TOPIC);
  await pipeline.log.ensureTopic(TOPIC, { partitions: 2, retentionMs: 86_400_000 });
  await new TestProducer(pipeline.log).append(0, readings(50, 20));
  expect((await landOnce(pipeline)).summary).toMatchObject({ records: 20, rows: 20 });
  await compactAll(pipeline);
  await expectAccounts(pipeline.lake, { landed: 70, liveRows: 70 });
});

test('a damaged batch stops its partition by name, the others go on', async () => {
  const pipeline = await openTestPipeline();
  const producer = new TestProducer(pipeline.log);
  await producer.append(0, readings(0, 10));
  await producer.append(0, readings(10, 10));
  await producer.append(1, readings(20, 30));
  const folder = join(pipeline.dir, 'log', 'topics', TOPIC);
  const name =
    readdirSync(folder, { recursive: true, encoding: 'utf8' }).find((path) => /^0\/.*\.log$/.test(path)) ?? '';
  const segment = join(folder, name);
  const bytes = readFileSync(segment);
  // The first batch of partition 0 is whole, the second has a wrong bit in its last record.
  const last = bytes.lastIndexOf('"rms":9');
  bytes.writeUInt8(bytes.readUInt8(last + 2) ^ 4, last + 2);
  writeFileSync(segment, bytes);
  const result = await landOnce(await rival(pipeline));
  expect(result.summary).toMatchObject({ records: 40, rows: 40 });
  expect(result.problems).toHaveLength(1);
  expect(result.problems[0]).toMatch(/vibration.0.*10/);
  await expectAccounts(pipeline.lake, { landed: 40, liveRows: 40 });
});

test('a lander whose session was ended while it was paused writes nothing', async () => {
  const pipeline = await openTestPipeline();
  await new TestProducer(pipeline.log).append(0, readings(0, 100));
  const zombie = await rival(pipeline);
  await pipeline.lake.engine.endSession(zombie.lake.engine.sessionId);
  await expect(landOnce(zombie)).rejects.toMatchObject({ code: 'fenced' });
  expect((await landOnce(pipeline)).summary.records).toBe(100);
  await expectAccounts(pipeline.lake, { landed: 100, liveRows: 100 });
});

test('an abort stops the compactor in the middle of a group, and the next run does it', async () => {
  const pipeline = await openTestPipeline();
  await new TestProducer(pipeline.log).append(0, readings(0, 3000, 3));
  await landOnce(pipeline);
  const stop = new AbortController();
  const run = compactAll(pipeline, {
    signal: stop.signal,
    // After the first of three groups.
    onStatus: () => stop.abort(new Error('SIGTERM')),
  });
  expect(await run).toMatchObject({
    summary: { groups: 1 },
    problems: [expect.stringMatching(/^plant\.vibration: 2 hours from \S+ to \S+ are not compacted: SIGTERM$/)],
  });
  await expectAccounts(pipeline.lake, { landed: 3000, liveRows: 3000, smallFiles: 2, liveFiles: 3 });
  expect((await compactAll(pipeline)).summary.groups).toBe(2);
  await expectAccounts(pipeline.lake, { landed: 3000, liveRows: 3000, smallFiles: 0 });
});

test('an abort of the lander commits what it has and ends', async () => {
  const pipeline = await openTestPipeline('', 'lander: { commitEvery: 1h }');
  const producer = new TestProducer(pipeline.log);
  await producer.append(0, readings(0, 100));
  const stop = new AbortController();
  const fetch = pipeline.log.fetch.bind(pipeline.log);
  // Stops when it has read everything and waits for more.
  const log: Log = {
    ...faultyLog(pipeline.log, new FaultPlan()),
    fetch: async (request: FetchRequest): Promise<FetchResult> => {
      const result = await fetch(request);
      if (request.partition === 0 && request.offset === 100n) stop.abort();
      return result;
    },
  };
  const result = await landOnce({ ...pipeline, log }, { once: false, signal: stop.signal });
  expect(result.summary).toMatchObject({ records: 100, rows: 100 });
});
