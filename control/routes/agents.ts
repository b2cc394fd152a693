/** Agents report here; everybody else reads what they said last. */
import { z } from 'zod';
import type { App, ControlContext } from '../context.ts';
import { agentSchema, listAgents, saveHeartbeat } from '../lake/agents.ts';
import { ascending, pageOf, pageQuery, paginate } from '../page.ts';
import { sendProblem } from '../problem.ts';

const agentId = z
  .string()
  .regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/, "expected 1 to 128 letters, digits, '.', '_' or '-'");

export function agentRoutes(app: App, context: ControlContext): void {
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
      const { engine, volume } = context.connections;
      const agents = await listAgents(engine, volume, context.clock);
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
      const { principal } = request;
      if (principal?.role === 'agent' && principal.name !== agent) {
        return sendProblem(reply, 403, 'denied', `this token speaks for agent ${principal.name} only`);
      }
      const { engine, volume } = context.connections;
      await saveHeartbeat(engine, volume, context.clock, {
        id: agent,
        address: request.ip,
        status: request.body.status,
      });
      return reply.code(204).send(null);
    },
  );
}
