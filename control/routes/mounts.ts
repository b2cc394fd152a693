/** The mounts of the volume, and who uses them how much: what their nodes reported last. */
import { z } from 'zod';
import { reportedWorkloadSchema } from '../../lib/volume/mount-reports.ts';
import type { App } from '../context.ts';
import { mountSchema } from '../lake/mounts.ts';
import { ascending, pageOf, pageQuery, paginate } from '../page.ts';

const podSchema = reportedWorkloadSchema.extend({
  mount: z.string(),
  host: z.string(),
  mountpoint: z.string(),
  atMs: z.number().meta({ description: 'when its mount reported it; mounts at rest do not report' }),
});

export function mountRoutes(app: App): void {
  app.get(
    '/v1/mounts',
    {
      config: {
        access: 'viewer',
        columns: {
          id: 'id',
          host: 'host',
          mountpoint: 'mountpoint',
          folder: 'folder',
          startedMs: 'startedMs',
          cachedBytes: 'use.cachedBytes',
          fetchedBytes: 'use.fetchedBytes',
          uploadedBytes: 'use.uploadedBytes',
          stagedBytes: 'use.stagedBytes',
        },
      },
      schema: {
        operationId: 'mounts.list',
        tags: ['volumes'],
        summary: 'The mounts of the volume, with caches, traffic and hot files; for a tenant there are none',
        querystring: z.object(pageQuery),
        response: { 200: pageOf(mountSchema) },
      },
    },
    async (request) => {
      const mounts = (await request.scope.mounts()).map(({ mount }) => mount);
      return paginate(mounts, ({ id }) => [id], ascending, request.query);
    },
  );

  app.get(
    '/v1/pods',
    {
      config: {
        access: 'viewer',
        columns: {
          pod: 'name',
          kind: 'kind',
          id: 'id',
          host: 'host',
          requestsPerSecond: 'perSecond.requests',
          readPerSecond: 'perSecond.readBytes',
          writtenPerSecond: 'perSecond.writtenBytes',
          readBytes: 'readBytes',
          writtenBytes: 'writtenBytes',
          kernelReadBytes: 'kernelReadBytes',
          waitSeconds: 'waitSeconds',
          errors: 'errors',
        },
      },
      schema: {
        operationId: 'pods.list',
        tags: ['volumes'],
        summary: 'Who reads and writes how much through the mounts: pods, and outside of Kubernetes units or commands',
        querystring: z.object({
          ...pageQuery,
          mount: z.string().max(64).optional().meta({ description: 'of one mount' }),
        }),
        response: { 200: pageOf(podSchema) },
      },
    },
    async (request) => {
      const mounts = (await request.scope.mounts()).filter(({ mount: { id } }) => id === (request.query.mount ?? id));
      const pods = mounts.flatMap(({ mount: { id, host, mountpoint }, report }) =>
        (report?.workloads ?? []).map((workload) => ({
          ...workload,
          mount: id,
          host,
          mountpoint,
          atMs: report?.atMs ?? 0,
        })),
      );
      const keyOf = ({ mount, kind, id }: (typeof pods)[number]): string[] => [mount, kind, id];
      return paginate(
        pods.sort((a, b) => ascending(keyOf(a), keyOf(b))),
        keyOf,
        ascending,
        request.query,
      );
    },
  );
}
