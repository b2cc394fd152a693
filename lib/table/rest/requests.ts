/**
 * The bodies of requests to the Iceberg REST catalog, as their specification draws them: `open-api/rest-catalog-open-api.yaml` of
 * apache/iceberg. Attributes that we do not know are kept where they belong to a schema or snapshot and ignored elsewhere.
 */
import { z } from 'zod';
import { parseJson } from '../json.ts';
import { refAge, snapshotSchema } from '../metadata.ts';
import { schemaSchema } from '../schema.ts';
import { RestError } from './rest-error.ts';

/** What a name, a text of an error or a property may hold at most: far more than any client sends. */
const PROPERTIES_MAX = 1000;
const CHANGES_MAX = 1000;

const properties = z
  .record(z.string(), z.string())
  .refine((map) => Object.keys(map).length <= PROPERTIES_MAX, `at most ${PROPERTIES_MAX} properties`);
const int64 = z.union([z.int(), z.bigint()]).transform(BigInt);
const specSchema = z.looseObject({
  'spec-id': z.int().optional(),
  fields: z.array(
    z.looseObject({ 'source-id': z.int(), 'field-id': z.int().optional(), name: z.string(), transform: z.string() }),
  ),
});
const sortOrderSchema = z.looseObject({
  'order-id': z.int().optional(),
  fields: z.array(
    z.looseObject({
      transform: z.string(),
      'source-id': z.int(),
      direction: z.enum(['asc', 'desc']),
      'null-order': z.enum(['nulls-first', 'nulls-last']),
    }),
  ),
});
const statistics = z.looseObject({ 'snapshot-id': int64, 'statistics-path': z.string() });

export type RequestedSpec = z.output<typeof specSchema>;
export type RequestedSortOrder = z.output<typeof sortOrderSchema>;

const requirementSchema = z.discriminatedUnion('type', [
  z.looseObject({ type: z.literal('assert-create') }),
  z.looseObject({ type: z.literal('assert-table-uuid'), uuid: z.string() }),
  z.looseObject({ type: z.literal('assert-ref-snapshot-id'), ref: z.string(), 'snapshot-id': int64.nullish() }),
  z.looseObject({ type: z.literal('assert-last-assigned-field-id'), 'last-assigned-field-id': z.int() }),
  z.looseObject({ type: z.literal('assert-current-schema-id'), 'current-schema-id': z.int() }),
  z.looseObject({ type: z.literal('assert-last-assigned-partition-id'), 'last-assigned-partition-id': z.int() }),
  z.looseObject({ type: z.literal('assert-default-spec-id'), 'default-spec-id': z.int() }),
  z.looseObject({ type: z.literal('assert-default-sort-order-id'), 'default-sort-order-id': z.int() }),
]);
export type Requirement = z.output<typeof requirementSchema>;

const updateSchema = z.discriminatedUnion('action', [
  z.looseObject({ action: z.literal('assign-uuid'), uuid: z.uuid() }),
  z.looseObject({ action: z.literal('upgrade-format-version'), 'format-version': z.int() }),
  z.looseObject({ action: z.literal('add-schema'), schema: schemaSchema }),
  z.looseObject({ action: z.literal('set-current-schema'), 'schema-id': z.int() }),
  z.looseObject({ action: z.literal('add-spec'), spec: specSchema }),
  z.looseObject({ action: z.literal('set-default-spec'), 'spec-id': z.int() }),
  z.looseObject({ action: z.literal('add-sort-order'), 'sort-order': sortOrderSchema }),
  z.looseObject({ action: z.literal('set-default-sort-order'), 'sort-order-id': z.int() }),
  z.looseObject({ action: z.literal('add-snapshot'), snapshot: snapshotSchema }),
  z.looseObject({
    action: z.literal('set-snapshot-ref'),
    'ref-name': z.string().min(1).max(255),
    type: z.enum(['branch', 'tag']),
    'snapshot-id': int64,
    'max-ref-age-ms': refAge,
    'max-snapshot-age-ms': refAge,
    'min-snapshots-to-keep': z.int().nullish(),
  }),
  z.looseObject({ action: z.literal('remove-snapshots'), 'snapshot-ids': z.array(int64) }),
  z.looseObject({ action: z.literal('remove-snapshot-ref'), 'ref-name': z.string() }),
  z.looseObject({ action: z.literal('set-location'), location: z.string() }),
  z.looseObject({ action: z.literal('set-properties'), updates: properties }),
  z.looseObject({ action: z.literal('remove-properties'), removals: z.array(z.string()) }),
  z.looseObject({ action: z.literal('set-statistics'), statistics }),
  z.looseObject({ action: z.literal('remove-statistics'), 'snapshot-id': int64 }),
  z.looseObject({ action: z.literal('set-partition-statistics'), 'partition-statistics': statistics }),
  z.looseObject({ action: z.literal('remove-partition-statistics'), 'snapshot-id': int64 }),
]);
export type Update = z.output<typeof updateSchema>;

export const createNamespaceSchema = z.looseObject({
  namespace: z.array(z.string().min(1)).min(1),
  properties: properties.default({}),
});
export const updateNamespaceSchema = z.looseObject({
  removals: z.array(z.string()).max(PROPERTIES_MAX).default([]),
  updates: properties.default({}),
});
export const createTableSchema = z.looseObject({
  name: z.string().min(1),
  location: z.string().nullish(),
  schema: schemaSchema,
  'partition-spec': specSchema.nullish(),
  'write-order': sortOrderSchema.nullish(),
  'stage-create': z.boolean().nullish(),
  properties: properties.nullish(),
});
export type CreateTableRequest = z.output<typeof createTableSchema>;
export const registerTableSchema = z.looseObject({
  name: z.string().min(1),
  'metadata-location': z.string(),
  overwrite: z.boolean().nullish(),
});
export const commitTableSchema = z.looseObject({
  requirements: z.array(requirementSchema).max(CHANGES_MAX),
  updates: z.array(updateSchema).max(CHANGES_MAX),
});
export type CommitTableRequest = z.output<typeof commitTableSchema>;

/** Throws BadRequestException naming what is wrong. */
export function parseBody<T>(schema: z.ZodType<T>, body: string): T {
  let value: unknown;
  try {
    value = parseJson(body);
  } catch (error) {
    throw new RestError('BadRequestException', 'the body is not JSON', { cause: error });
  }
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  const where = issue?.path.map(String).join('.') ?? '';
  if (issue?.code === 'invalid_union' && issue.discriminator !== undefined) {
    throw new RestError(
      'BadRequestException',
      `${where}: ${JSON.stringify(valueAt(value, issue.path))} is not supported`,
    );
  }
  throw new RestError('BadRequestException', `${where === '' ? 'the body' : where}: ${issue?.message ?? 'invalid'}`);
}

function valueAt(value: unknown, path: readonly PropertyKey[]): unknown {
  return path.reduce<unknown>((part, key) => (part as Record<PropertyKey, unknown> | undefined)?.[key], value); // where zod has been
}
