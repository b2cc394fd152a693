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
import { setImmediate } from 'node:timers/promises';
import { periodStart } from '../../lib/lake/cost-periods.ts';
import type { Run } from './runs.ts';

export const MEASURES = ['rows', 'bytesWritten', 'cpuSeconds'] as const;
export type Measure = (typeof MEASURES)[number];

export const HISTORY_DAYS_MIN = 21;
const HISTORY_DAYS = 365;
const HELD_OUT_DAYS = 7;
const SEASON_DAYS = 7;
const CALIBRATION_WEEKS = 4;
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

/**
 * `values` must be HISTORY_DAYS_MIN or more; nothing below 0 comes out. The model's own band knows nothing of how wrong its season is, so it is
 * widened until it would have held LEVEL of the days of the last weeks, each forecast from what was known before it (a normalised
 * conformal interval, Vovk et al. 2005).
 */
export async function forecast(values: readonly number[], horizonDays: number): Promise<Band> {
  const scale = scaleOf(values);
  const scaled = values.map((value) => scale.to(value));
  const { point, half } = fit(scaled, horizonDays);
  const misses: number[] = [];
  for (let week = 1; week <= CALIBRATION_WEEKS; week++) {
    const known = scaled.slice(0, -week * SEASON_DAYS);
    if (known.length < HISTORY_DAYS_MIN) break;
    // A fit takes tens of milliseconds: requests are served in between.
    await setImmediate();
    const guess = fit(known, SEASON_DAYS);
    const actual = scaled.slice(known.length, known.length + SEASON_DAYS);
    misses.push(...actual.map((value, day) => Math.abs(value - (guess.point[day] ?? 0)) / (guess.half[day] ?? 1)));
  }
  const widen = Math.max(1, quantile(misses, LEVEL));
  const line = (sign: number): number[] =>
    point.map((value, day) => scale.from(value + sign * widen * (half[day] ?? 0)));
  return { point: line(0), lower: line(-1), upper: line(1) };
}

function fit(values: readonly number[], days: number): { readonly point: number[]; readonly half: number[] } {
  load();
  using model = MSTL.ets([SEASON_DAYS]);
  model.fit(Float64Array.from(values));
  const { point, intervals } = model.predict(days, LEVEL);
  const upper = intervals?.upper ?? point;
  return {
    point: Array.from(point),
    // Never 0: a constant series has no width of its own.
    half: Array.from(point, (value, day) =>
      Math.max((upper[day] ?? value) - value, 1e-9 * Math.max(1, Math.abs(value))),
    ),
  };
}

/** A weekend is a share of the weekdays, and growth a rate: sums of logarithms. Days near 0 rule those out, so then it is sums. */
function scaleOf(values: readonly number[]): { to(value: number): number; from(value: number): number } {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const isProportional = mean > 0 && Math.min(...values) > NEAR_ZERO * mean;
  const clamp = (value: number): number => Math.min(Math.max(0, value), Number.MAX_SAFE_INTEGER);
  return isProportional
    ? { to: Math.log, from: (value) => clamp(Math.exp(value)) }
    : { to: (value) => value, from: (value) => (Number.isFinite(value) ? clamp(value) : 0) };
}

function quantile(values: readonly number[], share: number): number {
  const sorted = values.filter(Number.isFinite).sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0;
}

export async function heldOut(values: readonly number[]): Promise<HeldOut> {
  const known = values.slice(0, -HELD_OUT_DAYS);
  const actual = values.slice(-HELD_OUT_DAYS);
  const band = await forecast(known, HELD_OUT_DAYS);
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
