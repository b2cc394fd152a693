/** Every change is recorded before it is made; an administrator reads what was. */
import type { FastifyRequest } from 'fastify';
import { z } from 'zod';
import type { App, ControlContext } from '../context.ts';
import { auditSchema, KEEP_DAYS, type AuditRecord } from '../lake/audit.ts';
import { pageOf, pageQuery, paginate } from '../page.ts';

declare module 'fastify' {
  interface FastifyRequest {
    /** null on what changes nothing. */
    audit: AuditRecord | null;
    /** Of what goes on when it is answered: the status that comes of it. It does not reject. */
    goesOn: Promise<number> | null;
  }
}

const READS = new Set(['GET', 'HEAD', 'OPTIONS']);
const DAY_MS = 86_400_000;

/** Before the routes are added. Heartbeats are left out: the agent's record says when it reported. */
export function addAudit(app: App, context: ControlContext): void {
  const { audit, connections } = context;
  app.decorateRequest('audit', null);
  app.decorateRequest('goesOn', null);
  app.addHook('preHandler', async (request) => {
    const { principal, routeOptions } = request;
    if (principal === null || routeOptions.config.access === 'agent' || READS.has(request.method)) return;
    const { operationId } = routeOptions.schema ?? {};
    request.audit = await audit.begin(connections.engine, connections.volume, {
      who: principal.name,
      role: principal.role,
      tenant: principal.tenant,
      address: request.ip,
      operation: operationId ?? `${request.method} ${routeOptions.url ?? ''}`,
      target: request.url.slice(0, 1000),
      body: request.body,
    });
  });
  const complete = async ({ audit: record, log }: FastifyRequest, status: number): Promise<void> => {
    if (record === null) return;
    try {
      await audit.complete(connections.engine, connections.volume, record, status);
    } catch (error) {
      log.warn({ err: error }, 'an audit record stays without its outcome');
    }
  };
  // Before the answer is sent, so that whoever has it finds the record complete; of what goes on when that ends.
  app.addHook('onSend', async (request, reply) => {
    if (request.goesOn === null) await complete(request, reply.statusCode);
    else void request.goesOn.then((status) => complete(request, status));
  });
}

export function auditRoutes(app: App): void {
  app.get(
    '/v1/audit',
    {
      config: { access: 'admin' },
      schema: {
        operationId: 'audit.list',
        tags: ['audit'],
        summary: 'Who changed what through this API, newest first',
        querystring: z.object({
          ...pageQuery,
          days: z.coerce.number().int().min(1).max(KEEP_DAYS).default(7),
          who: z.string().max(200).optional(),
          operation: z.string().max(200).optional(),
        }),
        response: { 200: pageOf(auditSchema) },
      },
    },
    async (request) => {
      const { scope, query } = request;
      const { days, who, operation } = query;
      const records = await scope.audited(scope.nowMs - days * DAY_MS);
      const wanted = records.filter(
        (record) =>
          (who === undefined || record.who === who) && (operation === undefined || record.operation === operation),
      );
      const newest = (a: readonly string[], b: readonly string[]): number =>
        a[0] === b[0] ? 0 : (a[0] ?? '') > (b[0] ?? '') ? -1 : 1;
      return paginate(wanted, ({ id }) => [id], newest, query);
    },
  );
}
