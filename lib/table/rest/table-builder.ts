/**
 * Applies the updates of a commit to table metadata, one after the other.
 *
 * Source: schema TableUpdate of apache/iceberg `open-api/rest-catalog-open-api.yaml`; -1 names what the same commit added last.
 * Invariants
 * - Ids that were given out never change their meaning; what is equal to something that is there is taken again.
 * - A table of the lander (partitioned by hour of `_event_time`) keeps its partition spec and its `_` columns: the lander and the
 *   compactor go on writing it.
 * - A snapshot that a branch or tag names is not removed.
 * Failure: throws `RestError`; the metadata that was passed in is never changed.
 */
import { isDeepStrictEqual } from 'node:util';
import { withoutSnapshots } from '../maintenance.ts';
import { currentSchema, HOUR_FIELD, HOUR_FIELD_ID, partitionSpec } from '../metadata.ts';
import type { Snapshot, TableMetadata } from '../metadata.ts';
import { assertEvolution, assertSchema, fieldsOf, maxFieldId } from '../schema.ts';
import type { Schema } from '../schema.ts';
import type { RequestedSortOrder, RequestedSpec, Update } from './requests.ts';
import { RestError } from './rest-error.ts';

const FORMAT_VERSION = 2;
/** Partition fields are numbered from 1000. */
export const LAST_PARTITION_ID_NONE = 999;
/** "What this commit added last". */
const LAST_ADDED = -1;

/** Metadata before anything was added to it: what the updates of a new table are applied to. */
export function emptyMetadata(uuid: string, location: string, nowMs: number): TableMetadata {
  return {
    'format-version': FORMAT_VERSION,
    'table-uuid': uuid,
    location,
    'last-sequence-number': 0n,
    'last-updated-ms': nowMs,
    'last-column-id': 0,
    schemas: [],
    'current-schema-id': LAST_ADDED,
    'partition-specs': [],
    'default-spec-id': LAST_ADDED,
    'last-partition-id': LAST_PARTITION_ID_NONE,
    'sort-orders': [],
    'default-sort-order-id': LAST_ADDED,
    properties: {},
    snapshots: [],
    'snapshot-log': [],
    'metadata-log': [],
    refs: {},
  };
}

/** Whether the lander's programs can write the table, and the volume lists its files by hour. */
export function isHourTable(metadata: TableMetadata): boolean {
  const spec = metadata['partition-specs'].find((candidate) => candidate['spec-id'] === metadata['default-spec-id']);
  const [field, ...rest] = spec?.fields ?? [];
  return (
    field?.['field-id'] === HOUR_FIELD_ID &&
    field.name === HOUR_FIELD &&
    field.transform === 'hour' &&
    rest.length === 0
  );
}

export function applyUpdates(base: TableMetadata, updates: readonly Update[], isNew: boolean): TableMetadata {
  const builder = new TableBuilder(base, isNew);
  for (const update of updates) builder.apply(update);
  return builder.finish();
}

class TableBuilder {
  readonly #base: TableMetadata;
  readonly #isNew: boolean;
  #metadata: TableMetadata;
  #addedSchema: number | undefined;
  #addedSpec: number | undefined;
  #addedOrder: number | undefined;

  constructor(base: TableMetadata, isNew: boolean) {
    this.#base = base;
    this.#isNew = isNew;
    this.#metadata = base;
  }

  /** Throws unless the whole is a table. */
  finish(): TableMetadata {
    const metadata = this.#metadata;
    const isWhole =
      metadata.schemas.some((schema) => schema['schema-id'] === metadata['current-schema-id']) &&
      metadata['partition-specs'].some((spec) => spec['spec-id'] === metadata['default-spec-id']) &&
      metadata['sort-orders'].some((order) => order['order-id'] === metadata['default-sort-order-id']);
    if (!isWhole) throw refuse('a table needs a current schema, a default partition spec and a default sort order');
    this.#checkSources();
    return metadata;
  }

  apply(update: Update): void {
    switch (update.action) {
      case 'assign-uuid':
        if (!this.#isNew && update.uuid !== this.#metadata['table-uuid']) throw refuse('the uuid of a table is fixed');
        this.#set({ 'table-uuid': update.uuid });
        break;
      case 'upgrade-format-version':
        if (update['format-version'] !== FORMAT_VERSION) {
          throw refuse(
            `format version ${update['format-version']} is not supported: tables have version ${FORMAT_VERSION}`,
          );
        }
        break;
      case 'add-schema':
        this.#addSchema(update.schema);
        break;
      case 'set-current-schema':
        this.#setCurrentSchema(added(update['schema-id'], this.#addedSchema, 'schema'));
        break;
      case 'add-spec':
        this.#addSpec(update.spec);
        break;
      case 'set-default-spec':
        this.#setDefaultSpec(added(update['spec-id'], this.#addedSpec, 'partition spec'));
        break;
      case 'add-sort-order':
        this.#addSortOrder(update['sort-order']);
        break;
      case 'set-default-sort-order':
        this.#set({ 'default-sort-order-id': added(update['sort-order-id'], this.#addedOrder, 'sort order') });
        break;
      case 'add-snapshot':
        this.#addSnapshot(update.snapshot);
        break;
      case 'set-snapshot-ref':
        this.#setRef(update);
        break;
      case 'remove-snapshots':
        this.#removeSnapshots(update['snapshot-ids']);
        break;
      case 'remove-snapshot-ref':
        this.#removeRef(update['ref-name']);
        break;
      case 'set-location':
        if (trimSlash(update.location) !== trimSlash(this.#metadata.location)) {
          throw refuse(`the location of a table is fixed: ${this.#metadata.location}`);
        }
        break;
      case 'set-properties':
        this.#set({ properties: { ...this.#metadata.properties, ...update.updates } });
        break;
      case 'remove-properties':
        this.#set({ properties: omit(this.#metadata.properties, update.removals) });
        break;
      case 'set-statistics':
        this.#setStatistics('statistics', update.statistics['snapshot-id'], update.statistics);
        break;
      case 'remove-statistics':
        this.#setStatistics('statistics', update['snapshot-id'], null);
        break;
      case 'set-partition-statistics':
        this.#setStatistics(
          'partition-statistics',
          update['partition-statistics']['snapshot-id'],
          update['partition-statistics'],
        );
        break;
      case 'remove-partition-statistics':
        this.#setStatistics('partition-statistics', update['snapshot-id'], null);
        break;
    }
  }

  #set(part: Partial<TableMetadata>): void {
    this.#metadata = { ...this.#metadata, ...part };
  }

  #addSchema(schema: Schema): void {
    const { schemas } = this.#metadata;
    assertSchema(schema);
    const same = schemas.find(
      (known) =>
        isDeepStrictEqual(known.fields, schema.fields) &&
        isDeepStrictEqual(known['identifier-field-ids'] ?? [], schema['identifier-field-ids'] ?? []),
    );
    const id = same?.['schema-id'] ?? Math.max(-1, ...schemas.map((known) => known['schema-id'] ?? 0)) + 1;
    if (same === undefined) this.#set({ schemas: [...schemas, { ...schema, 'schema-id': id }] });
    this.#addedSchema = id;
  }

  #setCurrentSchema(id: number): void {
    const metadata = this.#metadata;
    const schema = metadata.schemas.find((candidate) => candidate['schema-id'] === id);
    if (schema === undefined) throw refuse(`there is no schema ${id}`);
    if (metadata['current-schema-id'] !== LAST_ADDED) {
      const before = currentSchema(metadata);
      assertEvolution(before, schema, metadata['last-column-id']);
      if (isHourTable(metadata)) assertOwnColumns(before, schema);
    }
    this.#set({
      'current-schema-id': id,
      'last-column-id': Math.max(metadata['last-column-id'], maxFieldId(schema)),
    });
  }

  #addSpec(spec: RequestedSpec): void {
    const specs = this.#metadata['partition-specs'];
    const same = specs.find((known) => isDeepStrictEqual(known.fields.map(specKey), spec.fields.map(specKey)));
    if (same !== undefined) {
      this.#addedSpec = same['spec-id'];
      return;
    }
    this.#refuseNewSpec();
    // The same source and transform keep their id in every spec, as the specification wants for version 2.
    const known = new Map(specs.flatMap(({ fields }) => fields).map((field) => [specKey(field), field['field-id']]));
    let last = this.#metadata['last-partition-id'];
    const fields = spec.fields.map((field) => {
      const id = known.get(specKey(field)) ?? ++last;
      return { ...field, 'field-id': id };
    });
    const id = Math.max(-1, ...specs.map((candidate) => candidate['spec-id'])) + 1;
    this.#set({ 'partition-specs': [...specs, { 'spec-id': id, fields }], 'last-partition-id': last });
    this.#addedSpec = id;
  }

  #setDefaultSpec(id: number): void {
    if (!this.#metadata['partition-specs'].some((spec) => spec['spec-id'] === id))
      throw refuse(`there is no partition spec ${id}`);
    if (id !== this.#metadata['default-spec-id']) this.#refuseNewSpec();
    this.#set({ 'default-spec-id': id });
  }

  #refuseNewSpec(): void {
    if (this.#isNew || !isHourTable(this.#base)) return;
    throw refuse('the partition spec of this table is fixed: the lander writes it by hour(_event_time)');
  }

  #addSortOrder(order: RequestedSortOrder): void {
    const orders = this.#metadata['sort-orders'];
    const same = orders.find((known) => isDeepStrictEqual(known.fields, order.fields));
    // Order 0 is the unsorted one, and only it.
    const next = order.fields.length === 0 ? 0 : Math.max(0, ...orders.map((known) => known['order-id'])) + 1;
    const id = same?.['order-id'] ?? next;
    if (same === undefined) this.#set({ 'sort-orders': [...orders, { 'order-id': id, fields: order.fields }] });
    this.#addedOrder = id;
  }

  #addSnapshot(snapshot: Snapshot): void {
    const metadata = this.#metadata;
    const id = snapshot['snapshot-id'];
    if (metadata.snapshots.some((known) => known['snapshot-id'] === id)) throw refuse(`snapshot ${id} exists already`);
    const last = metadata['last-sequence-number'];
    if (snapshot['sequence-number'] <= last) {
      // Another commit took the number: the client reads the table again and makes a new snapshot.
      throw new RestError(
        'CommitFailedException',
        `sequence number ${snapshot['sequence-number']} of snapshot ${id} is not after the table's ${last}`,
      );
    }
    this.#set({ snapshots: [...metadata.snapshots, snapshot], 'last-sequence-number': snapshot['sequence-number'] });
  }

  #setRef(update: Extract<Update, { action: 'set-snapshot-ref' }>): void {
    const name = update['ref-name'];
    const ref = refOf(update);
    const metadata = this.#metadata;
    const id = ref['snapshot-id'];
    const snapshot = metadata.snapshots.find((candidate) => candidate['snapshot-id'] === id);
    if (snapshot === undefined) throw refuse(`${name} cannot name snapshot ${id}: there is none`);
    this.#set({ refs: { ...metadata.refs, [name]: ref } });
    if (name !== 'main') return;
    if (ref.type !== 'branch') throw refuse('main is a branch');
    if (metadata['current-snapshot-id'] === id) return;
    // A roll-back names an old snapshot at a new time; readers expect the log in order.
    const lastMs = metadata['snapshot-log'].at(-1)?.['timestamp-ms'] ?? 0;
    const line = { 'snapshot-id': id, 'timestamp-ms': Math.max(lastMs, snapshot['timestamp-ms']) };
    this.#set({ 'current-snapshot-id': id, 'snapshot-log': [...metadata['snapshot-log'], line] });
  }

  #removeSnapshots(ids: readonly bigint[]): void {
    const gone = new Set(ids);
    for (const [name, ref] of Object.entries(this.#metadata.refs)) {
      if (gone.has(ref['snapshot-id'])) throw refuse(`snapshot ${ref['snapshot-id']} is named by ${ref.type} ${name}`);
    }
    this.#metadata = withoutSnapshots(this.#metadata, gone);
  }

  #removeRef(name: string): void {
    if (name === 'main') throw refuse('branch main cannot be removed: the lander and the compactor commit to it');
    this.#set({ refs: omit(this.#metadata.refs, [name]) });
  }

  #setStatistics(key: 'statistics' | 'partition-statistics', snapshotId: bigint, file: unknown): void {
    const known = this.#metadata[key];
    const files = Array.isArray(known) ? (known as { 'snapshot-id'?: unknown }[]) : [];
    const others = files.filter((other) => BigInt(other['snapshot-id'] as number | bigint) !== snapshotId);
    this.#set({ [key]: file === null ? others : [...others, file] });
  }

  /** What the table is partitioned and sorted by must be there. */
  #checkSources(): void {
    const metadata = this.#metadata;
    const ids = new Set([...fieldsOf(currentSchema(metadata))].map(({ field }) => field.id));
    const spec = partitionSpec(metadata, metadata['default-spec-id']);
    const order = metadata['sort-orders'].find((known) => known['order-id'] === metadata['default-sort-order-id']);
    for (const field of [...spec.fields, ...(order?.fields ?? [])]) {
      if (!ids.has(field['source-id'])) {
        throw refuse(`the table is partitioned or sorted by field ${field['source-id']}, which is not in its schema`);
      }
    }
  }
}

/** The lander finds its own columns by name. */
function assertOwnColumns(before: Schema, after: Schema): void {
  for (const field of before.fields.filter(({ name }) => name.startsWith('_'))) {
    const found = after.fields.find(({ id }) => id === field.id);
    if (found?.name !== field.name || found.type !== field.type || found.required !== field.required) {
      throw refuse(`column ${field.name} is the lander's: it can be neither changed nor dropped`);
    }
  }
}

function refOf(update: Extract<Update, { action: 'set-snapshot-ref' }>): TableMetadata['refs'][string] {
  const ages = ['max-ref-age-ms', 'max-snapshot-age-ms', 'min-snapshots-to-keep'] as const;
  const given = ages.filter((key) => update[key] !== undefined && update[key] !== null);
  return {
    'snapshot-id': update['snapshot-id'],
    type: update.type,
    ...Object.fromEntries(given.map((key) => [key, update[key]])),
  };
}

const specKey = (field: RequestedSpec['fields'][number]): string =>
  JSON.stringify([field['source-id'], field.transform, field.name]);

function added(id: number, last: number | undefined, what: string): number {
  if (id !== LAST_ADDED) return id;
  if (last === undefined) throw refuse(`-1 names the ${what} that this commit added, but it added none`);
  return last;
}

function omit<T>(record: Readonly<Record<string, T>>, names: readonly string[]): Record<string, T> {
  const gone = new Set(names);
  return Object.fromEntries(Object.entries(record).filter(([name]) => !gone.has(name)));
}

const trimSlash = (text: string): string => text.replace(/\/+$/, '');

function refuse(message: string): RestError {
  return new RestError('BadRequestException', message);
}
