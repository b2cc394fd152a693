/** Roll-outs of a configuration to a group, in steps. */
import { z } from 'zod';
import { PenstockError } from '../../lib/errors.ts';
import { rolloutSchema, stepSchema, type Step } from '../agents/records.ts';
import { isWhole, MEMBER_STATES } from '../agents/rollout.ts';
import { ACTS, type Act } from '../agents/rollouts.ts';
import type { App } from '../context.ts';
import { idempotencyHeaders, idOfRequest } from '../idempotency.ts';
import { groupName, settings } from './agent-parts.ts';

const STEPS_MAX = 20;
/** One agent first; then enough to see what one does not show. */
const STEPS_DEFAULT: Step[] = [{ agents: 1 }, { percent: 10 }, { percent: 100 }];

export const rolloutStateSchema = rolloutSchema.shape.state;

const counts = Object.fromEntries(MEMBER_STATES.map((state) => [state, z.int()])) as Record<
  (typeof MEMBER_STATES)[number],
  z.ZodInt
>; // one key for each of them
const answerSchema = rolloutSchema.extend({
  health: z
    .object({ ...counts, updated: z.int(), failingShare: z.number(), errorRate: z.number() })
    .nullable()
    .meta({ description: 'how the updated agents do; null when it is over' }),
});

const bodySchema = z.strictObject({
  config: settings,
  steps: z
    .array(stepSchema)
    .min(1)
    .max(STEPS_MAX)
    .refine(
      (steps) => steps.findIndex(isWhole) === steps.length - 1,
      'expected the last step, and no other, to be { percent: 100 }',
    )
    .default(STEPS_DEFAULT)
    .meta({
      description: 'each `{ agents: N }` or `{ percent: P }` of those that report, the last `{ percent: 100 }`',
    }),
  soakSeconds: z.int().min(0).max(604_800).default(60),
  patienceSeconds: z.int().min(1).max(604_800).default(900),
  failingPercentMax: z.number().min(0).max(100).default(5),
  errorRateRiseMax: z.number().min(0).max(1).default(0.01),
});

const SUMMARIES: Readonly<Record<Act, string>> = {
  stop: 'Reach no further agents; those that are updated stay so',
  resume: 'Go on; what fails at present is taken as it is',
  abort: 'End it: all agents go back to what the group had before',
  'roll-back': 'After its end: all agents go back to what the group had before',
};

export function rolloutRoutes(app: App): void {
  app.post(
    '/v1/agent-groups/:group/rollout',
    {
      config: { access: 'admin' },
      schema: {
        operationId: 'rollouts.start',
        tags: ['rollouts'],
        summary: 'Give a group another configuration step by step; it stops by itself when the updated agents do worse',
        params: z.object({ group: groupName }),
        headers: idempotencyHeaders,
        body: bodySchema,
        response: { 201: z.object({ version: z.string() }) },
      },
    },
    async (request, reply) => {
      const { config, ...plan } = request.body;
      const by = request.principal?.name ?? '';
      const version = await request.scope.fleet.rollouts.begin(request.params.group, config, plan, {
        id: idOfRequest(request),
        by,
      });
      return reply.code(201).send({ version });
    },
  );

  app.get(
    '/v1/agent-groups/:group/rollout',
    {
      config: { access: 'viewer' },
      schema: {
        operationId: 'rollouts.get',
        tags: ['rollouts'],
        summary: 'The roll-out under way, or the last one',
        params: z.object({ group: groupName }),
        response: { 200: answerSchema },
      },
    },
    async (request) => {
      const { group } = request.params;
      const { rollout, health } = await request.scope.fleet.look(group);
      if (rollout === null) throw new PenstockError('not-found', `there was no roll-out to ${group}`);
      return { ...rollout, health };
    },
  );

  for (const act of ACTS) {
    app.post(
      `/v1/agent-groups/:group/rollout/${act}`,
      {
        // Whoever is on duty must be able to end what goes wrong; what runs on a node is for administrators to say.
        config: { access: 'operator' },
        schema: {
          operationId: `rollouts.${act}`,
          tags: ['rollouts'],
          summary: SUMMARIES[act],
          params: z.object({ group: groupName }),
          response: { 204: z.null() },
        },
      },
      async (request, reply) => {
        await request.scope.fleet.rollouts.act(request.params.group, act, request.principal?.name ?? '');
        return reply.code(204).send(null);
      },
    );
  }
}
