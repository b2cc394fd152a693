/**
 * Iceberg table metadata, format version 2: the JSON document that a table's pointer names.
 *
 * Spec: https://iceberg.apache.org/spec/#table-metadata-fields. Keys that Penstock does not know (statistics, properties of other
 * writers) are kept as they are.
 * Invariants: a document is never changed; every commit writes a new one. Ids of snapshots are 63-bit and bigint here; those
 * made here stay below 2^53 so that readers in JavaScript can follow.
 * Limits: the metadata log keeps as many older documents as the table's properties say, or METADATA_LOG_MAX; the number of snapshots is bounded by `expireSnapshots`.
 */
import { randomBytes } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';
import { z } from 'zod';
import { PenstockError } from '../errors.ts';
import { parseJson, stringifyJson } from './json.ts';
import { childFields, maxFieldId, schemaSchema } from './schema.ts';
import type { FieldType, Schema } from './schema.ts';

const METADATA_LOG_KEY = 'write.metadata.previous-versions-max';
/** Iceberg's own default. */
const METADATA_LOG_MAX = 100;
/** The partition field `hour(_event_time)`; ids of partition fields start at 1000. */
export const HOUR_FIELD_ID = 1000;
export const HOUR_FIELD = '_event_time_hour';
export const EVENT_TIME = '_event_time';
const NAME_MAPPING = 'schema.name-mapping.default';

const int64 = z.union([z.int(), z.bigint()]).transform(BigInt);
/** Of a ref, as it was read: who means for ever sets the largest number of 64 bits. */
export const refAge = z.union([z.int(), z.bigint()]).nullish();

export const snapshotSchema = z.looseObject({
  'snapshot-id': int64,
  'parent-snapshot-id': int64.nullish(),
  'sequence-number': int64,
  'timestamp-ms': z.int(),
  'manifest-list': z.string(),
  summary: z.looseObject({ operation: z.string() }).catchall(z.string()),
  'schema-id': z.int().nullish(),
});
const partitionFieldSchema = z.looseObject({
  'source-id': z.int(),
  'field-id': z.int(),
  name: z.string(),
  transform: z.string(),
});
const partitionSpecSchema = z.looseObject({ 'spec-id': z.int(), fields: z.array(partitionFieldSchema) });
const sortOrderSchema = z.looseObject({
  'order-id': z.int(),
  fields: z.array(
    z.looseObject({
      transform: z.string(),
      'source-id': z.int(),
      direction: z.enum(['asc', 'desc']),
      'null-order': z.enum(['nulls-first', 'nulls-last']),
    }),
  ),
});
const metadataSchema = z.looseObject({
  'format-version': z.literal(2),
  'table-uuid': z.string(),
  location: z.string(),
  'last-sequence-number': int64,
  'last-updated-ms': z.int(),
  'last-column-id': z.int(),
  schemas: z.array(schemaSchema).min(1),
  'current-schema-id': z.int(),
  'partition-specs': z.array(partitionSpecSchema).min(1),
  'default-spec-id': z.int(),
  'last-partition-id': z.int(),
  'sort-orders': z.array(sortOrderSchema),
  'default-sort-order-id': z.int(),
  properties: z.record(z.string(), z.string()).default({}),
  'current-snapshot-id': int64.nullish(),
  snapshots: z.array(snapshotSchema).default([]),
  'snapshot-log': z.array(z.looseObject({ 'snapshot-id': int64, 'timestamp-ms': z.int() })).default([]),
  'metadata-log': z.array(z.looseObject({ 'metadata-file': z.string(), 'timestamp-ms': z.int() })).default([]),
  refs: z
    .record(
      z.string(),
      z.looseObject({
        'snapshot-id': int64,
        type: z.enum(['branch', 'tag']),
        'min-snapshots-to-keep': z.int().nullish(),
        'max-snapshot-age-ms': refAge,
        'max-ref-age-ms': refAge,
      }),
    )
    .default({}),
});

export type TableMetadata = z.output<typeof metadataSchema>;
export type Snapshot = z.output<typeof snapshotSchema>;
export type PartitionSpec = z.output<typeof partitionSpecSchema>;

export interface SortField {
  readonly name: string;
  /** Default `asc`. */
  readonly direction?: 'asc' | 'desc';
  /** Default `last`, as DuckDB sorts. */
  readonly nulls?: 'first' | 'last';
}

/** Throws `corrupt` naming `location`; `unsupported` for another format version. */
export function parseMetadata(bytes: Uint8Array, location: string): TableMetadata {
  let value: unknown;
  try {
    value = parseJson(Buffer.from(bytes).toString('utf8'));
  } catch (error) {
    throw new PenstockError('corrupt', `table metadata ${location} is not JSON`, { cause: error });
  }
  const version = z.looseObject({ 'format-version': z.int() }).safeParse(value);
  if (version.success && version.data['format-version'] !== 2) {
    const found = version.data['format-version'];
    throw new PenstockError('unsupported', `table metadata ${location} has format version ${found}, expected 2`);
  }
  const parsed = metadataSchema.safeParse(value);
  if (parsed.success) return parsed.data;
  const problem = parsed.error.issues[0];
  const where = problem?.path.join('.') ?? '';
  throw new PenstockError('corrupt', `table metadata ${location}: ${where}: ${problem?.message ?? 'invalid'}`);
}

export function formatMetadata(metadata: TableMetadata): Buffer {
  return Buffer.from(stringifyJson(metadata));
}

/** The first document of a table. `schema` must have `_event_time`, a required timestamptz. */
export function newMetadata(options: {
  readonly uuid: string;
  readonly location: string;
  readonly schema: Schema;
  readonly sortFields: readonly SortField[];
  readonly properties: Readonly<Record<string, string>>;
  readonly nowMs: number;
}): TableMetadata {
  const schema: Schema = { ...options.schema, 'schema-id': 0 };
  const eventTime = schema.fields.find((field) => field.name === EVENT_TIME);
  if (eventTime?.type !== 'timestamptz' || !eventTime.required) {
    throw new PenstockError(
      'config',
      `the schema needs a required timestamptz ${EVENT_TIME}: the table is partitioned by it`,
    );
  }
  const hourOfEventTime = { 'source-id': eventTime.id, 'field-id': HOUR_FIELD_ID, name: HOUR_FIELD, transform: 'hour' };
  const sorted = options.sortFields.length === 0 ? [] : [sortOrder(1, schema, options.sortFields)];
  return {
    'format-version': 2,
    'table-uuid': options.uuid,
    location: options.location,
    'last-sequence-number': 0n,
    'last-updated-ms': options.nowMs,
    'last-column-id': maxFieldId(schema),
    schemas: [schema],
    'current-schema-id': 0,
    'partition-specs': [{ 'spec-id': 0, fields: [hourOfEventTime] }],
    'default-spec-id': 0,
    'last-partition-id': HOUR_FIELD_ID,
    'sort-orders': [{ 'order-id': 0, fields: [] }, ...sorted],
    'default-sort-order-id': sorted.length,
    properties: { ...options.properties, [NAME_MAPPING]: nameMapping(schema) },
    snapshots: [],
    'snapshot-log': [],
    'metadata-log': [],
    refs: {},
  };
}

type SortOrder = TableMetadata['sort-orders'][number];

function sortOrder(id: number, schema: Schema, fields: readonly SortField[]): SortOrder {
  const resolved = fields.map(({ name, direction = 'asc', nulls = 'last' }) => {
    const field = schema.fields.find((candidate) => candidate.name === name);
    if (field === undefined)
      throw new PenstockError('config', `the table cannot be sorted by '${name}': no such field`);
    const nullOrder = nulls === 'first' ? ('nulls-first' as const) : ('nulls-last' as const);
    return { transform: 'identity', 'source-id': field.id, direction, 'null-order': nullOrder };
  });
  return { 'order-id': id, fields: resolved };
}

/** `metadata` with this sort order in force, itself where it is already; an equal one that is there is taken. `fields` is not empty. */
export function withSortOrder(metadata: TableMetadata, fields: readonly SortField[]): TableMetadata {
  const orders = metadata['sort-orders'];
  const next = sortOrder(Math.max(...orders.map((order) => order['order-id'])) + 1, currentSchema(metadata), fields);
  const equal = orders.filter((order) => isDeepStrictEqual(order.fields, next.fields));
  if (equal.some((order) => order['order-id'] === metadata['default-sort-order-id'])) return metadata;
  return {
    ...metadata,
    'sort-orders': equal.length === 0 ? [...orders, next] : orders,
    'default-sort-order-id': (equal[0] ?? next)['order-id'],
  };
}

/** For files without field ids: readers find a column by its name. */
function nameMapping(schema: Schema): string {
  return JSON.stringify(mappingOf(schema));
}

interface MappedField {
  readonly 'field-id': number;
  readonly names: readonly string[];
  readonly fields?: readonly MappedField[];
}

function mappingOf(type: FieldType): readonly MappedField[] {
  return childFields(type).map((field) => {
    const fields = mappingOf(field.type);
    return { 'field-id': field.id, names: [field.name], ...(fields.length === 0 ? {} : { fields }) };
  });
}

export function currentSchema(metadata: TableMetadata): Schema {
  const schema = metadata.schemas.find((candidate) => candidate['schema-id'] === metadata['current-schema-id']);
  if (schema === undefined) throw missing(metadata, `schema ${metadata['current-schema-id']}`);
  return schema;
}

export function partitionSpec(metadata: TableMetadata, id: number): PartitionSpec {
  const spec = metadata['partition-specs'].find((candidate) => candidate['spec-id'] === id);
  if (spec === undefined) throw missing(metadata, `partition spec ${id}`);
  return spec;
}

export function currentSnapshot(metadata: TableMetadata): Snapshot | null {
  const id = metadata['current-snapshot-id'];
  // Older writers put -1 for "none".
  return id === undefined || id === null || id === -1n ? null : snapshotById(metadata, id);
}

export function snapshotById(metadata: TableMetadata, id: bigint): Snapshot {
  const snapshot = metadata.snapshots.find((candidate) => candidate['snapshot-id'] === id);
  if (snapshot === undefined) throw missing(metadata, `snapshot ${id.toString()}`);
  return snapshot;
}

/** By the id as text, as people and records name it; undefined: it has expired, or never was. */
export function snapshotOfId(metadata: TableMetadata, id: string): Snapshot | undefined {
  return metadata.snapshots.find((candidate) => String(candidate['snapshot-id']) === id);
}

function missing(metadata: TableMetadata, what: string): PenstockError {
  return new PenstockError('corrupt', `the metadata of table ${metadata.location} has no ${what}`);
}

/** A random id below 2^53, never 0. */
export function newSnapshotId(): bigint {
  return (randomBytes(8).readBigUInt64BE() >> 11n) | 1n;
}

/** `metadata` with another schema in force; an equal one that is already there is taken. */
export function withSchema(metadata: TableMetadata, schema: Schema): TableMetadata {
  const known = metadata.schemas.find((candidate) => sameFields(candidate, schema));
  const id = known?.['schema-id'] ?? Math.max(...metadata.schemas.map((candidate) => candidate['schema-id'] ?? 0)) + 1;
  return {
    ...metadata,
    schemas: known === undefined ? [...metadata.schemas, { ...schema, 'schema-id': id }] : metadata.schemas,
    'current-schema-id': id,
    'last-column-id': Math.max(metadata['last-column-id'], maxFieldId(schema)),
    properties: { ...metadata.properties, [NAME_MAPPING]: nameMapping(schema) },
  };
}

function sameFields(a: Schema, b: Schema): boolean {
  return JSON.stringify(a.fields) === JSON.stringify(b.fields);
}

/** `metadata` with `snapshot` as the head of branch main, whose retention stays as somebody has set it. */
export function withSnapshot(metadata: TableMetadata, snapshot: Snapshot): TableMetadata {
  const id = snapshot['snapshot-id'];
  return {
    ...metadata,
    'last-sequence-number': snapshot['sequence-number'],
    'current-snapshot-id': id,
    snapshots: [...metadata.snapshots, snapshot],
    'snapshot-log': [...metadata['snapshot-log'], { 'snapshot-id': id, 'timestamp-ms': snapshot['timestamp-ms'] }],
    refs: { ...metadata.refs, main: { ...metadata.refs['main'], 'snapshot-id': id, type: 'branch' } },
  };
}

/** When snapshots and documents were made, as far as is known. */
export interface Times {
  readonly byId: ReadonlyMap<bigint, number>;
  /** Of the document at a location that states a time. */
  readonly written: (location: string, statedMs: number) => number;
  /** Of the newest document. */
  readonly lastMs: number;
}

/** `metadata` with these times where it states later ones, its logs in order; itself when it has them. */
export function withTimes(metadata: TableMetadata, { byId, written, lastMs }: Times): TableMetadata {
  const made = (id: bigint, statedMs: number): number => Math.min(statedMs, byId.get(id) ?? statedMs);
  const snapshots = metadata.snapshots.map((snapshot) => ({
    ...snapshot,
    'timestamp-ms': made(snapshot['snapshot-id'], snapshot['timestamp-ms']),
  }));
  const log = inOrder(metadata['snapshot-log'], (line) => made(line['snapshot-id'], line['timestamp-ms']));
  const documents = inOrder(metadata['metadata-log'], (line) => written(line['metadata-file'], line['timestamp-ms']));
  const times = [...snapshots, ...log, ...documents].map((line) => line['timestamp-ms']);
  const statedMs = metadata['last-updated-ms'];
  const updatedMs = times.reduce((latest, time) => Math.max(latest, time), Math.min(statedMs, lastMs));
  const changed = { snapshots, 'snapshot-log': log, 'metadata-log': documents, 'last-updated-ms': updatedMs };
  const next = { ...metadata, ...changed };
  return isDeepStrictEqual(next, metadata) ? metadata : next;
}

function inOrder<T extends { readonly 'timestamp-ms': number }>(lines: readonly T[], timeOf: (line: T) => number): T[] {
  let lastMs = -Infinity;
  return lines.map((line) => {
    lastMs = Math.max(lastMs, timeOf(line));
    return { ...line, 'timestamp-ms': lastMs };
  });
}

/** The successor of the document at `previousLocation`: its time, and its predecessor in the bounded log. */
export function succeed(metadata: TableMetadata, previousLocation: string, nowMs: number): TableMetadata {
  const previous = { 'metadata-file': previousLocation, 'timestamp-ms': metadata['last-updated-ms'] };
  return {
    ...metadata,
    // Readers expect times that do not go back; a clock that was set back must not undo that.
    'last-updated-ms': Math.max(nowMs, metadata['last-updated-ms']),
    'metadata-log': [...metadata['metadata-log'], previous].slice(-logMax(metadata)),
  };
}

/** At least one, as Iceberg's own writers have it; what is no number is as if it were not there. */
function logMax({ properties }: TableMetadata): number {
  const text = properties[METADATA_LOG_KEY] ?? '';
  return /^\d+$/.test(text) ? Math.max(1, Number(text)) : METADATA_LOG_MAX;
}
