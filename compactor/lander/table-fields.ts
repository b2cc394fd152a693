/** Between a table's Iceberg schema and the fields that the lander writes. */
import type { DatasetConfig, DeclaredField, FieldType } from '../../lib/config/pipeline.ts';
import { PenstockError } from '../../lib/errors.ts';
import type { Field as IcebergField, Schema } from '../../lib/table/schema.ts';
import { ADDED_COLUMNS } from './field-names.ts';
import { type Field, JSON_DOC } from './fields.ts';

const ADDED_NAMES: ReadonlySet<string> = new Set(ADDED_COLUMNS.map((column) => column.name));
const WRITABLE: ReadonlySet<unknown> = new Set<FieldType>([
  'boolean',
  'int',
  'long',
  'float',
  'double',
  'string',
  'date',
  'timestamptz',
]);
/** The types that Iceberg lets a column take on. */
const WIDER: Readonly<Record<string, FieldType>> = { int: 'long', float: 'double' };

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

/**
 * The fields to write into a table with `schema` (null: it does not exist yet), ids included. Fields that others gave a type we do not
 * write are left out: records that have them are quarantined. Throws `config` for a declared schema that the table cannot take on.
 */
export function fieldsFor(dataset: DatasetConfig, schema: Schema | null, lastColumnId: number): Field[] {
  const existing = (schema?.fields ?? []).filter((field) => !ADDED_NAMES.has(field.name)).flatMap(fromIceberg);
  if (dataset.schema === 'infer') return existing;
  const byName = new Map(existing.map((field) => [field.name, field]));
  let nextId = lastColumnId + 1;
  return dataset.schema.map((declared) => {
    const found = byName.get(declared.name);
    if (found === undefined) {
      if (schema !== null && declared.required)
        refuse(dataset, declared, 'a new field of a table must not be required');
      return { id: nextId++, name: declared.name, type: declared.type, required: declared.required, isJson: false };
    }
    if (found.type !== declared.type && WIDER[found.type] !== declared.type) {
      refuse(dataset, declared, `the table has ${found.type}, which cannot become ${declared.type}`);
    }
    return { ...found, type: declared.type, required: declared.required || found.required };
  });
}

function refuse(dataset: DatasetConfig, field: DeclaredField, why: string): never {
  throw new PenstockError('config', `dataset ${dataset.name}: schema: field ${field.name}: ${why}`);
}

function fromIceberg(field: IcebergField): Field[] {
  if (!isWritable(field.type)) return [];
  const isJson = field.type === 'string' && field.doc === JSON_DOC;
  return [{ id: field.id, name: field.name, type: field.type, required: field.required, isJson }];
}

function isWritable(type: IcebergField['type']): type is FieldType {
  return WRITABLE.has(type);
}

/** `schema` with what `fields` adds to it or widens; undefined when that is nothing. */
export function schemaChange(schema: Schema, fields: readonly Field[]): Schema | undefined {
  const byName = new Map(fields.map((field) => [field.name, field]));
  const kept = schema.fields.map((old) => {
    const type = byName.get(old.name)?.type ?? old.type;
    return type === old.type ? old : { ...old, type };
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
    return (
      found.id === field.id &&
      found.name === field.name &&
      (found.type === field.type || (typeof found.type === 'string' && WIDER[found.type] === field.type))
    );
  });
}
