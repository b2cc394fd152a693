/** The pipeline at a glance: the last sample, its age, what is down, and the series behind the plots. */
import { z } from 'zod';
import type { App } from '../context.ts';
import type { Sample } from '../lake/monitor.ts';
import type { Scope } from '../scope/scope.ts';

export const portSchema = z.object({
  name: z.enum(['engine', 'store', 'log']),
  url: z.string(),
  ok: z.boolean(),
  sinceMs: z.number(),
  problem: z.string().nullable(),
});

export const datasetSampleSchema = z.object({
  name: z.string(),
  topic: z.string(),
  appendedPerSecond: z.number(),
  landedPerSecond: z.number(),
  appended: z.number().meta({ description: 'records in the log since its topic was made' }),
  landed: z.number().meta({ description: 'taken from the log, quarantined ones included' }),
  quarantined: z.number(),
  lost: z.number().meta({ description: "removed by the log's retention before they were taken" }),
  duplicates: z.number(),
  removed: z.number().meta({
    description: 'taken out by retention, an erasure, or a compaction that applied the deletes of another writer',
  }),
  landedFiles: z.number(),
  landedBytes: z.number(),
  liveRows: z.number(),
  liveFiles: z.number(),
  liveBytes: z.number().nullable(),
  unlanded: z.number().meta({ description: 'records in the log that have not landed' }),
  oldestUnlandedMs: z.number().nullable().meta({ description: 'when the oldest of them arrived; null: none waits' }),
});

const overviewSchema = z.object({
  nowMs: z.number(),
  volume: z.string(),
  ports: z.array(portSchema),
  atMs: z.number().nullable().meta({ description: 'when the figures were true; null: none could be read yet' }),
  appendedPerSecond: z.number(),
  landedPerSecond: z.number(),
  datasets: z.array(datasetSampleSchema),
  sessions: z
    .record(z.string(), z.int())
    .nullable()
    .meta({ description: 'live sessions by kind; null: the engine is down' }),
  agents: z.object({ total: z.int(), late: z.int() }).nullable(),
});

const historySchema = z.object({
  atMs: z.array(z.number()),
  appendedPerSecond: z.array(z.number()),
  landedPerSecond: z.array(z.number()),
  unlanded: z.array(z.number()),
  oldestUnlandedSeconds: z.array(z.number()),
  liveFiles: z.array(z.number()),
});

export function overviewRoutes(app: App): void {
  app.get(
    '/v1/overview',
    {
      config: { access: 'viewer' },
      schema: {
        operationId: 'overview.get',
        tags: ['overview'],
        summary: 'The pipeline at a glance',
        response: { 200: overviewSchema },
      },
    },
    async ({ scope }) => {
      const sample = scope.lake.latest;
      return {
        nowMs: scope.nowMs,
        volume: scope.volumeName,
        ports: [...scope.ports],
        atMs: sample?.atMs ?? null,
        appendedPerSecond: sample === null ? 0 : sum(sample, (dataset) => dataset.appendedPerSecond),
        landedPerSecond: sample === null ? 0 : sum(sample, (dataset) => dataset.landedPerSecond),
        datasets: [...(sample?.datasets ?? [])],
        ...(await whoIsThere(scope)),
      };
    },
  );

  app.get(
    '/v1/overview/history',
    {
      config: { access: 'viewer' },
      schema: {
        operationId: 'overview.history',
        tags: ['overview'],
        summary: 'The last half hour, a sample every two seconds',
        response: { 200: historySchema },
      },
    },
    ({ scope }) => {
      const { history } = scope.lake;
      return {
        atMs: history.map((sample) => sample.atMs),
        appendedPerSecond: history.map((sample) => sum(sample, (dataset) => dataset.appendedPerSecond)),
        landedPerSecond: history.map((sample) => sum(sample, (dataset) => dataset.landedPerSecond)),
        unlanded: history.map((sample) => sum(sample, (dataset) => dataset.unlanded)),
        oldestUnlandedSeconds: history.map(oldestUnlandedSeconds),
        liveFiles: history.map((sample) => sum(sample, (dataset) => dataset.liveFiles)),
      };
    },
  );
}

/** The overview is shown also while the engine is down: without these. */
async function whoIsThere(scope: Scope): Promise<Pick<z.output<typeof overviewSchema>, 'sessions' | 'agents'>> {
  try {
    return { sessions: { ...(await scope.sessionCounts()) }, agents: await scope.fleet.agentCounts() };
  } catch {
    return { sessions: null, agents: null };
  }
}

type Dataset = Sample['datasets'][number];

const sum = (sample: Sample, pick: (dataset: Dataset) => number): number =>
  sample.datasets.reduce((total, dataset) => total + pick(dataset), 0);

function oldestUnlandedSeconds(sample: Sample): number {
  const times = sample.datasets.flatMap(({ oldestUnlandedMs }) =>
    oldestUnlandedMs === null ? [] : [oldestUnlandedMs],
  );
  return times.length === 0 ? 0 : Math.max(0, (sample.atMs - Math.min(...times)) / 1000);
}
