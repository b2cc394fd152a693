/**
 * What the size of the lander's files costs, from the cost records: how small they are, what their compaction takes, and an estimate of what
 * fewer, larger ones would save.
 *
 * Limits: an estimate. What a commit and a file take was measured on two cores that others used, and is more for wide tables; that fewer
 * commits make as many times fewer files holds while their readings are of the same hours. No more is saved than was spent.
 */
import { priceOf, type DatasetRun, type Prices } from './cost-periods.ts';

const HOUR_MS = 3_600_000;
/** Nobody waits longer for a reading than for the compaction of its hour. */
const COMMIT_EVERY_MS_MAX = HOUR_MS;
/** Measured: 159 commits of a file each against 6, of the same 40,000 rows. */
const A_COMMIT = { cpuSeconds: 0.045, gets: 4, puts: 3 };
const A_FILE = { cpuSeconds: 0.0015, gets: 1, puts: 1 };

export interface LandedFiles {
  readonly dataset: string;
  readonly commits: number;
  readonly files: number;
  readonly filesPerHour: number;
  readonly meanBytes: number;
  /** `lander.fileBytes`. */
  readonly targetBytes: number;
  /** What compacting them took. */
  readonly compaction: { readonly gets: number; readonly cpuSeconds: number; readonly price: number | null };
  /** null: there is nothing to gain. */
  readonly estimate: FewerFiles | null;
}

/** With another `lander.commitEvery`, in the time that was looked at. */
export interface FewerFiles {
  readonly commitEveryMs: number;
  readonly filesPerHour: number;
  readonly savedRequests: number;
  readonly savedCpuSeconds: number;
  readonly savedPrice: number | null;
}

/** `runs`: of these datasets, since `fromMs`. A dataset without a landing that says its files is left out. */
export function landedFiles(
  runs: readonly DatasetRun[],
  options: {
    readonly fromMs: number;
    readonly nowMs: number;
    readonly lander: { readonly commitEvery: number; readonly fileBytes: number };
    readonly prices: Prices | undefined;
  },
): LandedFiles[] {
  const { lander, prices, nowMs } = options;
  const recent = runs.filter(({ startedMs }) => startedMs >= options.fromMs);
  return [...Map.groupBy(recent, ({ dataset }) => dataset)].sort(byName).flatMap(([dataset, own]) => {
    const landings = own.flatMap((run) => (run.kind === 'land' && run.landed !== undefined ? [run] : []));
    const sum = (pick: (landed: NonNullable<DatasetRun['landed']>) => number): number =>
      landings.reduce((total, { landed }) => total + (landed === undefined ? 0 : pick(landed)), 0);
    const [commits, files, bytes] = [sum((one) => one.commits), sum((one) => one.files), sum((one) => one.bytes)];
    if (files === 0) return [];
    const firstMs = landings.reduce((first, { startedMs }) => Math.min(first, startedMs), nowMs);
    const hours = Math.max(HOUR_MS, nowMs - firstMs) / HOUR_MS;
    const compactions = own.filter(({ kind }) => kind === 'compact');
    const meanBytes = Math.round(bytes / files);
    return [
      {
        ...{ dataset, commits, files, meanBytes, targetBytes: lander.fileBytes },
        filesPerHour: round(files / hours, 1),
        compaction: {
          gets: compactions.reduce((total, { gets }) => total + gets, 0),
          cpuSeconds: round(
            compactions.reduce((total, run) => total + run.cpuSeconds, 0),
            3,
          ),
          price: prices === undefined ? null : compactions.reduce((total, run) => total + priceOf(run, prices), 0),
        },
        estimate: fewerFiles(
          { commits, files, hours, times: timesFewer(meanBytes, lander) },
          own,
          lander.commitEvery,
          prices,
        ),
      },
    ];
  });
}

const byName = ([a]: readonly [string, unknown], [b]: readonly [string, unknown]): number => (a < b ? -1 : 1);

/** Until files are as large as they may be, or readings wait as long as they should. */
function timesFewer(meanBytes: number, lander: { readonly commitEvery: number; readonly fileBytes: number }): number {
  return Math.floor(Math.min(lander.fileBytes / Math.max(1, meanBytes), COMMIT_EVERY_MS_MAX / lander.commitEvery));
}

function fewerFiles(
  { commits, files, hours, times }: Readonly<Record<'commits' | 'files' | 'hours' | 'times', number>>,
  spent: readonly DatasetRun[],
  commitEveryMs: number,
  prices: Prices | undefined,
): FewerFiles | null {
  if (times < 2) return null;
  const share = 1 - 1 / times;
  const saved = (key: keyof typeof A_FILE): number => {
    const all = spent.reduce((total, run) => total + run[key], 0);
    return share * Math.min(all, commits * A_COMMIT[key] + files * A_FILE[key]);
  };
  const [cpuSeconds, gets, puts] = [saved('cpuSeconds'), saved('gets'), saved('puts')];
  return {
    commitEveryMs: commitEveryMs * times,
    filesPerHour: round(files / times / hours, 1),
    savedRequests: Math.round(gets + puts),
    savedCpuSeconds: round(cpuSeconds, 1),
    savedPrice: prices === undefined ? null : priceOf({ cpuSeconds, gbSeconds: 0, gets, puts }, prices),
  };
}

const round = (value: number, digits: number): number => Number(value.toFixed(digits));
