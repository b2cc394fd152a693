/** Landing and compaction runs, and what they cost. */
import { z } from 'zod';
import type { App } from '../context.ts';
import { costPeriods, weekOverWeek } from '../../lib/lake/cost-periods.ts';
import { newestFirst } from '../lake/runs.ts';
import { pageOf, pageQuery, paginate } from '../page.ts';

const sums = {
  seconds: z.number(),
  cpuSeconds: z.number(),
  gbSeconds: z.number().meta({ description: 'GB of resident memory, times seconds' }),
  rows: z.number(),
  bytesRead: z.number(),
  bytesWritten: z.number(),
  gets: z.number(),
  puts: z.number(),
};
const kind = z.enum(['land', 'compact', 'erase']);
const runSchema = z.object({
  id: z.string(),
  dataset: z.string(),
  kind,
  startedMs: z.number(),
  ...sums,
  node: z.string().optional(),
  isSpot: z.boolean().optional(),
});
const costSumsSchema = z.object({ runs: z.int(), ...sums });
const landingSchema = z.object({
  dataset: z.string(),
  commits: z.int(),
  files: z.int(),
  filesPerHour: z.number(),
  meanBytes: z.number(),
  targetBytes: z.number().meta({ description: 'lander.fileBytes' }),
  compaction: z.object({ gets: z.number(), cpuSeconds: z.number(), price: z.number().nullable() }),
  estimate: z
    .object({
      commitEveryMs: z.number(),
      filesPerHour: z.number(),
      savedRequests: z.number(),
      savedCpuSeconds: z.number(),
      savedPrice: z.number().nullable(),
    })
    .nullable()
    .meta({ description: 'of what another lander.commitEvery would have saved in these days; null: nothing to gain' }),
});
const costsSchema = z.object({
  periods: z.array(z.object({ dataset: z.string(), kind, startMs: z.number(), runs: z.int(), ...sums })),
  currency: z.string().nullable().meta({ description: 'of prices; null: there are none in the configuration' }),
  landing: z
    .array(landingSchema)
    .meta({ description: 'what the size of the landed files cost in the last seven days' }),
  trends: z.array(
    z.object({
      dataset: z.string(),
      last7Days: costSumsSchema,
      previous7Days: costSumsSchema,
      cpuChange: z
        .number()
        .nullable()
        .meta({ description: '0.1: ten percent more than in the week before; null: no week before' }),
      cpuPerRowChange: z.number().nullable().meta({ description: 'the same for CPU a row' }),
      isRegression: z.boolean().meta({ description: 'CPU a row grew by more than 20 percent' }),
    }),
  ),
});
const datasetQuery = { dataset: z.string().max(200).optional() };

export function runRoutes(app: App): void {
  app.get(
    '/v1/runs',
    {
      config: { access: 'viewer' },
      schema: {
        operationId: 'runs.list',
        tags: ['runs'],
        summary: 'Landing and compaction runs that are over, newest first',
        querystring: z.object({ ...pageQuery, ...datasetQuery, kind: kind.optional() }),
        response: { 200: pageOf(runSchema) },
      },
    },
    async (request) => {
      const wanted = request.query.kind;
      const all = await request.scope.lake.runs(request.query.dataset);
      const shown = wanted === undefined ? all : all.filter((run) => run.kind === wanted);
      const asRun = ([id = '', dataset = '']: readonly string[]): Parameters<typeof newestFirst>[0] => ({
        id,
        dataset,
      });
      return paginate(
        shown,
        (run) => [run.id, run.dataset],
        (a, b) => newestFirst(asRun(a), asRun(b)),
        request.query,
      );
    },
  );

  app.get(
    '/v1/costs',
    {
      config: { access: 'viewer' },
      schema: {
        operationId: 'costs.get',
        tags: ['runs'],
        summary: 'What landing and compaction cost by day or week, and the last seven days against the seven before',
        querystring: z.object({ ...datasetQuery, by: z.enum(['day', 'week']).default('day') }),
        response: { 200: costsSchema },
      },
    },
    async (request) => {
      const { lake, nowMs } = request.scope;
      const { dataset, by } = request.query;
      const all = await lake.runs(dataset);
      return {
        periods: costPeriods(all, by),
        currency: lake.prices?.currency ?? null,
        landing: lake.landedFiles(all, nowMs),
        trends: weekOverWeek(all, lake.datasets(dataset), nowMs),
      };
    },
  );
}
