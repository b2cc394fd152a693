/**
 * What a dataset will need: daily sums of its runs, carried on by MSTL (a weekly season and an ETS trend; Bandara et al. 2021) with
 * prediction intervals, from the library augurs.
 *
 * Honest by construction: the last HELD_OUT_DAYS are forecast from the days before them, and the error, the share of days that fell into
 * the band, and the error of the simplest guess (the same day of the week before) are part of the answer.
 * Limits: whole days only, at most HISTORY_DAYS of them and at least HISTORY_DAYS_MIN; a day without runs counts as 0.
 */
import { MSTL, initSync } from '@bsull/augurs/mstl';
import { readFileSync } from 'node:fs';
import { periodStart, type Run } from './runs.ts';

export const MEASURES = ['rows', 'bytesWritten', 'cpuSeconds'] as const;
export type Measure = (typeof MEASURES)[number];

export const HISTORY_DAYS_MIN = 21;
const HISTORY_DAYS = 365;
const HELD_OUT_DAYS = 7;
const SEASON_DAYS = 7;
/** Of ten days, nine are meant to fall into the band. */
const LEVEL = 0.9;
const NEAR_ZERO = 0.1;
const DAY_MS = 86_400_000;

export interface DailySeries {
  readonly startMs: number;
  /** One a day, UTC. */
  readonly values: readonly number[];
}

export interface Band {
  readonly point: readonly number[];
  readonly lower: readonly number[];
  readonly upper: readonly number[];
}

export interface HeldOut {
  readonly days: number;
  /** Mean absolute error in percent of the days' mean; null where nothing happened in them. */
  readonly errorPercent: number | null;
  readonly naiveErrorPercent: number | null;
  /** 0 to 1; LEVEL is what it should be. */
  readonly insideBand: number;
}

/** Landing and compaction together, up to the last whole day. */
export function dailySeries(runs: readonly Run[], measure: Measure, nowMs: number): DailySeries {
  const today = periodStart(nowMs, 'day');
  const past = runs.filter(({ startedMs }) => startedMs < today && startedMs >= today - HISTORY_DAYS * DAY_MS);
  const startMs = past.reduce((first, run) => Math.min(first, periodStart(run.startedMs, 'day')), today);
  const values = new Array<number>((today - startMs) / DAY_MS).fill(0);
  for (const run of past) {
    // Rows are landed once and compacted again: counted where they came in.
    if (measure === 'rows' && run.kind !== 'land') continue;
    const day = (periodStart(run.startedMs, 'day') - startMs) / DAY_MS;
    values[day] = (values[day] ?? 0) + run[measure];
  }
  return { startMs, values };
}

/** `values` must be HISTORY_DAYS_MIN or more; nothing below 0 comes out. */
export function forecast(values: readonly number[], horizonDays: number): Band {
  load();
  // A weekend is a share of the weekdays, and growth a rate: sums of logarithms. Days near 0 would rule those, so then it is sums.
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const isProportional = mean > 0 && Math.min(...values) > NEAR_ZERO * mean;
  using model = MSTL.ets([SEASON_DAYS]);
  model.fit(Float64Array.from(values, (value) => (isProportional ? Math.log(value) : value)));
  const { point, intervals } = model.predict(horizonDays, LEVEL);
  const back = (line: ArrayLike<number>): number[] =>
    Array.from(line, (value) => {
      const amount = isProportional ? Math.exp(value) : value;
      return Number.isFinite(amount) ? Math.max(0, amount) : 0;
    });
  return { point: back(point), lower: back(intervals?.lower ?? point), upper: back(intervals?.upper ?? point) };
}

export function heldOut(values: readonly number[]): HeldOut {
  const known = values.slice(0, -HELD_OUT_DAYS);
  const actual = values.slice(-HELD_OUT_DAYS);
  const band = forecast(known, HELD_OUT_DAYS);
  const naive = known.slice(-SEASON_DAYS);
  const inside = actual.filter((value, day) => value >= (band.lower[day] ?? 0) && value <= (band.upper[day] ?? 0));
  return {
    days: actual.length,
    errorPercent: errorPercent(actual, band.point),
    naiveErrorPercent: errorPercent(actual, naive),
    insideBand: inside.length / actual.length,
  };
}

function errorPercent(actual: readonly number[], guess: readonly number[]): number | null {
  const total = actual.reduce((sum, value) => sum + value, 0);
  if (total === 0) return null;
  const off = actual.reduce((sum, value, day) => sum + Math.abs(value - (guess[day] ?? 0)), 0);
  return Math.round((off / total) * 1000) / 10;
}

let isLoaded = false;

function load(): void {
  if (isLoaded) return;
  const module = readFileSync(new URL('mstl_bg.wasm', import.meta.resolve('@bsull/augurs/mstl')));
  initSync({ module });
  isLoaded = true;
}
