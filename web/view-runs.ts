/** What landing and compaction cost: this week against the last, by day, and run by run. */
import { api, type Costs, type CostSums, type PagedList, type Run } from './api.ts';
import { bytes, change, count, day, duration, moment, seconds } from './format.ts';
import { empty, pages, section, table, type View } from './parts.ts';

const EVERY_MS = 10_000;
const PAGE = 50;

export const runs: View = {
  show(root, signal) {
    const read = (): Promise<Costs> => api<Costs>('/v1/costs?by=day', { signal });
    root.append(
      section({
        title: 'Last seven days',
        note: 'Against the seven days before.',
        read,
        render: renderTrends,
        everyMs: EVERY_MS,
        signal,
      }),
      section({
        title: 'Sizes of landed files',
        note: 'Last seven days. What a larger lander.commitEvery would have saved is an estimate; readings then appear later.',
        read,
        render: renderLanding,
        everyMs: EVERY_MS,
        signal,
      }),
      section({ title: 'Cost by day', note: 'Days are UTC.', read, render: renderPeriods, everyMs: EVERY_MS, signal }),
      section({
        title: 'Runs',
        note: 'A lander that goes on is recorded every hour.',
        read: () => api<PagedList<Run>>(`/v1/runs?limit=${PAGE}`, { signal }),
        render: (first) => renderRuns(first, signal),
        everyMs: EVERY_MS,
        signal,
      }),
    );
  },
};

const NO_RUNS = [
  'No run yet',
  'Runs are recorded when they end, and those of a lander that goes on every hour.',
] as const;

type Figures = Omit<CostSums, 'runs'>;
const FIGURES: readonly { readonly title: string; readonly cell: (sums: Figures) => string; readonly number: true }[] =
  [
    { title: 'CPU', cell: (sums) => seconds(sums.cpuSeconds), number: true },
    { title: 'Rows', cell: (sums) => count(sums.rows), number: true },
    { title: 'Read', cell: (sums) => bytes(sums.bytesRead), number: true },
    { title: 'Written', cell: (sums) => bytes(sums.bytesWritten), number: true },
    { title: 'GETs', cell: (sums) => count(sums.gets), number: true },
    { title: 'PUTs', cell: (sums) => count(sums.puts), number: true },
  ];

function renderTrends({ trends }: Costs): Node {
  if (trends.every(({ last7Days, previous7Days }) => last7Days.runs + previous7Days.runs === 0))
    return empty(...NO_RUNS);
  return table(
    'Trend by dataset',
    [
      { title: 'Dataset', cell: ({ dataset }) => dataset },
      { title: 'Runs', cell: ({ runs: number }) => count(number), number: true },
      ...FIGURES,
      { title: 'CPU, change', cell: ({ cpuChange }) => change(cpuChange), number: true },
    ],
    trends.map(({ dataset, last7Days, cpuChange }) => ({ dataset, cpuChange, ...last7Days })),
  );
}

function renderLanding({ landing, currency }: Costs): Node {
  if (landing.length === 0) return empty('No landing yet', 'Landings say their files when they are recorded.');
  const money = (price: number | null): string =>
    price === null || currency === null ? '' : `, ${price.toFixed(2)} ${currency}`;
  return table(
    'Sizes of landed files',
    [
      { title: 'Dataset', cell: ({ dataset }) => dataset },
      { title: 'Files an hour', cell: ({ filesPerHour }) => count(filesPerHour), number: true },
      { title: 'Mean size', cell: ({ meanBytes, targetBytes }) => `${bytes(meanBytes)} of ${bytes(targetBytes)}` },
      {
        title: 'Compaction of them',
        cell: ({ compaction }) =>
          `${seconds(compaction.cpuSeconds)} CPU, ${count(compaction.gets)} GETs${money(compaction.price)}`,
      },
      {
        title: 'Estimate',
        wide: true,
        cell: ({ estimate }) =>
          estimate === null
            ? 'nothing to gain'
            : `commitEvery ${duration(estimate.commitEveryMs / 1000)}: ${estimate.filesPerHour.toLocaleString('en')} files an hour, ` +
              `${seconds(estimate.savedCpuSeconds)} CPU and ${count(estimate.savedRequests)} requests less${money(estimate.savedPrice)}`,
      },
    ],
    landing,
  );
}

function renderPeriods({ periods }: Costs): Node {
  if (periods.length === 0) return empty(...NO_RUNS);
  return table(
    'Cost by day',
    [
      { title: 'Day', cell: ({ startMs }) => day(startMs) },
      { title: 'Dataset', cell: ({ dataset }) => dataset },
      { title: 'Work', cell: ({ kind }) => kind },
      { title: 'Runs', cell: ({ runs: number }) => count(number), number: true },
      ...FIGURES,
    ],
    periods.slice(0, 60),
  );
}

function renderRuns(first: PagedList<Run>, signal: AbortSignal): Node {
  if (first.items.length === 0) return empty(...NO_RUNS);
  return pages(first, 'Older runs', runTable, (cursor) =>
    api<PagedList<Run>>(`/v1/runs?limit=${PAGE}&cursor=${cursor}`, { signal }),
  );
}

function runTable(items: readonly Run[]): HTMLElement {
  return table(
    'Runs',
    [
      { title: 'Started', cell: ({ startedMs }) => moment(startedMs) },
      { title: 'Work', cell: ({ kind }) => kind },
      { title: 'Dataset', cell: ({ dataset }) => dataset },
      { title: 'Took', cell: (run) => seconds(run.seconds), number: true },
      ...FIGURES,
    ],
    items,
  );
}
