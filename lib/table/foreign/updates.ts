/** What a change of metadata is in the words of the REST catalog's commits (schema TableUpdate of its specification). */
import { isDeepStrictEqual } from 'node:util';
import type { TableMetadata } from '../metadata.ts';

export interface Update {
  readonly action: string;
  readonly [attribute: string]: unknown;
}

/** "What this commit added last": the catalog gives the ids. */
const LAST_ADDED = -1;

/** From `before` to `after`: schemas, the sort order, properties, snapshots, branch main and refs that are over; nothing else is ever changed by us. */
export function updatesBetween(before: TableMetadata, after: TableMetadata): Update[] {
  const updates: Update[] = [];
  const known = new Set(before.schemas.map((schema) => schema['schema-id']));
  const added = after.schemas.find((schema) => !known.has(schema['schema-id']));
  if (added !== undefined) {
    updates.push({ action: 'add-schema', schema: added, 'last-column-id': after['last-column-id'] });
  }
  if (after['current-schema-id'] !== before['current-schema-id']) {
    const isAdded = added?.['schema-id'] === after['current-schema-id'];
    updates.push({ action: 'set-current-schema', 'schema-id': isAdded ? LAST_ADDED : after['current-schema-id'] });
  }
  const orderId = after['default-sort-order-id'];
  if (orderId !== before['default-sort-order-id']) {
    const hasIt = before['sort-orders'].some((order) => order['order-id'] === orderId);
    // An order that is there does not count as added, and "what was added last" would then be nothing.
    updates.push(...(hasIt ? [setSortOrder(orderId)] : newSortOrder(after)));
  }
  const set = Object.entries(after.properties).filter(([key, value]) => before.properties[key] !== value);
  if (set.length > 0) updates.push({ action: 'set-properties', updates: Object.fromEntries(set) });
  const had = new Set(before.snapshots.map((snapshot) => snapshot['snapshot-id']));
  for (const snapshot of after.snapshots) {
    if (!had.has(snapshot['snapshot-id'])) updates.push({ action: 'add-snapshot', snapshot });
  }
  const main = after.refs['main'];
  if (main !== undefined && !isDeepStrictEqual(main['snapshot-id'], before.refs['main']?.['snapshot-id'])) {
    // With its retention: what is not said is taken away.
    updates.push({ action: 'set-snapshot-ref', 'ref-name': 'main', ...main });
  }
  for (const name of Object.keys(before.refs)) {
    if (after.refs[name] === undefined) updates.push({ action: 'remove-snapshot-ref', 'ref-name': name });
  }
  const has = new Set(after.snapshots.map((snapshot) => snapshot['snapshot-id']));
  const gone = [...had].filter((id) => !has.has(id));
  if (gone.length > 0) updates.push({ action: 'remove-snapshots', 'snapshot-ids': gone });
  return updates;
}

function newSortOrder(metadata: TableMetadata): Update[] {
  const order = metadata['sort-orders'].find(
    (candidate) => candidate['order-id'] === metadata['default-sort-order-id'],
  );
  return [{ action: 'add-sort-order', 'sort-order': order }, setSortOrder(LAST_ADDED)];
}

function setSortOrder(id: number): Update {
  return { action: 'set-default-sort-order', 'sort-order-id': id };
}

/** A new table with the ids that `metadata` has. */
export function updatesOfNew(metadata: TableMetadata): Update[] {
  return [
    { action: 'assign-uuid', uuid: metadata['table-uuid'] },
    { action: 'upgrade-format-version', 'format-version': metadata['format-version'] },
    { action: 'add-schema', schema: metadata.schemas[0], 'last-column-id': metadata['last-column-id'] },
    { action: 'set-current-schema', 'schema-id': LAST_ADDED },
    { action: 'add-spec', spec: metadata['partition-specs'][0] },
    { action: 'set-default-spec', 'spec-id': LAST_ADDED },
    ...newSortOrder(metadata),
    { action: 'set-location', location: metadata.location },
    { action: 'set-properties', updates: metadata.properties },
  ];
}
