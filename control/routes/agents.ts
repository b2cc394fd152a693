/** Agents report here; everybody else reads what they said last. */
import { z } from 'zod';
import { PenstockError } from '../../lib/errors.ts';
import { LATE_MS, reportSchema } from '../agents/reports.ts';
import type { App } from '../context.ts';
import { ascending, pageOf, pageQuery, paginate } from '../page.ts';
import type { Scope } from '../scope/scope.ts';
import { agentId, assertSpeaksFor } from './agent-parts.ts';

const agentSchema = reportSchema.extend({
  id: z.string(),
  late: z.boolean(),
  group: z.string().nullable(),
  wanted: z.string().meta({ description: 'the version that it is to run with; `none`: its agent.yaml' }),
});

export function agentRoutes(app: App): void {
  app.get(
    '/v1/agents',
    {
      config: {
        access: 'viewer',
        columns: {
          id: 'id',
          group: 'group',
          late: 'late',
          seenMs: 'seenMs',
          readings: 'status.readings',
          delivered: 'status.delivered',
          quarantined: 'status.quarantined',
          spoolBytes: 'status.spool.bytes',
          problem: 'status.uplinkProblem',
          wanted: 'wanted',
        },
      },
      schema: {
        operationId: 'agents.list',
        tags: ['agents'],
        summary: 'Every agent that ever reported, with its last status',
        querystring: z.object(pageQuery),
        response: { 200: pageOf(agentSchema) },
      },
    },
    async (request) => {
      const { ids } = await request.scope.fleet.agents();
      const { items, nextCursor } = paginate(ids, (id) => [id], ascending, request.query);
      return { items: await agentsOf(request.scope, items), nextCursor };
    },
  );

  app.get(
    '/v1/agents/:agent',
    {
      config: { access: 'viewer' },
      schema: {
        operationId: 'agents.get',
        tags: ['agents'],
        summary: 'One agent, with its last status',
        params: z.object({ agent: agentId }),
        response: { 200: agentSchema },
      },
    },
    async (request) => {
      const { agent: id } = request.params;
      const [agent] = await agentsOf(request.scope, [id]);
      if (agent === undefined) throw new PenstockError('not-found', `no agent ${id} has reported`);
      return agent;
    },
  );

  app.delete(
    '/v1/agents/:agent',
    {
      config: { access: 'admin' },
      schema: {
        operationId: 'agents.forget',
        tags: ['agents'],
        summary: 'Forget an agent that is no more: what it said, its own configuration and its place in its group',
        params: z.object({ agent: agentId }),
        response: { 204: z.null() },
      },
    },
    async (request, reply) => {
      await request.scope.fleet.forget(request.params.agent);
      return reply.code(204).send(null);
    },
  );

  app.post(
    '/v1/agents/:agent/heartbeat',
    {
      config: { access: 'agent' },
      schema: {
        operationId: 'agents.heartbeat',
        tags: ['agents'],
        summary: 'What an agent says of itself, every ten seconds',
        params: z.object({ agent: agentId }),
        body: z.strictObject({ status: z.record(z.string(), z.unknown()) }),
        response: { 204: z.null() },
      },
    },
    async (request, reply) => {
      const { agent } = request.params;
      assertSpeaksFor(request, agent);
      await request.scope.fleet.saveHeartbeat({ id: agent, address: request.ip, status: request.body.status });
      return reply.code(204).send(null);
    },
  );
}

/** Those of them that have reported. */
async function agentsOf({ fleet, nowMs }: Scope, ids: readonly string[]): Promise<z.output<typeof agentSchema>[]> {
  const { reports } = await fleet.agents();
  const wanted = await fleet.configs.wantedOfMany(ids);
  return ids.flatMap((id) => {
    const [report, config] = [reports.get(id), wanted.get(id)];
    if (report === undefined || config === undefined) return [];
    const late = nowMs - report.seenMs > LATE_MS;
    return [{ id, ...report, late, group: config.group, wanted: config.version }];
  });
}
