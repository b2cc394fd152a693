import { beforeEach, expect, onTestFinished, test, vi } from 'vitest';
import { writeCost } from '../../compactor/cost/cost.ts';
import { forecast, heldOut } from '../../control/lake/forecast.ts';
import { recordLineage } from '../../control/lake/lineage.ts';
import { systemClock } from '../../lib/clock.ts';
import { DATASET, openTestPipeline } from '../compactor/pipeline.ts';
import { landedPipeline, startControl, writeCostsOfDays } from './control.ts';

interface Item {
  readonly dataset: string;
  readonly history: readonly number[];
  readonly forecast: Readonly<Record<'point' | 'lower' | 'upper', readonly number[]>> | null;
  readonly heldOut: Readonly<Record<'days' | 'errorPercent' | 'naiveErrorPercent' | 'insideBand', number>> | null;
  readonly reason: string | null;
}

/** Each test has one moment, at noon: at midnight the days that are whole would be others than those that it wrote. */
beforeEach(() => {
  vi.useFakeTimers({ toFake: ['Date'], now: Math.floor(Date.now() / 86_400_000) * 86_400_000 + 43_200_000 });
  onTestFinished(() => void vi.useRealTimers());
});

test('weeks of runs become a forecast with its weekends, its growth, and the error it had in the last week', async () => {
  const { pipeline } = await landedPipeline();
  const rows = await writeCostsOfDays(pipeline.lake, 60);
  const control = await startControl(pipeline.config, pipeline.dir);
  const answer = await control.get('/v1/forecasts?measure=rows&days=14');
  const [item] = answer['items'] as readonly Item[];
  expect(item?.history).toEqual(rows);
  const point = item?.forecast?.point ?? [];
  expect(point).toHaveLength(14);
  const today = Math.floor(Date.now() / 86_400_000);
  for (const [day, value] of point.entries()) {
    // 1970-01-01 was a Thursday.
    const isWeekend = [2, 3].includes((today + day) % 7);
    const expected = 1_000_000 * (1 + (60 + day) / 100) * (isWeekend ? 0.5 : 1);
    expect(Math.abs(value / expected - 1), `day ${day}: ${value} for ${expected}`).toBeLessThan(0.1);
    expect(item?.forecast?.lower[day]).toBeLessThan(value);
    expect(item?.forecast?.upper[day]).toBeGreaterThan(value);
  }
  expect(item?.heldOut?.days).toBe(7);
  expect(item?.heldOut?.errorPercent).toBeLessThan(5);
  expect((await control.request('GET', '/v1/forecasts?days=91')).status).toBe(400);
});

test('too short a history says how much is missing', async () => {
  const { pipeline } = await landedPipeline();
  await writeCostsOfDays(pipeline.lake, 5);
  const control = await startControl(pipeline.config, pipeline.dir);
  const [item] = (await control.get('/v1/forecasts'))['items'] as readonly Item[];
  expect(item).toMatchObject({ forecast: null, heldOut: null, reason: '5 whole days are known, 21 are needed' });
});

test('over many series nine of ten days fall into the band, and the error is below that of the week before', async () => {
  let seed = 7;
  const random = (): number => (seed = (seed * 1_103_515_245 + 12_345) % 2_147_483_648) / 2_147_483_648;
  const sums = { inside: 0, error: 0, naive: 0 };
  for (let series = 0; series < 40; series++) {
    const noise = 0.02 + 0.2 * random();
    const growth = random() * 0.01;
    const values = Array.from({ length: 63 }, (_, day) => {
      const weekday = day % 7 < 5 ? 1 : 0.6;
      return 1e6 * (1 + growth * day) * weekday * Math.exp(noise * (random() + random() + random() - 1.5));
    });
    const { insideBand, errorPercent, naiveErrorPercent } = await heldOut(values);
    sums.inside += insideBand / 40;
    sums.error += errorPercent ?? 0;
    sums.naive += naiveErrorPercent ?? 0;
  }
  expect(sums.inside).toBeGreaterThan(0.83);
  expect(sums.inside).toBeLessThan(0.97);
  expect(sums.error).toBeLessThan(sums.naive);
});

test('no series makes it fail or go below zero', async () => {
  const series = {
    nothing: new Array<number>(30).fill(0),
    constant: new Array<number>(30).fill(7),
    falling: Array.from({ length: 30 }, (_, day) => 3000 - 100 * day),
    'one peak': Array.from({ length: 40 }, (_, day) => (day === 20 ? 1e15 : 0)),
    huge: Array.from({ length: 40 }, (_, day) => 1e18 + day),
  };
  for (const [name, values] of Object.entries(series)) {
    const { point, lower, upper } = await forecast(values, 28);
    for (const line of [point, lower, upper]) {
      expect(line, name).toHaveLength(28);
      expect(
        line.every((value) => Number.isFinite(value) && value >= 0),
        name,
      ).toBe(true);
    }
  }
  expect(await heldOut(series.nothing)).toMatchObject({ errorPercent: null, naiveErrorPercent: null });
  expect(await heldOut(series.constant)).toMatchObject({ errorPercent: 0, naiveErrorPercent: 0 });
});

test('a dataset that costs and that no job used is named; one that was used is not', async () => {
  const other = 'plant.idle';
  const pipeline = await openTestPipeline(` }\n  - { name: ${other}, topic: idle`);
  await writeCostsOfDays(pipeline.lake, 30);
  await writeCostsOfDays(pipeline.lake, 30, other);
  const control = await startControl(pipeline.config, pipeline.dir);
  const advice = async (): Promise<unknown> => (await control.get('/v1/forecasts?advice=true'))['advice'];
  expect((await control.get('/v1/forecasts'))['advice']).toBeNull();
  expect(await advice()).toEqual([]);
  await writeCost(pipeline.lake, other, {
    kind: 'land',
    startedMs: Date.now(),
    rows: 1,
    seconds: 1,
    cpuSeconds: 1,
    bytesRead: 1,
    bytesWritten: 1,
    gets: 1,
    puts: 1,
  });
  const use = { id: 'u', dataset: DATASET, snapshotId: '1', job: 'train', model: null, recordedBy: 'test' };
  await recordLineage(pipeline.lake.engine, pipeline.lake.volume, systemClock, use);
  const [item, ...rest] = (await advice()) as readonly { readonly dataset: string; readonly text: string }[];
  expect(rest).toEqual([]);
  expect(item?.dataset).toBe(other);
  expect(item?.text).toMatch(
    /^plant.idle took 5\d % of the CPU of the last 28 days, and no job has recorded a use of it/,
  );
});
