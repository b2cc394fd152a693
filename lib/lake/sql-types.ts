/** Iceberg types, field ids and files of a table in the words of DuckDB. */
import { sqlName, sqlText } from '../sql/duckdb.ts';
import type { ParquetColumn } from '../sql/parquet.ts';
import { childFields, type Field, type FieldType } from '../table/schema.ts';

/** DuckDB's own columns of every Parquet file that it reads: the index in the list of files, and the row in the file. */
export const FILE = 'file_index';
export const ROW = 'file_row_number';

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

/** The files with their columns by field id: column 12 is `c12`, and null where a file does not have it. */
export function parquetSource(paths: readonly string[], fields: readonly Pick<Field, 'id' | 'type'>[]): string {
  const columns = fields
    .map(({ id, type }) => `${id}: {name: 'c${id}', type: ${sqlText(sqlType(type))}, default_value: NULL}`)
    .join(', ');
  return `read_parquet([${paths.map(sqlText).join(', ')}], schema = MAP {${columns}})`;
}
