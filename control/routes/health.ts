/** What orchestrators and monitoring ask. */
import { z } from 'zod';
import type { App, ControlContext } from '../context.ts';
import type { ControlMetrics } from '../metrics.ts';

const readySchema = z.object({
  status: z.enum(['ok', 'degraded']),
  ports: z.array(
    z.object({
      name: z.enum(['engine', 'store', 'log']),
      ok: z.boolean(),
      since: z.string(),
      problem: z.string().nullable(),
    }),
  ),
});

export function healthRoutes(app: App, { connections }: ControlContext, metrics: ControlMetrics): void {
  app.get(
    '/healthz',
    {
      config: { access: 'public' },
      schema: {
        operationId: 'health.live',
        tags: ['health'],
        summary: 'The process answers',
        response: { 200: z.object({ status: z.literal('ok') }) },
      },
    },
    () => ({ status: 'ok' as const }),
  );

  app.get(
    '/readyz',
    {
      config: { access: 'public' },
      schema: {
        operationId: 'health.ready',
        tags: ['health'],
        summary: 'Engine, store and log answer; 503 says which does not, and since when',
        response: { 200: readySchema, 503: readySchema },
      },
    },
    async (_request, reply) => {
      const ports = connections.health.map(({ name, ok, sinceMs, problem }) => ({
        name,
        ok,
        since: new Date(sinceMs).toISOString(),
        problem,
      }));
      const ok = ports.every((port) => port.ok);
      return reply.code(ok ? 200 : 503).send({ status: ok ? 'ok' : 'degraded', ports });
    },
  );

  app.get(
    '/metrics',
    {
      config: { access: 'viewer' },
      schema: {
        operationId: 'metrics.get',
        tags: ['health'],
        summary: 'Prometheus text format',
        produces: ['text/plain'],
        response: { 200: z.string() },
      },
    },
    async (request, reply) => {
      const text = await metrics.text(request.scope);
      return reply.type(metrics.contentType).serializer(String).send(text);
    },
  );
}
