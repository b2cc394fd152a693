/** Which data trained which model. */
import { z } from 'zod';
import type { App, ControlContext } from '../context.ts';
import { idempotencyHeaders, idOfRequest } from '../idempotency.ts';
import { findLineage, lineageNameSchema as name, lineageSchema, recordLineage, snapshotUsed } from '../lake/lineage.ts';
import { pageOf, pageQuery, paginate } from '../page.ts';

const snapshotId = z.string().regex(/^\d{1,19}$/, 'expected the id of a snapshot, a decimal number');

export function lineageRoutes(app: App, context: ControlContext): void {
  app.post(
    '/v1/lineage',
    {
      config: { access: 'operator' },
      schema: {
        operationId: 'lineage.record',
        tags: ['lineage'],
        summary: 'Record that a job read a snapshot of a dataset, and the model it made',
        headers: idempotencyHeaders,
        body: z.strictObject({
          dataset: name,
          snapshotId: snapshotId.optional().meta({ description: 'default: the current snapshot' }),
          job: name,
          model: name.optional(),
        }),
        response: { 201: lineageSchema },
      },
    },
    async (request, reply) => {
      const { lake } = context.connections;
      const { body, principal } = request;
      const dataset = context.dataset(body.dataset).name;
      const table = await context.tables.get(lake, dataset);
      const snapshot = snapshotUsed(dataset, table, body.snapshotId);
      const record = await recordLineage(lake.engine, lake.volume, context.clock, {
        id: idOfRequest(request),
        dataset,
        snapshotId: snapshot,
        job: body.job,
        model: body.model ?? null,
        recordedBy: principal?.name ?? '',
      });
      return reply.code(201).send(record);
    },
  );

  app.get(
    '/v1/lineage',
    {
      config: { access: 'viewer' },
      schema: {
        operationId: 'lineage.list',
        tags: ['lineage'],
        summary: 'By model: which data trained it. By dataset (and snapshot): which jobs and models used it',
        querystring: z.object({
          ...pageQuery,
          model: name.optional(),
          dataset: name.optional(),
          snapshotId: snapshotId.optional(),
        }),
        response: { 200: pageOf(lineageSchema) },
      },
    },
    async (request) => {
      const { engine, volume } = context.connections;
      const { model, dataset } = request.query;
      const found = await findLineage(engine, volume, { model, dataset, snapshotId: request.query.snapshotId });
      const newest = (a: readonly string[], b: readonly string[]): number =>
        Number(b[0]) - Number(a[0]) || ((a[1] ?? '') < (b[1] ?? '') ? -1 : Number(a[1] !== b[1]));
      return paginate(found, ({ recordedMs, id }) => [String(recordedMs), id], newest, request.query);
    },
  );
}
