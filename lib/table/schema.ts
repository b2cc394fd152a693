/**
 * Iceberg schemas: types, field ids, and the evolution that readers of old files survive.
 *
 * Spec: https://iceberg.apache.org/spec/#schemas-and-data-types and #schema-evolution (format version 2).
 * Invariants: a field id never changes its meaning and is never given out twice; a change is accepted only when every file
 * written under an older schema still reads correctly: a new field is optional, a type only widens (int -> long, float ->
 * double, decimal of more digits), a required field may become optional, a field may be renamed or dropped.
 */
import { z } from 'zod';
import { PenstockError } from '../errors.ts';

const PRIMITIVE =
  /^(boolean|int|long|float|double|date|time|timestamp|timestamptz|string|binary|uuid|decimal\(\d+, ?\d+\)|fixed\[\d+\])$/;
/** The precision of 128 bits. */
const DECIMAL_DIGITS_MAX = 38;

/** A primitive type's name as the specification writes it, as `long` or `decimal(10, 2)`. */
export type PrimitiveType = string;

export interface StructType {
  readonly type: 'struct';
  readonly fields: readonly Field[];
}
export interface ListType {
  readonly type: 'list';
  readonly 'element-id': number;
  readonly 'element-required': boolean;
  readonly element: FieldType;
}
export interface MapType {
  readonly type: 'map';
  readonly 'key-id': number;
  readonly key: FieldType;
  readonly 'value-id': number;
  readonly 'value-required': boolean;
  readonly value: FieldType;
}
export type FieldType = PrimitiveType | StructType | ListType | MapType;

export interface Field {
  readonly id: number;
  readonly name: string;
  readonly required: boolean;
  readonly type: FieldType;
  readonly doc?: string | undefined;
}

export interface Schema extends StructType {
  readonly 'schema-id'?: number | undefined;
  readonly 'identifier-field-ids'?: readonly number[] | undefined;
}

/** A type without field ids, as a dataset's configuration or inference gives it. */
export type ColumnType =
  | PrimitiveType
  | { readonly struct: readonly Column[] }
  | { readonly list: ColumnType }
  | { readonly map: { readonly key: ColumnType; readonly value: ColumnType } };

export interface Column {
  readonly name: string;
  readonly type: ColumnType;
  readonly required?: boolean;
}

const primitiveSchema = z.string().regex(PRIMITIVE, 'expected an Iceberg primitive type');
const fieldTypeSchema: z.ZodType<FieldType> = z.lazy(() =>
  z.union([
    primitiveSchema,
    z.looseObject({ type: z.literal('struct'), fields: z.array(fieldSchema) }),
    z.looseObject({
      type: z.literal('list'),
      'element-id': z.int(),
      'element-required': z.boolean(),
      element: fieldTypeSchema,
    }),
    z.looseObject({
      type: z.literal('map'),
      'key-id': z.int(),
      key: fieldTypeSchema,
      'value-id': z.int(),
      'value-required': z.boolean(),
      value: fieldTypeSchema,
    }),
  ]),
);
const fieldSchema: z.ZodType<Field> = z.lazy(() =>
  z.looseObject({
    id: z.int(),
    name: z.string().min(1),
    required: z.boolean(),
    type: fieldTypeSchema,
    doc: z.string().optional(),
  }),
);
/** What a schema in table metadata must look like; unknown attributes are kept. */
export const schemaSchema: z.ZodType<Schema> = z.looseObject({
  type: z.literal('struct'),
  'schema-id': z.int().optional(),
  'identifier-field-ids': z.array(z.int()).optional(),
  fields: z.array(fieldSchema),
});

/** Whether fields of one struct can be told apart by SQL engines, to which names are the same in upper and lower case. */
export function haveDistinctNames(fields: readonly { readonly name: string }[]): boolean {
  return new Set(fields.map(({ name }) => name.toLowerCase())).size === fields.length;
}

/** Gives ids to the columns of a new table, in the specification's order: a level's own fields before what is nested in them. */
export function newSchema(columns: readonly Column[]): Schema {
  const schema: Schema = { type: 'struct', 'schema-id': 0, fields: withIds(columns, counterFrom(1)) };
  assertSchema(schema);
  return schema;
}

/** `schema` with new optional columns at its end and some top-level types widened. Throws `conflict` when the rules forbid it. */
export function evolveSchema(
  schema: Schema,
  change: { readonly add?: readonly Column[]; readonly widen?: Readonly<Record<string, PrimitiveType>> },
  lastColumnId: number,
): Schema {
  const widened = schema.fields.map((field) => {
    const type = change.widen?.[field.name];
    return type === undefined ? field : { ...field, type };
  });
  const added = withIds(change.add ?? [], counterFrom(lastColumnId + 1));
  const evolved: Schema = { ...schema, fields: [...widened, ...added] };
  assertEvolution(schema, evolved, lastColumnId);
  return evolved;
}

/** Every field at every depth (elements, keys and values of lists and maps too) with its dotted path. */
export function* fieldsOf(type: FieldType, path = ''): Generator<{ readonly path: string; readonly field: Field }> {
  for (const field of childFields(type)) {
    yield { path: `${path}${field.name}`, field };
    yield* fieldsOf(field.type, `${path}${field.name}.`);
  }
}

/** The fields of a struct; the element of a list; the key and value of a map, by the names that Parquet gives them. */
export function childFields(type: FieldType): readonly Field[] {
  if (typeof type === 'string') return [];
  if (type.type === 'struct') return type.fields;
  if (type.type === 'list') {
    return [{ id: type['element-id'], name: 'element', required: type['element-required'], type: type.element }];
  }
  return [
    { id: type['key-id'], name: 'key', required: true, type: type.key },
    { id: type['value-id'], name: 'value', required: type['value-required'], type: type.value },
  ];
}

export function maxFieldId(schema: StructType): number {
  return Math.max(0, ...[...fieldsOf(schema)].map(({ field }) => field.id));
}

/** Throws `config` for two fields of one name or id, or a type that does not exist. */
export function assertSchema(schema: Schema): void {
  const ids = new Set<number>();
  const paths = new Set<string>();
  for (const { path, field } of fieldsOf(schema)) {
    if (ids.has(field.id))
      throw new PenstockError('config', `field id ${field.id} (${path}) is used twice in the schema`);
    if (paths.has(path)) throw new PenstockError('config', `field ${path} is twice in the schema`);
    ids.add(field.id);
    paths.add(path);
    if (typeof field.type === 'string') assertPrimitive(field.type, path);
  }
}

/** Throws `conflict` naming the field unless files written under `from` read correctly under `to`. */
export function assertEvolution(from: Schema, to: Schema, lastColumnId: number): void {
  assertSchema(to);
  const before = new Map([...fieldsOf(from)].map((entry) => [entry.field.id, entry]));
  for (const { path, field } of fieldsOf(to)) {
    const old = before.get(field.id);
    if (old === undefined) {
      if (field.id <= lastColumnId) refuse(path, `its id ${field.id} belonged to a field that was dropped`);
      if (field.required && !isInsideNew(path, to, before)) refuse(path, 'a new field must be optional');
      continue;
    }
    if (field.required && !old.field.required) refuse(path, 'an optional field cannot become required');
    if (!widens(old.field.type, field.type)) {
      refuse(path, `${typeName(old.field.type)} cannot become ${typeName(field.type)}`);
    }
  }
}

function refuse(path: string, why: string): never {
  throw new PenstockError('conflict', `schema change refused at ${path}: ${why}`, { retryable: false });
}

/** Fields below a new struct, list or map have no old rows, so they may be required. */
function isInsideNew(path: string, schema: Schema, before: ReadonlyMap<number, unknown>): boolean {
  return [...fieldsOf(schema)].some((entry) => path.startsWith(`${entry.path}.`) && !before.has(entry.field.id));
}

/** Whether a column may change its type so; nested fields are compared by their own ids. */
export function widens(from: FieldType, to: FieldType): boolean {
  if (typeof from === 'string' && typeof to === 'string') {
    const [old, next] = [decimalOf(from), decimalOf(to)];
    if (old !== null && next !== null) return old.scale === next.scale && old.precision <= next.precision;
    return from === to || (from === 'int' && to === 'long') || (from === 'float' && to === 'double');
  }
  // Nested fields are compared by their own ids; here the kind (and the identity of elements) must stay.
  if (typeof from === 'string' || typeof to === 'string' || from.type !== to.type) return false;
  if (from.type === 'list' && to.type === 'list') return from['element-id'] === to['element-id'];
  if (from.type === 'map' && to.type === 'map') {
    return from['key-id'] === to['key-id'] && from['value-id'] === to['value-id'];
  }
  return true;
}

/** Precision and scale of `decimal(P, S)`, else null. */
export function decimalOf(type: FieldType): { readonly precision: number; readonly scale: number } | null {
  const match = typeof type === 'string' ? /^decimal\((\d+), ?(\d+)\)$/.exec(type) : null;
  return match === null ? null : { precision: Number(match[1]), scale: Number(match[2]) };
}

function assertPrimitive(type: PrimitiveType, path: string): void {
  const decimal = decimalOf(type);
  const valid =
    PRIMITIVE.test(type) &&
    (decimal === null || (decimal.precision <= DECIMAL_DIGITS_MAX && decimal.scale <= decimal.precision));
  if (!valid) throw new PenstockError('config', `field ${path}: '${type}' is not an Iceberg type`);
}

function typeName(type: FieldType): string {
  return typeof type === 'string' ? type : type.type;
}

function counterFrom(first: number): () => number {
  let next = first;
  return () => next++;
}

function withIds(columns: readonly Column[], nextId: () => number): Field[] {
  const ids = columns.map(() => nextId());
  return columns.map((column, index) => ({
    id: ids[index] ?? 0, // the arrays have one length
    name: column.name,
    required: column.required ?? false,
    type: typeWithIds(column.type, nextId),
  }));
}

/** Ids are given to a level's own fields before what is nested in them. */
export function typeWithIds(type: ColumnType, nextId: () => number): FieldType {
  if (typeof type === 'string') return type;
  if ('struct' in type) return { type: 'struct', fields: withIds(type.struct, nextId) };
  if ('list' in type) {
    const id = nextId();
    return { type: 'list', 'element-id': id, 'element-required': false, element: typeWithIds(type.list, nextId) };
  }
  const [keyId, valueId] = [nextId(), nextId()];
  return {
    type: 'map',
    'key-id': keyId,
    key: typeWithIds(type.map.key, nextId),
    'value-id': valueId,
    'value-required': false,
    value: typeWithIds(type.map.value, nextId),
  };
}
