/** Groups of agents, and what they are to run with. */
import { z } from 'zod';
import { assertMatch, editHeaders, etagOf } from '../conditional.ts';
import type { App } from '../context.ts';
import { wantedSchema } from '../agents/records.ts';
import { MEMBER_STATES } from '../agents/rollout.ts';
import { ascending, pageOf, pageQuery, paginate } from '../page.ts';
import { agentId, groupName, settings } from './agent-parts.ts';
import { rolloutStateSchema } from './rollouts.ts';

const groupSchema = z.object({
  name: z.string(),
  agents: z.int().meta({ description: 'its members' }),
  current: wantedSchema.nullable().meta({ description: 'null: its agents run with their own agent.yaml' }),
  rollout: rolloutStateSchema.nullable().meta({ description: 'of the roll-out under way, or the last one' }),
});

const memberSchema = z.object({
  id: z.string(),
  seenMs: z.number().nullable().meta({ description: 'null: it never reported' }),
  version: z.string().nullable().meta({ description: 'what it says that it runs with; null: its agent.yaml' }),
  updated: z.boolean().meta({ description: 'whether the roll-out under way has reached it' }),
  state: z.enum(MEMBER_STATES).nullable().meta({ description: 'how it does then; null: it has not reached it' }),
  refused: z.string().nullable().meta({ description: 'why it does not run with what it should' }),
});

export function agentGroupRoutes(app: App): void {
  app.get(
    '/v1/agent-groups',
    {
      config: { access: 'viewer' },
      schema: {
        operationId: 'agent-groups.list',
        tags: ['agent-groups'],
        summary: 'Groups of agents that run with one configuration',
        querystring: z.object(pageQuery),
        response: { 200: pageOf(groupSchema) },
      },
    },
    async (request) => {
      const { fleet } = request.scope;
      const sizes = await fleet.sizes();
      const groups = [...(await fleet.allGroups())].map(([name, { current, rollout }]) => ({
        name,
        agents: sizes.get(name) ?? 0,
        current,
        rollout: rollout?.state ?? null,
      }));
      return paginate(groups, ({ name }) => [name], ascending, request.query);
    },
  );

  app.put(
    '/v1/agent-groups/:group',
    {
      config: { access: 'admin' },
      schema: {
        operationId: 'agent-groups.create',
        tags: ['agent-groups'],
        summary: 'Make a group; one that is there stays as it is',
        params: z.object({ group: groupName }),
        response: { 204: z.null() },
      },
    },
    async (request, reply) => {
      await request.scope.fleet.groups.create(request.params.group);
      return reply.code(204).send(null);
    },
  );

  app.delete(
    '/v1/agent-groups/:group',
    {
      config: { access: 'admin' },
      schema: {
        operationId: 'agent-groups.delete',
        tags: ['agent-groups'],
        summary: 'Delete a group without members',
        params: z.object({ group: groupName }),
        response: { 204: z.null() },
      },
    },
    async (request, reply) => {
      await request.scope.fleet.groups.delete(request.params.group);
      return reply.code(204).send(null);
    },
  );

  app.get(
    '/v1/agent-groups/:group/config',
    {
      config: { access: 'viewer' },
      schema: {
        operationId: 'agent-groups.config',
        tags: ['agent-groups'],
        summary: 'What the group runs with; of a roll-out under way, what was before it',
        params: z.object({ group: groupName }),
        response: {
          200: z.object({ version: z.string(), current: wantedSchema.nullable(), config: settings.nullable() }),
        },
      },
    },
    async (request, reply) => {
      const { group } = request.params;
      const { current } = await request.scope.fleet.groups.get(group);
      const version = current?.version ?? 'none';
      void reply.header('etag', etagOf(version)).header('cache-control', 'no-store');
      return {
        version,
        current,
        config: current === null ? null : await request.scope.fleet.configOf(`group:${group}`, version),
      };
    },
  );

  app.put(
    '/v1/agent-groups/:group/config',
    {
      config: { access: 'admin' },
      schema: {
        operationId: 'agent-groups.configure',
        tags: ['agent-groups'],
        summary: 'What all members are to run with, at once; `rollouts start` does it in steps',
        params: z.object({ group: groupName }),
        headers: editHeaders,
        body: z.strictObject({ config: settings }),
        response: { 204: z.null() },
      },
    },
    async (request, reply) => {
      const by = request.principal?.name ?? '';
      await request.scope.fleet.groups.setConfig(request.params.group, request.body.config, by, (current) =>
        assertMatch(request.headers['if-match'], current),
      );
      return reply.code(204).send(null);
    },
  );

  app.get(
    '/v1/agent-groups/:group/agents',
    {
      config: { access: 'viewer' },
      schema: {
        operationId: 'agent-groups.agents',
        tags: ['agent-groups'],
        summary: 'The members that run with what the group has, and how they do in the roll-out under way',
        params: z.object({ group: groupName }),
        querystring: z.object(pageQuery),
        response: { 200: pageOf(memberSchema) },
      },
    },
    async (request) => {
      const { members } = await request.scope.fleet.look(request.params.group);
      return paginate(members, ({ id }) => [id], ascending, request.query);
    },
  );

  for (const [method, operation, isMember, summary] of [
    ['PUT', 'add', true, 'Take an agent into the group, whether it has reported yet or not'],
    ['DELETE', 'remove', false, 'Take an agent out of the group'],
  ] as const) {
    app.route({
      method,
      url: '/v1/agent-groups/:group/agents/:agent',
      config: { access: 'admin' },
      schema: {
        operationId: `agent-groups.${operation}`,
        tags: ['agent-groups'],
        summary,
        params: z.object({ group: groupName, agent: agentId }),
        response: { 204: z.null() },
      },
      handler: async (request, reply) => {
        const { group, agent } = request.params;
        await request.scope.fleet.groups.setMember(group, agent, isMember);
        return reply.code(204).send(null);
      },
    });
  }
}
