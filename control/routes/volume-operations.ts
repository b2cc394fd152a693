/** What is done to a volume and may take long: answered when it is done, or after a while with where to see how far it is. */
import type { FastifyReply, FastifyRequest } from 'fastify';
import { z } from 'zod';
import type { App } from '../context.ts';
import { idOfRequest } from '../idempotency.ts';
import { ascending, pageOf, pageQuery, paginate } from '../page.ts';
import type { VolumeOperations } from '../volume-operations.ts';
import { volumeOperationSchema } from '../volume-schemas.ts';

/** A person waits that long, and proxies for longer. */
const WAIT_SECONDS = 5;
const WAIT_SECONDS_MAX = 30;

export const volumeParams = z.object({ volume: z.string().max(200) });

const operationParams = volumeParams.extend({ operation: z.uuid() });

export const waitQuery = z.object({
  wait: z.coerce
    .number()
    .int()
    .min(0)
    .max(WAIT_SECONDS_MAX)
    .default(WAIT_SECONDS)
    .meta({ description: 'seconds until the answer is 202 and where to see how far it is' }),
});

export const begunSchema = volumeOperationSchema.meta({ description: 'it goes on: Location says where to look' });

type Work<T extends object> = Parameters<typeof VolumeOperations.prototype.run<T>>[3];

/** `status`: where it is done within `wait`. */
export async function answerChange<T extends object>(
  request: FastifyRequest<{ Params: { volume: string }; Querystring: { wait: number } }>,
  reply: FastifyReply,
  change: { readonly target: string; readonly schema: z.ZodType<T>; readonly status: 200 | 201 | 204 },
  work: Work<T>,
): Promise<FastifyReply> {
  const { params, query, routeOptions, body, principal, log } = request;
  const { target, schema, status } = change;
  const asked = {
    ...{ id: idOfRequest(request), operation: routeOptions.schema?.operationId ?? '', target, body },
    ...{ by: principal?.name ?? '', onUnexpected: (error: unknown) => log.error({ err: error }, 'unexpected error') },
  };
  const outcome = await request.scope.volume(params.volume).run(asked, schema, query.wait * 1000, work);
  if ('result' in outcome) return reply.code(status).send(status === 204 ? null : outcome.result);
  const { operation, ended } = outcome;
  request.goesOn = ended?.then(({ state, error }) => (state === 'done' ? status : (error?.status ?? 500))) ?? null;
  const location = `/v1/volumes/${encodeURIComponent(params.volume)}/operations/${operation.id}`;
  return reply.code(202).header('location', location).send(operation);
}

export function volumeOperationRoutes(app: App): void {
  app.get(
    '/v1/volumes/:volume/operations',
    {
      config: {
        access: 'viewer',
        columns: {
          ...{ id: 'id', operation: 'operation', target: 'target', by: 'by', state: 'state', startedMs: 'startedMs' },
          ...{ changedMs: 'changedMs', phase: 'progress.phase', done: 'progress.done', error: 'error.detail' },
        },
      },
      schema: {
        operationId: 'operations.list',
        tags: ['volumes'],
        summary: 'What was done to the volume and what goes on, the newest first',
        params: volumeParams,
        querystring: z.object(pageQuery),
        response: { 200: pageOf(volumeOperationSchema) },
      },
    },
    async ({ scope, params, query }) => {
      const operations = await scope.volume(params.volume).list();
      return paginate(
        operations,
        ({ startedMs, id }) => [String(Number.MAX_SAFE_INTEGER - startedMs).padStart(16, '0'), id],
        ascending,
        query,
      );
    },
  );

  app.get(
    '/v1/volumes/:volume/operations/:operation',
    {
      config: { access: 'viewer' },
      schema: {
        operationId: 'operations.get',
        tags: ['volumes'],
        summary: 'How far it is, and what came of it',
        params: operationParams,
        response: { 200: volumeOperationSchema },
      },
    },
    async ({ scope, params }) => scope.volume(params.volume).get(params.operation),
  );
  app.post(
    '/v1/volumes/:volume/operations/:operation/cancel',
    {
      config: { access: 'operator' },
      schema: {
        operationId: 'operations.cancel',
        tags: ['volumes'],
        summary: 'End what one has begun, or as an administrator what others have, before it is done',
        params: operationParams,
        response: { 200: volumeOperationSchema },
      },
    },
    async ({ scope, params, principal }) =>
      scope.volume(params.volume).cancel(params.operation, principal?.name ?? '', principal?.role === 'admin'),
  );
}
