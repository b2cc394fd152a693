/** Cost tables: sums by dataset, day and week, money at given prices, and the dataset whose rows became dearer. */
import { expect, test } from 'vitest';
import { costTable } from '../../compactor/cost/cost-rows.ts';
import { writeCost } from '../../compactor/cost/cost.ts';
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
