/** Statistics of a Parquet file's columns, by field id, as a manifest records them. */
import type { ColumnStats } from './data-file.ts';
import { childFields } from './schema.ts';
import type { FieldType, Schema } from './schema.ts';
import { lowerBound, upperBound } from './single-value.ts';

/** One column as the writer of the file reports it. Its type in the file is the schema's type. */
export interface ParquetColumn {
  /** Names from the top: `['location', 'lat']`; the parts of lists and maps are `element`, `key`, `value`. */
  readonly path: readonly string[];
  readonly bytes: bigint | null;
  readonly valueCount: bigint | null;
  readonly nullCount: bigint | null;
  /** Whether a float or double column holds NaN; null: not known, or another type. */
  readonly hasNan: boolean | null;
  /** As SQL prints the value; null: not known, or there is none. Bounds of strings may be shortened, but must be bounds. */
  readonly min: string | null;
  readonly max: string | null;
}

/** Columns that are not in the schema are left out; columns of the schema that are not in the file have no statistics. */
export function columnStats(schema: Schema, columns: readonly ParquetColumn[]): ReadonlyMap<number, ColumnStats> {
  const byPath = new Map(columns.map((column) => [JSON.stringify(column.path), column]));
  const stats = new Map<number, ColumnStats>();
  for (const { names, id, type, repeated } of leaves(schema)) {
    const column = byPath.get(JSON.stringify(names));
    if (column === undefined) continue;
    // Readers compare bounds with the values of rows; the elements of a list have no place in that.
    const bounded = !repeated;
    stats.set(id, {
      bytes: column.bytes,
      valueCount: column.valueCount,
      nullCount: column.nullCount,
      nanCount: column.hasNan === false ? 0n : null,
      lower: bounded && column.min !== null ? lowerBound(type, column.min) : null,
      upper: bounded && column.max !== null ? upperBound(type, column.max) : null,
    });
  }
  return stats;
}

interface Leaf {
  readonly names: readonly string[];
  readonly id: number;
  readonly type: string;
  readonly repeated: boolean;
}

function* leaves(type: FieldType, names: readonly string[] = [], repeated = false): Generator<Leaf> {
  const inside = repeated || (typeof type !== 'string' && type.type !== 'struct');
  for (const field of childFields(type)) {
    const path = [...names, field.name];
    if (typeof field.type === 'string') yield { names: path, id: field.id, type: field.type, repeated: inside };
    else yield* leaves(field.type, path, inside);
  }
}
