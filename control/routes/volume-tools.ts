/** What is done to a volume: quotas, snapshots, clones, trash; and the locks of its files. For the platform only: of tenants there is none. */
import { z } from 'zod';
import type { App } from '../context.ts';
import { idempotencyHeaders } from '../idempotency.ts';
import { ascending, pageOf, pageQuery, paginate } from '../page.ts';
import {
  copySchema,
  emptiedSchema,
  quotaSchema,
  restoredSchema,
  snapshotSchema,
  trashedSchema,
  type Trashed,
} from '../volume-schemas.ts';
import { answerChange, begunSchema, volumeParams, waitQuery } from './volume-operations.ts';

const path = z
  .string()
  .min(1)
  .max(4096)
  .regex(/^\//, 'expected a path of the volume, from /')
  .meta({ description: 'of the volume: /models, whatever it is mounted at' });
const snapshotName = z
  .string()
  .regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/, "expected 1 to 128 letters, digits, '.', '_' or '-'");
const limit = z.int().min(0).nullable().optional().meta({ description: 'null: none; left out: as it is' });

const lockSchema = z.object({
  inode: z.number(),
  kind: z.enum(['posix', 'flock']),
  type: z.enum(['read', 'write']),
  waits: z.boolean(),
  start: z.string().meta({ description: 'the first byte; text, as it has 64 bits' }),
  end: z.string().meta({ description: 'the last byte' }),
  pid: z.number(),
  mount: z.string(),
  session: z.number(),
});

export function volumeToolRoutes(app: App): void {
  formatRoute(app);
  quotaRoutes(app);
  snapshotRoutes(app);
  trashRoutes(app);
  app.get(
    '/v1/volumes/:volume/locks',
    {
      config: { access: 'viewer' },
      schema: {
        operationId: 'locks.list',
        tags: ['volumes'],
        summary: 'The locks of files, held and waited for',
        params: volumeParams,
        querystring: z.object(pageQuery),
        response: { 200: pageOf(lockSchema) },
      },
    },
    async ({ scope, params, query }) => {
      const locks = await scope.locks(params.volume);
      // Numbers as text of one length sort as numbers do.
      const key = (lock: z.output<typeof lockSchema>): string[] => [
        String(lock.inode).padStart(16, '0'),
        lock.start.padStart(20, '0'),
        `${lock.mount} ${lock.pid} ${lock.kind} ${lock.type} ${String(lock.waits)}`,
      ];
      return paginate(
        [...locks].sort((a, b) => ascending(key(a), key(b))),
        key,
        ascending,
        query,
      );
    },
  );
}

function formatRoute(app: App): void {
  app.put(
    '/v1/volumes/:volume',
    {
      config: { access: 'admin' },
      schema: {
        operationId: 'volumes.create',
        tags: ['volumes'],
        summary: 'Format the volume of this pipeline on its store; 409 where it is formatted',
        params: volumeParams,
        body: z.strictObject({
          options: z
            .record(z.string().max(40), z.string().max(100))
            .default({})
            .meta({ description: 'those of `penstock fs format --option`: {"trash": "7d"}' }),
        }),
        response: { 204: z.null() },
      },
    },
    async ({ scope, params, body }, reply) => {
      await scope.volume(params.volume).quick((tools) => tools.format(body.options));
      return reply.code(204).send(null);
    },
  );
}

function quotaRoutes(app: App): void {
  app.get(
    '/v1/volumes/:volume/quotas',
    {
      config: { access: 'viewer' },
      schema: {
        operationId: 'quotas.list',
        tags: ['volumes'],
        summary: 'Directories with a quota, with what is in use',
        params: volumeParams,
        querystring: z.object(pageQuery),
        response: { 200: pageOf(quotaSchema) },
      },
    },
    async ({ scope, params, query }) => {
      const quotas = await scope.volume(params.volume).quick((tools) => tools.quotas());
      return paginate(quotas, (quota) => [quota.path], ascending, query);
    },
  );

  app.put(
    '/v1/volumes/:volume/quotas',
    {
      config: { access: 'admin' },
      schema: {
        operationId: 'quotas.set',
        tags: ['volumes'],
        summary: 'Limit what is below a directory, or (/) the volume; what is there is counted first',
        params: volumeParams,
        querystring: waitQuery,
        headers: idempotencyHeaders,
        body: z.strictObject({ path, bytesMax: limit, inodesMax: limit }),
        response: { 200: quotaSchema, 202: begunSchema },
      },
    },
    async (request, reply) => {
      const { path: directory, bytesMax, inodesMax } = request.body;
      const limits = { ...(bytesMax !== undefined && { bytesMax }), ...(inodesMax !== undefined && { inodesMax }) };
      return answerChange(request, reply, { target: directory, schema: quotaSchema, status: 200 }, (tools, hooks) =>
        tools.setQuota(directory, limits, hooks.onProgress),
      );
    },
  );
}

function snapshotRoutes(app: App): void {
  app.get(
    '/v1/volumes/:volume/snapshots',
    {
      config: { access: 'viewer' },
      schema: {
        operationId: 'snapshots.list',
        tags: ['volumes'],
        summary: 'Snapshots of the whole volume',
        params: volumeParams,
        querystring: z.object(pageQuery),
        response: { 200: pageOf(snapshotSchema) },
      },
    },
    async ({ scope, params, query }) => {
      const snapshots = await scope.volume(params.volume).quick((tools) => tools.snapshots());
      const byName = [...snapshots].sort((a, b) => (a.name < b.name ? -1 : 1));
      return paginate(byName, ({ name }) => [name], ascending, query);
    },
  );

  app.post(
    '/v1/volumes/:volume/snapshots',
    {
      config: { access: 'operator' },
      schema: {
        operationId: 'snapshots.create',
        tags: ['volumes'],
        summary: 'Snapshot the whole volume, as metadata; 409 where there is one of that name',
        params: volumeParams,
        querystring: waitQuery,
        headers: idempotencyHeaders,
        body: z.strictObject({ name: snapshotName }),
        response: { 201: copySchema, 202: begunSchema },
      },
    },
    async (request, reply) => {
      const { name } = request.body;
      return answerChange(request, reply, { target: name, schema: copySchema, status: 201 }, (tools, hooks) =>
        tools.createSnapshot(name, hooks),
      );
    },
  );

  app.delete(
    '/v1/volumes/:volume/snapshots/:snapshot',
    {
      config: { access: 'admin' },
      schema: {
        operationId: 'snapshots.delete',
        tags: ['volumes'],
        summary: 'Delete a snapshot',
        params: volumeParams.extend({ snapshot: snapshotName }),
        querystring: waitQuery,
        headers: idempotencyHeaders,
        response: { 202: begunSchema, 204: z.null() },
      },
    },
    async (request, reply) => {
      const { snapshot } = request.params;
      return answerChange(
        request,
        reply,
        { target: snapshot, schema: z.object({}), status: 204 },
        async (tools, hooks) => {
          await tools.deleteSnapshot(snapshot, hooks.onProgress);
          return {};
        },
      );
    },
  );

  app.post(
    '/v1/volumes/:volume/clones',
    {
      config: { access: 'operator' },
      schema: {
        operationId: 'volumes.clone',
        tags: ['volumes'],
        summary: 'Copy a file or a tree, as metadata; what mounts have not committed yet is not in it',
        params: volumeParams,
        querystring: waitQuery,
        headers: idempotencyHeaders,
        body: z.strictObject({ from: path, to: path }),
        response: { 201: copySchema, 202: begunSchema },
      },
    },
    async (request, reply) => {
      const { from, to } = request.body;
      return answerChange(
        request,
        reply,
        { target: `${from} -> ${to}`, schema: copySchema, status: 201 },
        (tools, hooks) => tools.clone(from, to, hooks),
      );
    },
  );
}

function trashRoutes(app: App): void {
  app.get(
    '/v1/volumes/:volume/trash',
    {
      config: { access: 'viewer' },
      schema: {
        operationId: 'trash.list',
        tags: ['volumes'],
        summary: 'What was removed and can be restored',
        params: volumeParams,
        querystring: z.object(pageQuery),
        response: { 200: pageOf(trashedSchema) },
      },
    },
    async ({ scope, params, query }) => {
      const trashed = await scope.volume(params.volume).quick((tools) => tools.trash());
      const key = ({ removed, id }: Trashed): string[] => [removed, String(id).padStart(16, '0')];
      return paginate(
        [...trashed].sort((a, b) => ascending(key(a), key(b))),
        key,
        ascending,
        query,
      );
    },
  );

  app.post(
    '/v1/volumes/:volume/trash/restore',
    {
      config: { access: 'operator' },
      schema: {
        operationId: 'trash.restore',
        tags: ['volumes'],
        summary: 'Bring back what was at these paths with all that was below, or what has these ids',
        params: volumeParams,
        querystring: waitQuery,
        headers: idempotencyHeaders,
        body: z.strictObject({ items: z.array(z.string().min(1).max(4096)).min(1).max(100), to: path.optional() }),
        response: { 200: restoredSchema, 202: begunSchema },
      },
    },
    async (request, reply) => {
      const { items, to } = request.body;
      const target = `${items.length} items`;
      return answerChange(request, reply, { target, schema: restoredSchema, status: 200 }, (tools, hooks) =>
        tools.restore(items, to, hooks.onProgress),
      );
    },
  );

  app.delete(
    '/v1/volumes/:volume/trash',
    {
      config: { access: 'admin' },
      schema: {
        operationId: 'trash.empty',
        tags: ['volumes'],
        summary: 'Remove for good what was removed longer ago than that',
        params: volumeParams,
        querystring: waitQuery.extend({ olderThanSeconds: z.coerce.number().int().min(0) }),
        headers: idempotencyHeaders,
        response: { 200: emptiedSchema, 202: begunSchema },
      },
    },
    async (request, reply) => {
      const { olderThanSeconds } = request.query;
      const target = `older than ${olderThanSeconds} s`;
      return answerChange(request, reply, { target, schema: emptiedSchema, status: 200 }, (tools, hooks) =>
        tools.emptyTrash(olderThanSeconds * 1000, hooks.onProgress),
      );
    },
  );
}
