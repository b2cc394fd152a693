/** What the datasets will need, with how far the last forecast was off, and what follows from it. */
import { z } from 'zod';
import type { App } from '../context.ts';
import { adviseOn } from '../lake/advice.ts';
import type { Scope } from '../scope/scope.ts';
import { dailySeries, forecast, heldOut, HISTORY_DAYS_MIN, MEASURES, type Measure } from '../lake/forecast.ts';

const HORIZON_DAYS_MAX = 90;
const DAY_MS = 86_400_000;

const line = z.array(z.number()).readonly();
const forecastSchema = z.object({
  dataset: z.string(),
  measure: z.enum(MEASURES),
  historyStartMs: z.number().meta({ description: 'the first day of `history`, UTC' }),
  history: line.meta({ description: 'one value a day, up to yesterday' }),
  forecast: z
    .object({ startMs: z.number(), point: line, lower: line, upper: line })
    .nullable()
    .meta({ description: 'one value a day from today on; nine of ten days are meant to fall between lower and upper' }),
  heldOut: z
    .object({
      days: z.int(),
      errorPercent: z.number().nullable(),
      naiveErrorPercent: z.number().nullable().meta({ description: 'of the same day of the week before' }),
      insideBand: z.number(),
    })
    .nullable()
    .meta({ description: 'how a forecast made before the last days was off in them' }),
  reason: z.string().nullable().meta({ description: 'why there is no forecast yet' }),
});
const adviceSchema = z.object({
  dataset: z.string().nullable(),
  kind: z.enum(['switch-off', 'buy']),
  text: z.string(),
});
type Forecast = z.output<typeof forecastSchema>;

export function forecastRoutes(app: App): void {
  // Whole days only: an answer holds until the day is over, or a record of an earlier day comes.
  const known = new Map<string, { readonly key: string; readonly answer: Forecast }>();

  async function forecastOf(scope: Scope, dataset: string, measure: Measure, days: number): Promise<Forecast> {
    const all = await scope.lake.runs(dataset);
    const { startMs, values } = dailySeries(all, measure, scope.nowMs);
    const key = `${days} ${startMs} ${values.join(' ')}`;
    const cached = known.get(`${dataset} ${measure}`);
    if (cached?.key === key) return cached.answer;
    const isEnough = values.length >= HISTORY_DAYS_MIN;
    const answer = {
      dataset,
      measure,
      historyStartMs: startMs,
      history: values,
      forecast: isEnough ? { startMs: startMs + values.length * DAY_MS, ...(await forecast(values, days)) } : null,
      heldOut: isEnough && values.length >= HISTORY_DAYS_MIN + 7 ? await heldOut(values) : null,
      reason: isEnough ? null : `${values.length} whole days are known, ${HISTORY_DAYS_MIN} are needed`,
    };
    known.set(`${dataset} ${measure}`, { key, answer });
    return answer;
  }

  app.get(
    '/v1/forecasts',
    {
      config: { access: 'viewer' },
      schema: {
        operationId: 'forecasts.list',
        tags: ['forecasts'],
        summary: 'What each dataset will need a day, and what could be switched off or must be bought',
        querystring: z.object({
          dataset: z.string().max(200).optional(),
          measure: z.enum(MEASURES).default('bytesWritten'),
          days: z.coerce.number().int().min(1).max(HORIZON_DAYS_MAX).default(28),
          advice: z
            .enum(['true', 'false'])
            .default('false')
            .meta({ description: 'whether to say what follows, which reads every use that lineage knows' }),
        }),
        response: {
          200: z.object({
            items: z.array(forecastSchema),
            nextCursor: z.null(),
            advice: z.array(adviceSchema).nullable().meta({ description: 'null: it was not asked for' }),
          }),
        },
      },
    },
    async (request) => {
      const { dataset, measure, days } = request.query;
      const items: Forecast[] = [];
      const { scope } = request;
      for (const name of scope.lake.datasets(dataset)) items.push(await forecastOf(scope, name, measure, days));
      const advice =
        request.query.advice === 'true'
          ? await adviseOn(scope, async (name) => (await forecastOf(scope, name, 'rows', days)).forecast)
          : null;
      return { items, nextCursor: null, advice };
    },
  );
}
