/** Tokens: an administrator makes and revokes them; a token is shown once. */
import { z } from 'zod';
import { PenstockError } from '../../lib/errors.ts';
import { isOpen } from '../auth/guard.ts';
import { ROLES, tokenSchema } from '../auth/tokens.ts';
import type { App, ControlContext } from '../context.ts';
import { idempotencyHeaders, idOfRequest } from '../idempotency.ts';

export function tokenRoutes(app: App, context: ControlContext): void {
  app.get(
    '/v1/tokens',
    {
      config: { access: 'admin' },
      schema: {
        operationId: 'tokens.list',
        tags: ['tokens'],
        summary: 'Who has a token; the tokens themselves are not kept',
        response: { 200: z.object({ items: z.array(tokenSchema), nextCursor: z.null() }) },
      },
    },
    async () => ({ items: await context.tokens.list(), nextCursor: null }),
  );

  app.post(
    '/v1/tokens',
    {
      config: { access: 'admin' },
      schema: {
        operationId: 'tokens.create',
        tags: ['tokens'],
        summary: 'Make a token. The first one must be an administrator’s: from then on nothing is served without one',
        headers: idempotencyHeaders,
        body: z.strictObject({
          name: z
            .string()
            .min(1)
            .max(128)
            .meta({ description: 'for the role agent: the id of the agent, or `plant-a-*` for all that begin so' }),
          role: z.enum(ROLES),
          expiresInSeconds: z
            .int()
            .min(1)
            .max(10 * 366 * 86_400)
            .optional(),
        }),
        response: { 201: tokenSchema.extend({ token: z.string() }) },
      },
    },
    async (request, reply) => {
      const { name, role, expiresInSeconds } = request.body;
      if (role !== 'admin' && (await isOpen(context))) {
        throw new PenstockError('conflict', 'the first token must be of role admin, or nobody could make another', {
          retryable: false,
        });
      }
      const expiresMs = expiresInSeconds === undefined ? null : context.clock.nowMs() + expiresInSeconds * 1000;
      const { token, record } = await context.tokens.create({ id: idOfRequest(request), name, role, expiresMs });
      return reply.code(201).send({ ...record, token });
    },
  );

  app.delete(
    '/v1/tokens/:id',
    {
      config: { access: 'admin' },
      schema: {
        operationId: 'tokens.revoke',
        tags: ['tokens'],
        summary: 'Revoke a token',
        params: z.object({ id: z.uuid() }),
        response: { 204: z.null() },
      },
    },
    async (request, reply) => {
      await context.tokens.revoke(request.params.id);
      return reply.code(204).send(null);
    },
  );
}
