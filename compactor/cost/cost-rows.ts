/** `penstock cost`: what landing, compaction and erasure cost, by dataset, day or week. */
import type { PipelineConfig } from '../../lib/config/pipeline.ts';
import {
  costPeriods,
  type CostSums,
  type DatasetRun,
  priceOf,
  sumRuns,
  weekOverWeek,
} from '../../lib/lake/cost-periods.ts';
import { readCosts } from '../../lib/lake/cost-records.ts';
import { landedFiles, type LandedFiles } from '../../lib/lake/landed-files.ts';
import type { LakeContext } from '../../lib/table/table.ts';
import { selectDatasets } from '../../lib/config/dataset-selection.ts';

const DAY_MS = 86_400_000;
const TREND_MS = 14 * DAY_MS;

export interface CostOptions {
  readonly by: 'dataset' | 'day' | 'week' | 'node' | 'files';
  /** The runs of the last so many days. */
  readonly days: number;
  readonly dataset?: string;
}

export type CostRow = Readonly<Record<string, string | number | null>>;

export interface CostTable {
  readonly rows: readonly CostRow[];
  /** Datasets whose CPU a row has grown, in words. */
  readonly regressions: readonly string[];
}

export async function costTable(config: PipelineConfig, lake: LakeContext, options: CostOptions): Promise<CostTable> {
  const nowMs = lake.clock.nowMs();
  const { prices } = config;
  const fromMs = nowMs - options.days * DAY_MS;
  const datasets = selectDatasets(config, options.dataset).map(({ name }) => name);
  const all: DatasetRun[] = [];
  for (const dataset of datasets) {
    for await (const [, record] of readCosts(lake.engine, lake.volume, dataset)) {
      if (record.startedMs >= Math.min(fromMs, nowMs - TREND_MS))
        all.push({ dataset, ...record, ...(prices && { price: priceOf(record, prices) }) });
    }
  }
  const runs = all.filter((run) => run.startedMs >= fromMs);
  const total = sumRuns(runs).cpuSeconds;
  const shown = (sums: CostSums): CostRow => ({
    ...figures(sums),
    sharePercent: total === 0 ? 0 : round(100 * (sums.cpuSeconds / total), 1),
    ...(prices && { [prices.currency.toLowerCase()]: round(sums.price, 4) }),
  });
  const trends = weekOverWeek(all, datasets, nowMs);
  const regressions = trends.flatMap(({ dataset, isRegression, cpuPerRowChange }) =>
    isRegression
      ? [`${dataset}: CPU a row is ${percent(cpuPerRowChange)} % more in the last 7 days than in the 7 before`]
      : [],
  );
  if (options.by === 'files') {
    const found = landedFiles(runs, { fromMs, nowMs, lander: config.lander, prices });
    return { rows: found.map((files) => fileRow(files, prices?.currency.toLowerCase())), regressions };
  }
  if (options.by === 'node') {
    const byNode = Map.groupBy(runs, ({ node, isSpot }) => `${node ?? '?'}${isSpot === true ? ' (spot)' : ''}`);
    const nodes = [...byNode].sort(([a], [b]) => (a < b ? -1 : 1));
    return { rows: nodes.map(([node, own]) => ({ node, ...shown(sumRuns(own)) })), regressions };
  }
  if (options.by !== 'dataset') {
    const rows = costPeriods(runs, options.by).map(({ dataset, kind, startMs, ...sums }) => ({
      [options.by]: new Date(startMs).toISOString().slice(0, 10),
      dataset,
      run: kind,
      ...shown(sums),
    }));
    return { rows, regressions };
  }
  const rows = datasets.flatMap((dataset) =>
    (['land', 'compact', 'erase'] as const).flatMap((kind) => {
      const own = runs.filter((run) => run.dataset === dataset && run.kind === kind);
      if (own.length === 0) return [];
      const [trend] = weekOverWeek(
        all.filter((run) => run.kind === kind),
        [dataset],
        nowMs,
      );
      return [
        { dataset, run: kind, ...shown(sumRuns(own)), cpuPerRowChangePercent: percent(trend?.cpuPerRowChange ?? null) },
      ];
    }),
  );
  return { rows, regressions };
}

const figures = ({ price: _, ...sums }: CostSums): CostRow => ({
  ...sums,
  cpuSecondsPerMillionRows: sums.rows === 0 ? null : round((1e6 * sums.cpuSeconds) / sums.rows, 3),
});

/** What begins with `estimate` is one: with that `lander.commitEvery`, in the days that were looked at. */
function fileRow({ compaction, estimate, ...files }: LandedFiles, currency: string | undefined): CostRow {
  const money = (name: string, price: number | null): CostRow =>
    currency === undefined || price === null
      ? {}
      : { [`${name}${currency[0]?.toUpperCase() ?? ''}${currency.slice(1)}`]: round(price, 4) };
  return {
    ...files,
    compactionGets: compaction.gets,
    compactionCpuSeconds: compaction.cpuSeconds,
    ...money('compaction', compaction.price),
    estimateCommitEvery: estimate === null ? null : duration(estimate.commitEveryMs),
    estimateFilesPerHour: estimate?.filesPerHour ?? null,
    estimateSavedRequests: estimate?.savedRequests ?? null,
    estimateSavedCpuSeconds: estimate?.savedCpuSeconds ?? null,
    ...money('estimateSaved', estimate?.savedPrice ?? null),
  };
}

/** As `lander.commitEvery` takes it: seconds, or milliseconds below a minute, where seconds would say another figure. */
function duration(ms: number): string {
  return ms < 60_000 && ms % 1000 !== 0 ? `${Math.round(ms)}ms` : `${Math.round(ms / 1000)}s`;
}

const percent = (change: number | null): number | null => (change === null ? null : round(100 * change, 1));

function round(value: number, digits: number): number {
  return Number(value.toFixed(digits));
}
