/** Sums of cost records by day and week, what they come to at given prices, and one week against the one before. */
import type { CostRecord } from './cost-records.ts';

export interface DatasetRun extends CostRecord {
  readonly dataset: string;
  /** At the caller's prices; left out: 0. */
  readonly price?: number;
}

/** What a unit costs, in one currency. */
export interface Prices {
  readonly currency: string;
  readonly cpuHour: number;
  /** A GB of memory for an hour. */
  readonly gbHour: number;
  /** A thousand requests. */
  readonly gets: number;
  readonly puts: number;
  /** By type: what a process pays for its part of such a node a minute. It stands for `cpuHour` and `gbHour` of the runs there. */
  readonly nodes: Readonly<Record<string, { readonly minute: number; readonly spotMinute?: number | undefined }>>;
}

const SUMMED = ['seconds', 'cpuSeconds', 'gbSeconds', 'rows', 'bytesRead', 'bytesWritten', 'gets', 'puts'] as const;
export type CostSums = Readonly<Record<'runs' | 'price' | (typeof SUMMED)[number], number>>;

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

export function sumRuns(runs: readonly PricedRecord[]): CostSums {
  const sums = nothing();
  for (const run of runs) add(sums, run);
  return rounded(sums);
}

/** Sums by dataset, kind and period, newest first. */
export function costPeriods(runs: readonly DatasetRun[], by: 'day' | 'week'): CostPeriod[] {
  return sumBy(runs, ({ startedMs }) => periodStart(startedMs, by));
}

/** Sums by dataset and kind. */
export function costTotals(runs: readonly DatasetRun[]): Omit<CostPeriod, 'startMs'>[] {
  return sumBy(runs, () => 0);
}

function sumBy(runs: readonly DatasetRun[], startOf: (run: DatasetRun) => number): CostPeriod[] {
  const groups = new Map<string, { readonly run: DatasetRun; readonly startMs: number; readonly sums: Sums }>();
  for (const run of runs) {
    const startMs = startOf(run);
    const key = `${startMs} ${run.dataset} ${run.kind}`;
    let group = groups.get(key);
    if (group === undefined) groups.set(key, (group = { run, startMs, sums: nothing() }));
    add(group.sums, run);
  }
  const periods = [...groups.values()].map(({ run: { dataset, kind }, startMs, sums }) => ({
    ...{ dataset, kind, startMs },
    ...rounded(sums),
  }));
  const order = ({ dataset, kind }: CostPeriod): string => `${dataset} ${kind}`;
  return periods.sort((a, b) => b.startMs - a.startMs || (order(a) < order(b) ? -1 : 1));
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

type PricedRecord = CostRecord & Pick<DatasetRun, 'price'>;
type Sums = { -readonly [key in keyof CostSums]: CostSums[key] };

function nothing(): Sums {
  return {
    runs: 0,
    price: 0,
    seconds: 0,
    cpuSeconds: 0,
    gbSeconds: 0,
    rows: 0,
    bytesRead: 0,
    bytesWritten: 0,
    gets: 0,
    puts: 0,
  };
}

/** In place: there may be a hundred thousand runs. */
function add(sums: Sums, run: PricedRecord): void {
  sums.runs++;
  sums.price += run.price ?? 0;
  for (const key of SUMMED) sums[key] += run[key];
}

/** To thousandths: what comes behind is of the summing. */
function rounded(sums: Sums): CostSums {
  for (const key of SUMMED) sums[key] = Math.round(sums[key] * 1000) / 1000;
  return sums;
}

/** What a run used, at `prices`. */
export function priceOf(
  run: Pick<CostRecord, 'cpuSeconds' | 'gbSeconds' | 'gets' | 'puts'> & Partial<CostRecord>,
  prices: Prices,
): number {
  const node = run.node === undefined ? undefined : prices.nodes[run.node];
  const machine =
    node === undefined
      ? (run.cpuSeconds * prices.cpuHour + run.gbSeconds * prices.gbHour) / 3600
      : ((run.nodeSeconds ?? run.seconds ?? 0) / 60) *
        (run.isSpot === true ? (node.spotMinute ?? node.minute) : node.minute);
  return machine + (run.gets / 1000) * prices.gets + (run.puts / 1000) * prices.puts;
}
