/** Sums of cost records by day and week, what they come to at given prices, and one week against the one before. */
import type { CostRecord } from './cost-records.ts';

export interface DatasetRun extends CostRecord {
  readonly dataset: string;
}

/** What a unit costs, in one currency. */
export interface Prices {
  readonly currency: string;
  readonly cpuHour: number;
  /** A thousand requests. */
  readonly gets: number;
  readonly puts: number;
}

const SUMMED = ['seconds', 'cpuSeconds', 'rows', 'bytesRead', 'bytesWritten', 'gets', 'puts'] as const;
export type CostSums = Readonly<Record<'runs' | (typeof SUMMED)[number], number>>;

export interface CostPeriod extends CostSums {
  readonly dataset: string;
  readonly kind: CostRecord['kind'];
  /** The first instant of the day or the ISO week (Monday), UTC. */
  readonly startMs: number;
}

const DAY_MS = 86_400_000;
/** 1970-01-05, a Monday. */
const MONDAY_MS = 4 * DAY_MS;

export function periodStart(atMs: number, by: 'day' | 'week'): number {
  if (by === 'day') return Math.floor(atMs / DAY_MS) * DAY_MS;
  return Math.floor((atMs - MONDAY_MS) / (7 * DAY_MS)) * 7 * DAY_MS + MONDAY_MS;
}

export const sumRuns = (runs: readonly CostRecord[]): CostSums => runs.reduce(addRun, NOTHING);

/** Sums by dataset, kind and period, newest first. */
export function costPeriods(runs: readonly DatasetRun[], by: 'day' | 'week'): CostPeriod[] {
  const periods = new Map<string, CostPeriod>();
  for (const run of runs) {
    const startMs = periodStart(run.startedMs, by);
    const key = `${startMs} ${run.dataset} ${run.kind}`;
    const { dataset, kind } = run;
    periods.set(key, { dataset, kind, startMs, ...addRun(periods.get(key) ?? NOTHING, run) });
  }
  const order = ({ dataset, kind }: CostPeriod): string => `${dataset} ${kind}`;
  return [...periods.values()].sort((a, b) => b.startMs - a.startMs || (order(a) < order(b) ? -1 : 1));
}

export interface Trend {
  readonly dataset: string;
  readonly last7Days: CostSums;
  readonly previous7Days: CostSums;
  /** 0.1: ten percent more CPU in the last seven days than in the seven before; null: there were none before. */
  readonly cpuChange: number | null;
  /** The same for CPU a row, which more data does not change; null: there were no rows in one of the weeks. */
  readonly cpuPerRowChange: number | null;
  /** CPU a row has grown by more than REGRESSION. */
  readonly isRegression: boolean;
}

export function weekOverWeek(runs: readonly DatasetRun[], datasets: readonly string[], nowMs: number): Trend[] {
  const within = (run: DatasetRun, fromMs: number, toMs: number): boolean =>
    run.startedMs >= fromMs && run.startedMs < toMs;
  return datasets.map((dataset) => {
    const own = runs.filter((run) => run.dataset === dataset);
    const week = 7 * DAY_MS;
    const last7Days = sumRuns(own.filter((run) => within(run, nowMs - week, Infinity)));
    const previous7Days = sumRuns(own.filter((run) => within(run, nowMs - 2 * week, nowMs - week)));
    const cpuPerRowChange = change(perRow(previous7Days), perRow(last7Days));
    return {
      dataset,
      last7Days,
      previous7Days,
      cpuChange: change(previous7Days.cpuSeconds, last7Days.cpuSeconds),
      cpuPerRowChange,
      isRegression: (cpuPerRowChange ?? 0) > REGRESSION,
    };
  });
}

/** Weeks differ by some percent on machines that are shared; more wants to be looked at. */
const REGRESSION = 0.2;

const perRow = ({ cpuSeconds, rows }: CostSums): number => (rows === 0 ? 0 : cpuSeconds / rows);
const change = (before: number, now: number): number | null => (before === 0 || now === 0 ? null : now / before - 1);

const NOTHING: CostSums = {
  runs: 0,
  seconds: 0,
  cpuSeconds: 0,
  rows: 0,
  bytesRead: 0,
  bytesWritten: 0,
  gets: 0,
  puts: 0,
};

function addRun(sums: CostSums, run: CostRecord): CostSums {
  const added = SUMMED.map((key) => [key, Math.round((sums[key] + run[key]) * 1000) / 1000]);
  // The keys are those of SUMMED.
  return { ...sums, ...(Object.fromEntries(added) as Omit<CostSums, 'runs'>), runs: sums.runs + 1 };
}

/** `cpuSeconds` and requests at `prices`. */
export function priceOf(sums: Pick<CostSums, 'cpuSeconds' | 'gets' | 'puts'>, prices: Prices): number {
  return (
    (sums.cpuSeconds / 3600) * prices.cpuHour + (sums.gets / 1000) * prices.gets + (sums.puts / 1000) * prices.puts
  );
}
