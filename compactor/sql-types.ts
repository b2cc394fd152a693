/** Iceberg types and field ids in the words of DuckDB. */
import { sqlName } from '../lib/sql/duckdb.ts';
import type { ParquetColumn } from '../lib/sql/parquet.ts';
import { childFields, type Field, type FieldType } from '../lib/table/schema.ts';

const SQL_TYPES: Readonly<Record<string, string>> = {
  boolean: 'BOOLEAN',
  int: 'INTEGER',
  long: 'BIGINT',
  float: 'FLOAT',
  double: 'DOUBLE',
  date: 'DATE',
  time: 'TIME',
  timestamp: 'TIMESTAMP',
  timestamptz: 'TIMESTAMP WITH TIME ZONE',
  string: 'VARCHAR',
  binary: 'BLOB',
  uuid: 'UUID',
};

export function sqlType(type: FieldType): string {
  if (typeof type === 'string') return SQL_TYPES[type] ?? (type.startsWith('fixed') ? 'BLOB' : type.toUpperCase());
  if (type.type === 'list') return `${sqlType(type.element)}[]`;
  if (type.type === 'map') return `MAP(${sqlType(type.key)}, ${sqlType(type.value)})`;
  return `STRUCT(${type.fields.map((field) => `${sqlName(field.name)} ${sqlType(field.type)}`).join(', ')})`;
}

/** A column of a file that we write, with the ids of all that is nested in it: readers match fields by them at every depth. */
export function parquetColumn(field: Pick<Field, 'id' | 'name' | 'type'>): ParquetColumn {
  const { id, name, type } = field;
  return { name, fieldId: id, children: childFields(type).map(parquetColumn) };
}
