/**
 * A reader beside the running pipeline: `snapshot-reader-child.ts PIPELINE_YAML OBJECTS_FOLDER HOUR_DIRECTORY`. Every 200 ms it takes one snapshot of
 * each table, and one listing of the hour's directory in the mount, and reads all their Parquet files. Per partition the offsets must go
 * from 0 without a gap or a double, no identity may be there twice, and rows that were seen once must stay.
 *
 * It tells its parent over IPC; the first violation, or an error that a program would see through the mount, is its last word. A process of
 * its own, because a look into a mount could block the runner for ever. The objects are read where the S3 server keeps them.
 */
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { loadConfig } from '../../lib/config/load.ts';
import { pipelineSchema } from '../../lib/config/pipeline.ts';
import { describeError, isCode, PenstockError } from '../../lib/errors.ts';
import { openLake } from '../../lib/lake/ports.ts';
import { DuckDb, sqlText } from '../../lib/sql/duckdb.ts';
import { loadTable } from '../../lib/table/table.ts';

export interface Watched {
  readonly tableSamples: number;
  readonly mountSamples: number;
  /** Rows of the watched hour, by the table and by the mount, as last seen. */
  readonly tableRows: number;
  readonly mountRows: number;
  /** Looks that ended because a service was down. */
  readonly unavailable: number;
  readonly problem?: string;
}

const EVERY_MS = 200;

const [pipelineYaml = '', objectsFolder = '', hourDirectory = ''] = process.argv.slice(2);
const { config, baseDir } = await loadConfig(pipelineYaml, pipelineSchema);
let ports = await openLake(config, baseDir, 'watcher');
const db = await DuckDb.open({
  memoryBytes: 512e6,
  threads: 1,
  scratchDir: join(baseDir, 'watcher-scratch'),
  scratchBytes: 512e6,
});
const rowsSeen = new Map<string, number>();
let seen = { tableSamples: 0, mountSamples: 0, tableRows: 0, mountRows: 0, unavailable: 0 };

/** Checks the files of one snapshot as a whole and returns their rows. Throws an Error that says what is wrong. */
async function check(what: string, files: readonly string[]): Promise<number> {
  let rows = 0;
  if (files.length > 0) {
    const partitions = await db.query(
      `SELECT _log_partition AS p, count(*) AS found, count(DISTINCT _offset) AS offsets, min(_offset) AS first, max(_offset) AS last,
              count(DISTINCT (_agent, _incarnation, _seq)) AS identities
       FROM read_parquet([${files.map(sqlText).join(',')}], union_by_name = true) GROUP BY _log_partition`,
    );
    for (const partition of partitions) {
      const number = (name: string): number => Number(partition[name]);
      const [found, offsets, first] = [number('found'), number('offsets'), number('first')];
      const [last, identities] = [number('last'), number('identities')];
      if (first !== 0 || last !== found - 1 || offsets !== found || identities !== found) {
        throw new Error(`${what}: ${JSON.stringify({ found, offsets, first, last, identities, files })}`);
      }
      rows += found;
    }
  }
  const before = rowsSeen.get(what) ?? 0;
  if (rows < before) throw new Error(`${what}: ${rows} rows after ${before}: ${files.join(' ')}`);
  rowsSeen.set(what, rows);
  return rows;
}

async function checkTable(name: string): Promise<number | undefined> {
  const files: string[] = [];
  const { lake } = ports;
  try {
    const table = await loadTable(lake, name);
    if (table === null) return 0;
    for await (const { location } of table.liveFiles()) {
      files.push(join(objectsFolder, lake.store.keyOf(location) ?? location));
    }
  } catch (error) {
    if (isCode(error, 'fenced')) {
      // Redis was restarted: what a session believed is void, and a new one begins.
      await ports.close();
      ports = await openLake(config, baseDir, 'watcher');
    } else if (!(error instanceof PenstockError) || !error.retryable) throw error;
    seen = { ...seen, unavailable: seen.unavailable + 1 };
    return undefined;
  }
  return check(`table ${name}`, files);
}

async function look(): Promise<void> {
  for (const { name } of config.datasets) {
    const rows = await checkTable(name);
    if (rows !== undefined && name === config.datasets[0]?.name) {
      seen = { ...seen, tableSamples: seen.tableSamples + 1, tableRows: rows };
    }
  }
  if (!existsSync(hourDirectory)) return;
  const files = readdirSync(hourDirectory).map((name) => join(hourDirectory, name));
  const rows = await check('mount', files);
  seen = { ...seen, mountSamples: seen.mountSamples + 1, mountRows: rows };
}

function tell(watched: Watched): Promise<void> {
  return new Promise((resolve) => process.send?.(watched, undefined, undefined, () => resolve()) ?? resolve());
}

process.on('disconnect', () => process.exit(0));
try {
  while (true) {
    await Promise.all([look(), delay(EVERY_MS)]);
    await tell(seen);
  }
} catch (error) {
  await tell({ ...seen, problem: describeError(error) });
  process.exit(1);
}
