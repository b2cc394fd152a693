/**
 * The first metadata of a table that a client asks for. Field ids are given out anew, as every Iceberg catalog does: Spark numbers
 * the fields of a new table from 0, and what a client chose must not matter later.
 */
import type { TableMetadata } from '../metadata.ts';
import { assertSchema, fieldsOf } from '../schema.ts';
import type { Field, FieldType, Schema } from '../schema.ts';
import type { CreateTableRequest, RequestedSortOrder, RequestedSpec, Update } from './requests.ts';
import { RestError } from './rest-error.ts';
import { applyUpdates, emptyMetadata } from './table-builder.ts';

export function newTable(request: CreateTableRequest, uuid: string, location: string, nowMs: number): TableMetadata {
  assertSchema(request.schema);
  const { schema, newIds } = withFreshIds(request.schema);
  const source = (id: number): number => {
    const fresh = newIds.get(id);
    if (fresh === undefined) throw new RestError('BadRequestException', `source field ${id} is not in the schema`);
    return fresh;
  };
  const moved = <T extends { readonly 'source-id': number }>(field: T): T => ({
    ...field,
    'source-id': source(field['source-id']),
  });
  const spec: RequestedSpec = { fields: (request['partition-spec']?.fields ?? []).map(moved) };
  const order: RequestedSortOrder = { fields: (request['write-order']?.fields ?? []).map(moved) };
  const updates: Update[] = [
    ...(request.location ? [{ action: 'set-location', location: request.location } as const] : []),
    { action: 'add-schema', schema },
    { action: 'set-current-schema', 'schema-id': -1 },
    { action: 'add-spec', spec },
    { action: 'set-default-spec', 'spec-id': -1 },
    { action: 'add-sort-order', 'sort-order': order },
    { action: 'set-default-sort-order', 'sort-order-id': -1 },
    { action: 'set-properties', updates: request.properties ?? {} },
  ];
  return applyUpdates(emptyMetadata(uuid, location, nowMs), updates, true);
}

/** Ids from 1, a level's own fields before what is nested in them. */
function withFreshIds(schema: Schema): { readonly schema: Schema; readonly newIds: ReadonlyMap<number, number> } {
  const newIds = new Map<number, number>();
  let next = 1;
  const renumber = (id: number): number => {
    newIds.set(id, next);
    return next++;
  };
  const renumberType = (type: FieldType): FieldType => {
    if (typeof type === 'string') return type;
    if (type.type === 'struct') return { ...type, fields: renumberFields(type.fields) };
    if (type.type === 'list') {
      const id = renumber(type['element-id']);
      return { ...type, 'element-id': id, element: renumberType(type.element) };
    }
    const [keyId, valueId] = [renumber(type['key-id']), renumber(type['value-id'])];
    return {
      ...type,
      'key-id': keyId,
      key: renumberType(type.key),
      'value-id': valueId,
      value: renumberType(type.value),
    };
  };
  const renumberFields = (fields: readonly Field[]): Field[] => {
    const ids = fields.map((field) => renumber(field.id));
    return fields.map((field, index) => ({ ...field, id: ids[index] ?? 0, type: renumberType(field.type) })); // one length
  };
  const fields = renumberFields(schema.fields);
  const identifiers = schema['identifier-field-ids']?.map((id) => newIds.get(id) ?? id);
  const fresh: Schema = {
    ...schema,
    fields,
    'schema-id': 0,
    ...(identifiers === undefined ? {} : { 'identifier-field-ids': identifiers }),
  };
  const known = new Set([...fieldsOf(fresh)].map(({ field }) => field.id));
  if (identifiers?.some((id) => !known.has(id)) === true) {
    throw new RestError('BadRequestException', 'an identifier field is not in the schema');
  }
  return { schema: fresh, newIds };
}
