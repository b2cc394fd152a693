/** Cost tables: sums by dataset, day and week, money at given prices, and the dataset whose rows became dearer. */
import { expect, test } from 'vitest';
import { costTable } from '../../compactor/cost/cost-rows.ts';
import { writeCost } from '../../compactor/cost/cost.ts';
import { type CostRecord, readCosts } from '../../lib/lake/cost-records.ts';
import { systemClock } from '../../lib/clock.ts';
import { parseConfig } from '../../lib/config/load.ts';
import { pipelineSchema } from '../../lib/config/pipeline.ts';
import {
  compactAll,
  DATASET,
  landOnce,
  openTestPipeline,
  pipelineYaml,
  recordOf,
  TestProducer,
  HOUR_MS,
} from './pipeline.ts';

const DAY_MS = 86_400_000;
/** A Wednesday, noon. */
const NOW_MS = Date.UTC(2026, 3, 15, 12);
const PRICES = 'prices: { currency: EUR, cpuHour: 0.36, gets: 0.01, puts: 0.1 }';

test('by dataset, day and week, with money and the regression by name', async () => {
  const pipeline = await openTestPipeline('', PRICES);
  const lake = { ...pipeline.lake, clock: { ...systemClock, nowMs: () => NOW_MS } };
  const record = (daysAgo: number, kind: 'land' | 'compact', cpuSeconds: number, rows = 1_000_000) =>
    writeCost(lake, DATASET, {
      ...{ kind, startedMs: NOW_MS - daysAgo * DAY_MS, seconds: 20, cpuSeconds, rows },
      ...{ bytesRead: 1000, bytesWritten: 500, gets: 1000, puts: 100 },
    });
  await record(1, 'compact', 20);
  await record(2, 'compact', 20);
  await record(2, 'land', 5);
  await record(9, 'compact', 10);
  const tables = async (by: 'dataset' | 'day' | 'week', days: number) => costTable(pipeline.config, lake, { by, days });
  const { rows, regressions } = await tables('dataset', 7);
  expect(rows).toMatchObject([
    { dataset: DATASET, run: 'land', runs: 1, cpuSeconds: 5, sharePercent: 11.1, cpuPerRowChangePercent: null },
    // 40 CPU seconds at 0.36 an hour, 2,000 GETs, 200 PUTs.
    { run: 'compact', runs: 2, cpuSeconds: 40, cpuSecondsPerMillionRows: 20, eur: 0.044, cpuPerRowChangePercent: 100 },
  ]);
  expect(regressions).toEqual([`${DATASET}: CPU a row is 50 % more in the last 7 days than in the 7 before`]);
  expect((await tables('day', 30)).rows.map((row) => [row['day'], row['run'], row['cpuSeconds']])).toEqual([
    ['2026-04-14', 'compact', 20],
    ['2026-04-13', 'compact', 20],
    ['2026-04-13', 'land', 5],
    ['2026-04-06', 'compact', 10],
  ]);
  expect((await tables('week', 30)).rows.map((row) => [row['week'], row['run'], row['runs']])).toEqual([
    ['2026-04-13', 'compact', 2],
    ['2026-04-13', 'land', 1],
    ['2026-04-06', 'compact', 1],
  ]);
  await expect(costTable(pipeline.config, lake, { by: 'day', days: 1, dataset: 'no' })).rejects.toThrow(
    'no dataset no',
  );
});

test('what small files cost, and an estimate of what larger ones would save', async () => {
  const pipeline = await openTestPipeline('', PRICES);
  const lake = { ...pipeline.lake, clock: { ...systemClock, nowMs: () => NOW_MS } };
  const used = { seconds: 60, cpuSeconds: 36, rows: 1000, bytesRead: 0, bytesWritten: 0, gets: 700, puts: 10 };
  const landed = { commits: 600, files: 1200, bytes: 1200 * 1_000_000 };
  const at = (hoursAgo: number): number => NOW_MS - hoursAgo * 3_600_000;
  // Not of the two days, and of an older version.
  await writeCost(lake, DATASET, { kind: 'land', startedMs: at(72), ...used, landed });
  await writeCost(lake, DATASET, { kind: 'land', startedMs: at(20), ...used });
  await writeCost(lake, DATASET, { kind: 'land', startedMs: at(10), ...used, gets: 2400, puts: 4200, landed });
  await writeCost(lake, DATASET, { kind: 'compact', startedMs: at(9), ...used });
  const table = (config = pipeline.config) => costTable(config, lake, { by: 'files', days: 2 });
  const { rows } = await table();
  expect(rows).toEqual([
    {
      ...{ dataset: DATASET, commits: 600, files: 1200, filesPerHour: 120, meanBytes: 1e6, targetBytes: 128e6 },
      // 36 CPU seconds at 0.36 an hour, 700 GETs and 10 PUTs.
      ...{ compactionGets: 700, compactionCpuSeconds: 36, compactionEur: 0.0116 },
      // 60 s become an hour, 60 times as long: 59 of 60 commits and files are not there.
      ...{ estimateCommitEvery: '3600s', estimateFilesPerHour: 2, estimateSavedRequests: 6490 },
      ...{ estimateSavedCpuSeconds: 28.3, estimateSavedEur: 0.3332 },
    },
  ]);
  // Of less than a second it is no nought.
  const quick = { ...pipeline.config, lander: { ...pipeline.config.lander, commitEvery: 5 } };
  expect((await table(quick)).rows[0]).toMatchObject({ estimateCommitEvery: '640ms' });
  // Files that are as large as they should be leave nothing to gain.
  const full = { ...pipeline.config, lander: { ...pipeline.config.lander, fileBytes: 1_500_000 } };
  expect((await table(full)).rows[0]).toMatchObject({ estimateCommitEvery: null, estimateSavedRequests: null });
});

test('memory and the price of a minute of the node, spot or not, and sums by node', async () => {
  const nodes = "nodes: { 'm6i.large': { minute: 0.6, spotMinute: 0.2 } }";
  const pipeline = await openTestPipeline('', `prices: { cpuHour: 36, gbHour: 3.6, ${nodes} }`);
  const run = { kind: 'compact', startedMs: Date.now() - 1000, seconds: 120, cpuSeconds: 10, gbSeconds: 100 } as const;
  const io = { rows: 1, bytesRead: 0, bytesWritten: 0, gets: 0, puts: 0 };
  const onNode = { ...run, ...io, nodeSeconds: 60, node: 'm6i.large' };
  for (const record of [
    onNode,
    { ...onNode, isSpot: true },
    { ...run, ...io, node: 'not in the prices' },
    { ...run, ...io },
  ]) {
    await writeCost(pipeline.lake, DATASET, record);
  }
  const table = (by: 'dataset' | 'node') => costTable(pipeline.config, pipeline.lake, { by, days: 1 });
  expect((await table('node')).rows.map(({ node, runs, gbSeconds, usd }) => [node, runs, gbSeconds, usd])).toEqual([
    ['?', 1, 100, 0.2],
    ['m6i.large', 1, 100, 0.6],
    ['m6i.large (spot)', 1, 100, 0.2],
    ['not in the prices', 1, 100, 0.2],
  ]);
  expect((await table('dataset')).rows).toMatchObject([{ runs: 4, gbSeconds: 400, usd: 1.2, sharePercent: 100 }]);
});

test('a run records the memory of its processes over time', async () => {
  const pipeline = await openTestPipeline();
  await new TestProducer(pipeline.log).append(0, [recordOf({ seq: 0, value: { sensor: 's', ts: HOUR_MS } })]);
  await landOnce(pipeline);
  await compactAll(pipeline);
  const records = new Map<string, CostRecord>();
  for await (const [, record] of readCosts(pipeline.lake.engine, pipeline.lake.volume, DATASET)) {
    records.set(record.kind, record);
  }
  for (const kind of ['land', 'compact']) {
    const { gbSeconds = 0, seconds = 0, nodeSeconds } = records.get(kind) ?? {};
    // A Node with DuckDB has some 100 MB, the two of a compaction at most 2 GB.
    expect(gbSeconds, kind).toBeGreaterThan(0.05 * seconds);
    expect(gbSeconds, kind).toBeLessThan(4 * seconds);
    expect(nodeSeconds, kind).toBe(seconds);
  }
});

test('a dry run says what the plan is expected to take, from what earlier runs took', async () => {
  const pipeline = await openTestPipeline('', PRICES);
  const land = async (seq: number): Promise<void> => {
    await new TestProducer(pipeline.log).append(0, [recordOf({ seq, value: { sensor: 's', ts: HOUR_MS + seq } })]);
    await landOnce(pipeline);
  };
  await land(0);
  await land(1);
  const [guess] = (await compactAll(pipeline, { dryRun: true })).plan;
  // 2 files and 6 GETs, one file and 3 PUTs.
  expect(guess?.expectedCost).toBeCloseTo(0.008 * 0.01 + 0.004 * 0.1, 5);
  await compactAll(pipeline);
  await land(2);
  const { plan, summary } = await compactAll(pipeline, { dryRun: true });
  expect(plan).toHaveLength(1);
  expect(plan[0]?.expectedCpuSeconds).toBeGreaterThan(0);
  expect(summary.groups).toBe(0);
  const plain = parseConfig(pipelineYaml(pipeline.dir), 'p.yaml', pipelineSchema);
  expect((await compactAll({ ...pipeline, config: plain }, { dryRun: true })).plan[0]).not.toHaveProperty(
    'expectedCost',
  );
});
