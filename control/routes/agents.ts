/** Agents report here; everybody else reads what they said last. */
import { z } from 'zod';
import { LATE_MS, reportSchema } from '../agents/reports.ts';
import { wantedOf } from '../agents/rollout.ts';
import type { App } from '../context.ts';
import { ascending, pageOf, pageQuery, paginate } from '../page.ts';
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
      config: { access: 'viewer' },
      schema: {
        operationId: 'agents.list',
        tags: ['agents'],
        summary: 'Every agent that ever reported, with its last status',
        querystring: z.object(pageQuery),
        response: { 200: pageOf(agentSchema) },
      },
    },
    async (request) => {
      const { fleet, nowMs } = request.scope;
      const reports = await fleet.reports();
      const assignments = await fleet.assignments();
      const groups = await fleet.allGroups();
      const agents = [...reports].map(([id, report]) => {
        const assignment = assignments.get(id) ?? null;
        const { version, group } = wantedOf(id, assignment, groups.get(assignment?.group ?? '') ?? null);
        return { id, ...report, late: nowMs - report.seenMs > LATE_MS, group, wanted: version };
      });
      return paginate(agents, ({ id }) => [id], ascending, request.query);
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
