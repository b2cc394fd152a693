/** What a dataset's table is to be sorted by, as the configuration says it. */
import type { DatasetConfig } from '../lib/config/pipeline.ts';
import type { Schema } from '../lib/table/schema.ts';

/** The tail of every table's sort order: makes the order of the rows, and so a file's bytes, the same each time. */
export const SORT_TAIL = ['_log_partition', '_offset'] as const;

/** Of `sort` the columns that the table has. */
export function configuredOrder({ sort }: Pick<DatasetConfig, 'sort'>, { fields }: Schema): readonly string[] {
  return [...new Set([...sort.filter((name) => fields.some((field) => field.name === name)), ...SORT_TAIL])];
}
