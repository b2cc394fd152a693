/** The file system's volume: format, what is in use, who has it open. Ending a session is an operator's act. */
import { z } from 'zod';
import type { App } from '../context.ts';

const sessionSchema = z.object({
  id: z.int(),
  kind: z.string(),
  host: z.string(),
  pid: z.int(),
  detail: z.record(z.string(), z.union([z.string(), z.number(), z.boolean()])),
  startedMs: z.number(),
  renewedMs: z.number(),
  live: z.boolean(),
});
const volumeSchema = z.object({
  name: z.string(),
  formatted: z.boolean(),
  store: z.string().nullable(),
  blockSize: z.int().nullable(),
  inlineBytes: z.int().nullable(),
  graceMs: z.number().nullable(),
  trashMs: z.number().nullable(),
  durability: z.string().nullable(),
  createdMs: z.number().nullable(),
  bytesUsed: z.number(),
  inodesUsed: z.number(),
  mounts: z.array(sessionSchema).meta({ description: 'live sessions of mounts' }),
});

export function volumeRoutes(app: App): void {
  app.get(
    '/v1/volumes',
    {
      config: {
        access: 'viewer',
        columns: {
          name: 'name',
          formatted: 'formatted',
          store: 'store',
          bytesUsed: 'bytesUsed',
          inodesUsed: 'inodesUsed',
          trashMs: 'trashMs',
          graceMs: 'graceMs',
          mounts: 'mounts',
          createdMs: 'createdMs',
        },
      },
      schema: {
        operationId: 'volumes.list',
        tags: ['volumes'],
        summary: 'The volume of this pipeline; for a tenant there is none',
        response: { 200: z.object({ items: z.array(volumeSchema), nextCursor: z.null() }) },
      },
    },
    async ({ scope }) => ({ items: await scope.volumes(), nextCursor: null }),
  );

  app.get(
    '/v1/sessions',
    {
      config: {
        access: 'viewer',
        columns: {
          id: 'id',
          kind: 'kind',
          host: 'host',
          pid: 'pid',
          live: 'live',
          startedMs: 'startedMs',
          renewedMs: 'renewedMs',
          volume: 'detail.volume',
          mountpoint: 'detail.mountpoint',
        },
      },
      schema: {
        operationId: 'sessions.list',
        tags: ['volumes'],
        summary: 'Every session of the metadata engine: landers, compactors, mounts, tools',
        response: { 200: z.object({ items: z.array(sessionSchema), nextCursor: z.null() }) },
      },
    },
    async ({ scope }) => {
      const sessions = await scope.sessions();
      return { items: [...sessions].sort((a, b) => b.startedMs - a.startedMs), nextCursor: null };
    },
  );

  app.delete(
    '/v1/sessions/:id',
    {
      config: { access: 'operator' },
      schema: {
        operationId: 'sessions.end',
        tags: ['volumes'],
        summary: 'End a session: what it commits from now on is refused',
        params: z.object({
          id: z.coerce
            .number()
            .int()
            .min(1)
            .max(2 ** 32),
        }),
        response: { 204: z.null() },
      },
    },
    async (request, reply) => {
      await request.scope.endSession(request.params.id);
      return reply.code(204).send(null);
    },
  );
}
