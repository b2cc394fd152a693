/** Which data trained which model. */
import { z } from 'zod';
import type { App } from '../context.ts';
import { idempotencyHeaders, idOfRequest } from '../idempotency.ts';
import { lineageNameSchema as name, lineageSchema } from '../lake/lineage.ts';
import { pageOf, pageQuery, paginate } from '../page.ts';

const snapshotId = z.string().regex(/^\d{1,19}$/, 'expected the id of a snapshot, a decimal number');

export function lineageRoutes(app: App): void {
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
      const { body, principal } = request;
      const record = await request.scope.lake.recordUse({
        id: idOfRequest(request),
        dataset: body.dataset,
        snapshotId: body.snapshotId,
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
      const { model, dataset } = request.query;
      const found = await request.scope.lake.uses({ model, dataset, snapshotId: request.query.snapshotId });
      const newest = (a: readonly string[], b: readonly string[]): number =>
        Number(b[0]) - Number(a[0]) || ((a[1] ?? '') < (b[1] ?? '') ? -1 : Number(a[1] !== b[1]));
      return paginate(found, ({ recordedMs, id }) => [String(recordedMs), id], newest, request.query);
    },
  );
}
