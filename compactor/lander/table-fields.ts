/** Between a table's Iceberg schema and the fields that the lander writes. */
import { isDeepStrictEqual } from 'node:util';
import type { DatasetConfig } from '../../lib/config/pipeline.ts';
import { PenstockError } from '../../lib/errors.ts';
import {
  type Column,
  decimalOf,
  type Field as IcebergField,
  type FieldType,
  fieldsOf,
  type Schema,
  typeWithIds,
  widens,
} from '../../lib/table/schema.ts';
import { ADDED_COLUMNS, FIELDS_MAX, refuseName } from './field-names.ts';
import { type Field, JSON_DOC } from './fields.ts';
import { mergeType } from './merge-type.ts';

const ADDED_NAMES: ReadonlySet<string> = new Set(ADDED_COLUMNS.map((column) => column.name));
const WRITABLE: ReadonlySet<string> = new Set([
  'boolean',
  'int',
  'long',
  'float',
  'double',
  'string',
  'date',
  'time',
  'timestamp',
  'timestamptz',
  'uuid',
  'binary',
]);

/** The columns that the lander adds, which every table of ours begins with. */
export function addedIcebergFields(): IcebergField[] {
  return ADDED_COLUMNS.map(({ name, type }, index) => ({
    id: index + 1,
    name,
    type,
    // The partition is made of it.
    required: name === '_event_time',
  }));
}

export function toIceberg(field: Field): IcebergField {
  const base = { id: field.id, name: field.name, required: field.required, type: field.type };
  return field.isJson ? { ...base, doc: JSON_DOC } : base;
}

/** What the values of a dataset say of themselves: null where they say nothing (JSON) and the records are looked at. */
export type ValueColumns = readonly Column[] | null;

/**
 * The fields to write into a table with `schema` (null: it does not exist yet), ids included. Fields that others gave a type we do not
 * write are left out: records that have them are quarantined. Throws `config` for a declared schema that the table cannot take on.
 */
export function fieldsFor(
  dataset: DatasetConfig,
  schema: Schema | null,
  lastColumnId: number,
  valueColumns: ValueColumns,
): Field[] {
  const existing = (schema?.fields ?? []).filter((field) => !ADDED_NAMES.has(field.name)).flatMap(fromIceberg);
  let lastId = lastColumnId;
  const nextId = (): number => ++lastId;
  if (dataset.schema !== 'infer') return declaredFields(dataset, dataset.schema, existing, schema !== null, nextId);
  return valueColumns === null ? existing : withColumns(existing, valueColumns, nextId);
}

function declaredFields(
  dataset: DatasetConfig,
  declared: readonly Column[],
  existing: readonly Field[],
  hasTable: boolean,
  nextId: () => number,
): Field[] {
  const byName = new Map(existing.map((field) => [field.name, field]));
  return declared.map(({ name, type, required = false }) => {
    const refuse = (why: string): never => {
      throw new PenstockError('config', `dataset ${dataset.name}: schema: field ${name}: ${why}`);
    };
    const found = byName.get(name);
    if (found === undefined) {
      if (hasTable && required) refuse('a new field of a table must not be required');
      const id = nextId();
      return { id, name, type: typeWithIds(type, nextId), required, isJson: false };
    }
    return { ...found, type: mergeType(found.type, type, nextId, refuse), required: required || found.required };
  });
}

/** What does not go together keeps the table's type: records that have other values are quarantined one by one. */
function withColumns(existing: readonly Field[], columns: readonly Column[], nextId: () => number): Field[] {
  const fields = new Map(existing.map((field) => [field.name.toLowerCase(), field]));
  for (const { name, type } of columns) {
    const found = fields.get(name.toLowerCase());
    if (found?.name === name) {
      fields.set(name.toLowerCase(), { ...found, type: mergeType(found.type, type, nextId, () => undefined) });
    } else if (found === undefined && refuseName(name) === undefined && fields.size < FIELDS_MAX) {
      const id = nextId();
      fields.set(name.toLowerCase(), { id, name, type: typeWithIds(type, nextId), required: false, isJson: false });
    }
  }
  return [...fields.values()];
}

function fromIceberg(field: IcebergField): Field[] {
  if (!isWritable(field.type)) return [];
  const isJson = field.type === 'string' && field.doc === JSON_DOC;
  return [{ id: field.id, name: field.name, type: field.type, required: field.required, isJson }];
}

/** Required fields inside of others' structs are beyond what is checked when a record is staged. */
function isWritable(type: FieldType): boolean {
  if (typeof type === 'string') return WRITABLE.has(type) || decimalOf(type) !== null;
  if (type.type === 'list') return !type['element-required'] && isWritable(type.element);
  if (type.type === 'struct') return type.fields.every((field) => !field.required && isWritable(field.type));
  return (
    !type['value-required'] &&
    (type.key === 'string' || type.key === 'int' || type.key === 'long') &&
    isWritable(type.value)
  );
}

/** `schema` with what `fields` adds to it or widens; undefined when that is nothing. */
export function schemaChange(schema: Schema, fields: readonly Field[]): Schema | undefined {
  const byName = new Map(fields.map((field) => [field.name, field]));
  const kept = schema.fields.map((old) => {
    const type = byName.get(old.name)?.type ?? old.type;
    return isDeepStrictEqual(type, old.type) ? old : { ...old, type };
  });
  const existing = new Set(schema.fields.map((field) => field.name));
  const added = fields.filter((field) => !existing.has(field.name)).map(toIceberg);
  const isSame = added.length === 0 && kept.every((field, index) => field === schema.fields[index]);
  return isSame ? undefined : { ...schema, fields: [...kept, ...added] };
}

/** Whether files written with `fields` may be added to a table of this schema, possibly evolved by `schemaChange`. */
export function fitsSchema(schema: Schema, lastColumnId: number, fields: readonly Field[]): boolean {
  return fields.every((field) => {
    const found = schema.fields.find((other) => other.id === field.id || other.name === field.name);
    if (found === undefined) return field.id > lastColumnId;
    return found.id === field.id && found.name === field.name && evolves(found.type, field.type, lastColumnId);
  });
}

/** All that `from` has is in `to` under its id and name, perhaps wider; what `to` has beside it is new. */
function evolves(from: FieldType, to: FieldType, lastColumnId: number): boolean {
  if (!widens(from, to)) return false;
  const after = new Map([...fieldsOf(to)].map((entry) => [entry.field.id, entry]));
  for (const { path, field } of fieldsOf(from)) {
    const found = after.get(field.id);
    if (found?.path !== path || !widens(field.type, found.field.type)) return false;
    after.delete(field.id);
  }
  return [...after.keys()].every((id) => id > lastColumnId);
}
