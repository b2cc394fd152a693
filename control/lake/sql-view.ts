/** A dataset as a query sees it: a view over the live files of one snapshot, without the rows that other writers deleted. */
import { PenstockError } from '../../lib/errors.ts';
import { leaveOutDeleted, type SqlSession } from '../../lib/lake/row-deletes.ts';
import { FILE, ROW } from '../../lib/lake/sql-types.ts';
import { sqlName, sqlText } from '../../lib/sql/duckdb.ts';
import type { LiveFile } from '../../lib/table/data-file.ts';
import type { DeleteFile } from '../../lib/table/delete-manifest.ts';
import type { TableMetadata } from '../../lib/table/metadata.ts';
import type { LakeContext, TableState } from '../../lib/table/table.ts';

const FILES_MAX = 5000;

/** A file of the lake and how large it is. */
export interface Source {
  readonly key: string;
  readonly bytes: number;
}

export interface View {
  readonly name: string;
  readonly sources: readonly Source[];
  /** Delete files and what they are about; null: there are none. */
  readonly deleted: Deleted | null;
}

interface Deleted {
  readonly metadata: TableMetadata;
  /** In the order of the sources. */
  readonly files: readonly LiveFile[];
  readonly deletes: readonly (DeleteFile & Source)[];
}

/** Throws `too-large`, and `unsupported` for delete files that cannot be applied. */
export async function viewOfTable(lake: LakeContext, table: TableState): Promise<View> {
  const files: LiveFile[] = [];
  for await (const file of table.liveFiles()) {
    files.push(file);
    if (files.length > FILES_MAX) {
      throw new PenstockError('too-large', `${table.name} has more than ${FILES_MAX} live files: compact it first`);
    }
  }
  const deletes = (await table.rowDeletes()).ofAll(files);
  const own = table.schema.fields.find(({ name }) => [FILE, ROW].includes(name.toLowerCase()));
  if (deletes.length > 0 && own !== undefined) {
    throw new PenstockError(
      'unsupported',
      `${table.name} has row-level deletes and a column '${own.name}', by which these cannot be applied here: compact it first`,
    );
  }
  return {
    name: table.name,
    sources: files.map((file) => ({ key: keyOf(lake, file.location), bytes: Number(file.bytes) })),
    deleted:
      deletes.length === 0
        ? null
        : {
            metadata: table.metadata,
            files,
            deletes: deletes.map((file) => ({ ...file, key: keyOf(lake, file.location) })),
          },
  };
}

function keyOf({ store }: LakeContext, location: string): string {
  const key = store.keyOf(location);
  if (key === null) throw new PenstockError('unsupported', `${location} is not in the store ${store.url}`);
  return key;
}

export const sourcesOf = ({ sources, deleted }: View): readonly Source[] => [...sources, ...(deleted?.deletes ?? [])];

/** `a.b` is view b of schema a, `b` a view of the default schema. `index`: of the view among those of the query. */
export async function createView(
  sql: SqlSession,
  view: View,
  index: number,
  pathOf: (source: Source) => string,
): Promise<void> {
  const { name, sources, deleted } = view;
  const dot = name.lastIndexOf('.');
  if (dot >= 0) await sql.run(`CREATE SCHEMA IF NOT EXISTS ${sqlName(name.slice(0, dot))}`);
  const place = dot < 0 ? '' : `${sqlName(name.slice(0, dot))}.`;
  const files = `[${sources.map((source) => sqlText(pathOf(source))).join(', ')}]`;
  const read = `read_parquet(${files}, union_by_name = true, hive_partitioning = false)`;
  const without = deleted === null ? '' : await withoutDeleted(sql, deleted, view, `deleted_rows_${index}`, pathOf);
  await sql.run(`CREATE VIEW ${place}${sqlName(name.slice(dot + 1))} AS SELECT * FROM ${read}${without}`);
}

async function withoutDeleted(
  sql: SqlSession,
  { metadata, files, deletes }: Deleted,
  { sources }: View,
  table: string,
  pathOf: (source: Source) => string,
): Promise<string> {
  const paths = new Map(deletes.map((file) => [file.location, pathOf(file)]));
  await leaveOutDeleted(sql, {
    table,
    files: files.map((file, at) => ({
      ...file,
      path: pathOf(sources[at] ?? { key: '', bytes: 0 }), // one for each file
      rows: Number(file.recordCount),
    })),
    deletes,
    metadata,
    pathOf: ({ location }) => paths.get(location) ?? '',
  });
  return ` WHERE (${FILE}, ${ROW}) NOT IN (SELECT (${FILE}, ${ROW}) FROM temp.${table})`;
}
