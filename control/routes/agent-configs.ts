/** What one agent is to run with: asked for by the agent, which may wait for the next; changed by administrators. */
import type { FastifyReply, FastifyRequest } from 'fastify';
import { z } from 'zod';
import { assertMatch, editHeaders, etagOf, matches, readHeaders } from '../conditional.ts';
import type { App } from '../context.ts';
import { agentId, assertSpeaksFor, settings } from './agent-parts.ts';

const WAIT_SECONDS_MAX = 60;

const answerSchema = z.object({
  version: z.string().meta({ description: 'also the ETag; `none`: nothing is wanted' }),
  from: z
    .enum(['agent', 'group', 'rollout', 'none'])
    .meta({ description: 'an agent’s own goes before that of its group' }),
  group: z.string().nullable(),
  changedMs: z.number().nullable(),
  changedBy: z.string().nullable(),
  config: settings.nullable().meta({ description: 'null: the agent runs with its agent.yaml' }),
});

export function agentConfigRoutes(app: App): void {
  app.get(
    '/v1/agents/:agent/config',
    {
      config: { access: 'viewer-or-agent' },
      schema: {
        operationId: 'agents.config',
        tags: ['agents'],
        summary: 'What the agent is to run with; with If-None-Match and wait, as soon as that is another version',
        params: z.object({ agent: agentId }),
        querystring: z.object({ wait: z.coerce.number().int().min(0).max(WAIT_SECONDS_MAX).default(0) }),
        headers: readHeaders,
        response: { 200: answerSchema, 304: z.null() },
      },
    },
    async (request, reply) => {
      const { agent } = request.params;
      const { fleet, ending } = request.scope;
      assertSpeaksFor(request, agent);
      const known = request.headers['if-none-match'];
      const isKnown = (version: string): boolean => known !== undefined && matches(known, version);
      let wanted = await fleet.configs.wanted(agent);
      if (isKnown(wanted.version)) {
        const timeoutMs = request.query.wait * 1000;
        wanted = await fleet.waitForConfig(agent, wanted.version, timeoutMs, untilGone(request, reply, ending));
      }
      void reply.header('etag', etagOf(wanted.version)).header('cache-control', 'no-store');
      if (isKnown(wanted.version)) return reply.code(304).send(null);
      const { owner, ...answer } = wanted;
      return { ...answer, config: owner === null ? null : await fleet.configOf(owner, wanted.version) };
    },
  );

  app.put(
    '/v1/agents/:agent/config',
    {
      config: { access: 'admin' },
      schema: {
        operationId: 'agents.configure',
        tags: ['agents'],
        summary: 'Give the agent a configuration of its own: agent.yaml without `agent` and `control`',
        params: z.object({ agent: agentId }),
        headers: editHeaders,
        body: z.strictObject({ config: settings }),
        response: { 204: z.null() },
      },
    },
    async (request, reply) => {
      const { config } = request.body;
      await request.scope.fleet.configs.setOwn(request.params.agent, config, request.principal?.name ?? '', (current) =>
        assertMatch(request.headers['if-match'], current),
      );
      return reply.code(204).send(null);
    },
  );

  app.delete(
    '/v1/agents/:agent/config',
    {
      config: { access: 'admin' },
      schema: {
        operationId: 'agents.unconfigure',
        tags: ['agents'],
        summary: 'Take the agent’s own configuration away: it runs with its group’s, or with its agent.yaml',
        params: z.object({ agent: agentId }),
        headers: editHeaders,
        response: { 204: z.null() },
      },
    },
    async (request, reply) => {
      await request.scope.fleet.configs.setOwn(request.params.agent, null, request.principal?.name ?? '', (current) =>
        assertMatch(request.headers['if-match'], current),
      );
      return reply.code(204).send(null);
    },
  );
}

/** Fires when the client has gone, or the server ends. */
function untilGone(request: FastifyRequest, reply: FastifyReply, ending: AbortSignal): AbortSignal {
  const gone = new AbortController();
  reply.raw.once('close', () => gone.abort());
  if (request.raw.destroyed) gone.abort();
  return AbortSignal.any([gone.signal, ending]);
}
