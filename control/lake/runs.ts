/**
 * The cost records as lists and sums. A dataset's records are held sorted in memory and read again when their number has changed, so
 * that a page of a long list costs no scan.
 *
 * Limits: what lib/lake/cost-records.ts keeps, at most 20,500 a dataset, about 300 bytes each. A number that is the same after a
 * record came and another went is noticed within REREAD_MS.
 */
import type { Clock } from '../../lib/clock.ts';
import { costBucket, readCosts, type CostRecord } from '../../lib/lake/cost-records.ts';
import type { MetaEngine } from '../../lib/meta/engine.ts';

const REREAD_MS = 60_000;

export interface Run extends CostRecord {
  /** Sorts by start: the record's field. */
  readonly id: string;
  readonly dataset: string;
}

interface Loaded {
  readonly count: number;
  readonly atMs: number;
  /** Newest first. */
  readonly runs: readonly Run[];
}

export class Runs {
  readonly #clock: Clock;
  readonly #loaded = new Map<string, Loaded>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Newest first, over all of `datasets`. */
  async list(engine: MetaEngine, volume: string, datasets: readonly string[]): Promise<readonly Run[]> {
    const lists = await Promise.all(datasets.map((dataset) => this.#of(engine, volume, dataset)));
    if (lists.length === 1) return lists[0] ?? [];
    return lists.flat().sort(newestFirst);
  }

  async #of(engine: MetaEngine, volume: string, dataset: string): Promise<readonly Run[]> {
    const count = await engine.count(costBucket(volume, dataset));
    const known = this.#loaded.get(dataset);
    const nowMs = this.#clock.monotonicMs();
    if (known?.count === count && nowMs - known.atMs < REREAD_MS) return known.runs;
    const runs: Run[] = [];
    for await (const [id, record] of readCosts(engine, volume, dataset)) runs.push({ id, dataset, ...record });
    runs.sort(newestFirst);
    this.#loaded.set(dataset, { count, atMs: nowMs, runs });
    return runs;
  }
}

export function newestFirst(a: Pick<Run, 'id' | 'dataset'>, b: Pick<Run, 'id' | 'dataset'>): number {
  if (a.id !== b.id) return a.id < b.id ? 1 : -1;
  return a.dataset < b.dataset ? -1 : Number(a.dataset !== b.dataset);
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

/** Sums by dataset, kind and period, newest first. */
export function costPeriods(runs: readonly Run[], by: 'day' | 'week'): CostPeriod[] {
  const periods = new Map<string, CostPeriod>();
  for (const run of runs) {
    const startMs = periodStart(run.startedMs, by);
    const key = `${startMs} ${run.dataset} ${run.kind}`;
    const { dataset, kind } = run;
    periods.set(key, { dataset, kind, startMs, ...addRun(periods.get(key) ?? NOTHING, run) });
  }
  return [...periods.values()].sort((a, b) => b.startMs - a.startMs || (a.dataset < b.dataset ? -1 : 1));
}

export interface Trend {
  readonly dataset: string;
  readonly last7Days: CostSums;
  readonly previous7Days: CostSums;
  /** 0.1: ten percent more CPU in the last seven days than in the seven before; null: there were none before. */
  readonly cpuChange: number | null;
}

export function weekOverWeek(runs: readonly Run[], datasets: readonly string[], nowMs: number): Trend[] {
  const within = (run: Run, fromMs: number, toMs: number): boolean => run.startedMs >= fromMs && run.startedMs < toMs;
  return datasets.map((dataset) => {
    const own = runs.filter((run) => run.dataset === dataset);
    const week = 7 * DAY_MS;
    const last7Days = own.filter((run) => within(run, nowMs - week, Infinity)).reduce(addRun, NOTHING);
    const previous7Days = own.filter((run) => within(run, nowMs - 2 * week, nowMs - week)).reduce(addRun, NOTHING);
    const before = previous7Days.cpuSeconds;
    return { dataset, last7Days, previous7Days, cpuChange: before === 0 ? null : last7Days.cpuSeconds / before - 1 };
  });
}

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

function addRun(sums: CostSums, run: Run): CostSums {
  const added = SUMMED.map((key) => [key, Math.round((sums[key] + run[key]) * 1000) / 1000]);
  // The keys are those of SUMMED.
  return { ...sums, ...(Object.fromEntries(added) as Omit<CostSums, 'runs'>), runs: sums.runs + 1 };
}
