/** Which names a field of a record may have. */
import type { PrimitiveType } from '../../lib/table/schema.ts';

/** More is no schema but data in the names (and 500 columns are as many Parquet column chunks in every row group). */
export const FIELDS_MAX = 500;
const NAME_CHARS_MAX = 255;

/** The columns that the lander adds, in this order, before those of the records. */
export const ADDED_COLUMNS: readonly { readonly name: string; readonly type: PrimitiveType }[] = [
  { name: '_agent', type: 'string' },
  { name: '_incarnation', type: 'string' },
  { name: '_seq', type: 'long' },
  { name: '_offset', type: 'long' },
  { name: '_log_partition', type: 'int' },
  { name: '_event_time', type: 'timestamptz' },
  { name: '_arrival_time', type: 'timestamptz' },
  { name: '_replayed', type: 'boolean' },
];
/** The hidden column of the staging table that says which file a row goes to. */
export const HOUR_COLUMN = '_hour';
const ADDED_NAMES: ReadonlySet<string> = new Set([HOUR_COLUMN, ...ADDED_COLUMNS.map((column) => column.name)]);

/** Iceberg's metadata columns: Spark can neither select nor rewrite a table that has one of its own with such a name. */
const RESERVED_NAMES: ReadonlySet<string> = new Set([
  '_deleted',
  '_file',
  '_last_updated_sequence_number',
  '_partition',
  '_pos',
  '_row_id',
  '_spec_id',
]);

/** Why a field cannot have this name, or undefined. */
export function refuseName(name: string): string | undefined {
  if (name === '') return 'a field without a name';
  if (name.length > NAME_CHARS_MAX) return 'a field name of more than 255 characters';
  if (/[\u0000-\u001f]/.test(name) || !name.isWellFormed()) return 'a field name with control characters';
  if (RESERVED_NAMES.has(name.toLowerCase())) return `field ${name} has the name of a metadata column of Iceberg`;
  return ADDED_NAMES.has(name.toLowerCase())
    ? `field ${name} has the name of a column that the lander adds`
    : undefined;
}
