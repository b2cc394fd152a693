/** Tokens: an administrator makes and revokes them; a token is shown once. */
import { z } from 'zod';
import { ROLES, tokenSchema } from '../auth/tokens.ts';
import type { App } from '../context.ts';
import { idempotencyHeaders, idOfRequest } from '../idempotency.ts';

export function tokenRoutes(app: App): void {
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
    async ({ scope }) => ({ items: await scope.tokens(), nextCursor: null }),
  );

  app.post(
    '/v1/tokens',
    {
      config: { access: 'admin' },
      schema: {
        operationId: 'tokens.create',
        tags: ['tokens'],
        summary:
          'Make a token, with `tenant` one of that tenant. The first one must be an administrator’s: from then on nothing is served without one',
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
      const { token, record } = await request.scope.createToken({
        id: idOfRequest(request),
        name,
        role,
        lifeSeconds: expiresInSeconds,
      });
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
      await request.scope.revokeToken(request.params.id);
      return reply.code(204).send(null);
    },
  );
}
