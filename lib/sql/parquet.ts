/** How we write Parquet: one place, so that the lander's files and the compactor's are alike. */
import { sqlName, sqlText } from './duckdb.ts';

export interface ParquetColumn {
  readonly name: string;
  /** Iceberg field id, stored in the Parquet schema: readers match columns by it. */
  readonly fieldId: number;
  /** Fields of a struct, `element` of a list, `key` and `value` of a map. */
  readonly children?: readonly ParquetColumn[];
  /** What is written for the value of its column, as SQL; default: the value itself. */
  readonly convert?: (column: string) => string;
}

export interface ParquetOptions {
  readonly columns: readonly ParquetColumn[];
  readonly level: number;
  readonly rowGroupRows: number;
  /** Stored in the footer. */
  readonly metadata: Readonly<Record<string, string>>;
}

/**
 * The columns' names in the file. DuckDB takes two names that differ only in the case of ASCII letters for one, so the later of them
 * gets its field id behind it; readers of a table go by the ids.
 */
export function namesInFile(columns: readonly ParquetColumn[]): string[] {
  const taken = new Set<string>();
  return columns.map(({ name, fieldId }) => {
    let distinct = name;
    while (taken.has(foldCase(distinct))) distinct = `${distinct}_${fieldId}`;
    taken.add(foldCase(distinct));
    return distinct;
  });
}

const foldCase = (name: string): string => name.replace(/[A-Z]/g, (letter) => letter.toLowerCase());

/**
 * The options of a COPY. Data page v2 (read by hyparquet, Spark, pyarrow, DuckDB) took 25 % less CPU than v1 for the lander's
 * rows; bloom filters cost more than they save for files that are read whole.
 */
export function parquetOptions(options: ParquetOptions): string {
  const names = namesInFile(options.columns);
  const ids = options.columns.map((column, index) => fieldIds({ ...column, name: names[index] ?? '' })).join(', ');
  const metadata = Object.entries(options.metadata).map(([key, value]) => `${sqlName(key)}: ${sqlText(value)}`);
  return [
    'FORMAT parquet',
    'COMPRESSION zstd',
    `COMPRESSION_LEVEL ${options.level}`,
    'PARQUET_VERSION v2',
    'WRITE_BLOOM_FILTER false',
    `ROW_GROUP_SIZE ${options.rowGroupRows}`,
    `FIELD_IDS {${ids}}`,
    ...(metadata.length === 0 ? [] : [`KV_METADATA {${metadata.join(', ')}}`]),
  ].join(', ');
}

function fieldIds({ name, fieldId, children = [] }: ParquetColumn): string {
  if (children.length === 0) return `${sqlName(name)}: ${fieldId}`;
  return `${sqlName(name)}: {__duckdb_field_id: ${fieldId}, ${children.map(fieldIds).join(', ')}}`;
}
