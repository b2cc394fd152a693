/** The demo's last word: SQL by DuckDB over the Parquet files, through the mount where there is one, else over the objects. */
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describeError, PenstockError } from '../../lib/errors.ts';
import { defaultScratchRoot, makeScratch } from '../../lib/sql/scratch.ts';
import { SqlWorker } from '../../lib/sql/sql-worker-client.ts';
import { loadTable, type LakeContext } from '../../lib/table/table.ts';

export interface QueryResult {
  readonly rows: number;
  /** Files that could not be read, each with the reason; their rows are not in `rows`. */
  readonly problems: readonly string[];
  readonly table: readonly Readonly<Record<string, unknown>>[];
}

/** Every Parquet file below a directory, as a listing of the mount gives them; none when nothing landed there yet. */
export function parquetBelow(dir: string): string[] {
  if (!existsSync(dir)) return [];
  return readdirSync(dir, { withFileTypes: true }).flatMap((entry) => {
    const path = join(dir, entry.name);
    if (entry.isDirectory()) return parquetBelow(path);
    return entry.name.endsWith('.parquet') ? [path] : [];
  });
}

/** The objects of a table's current snapshot, where the store is a directory of this machine. Throws where some of their rows are deleted. */
export async function liveFilePaths(lake: LakeContext, dataset: string): Promise<string[]> {
  const table = await loadTable(lake, dataset);
  const paths: string[] = [];
  if (table === null) return paths;
  if ((await table.rowDeletes()).files.length > 0) {
    throw new PenstockError('unsupported', `${dataset} has row-level deletes of another writer: compact it first`);
  }
  for await (const file of table.liveFiles()) {
    const key = lake.store.keyOf(file.location);
    const path = key === null ? null : lake.store.localPath(key);
    if (path !== null) paths.push(path);
  }
  return paths;
}

const quote = (text: string): string => `'${text.replaceAll("'", "''")}'`;

/** `files` of each dataset; a dataset without files is left out of the answer, and so is a file that cannot be read. */
export async function queryDatasets(files: ReadonlyMap<string, readonly string[]>): Promise<QueryResult> {
  const scratch = await makeScratch(defaultScratchRoot(), 'demo query');
  const worker = await SqlWorker.start({ memoryBytes: 1e9, threads: 2, scratchDir: scratch.path, scratchBytes: 4e9 });
  try {
    const table: Readonly<Record<string, unknown>>[] = [];
    const problems: string[] = [];
    for (const [dataset, paths] of files) {
      const summarize = async (some: readonly string[]): Promise<void> => {
        if (some.length === 0) return;
        const [row] = await worker.query(summaryOf(dataset, some));
        if (row !== undefined) table.push(row);
      };
      try {
        await summarize(paths);
      } catch {
        await summarize(await readable(worker, paths, problems));
      }
    }
    return { rows: table.reduce((sum, row) => sum + Number(row['rows']), 0), table, problems };
  } finally {
    await worker.close();
    scratch.remove();
  }
}

/** Asked one by one, because an engine's error does not say which file it was. */
async function readable(worker: SqlWorker, paths: readonly string[], problems: string[]): Promise<string[]> {
  const good: string[] = [];
  for (const path of paths) {
    try {
      await worker.query(summaryOf('', [path]));
      good.push(path);
    } catch (error) {
      problems.push(`${path} cannot be read: ${describeError(error).split('\n')[0] ?? ''}`);
    }
  }
  return good;
}

function summaryOf(dataset: string, paths: readonly string[]): string {
  return (
    `SELECT ${quote(dataset)} AS dataset, count(*) AS rows, count(DISTINCT _agent) AS agents, min(_event_time) AS first_event, ` +
    `max(_event_time) AS last_event FROM read_parquet([${paths.map(quote).join(',')}], union_by_name = true)`
  );
}
