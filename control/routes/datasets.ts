/** Datasets with their figures and file sizes, and the tables behind them: schema, snapshots, files. */
import { z } from 'zod';
import { isSortedIn } from '../../lib/lake/file-names.ts';
import { PenstockError } from '../../lib/errors.ts';
import type { TableState } from '../../lib/table/table.ts';
import type { App } from '../context.ts';
import type { LakeScope } from '../scope/lake-scope.ts';
import { ascending, pageOf, pageQuery, paginate } from '../page.ts';
import { datasetSampleSchema } from './overview.ts';

const HOUR_MS = 3_600_000;

const datasetParams = z.object({ dataset: z.string().max(200) });

const fileSizesSchema = z.object({
  boundsBytes: z.array(z.number()).meta({ description: 'upper bounds of the classes; the last class has none' }),
  landed: z.array(z.int()).meta({
    description: 'files that the lander wrote, of the snapshots that are kept, at the mean size of their commit',
  }),
  small: z.array(z.int()).meta({ description: 'live files that no compaction has sorted yet' }),
  compacted: z.array(z.int()),
  smallFiles: z.int(),
  compactedFiles: z.int(),
  snapshotId: z.string().nullable(),
});

const tableSchema = z.object({
  name: z.string(),
  uuid: z.string(),
  location: z.string(),
  metadataLocation: z.string(),
  updatedMs: z.number(),
  snapshotId: z.string().nullable(),
  fields: z.array(z.object({ id: z.int(), name: z.string(), type: z.string(), required: z.boolean() })),
  sort: z.array(z.object({ field: z.string(), direction: z.enum(['asc', 'desc']) })),
  snapshots: z.int(),
});

const snapshotSchema = z.object({
  id: z.string(),
  parentId: z.string().nullable(),
  sequence: z.number(),
  atMs: z.number(),
  operation: z.string(),
  summary: z.record(z.string(), z.string()),
});

const fileSchema = z.object({
  location: z.string(),
  hour: z.string().meta({ description: 'UTC, as 2026-01-31T07' }),
  rows: z.number(),
  bytes: z.number(),
  compacted: z.boolean(),
});

export function datasetRoutes(app: App): void {
  const viewer = { access: 'viewer' } as const;

  app.get(
    '/v1/datasets',
    {
      config: viewer,
      schema: {
        operationId: 'datasets.list',
        tags: ['datasets'],
        summary: 'Every dataset with its figures',
        querystring: z.object(pageQuery),
        response: { 200: pageOf(datasetSampleSchema) },
      },
    },
    (request) => {
      const { lake } = request.scope;
      const { latest } = lake;
      if (latest === null) throw lake.notYet();
      const sorted = [...latest.datasets].sort((a, b) => (a.name < b.name ? -1 : 1));
      return paginate(sorted, ({ name }) => [name], ascending, request.query);
    },
  );

  app.get(
    '/v1/datasets/:dataset',
    {
      config: viewer,
      schema: {
        operationId: 'datasets.get',
        tags: ['datasets'],
        summary: 'One dataset with its figures',
        params: datasetParams,
        response: { 200: datasetSampleSchema },
      },
    },
    (request) => {
      const { lake } = request.scope;
      const { name } = lake.dataset(request.params.dataset);
      const found = lake.latest?.datasets.find((dataset) => dataset.name === name);
      if (found === undefined) throw lake.notYet();
      return found;
    },
  );

  app.get(
    '/v1/datasets/:dataset/file-sizes',
    {
      config: viewer,
      schema: {
        operationId: 'datasets.file-sizes',
        tags: ['datasets'],
        summary: 'How large its files are, before and after compaction',
        params: datasetParams,
        response: { 200: fileSizesSchema },
      },
    },
    async (request) => {
      const sizes = await request.scope.lake.fileSizes(request.params.dataset);
      return {
        ...sizes,
        boundsBytes: [...sizes.boundsBytes],
        landed: [...sizes.landed],
        small: [...sizes.small],
        compacted: [...sizes.compacted],
      };
    },
  );

  app.get(
    '/v1/tables/:dataset',
    {
      config: viewer,
      schema: {
        operationId: 'tables.get',
        tags: ['tables'],
        summary: 'The Iceberg table of a dataset: schema, sort order, current snapshot',
        params: datasetParams,
        response: { 200: tableSchema },
      },
    },
    async (request) => describeTable(await tableOf(request.scope.lake, request.params.dataset)),
  );

  app.get(
    '/v1/tables/:dataset/snapshots',
    {
      config: viewer,
      schema: {
        operationId: 'tables.snapshots',
        tags: ['tables'],
        summary: 'The snapshots that are kept, newest first',
        params: datasetParams,
        querystring: z.object(pageQuery),
        response: { 200: pageOf(snapshotSchema) },
      },
    },
    async (request) => {
      const { metadata } = await tableOf(request.scope.lake, request.params.dataset);
      const sorted = metadata.snapshots.map(describeSnapshot).sort((a, b) => b.sequence - a.sequence);
      const bySequence = (a: readonly string[], b: readonly string[]): number => Number(b[0]) - Number(a[0]);
      return paginate(sorted, ({ sequence }) => [String(sequence)], bySequence, request.query);
    },
  );

  app.get(
    '/v1/tables/:dataset/files',
    {
      config: viewer,
      schema: {
        operationId: 'tables.files',
        tags: ['tables'],
        summary: 'The live files of the current snapshot, by hour and location',
        params: datasetParams,
        querystring: z.object({
          ...pageQuery,
          hour: z
            .string()
            .regex(
              /^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])T([01]\d|2[0-3])$/,
              'expected an hour in UTC, as 2026-01-31T07',
            )
            .optional(),
        }),
        response: { 200: pageOf(fileSchema) },
      },
    },
    async (request) => {
      const table = await tableOf(request.scope.lake, request.params.dataset);
      const hour = request.query.hour === undefined ? undefined : Date.parse(`${request.query.hour}:00:00Z`) / HOUR_MS;
      if (Number.isNaN(hour)) throw new PenstockError('usage', 'hour: there is no such hour');
      const files: z.output<typeof fileSchema>[] = [];
      const isSorted = isSortedIn(table.metadata);
      for await (const file of table.liveFiles(hour === undefined ? {} : { hour })) {
        files.push({
          location: file.location,
          hour: new Date(file.hour * HOUR_MS).toISOString().slice(0, 13),
          rows: Number(file.recordCount),
          bytes: Number(file.bytes),
          compacted: isSorted(file),
        });
      }
      const key = (file: { readonly hour: string; readonly location: string }): string[] => [file.hour, file.location];
      return paginate(
        files.sort((a, b) => ascending(key(a), key(b))),
        key,
        ascending,
        request.query,
      );
    },
  );
}

async function tableOf(lake: LakeScope, dataset: string): Promise<TableState> {
  const table = await lake.table(dataset);
  if (table === null) throw new PenstockError('not-found', `nothing has landed in ${dataset} yet: it has no table`);
  return table;
}

function describeTable({
  name,
  metadata,
  metadataLocation,
  schema,
  currentSnapshot,
}: TableState): z.output<typeof tableSchema> {
  const order = metadata['sort-orders'].find(
    (candidate) => candidate['order-id'] === metadata['default-sort-order-id'],
  );
  const fieldName = (id: number): string => schema.fields.find((field) => field.id === id)?.name ?? `field ${id}`;
  return {
    name,
    uuid: metadata['table-uuid'],
    location: metadata.location,
    metadataLocation,
    updatedMs: metadata['last-updated-ms'],
    snapshotId: currentSnapshot === null ? null : String(currentSnapshot['snapshot-id']),
    fields: schema.fields.map(({ id, name: field, type, required }) => ({
      id,
      name: field,
      type: typeof type === 'string' ? type : JSON.stringify(type),
      required,
    })),
    sort: (order?.fields ?? []).map((field) => ({ field: fieldName(field['source-id']), direction: field.direction })),
    snapshots: metadata.snapshots.length,
  };
}

function describeSnapshot(snapshot: TableState['metadata']['snapshots'][number]): z.output<typeof snapshotSchema> {
  const parent = snapshot['parent-snapshot-id'];
  return {
    id: String(snapshot['snapshot-id']),
    parentId: parent == null ? null : String(parent),
    sequence: Number(snapshot['sequence-number']),
    atMs: snapshot['timestamp-ms'],
    operation: snapshot.summary.operation,
    summary: { ...snapshot.summary },
  };
}
