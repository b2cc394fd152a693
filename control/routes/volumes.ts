/** The file system's volume: format, what is in use, who has it open. Ending a session is an operator's act. */
import { z } from 'zod';
import { PenstockError } from '../../lib/errors.ts';
import { readFormat } from '../../lib/volume/format.ts';
import { VolumeKeys } from '../../lib/volume/keys.ts';
import type { App, ControlContext } from '../context.ts';

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

export function volumeRoutes(app: App, context: ControlContext): void {
  app.get(
    '/v1/volumes',
    {
      config: { access: 'viewer' },
      schema: {
        operationId: 'volumes.list',
        tags: ['volumes'],
        summary: 'The volume of this pipeline',
        response: { 200: z.object({ items: z.array(volumeSchema), nextCursor: z.null() }) },
      },
    },
    async () => ({ items: [await describeVolume(context)], nextCursor: null }),
  );

  app.get(
    '/v1/sessions',
    {
      config: { access: 'viewer' },
      schema: {
        operationId: 'sessions.list',
        tags: ['volumes'],
        summary: 'Every session of the metadata engine: landers, compactors, mounts, tools',
        response: { 200: z.object({ items: z.array(sessionSchema), nextCursor: z.null() }) },
      },
    },
    async () => {
      const sessions = await context.connections.engine.sessions();
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
      const { engine } = context.connections;
      const { id } = request.params;
      if (id === engine.sessionId) throw new PenstockError('usage', 'this is the session of the server itself');
      if (!(await engine.sessions()).some((session) => session.id === id)) {
        throw new PenstockError('not-found', `there is no session ${id}`);
      }
      await engine.endSession(id);
      return reply.code(204).send(null);
    },
  );
}

async function describeVolume({ connections }: ControlContext): Promise<z.output<typeof volumeSchema>> {
  const { engine, volume } = connections;
  const keys = new VolumeKeys(volume);
  const format = await readFormat(engine, volume);
  const [bytes, inodes] = await engine.readNumbers([keys.counter('bytes'), keys.counter('inodes')]);
  const sessions = await engine.sessions();
  return {
    name: volume,
    formatted: format !== null,
    store: format?.store ?? null,
    blockSize: format?.blockSize ?? null,
    inlineBytes: format?.inlineBytes ?? null,
    graceMs: format?.graceMs ?? null,
    trashMs: format?.trashMs ?? null,
    durability: format?.durability ?? null,
    createdMs: format?.createdMs ?? null,
    bytesUsed: Number(bytes ?? 0n),
    inodesUsed: Number(inodes ?? 0n),
    mounts: sessions.filter(({ kind, live }) => kind === 'mount' && live),
  };
}
