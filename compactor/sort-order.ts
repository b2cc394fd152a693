/** The tail of every table's sort order: makes the order of the rows, and so a file's bytes, the same each time. */
export const SORT_TAIL = ['_log_partition', '_offset'] as const;
