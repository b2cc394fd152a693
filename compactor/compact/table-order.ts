/**
 * What the configuration says of a dataset's order and repeats, beside what its table has: `sort` and `dedup` are read anew by each run, but the
 * table keeps the order that it was made with (of the columns that it had then), because with another one every hour is to be sorted again.
 */
import type { DatasetConfig } from '../../lib/config/pipeline.ts';
import { commitDraft } from '../../lib/table/commit-loop.ts';
import { currentSchema, type TableMetadata, withSortOrder } from '../../lib/table/metadata.ts';
import { type LakeContext, loadTable, type TableState } from '../../lib/table/table.ts';
import { configuredOrder, SORT_TAIL } from '../sort-order.ts';
import { sortOrderOf } from './group-sql.ts';

/** What of the configuration is not so in the table, and how it comes about; empty: nothing. */
export function differences(table: TableState, dataset: DatasetConfig): string[] {
  const { schema, metadata } = table;
  const { name, sort, dedup } = dataset;
  const hasNo = (column: string): boolean => !schema.fields.some((field) => field.name === column);
  const found = sort.filter(hasNo).map((column) => `${name}: not sorted by ${column}: the table has no such column`);
  for (const column of typeof dedup === 'string' ? [] : dedup.key.filter(hasNo)) {
    found.push(`${name}: no repeats are removed: dedup.key has ${column}, and the table no such column`);
  }
  if (withConfigured(metadata, dataset) === metadata) return found;
  const wanted = sort.filter((column) => !hasNo(column)).join(', ');
  return [
    ...found,
    `${name}: its table is sorted by ${orderText(table)}, the configuration says ${wanted}: \`compact --rewrite-all\` takes that over, for every hour`,
  ];
}

/** The configured order becomes the table's: what was sorted by another one is unsorted from now on. */
export async function takeOverOrder(lake: LakeContext, dataset: DatasetConfig): Promise<void> {
  const table = await loadTable(lake, dataset.name);
  if (table === null || withConfigured(table.metadata, dataset) === table.metadata) return;
  await commitDraft(lake, dataset.name, (state) =>
    Promise.resolve({ metadata: withConfigured(state.metadata, dataset), objects: [], extra: {} }),
  );
}

/**
 * `metadata` with the configured order in force; itself where it is already, and where no column of `sort` is there: a misspelt one is no
 * wish for another order. A table that another program made without an order is sorted as the configuration says, whatever that is.
 */
function withConfigured(metadata: TableMetadata, dataset: DatasetConfig): TableMetadata {
  const schema = currentSchema(metadata);
  const isThere = dataset.sort.some((name) => schema.fields.some((field) => field.name === name));
  if (!isThere || metadata['default-sort-order-id'] === 0) return metadata;
  const names = configuredOrder(dataset, schema);
  return withSortOrder(
    metadata,
    names.map((name) => ({ name })),
  );
}

function orderText({ schema, metadata }: TableState): string {
  const tail: readonly string[] = SORT_TAIL;
  const fields = sortOrderOf(metadata, schema, []).filter(({ name }) => !tail.includes(name));
  const words = fields.map(({ name, direction }) => (direction === 'ASC' ? name : `${name} ${direction}`));
  return words.length === 0 ? 'nothing' : words.join(', ');
}
