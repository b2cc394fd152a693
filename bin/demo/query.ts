/** The demo's last word: SQL by DuckDB over the Parquet files, through the mount where there is one, else over the objects. */
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { defaultScratchRoot, makeScratch } from '../../lib/sql/scratch.ts';
import { SqlWorker } from '../../lib/sql/sql-worker-client.ts';
import { loadTable, type LakeContext } from '../../lib/table/table.ts';

export interface QueryResult {
  readonly rows: number;
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

/** The objects of a table's current snapshot, where the store is a directory of this machine. */
export async function liveFilePaths(lake: LakeContext, dataset: string): Promise<string[]> {
  const table = await loadTable(lake, dataset);
  const paths: string[] = [];
  if (table === null) return paths;
  for await (const file of table.liveFiles()) {
    const key = lake.store.keyOf(file.location);
    const path = key === null ? null : lake.store.localPath(key);
    if (path !== null) paths.push(path);
  }
  return paths;
}

const quote = (text: string): string => `'${text.replaceAll("'", "''")}'`;

/** `files` of each dataset; a dataset without files is left out of the answer. */
export async function queryDatasets(files: ReadonlyMap<string, readonly string[]>): Promise<QueryResult> {
  const scratch = await makeScratch(defaultScratchRoot(), 'demo query');
  const worker = await SqlWorker.start({ memoryBytes: 1e9, threads: 2, scratchDir: scratch.path, scratchBytes: 4e9 });
  try {
    const table: Readonly<Record<string, unknown>>[] = [];
    for (const [dataset, paths] of files) {
      if (paths.length === 0) continue;
      const [row] = await worker.query(
        `SELECT ${quote(dataset)} AS dataset, count(*) AS rows, count(DISTINCT _agent) AS agents, min(_event_time) AS first_event, ` +
          `max(_event_time) AS last_event FROM read_parquet([${paths.map(quote).join(',')}], union_by_name = true)`,
      );
      if (row !== undefined) table.push(row);
    }
    return { rows: table.reduce((sum, row) => sum + Number(row['rows']), 0), table };
  } finally {
    await worker.close();
    scratch.remove();
  }
}
