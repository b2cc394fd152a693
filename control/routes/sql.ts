/** One SELECT over the lake; see lake/sql.ts for what it can and cannot do. */
import { z } from 'zod';
import type { App } from '../context.ts';
import { ROWS_MAX } from '../lake/sql.ts';

export function sqlRoutes(app: App): void {
  app.post(
    '/v1/sql',
    {
      // A query is a process of its own: far dearer than any other request.
      config: { access: 'viewer', rateLimit: { max: 120, timeWindow: 60_000 } },
      schema: {
        operationId: 'sql.query',
        tags: ['sql'],
        summary: 'Run one SELECT over the live files of the datasets; dataset a.b is table a.b',
        body: z.strictObject({
          sql: z.string().min(1).max(100_000),
          rows: z.int().min(1).max(ROWS_MAX).default(1000).meta({ description: 'more rows are cut off' }),
        }),
        response: {
          200: z.object({
            columns: z.array(z.object({ name: z.string(), type: z.string() })).readonly(),
            rows: z
              .array(z.array(z.unknown()).readonly())
              .readonly()
              .meta({ description: '64-bit integers, decimals and times are text' }),
            truncated: z.boolean(),
            seconds: z.number(),
            datasets: z.array(z.string()).readonly(),
          }),
        },
      },
    },
    (request) => request.scope.lake.sql(request.body.sql, request.body.rows),
  );
}
