/** Event times that cannot be, clocks that are years off, and the hours that come of them. */
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { GroupLease } from '../../compactor/compact/lease.ts';
import { Timely } from '../../compactor/lander/timely.ts';
import { runReplay } from '../../compactor/quarantine/replay.ts';
import { openableNames } from '../../lib/volume/listed-hours.ts';
import type { TestRecord } from '../support/log-batches.ts';
import { deadLetters } from './dead-letters.ts';
import {
  compactAll,
  DATASET,
  expectAccounts,
  HOUR_MS,
  landOnce,
  openTestPipeline,
  recordOf,
  TestProducer,
  type TestPipeline,
} from './pipeline.ts';

const DAY_MS = 86_400_000;

test('a sensor whose clock is set to any time makes no directories: its readings are quarantined, and land when the bounds are raised', async () => {
  const pipeline = await openTestPipeline(', maxPast: 3650d');
  const at = (seq: number, ts: number): TestRecord => recordOf({ seq, value: { sensor: 's', ts, rms: seq } });
  const ahead = Date.now() + 29 * DAY_MS;
  const wild = [at(1, 1000), at(2, Date.UTC(2100, 0, 1)), at(3, Date.UTC(2200, 0, 1))];
  await new TestProducer(pipeline.log).append(0, [at(0, HOUR_MS), ...wild, at(4, ahead)]);
  expect((await landOnce(pipeline)).summary).toMatchObject({ records: 5, rows: 2, quarantined: 3 });
  const reasons = (await deadLetters(pipeline)).map((letter) => letter['reason']);
  expect(reasons).toEqual([
    expect.stringMatching(/^event time of the past: 1970-01-01T00:00:01.000Z is more than 3650 d \(maxPast\) before 2/),
    expect.stringMatching(
      /^event time of the future: 2100-01-01T00:00:00.000Z is more than 30 d \(maxFuture\) ahead of 2/,
    ),
    expect.stringMatching(/^event time of the future: 2200-/),
  ]);
  const [dataset] = pipeline.config.datasets;
  if (dataset === undefined) throw new Error('one dataset');
  const raised = { ...dataset, maxFuture: Infinity, maxPast: Infinity };
  const config = { ...pipeline.config, datasets: [raised] };
  const { lake } = pipeline;
  const signal = new AbortController().signal;
  await runReplay({ config, lake, signal, scratchRoot: join(pipeline.dir, 'scratch') });
  await expectAccounts(pipeline.lake, { landed: 5, liveRows: 5, quarantined: 0 });
});

test('a lander whose clock is years behind takes no reading for one of the future', async () => {
  const pipeline = await openTestPipeline();
  await new TestProducer(pipeline.log).append(0, [recordOf({ seq: 0, value: { sensor: 's', ts: HOUR_MS } })]);
  const clock = { ...pipeline.lake.clock, nowMs: () => Date.UTC(1971, 0, 1) };
  const behind = { ...pipeline, lake: { ...pipeline.lake, clock } };
  expect((await landOnce(behind)).summary).toMatchObject({ rows: 1, quarantined: 0 });
});

test('hours that are years ahead are compacted, too: they would never be over', async () => {
  const pipeline = await openTestPipeline(', maxFuture: 36500d');
  const producer = new TestProducer(pipeline.log);
  for (const seq of [0, 1]) {
    const readings = [Date.UTC(2100, 0, 1), Date.now() + 2 * DAY_MS].map((ts, n) =>
      recordOf({ seq: 2 * seq + n, value: { sensor: 's', ts } }),
    );
    await producer.append(0, readings);
    await landOnce(pipeline);
  }
  expect((await compactAll(pipeline, { ignoreLag: false })).summary).toMatchObject({ groups: 0 });
  const config = {
    ...pipeline.config,
    datasets: pipeline.config.datasets.map((d) => ({ ...d, maxFuture: 30 * DAY_MS })),
  };
  expect((await compactAll(pipeline, { config, ignoreLag: false })).summary).toMatchObject({
    groups: 1,
    filesBefore: 2,
  });
});

/** The pipeline as a machine has it whose clock, and no other, is so many days ahead. */
function ahead(pipeline: TestPipeline, days: number): TestPipeline {
  const { clock } = pipeline.lake;
  return { ...pipeline, lake: { ...pipeline.lake, clock: { ...clock, nowMs: () => clock.nowMs() + days * DAY_MS } } };
}

test('the lease of a machine whose clock is years ahead, and that is gone, holds no hour up', async () => {
  const pipeline = await openTestPipeline();
  const { lake } = ahead(pipeline, 3650);
  const lease = await GroupLease.take(lake, DATASET, 1);
  if ('holder' in lease) throw new Error(lease.holder);
  await lease.release();
  const key = { bucket: `{${lake.volume}}leases`, field: `compact:${DATASET}:1970-01-01T01` };
  const [held] = await lake.engine.read([key]);
  // As of a machine that is lost.
  const value = Buffer.from((held?.value.toString() ?? '').replace(/"host":"[^"]*"/, '"host":"lost"'));
  await lake.engine.commit({ write: [{ key, value }] });
  const next = await GroupLease.take(pipeline.lake, DATASET, 1);
  if ('holder' in next) throw new Error(next.holder);
  await next.abandon();
});

test('a compactor whose clock is months off leaves the hours of today, which are not over', async () => {
  const pipeline = await openTestPipeline();
  const producer = new TestProducer(pipeline.log);
  for (const seq of [0, 1]) {
    await producer.append(0, [recordOf({ seq, value: { sensor: 's', ts: Date.now() + DAY_MS } })]);
    await landOnce(pipeline);
  }
  for (const days of [-60, 60]) {
    const { plan, summary } = await compactAll(ahead(pipeline, days), { ignoreLag: false });
    expect(plan).toEqual([]);
    expect(summary).toMatchObject({ groups: 0 });
  }
});

test('what a compactor replaces whose clock is days behind stays openable for the whole grace', async () => {
  const pipeline = await openTestPipeline();
  const producer = new TestProducer(pipeline.log);
  for (const seq of [0, 1]) {
    await producer.append(0, [recordOf({ seq, value: { sensor: 's', ts: HOUR_MS + seq } })]);
    await landOnce(pipeline);
  }
  const { lake } = pipeline;
  const openable = async (): Promise<number> => (await openableNames(lake.engine, lake.volume, DATASET)).size;
  const { summary, problems } = await compactAll(ahead(pipeline, -3));
  expect(summary).toMatchObject({ groups: 1, filesBefore: 2, filesAfter: 1 });
  expect(problems).toEqual([expect.stringContaining('the clock of this machine')]);
  await compactAll(pipeline);
  expect(await openable()).toBe(3);
});

test('one clock that is off, years ahead or behind, refuses no reading of today', () => {
  const today = Date.UTC(2026, 10, 28);
  const years = 10 * 365 * DAY_MS;
  for (const now of [
    { earliestMs: today, latestMs: today + years },
    { earliestMs: today - years, latestMs: today },
  ]) {
    const timely = new Timely({ maxFuture: 30 * DAY_MS, maxPast: 90 * DAY_MS }, now);
    expect(timely.refusal(today * 1000, undefined)).toBeUndefined();
  }
});
