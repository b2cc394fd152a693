/**
 * SQL of somebody else over the lake: one SELECT over the live files of the datasets that it names, in a DuckDB process of its own that
 * is locked down before the text reaches it (no file but those, no settings, no extensions) and killed when its time is over.
 *
 * Invariants: a process serves one statement; nothing that one leaves behind is seen by another. A query sees one snapshot of each
 * dataset, without the rows that other writers deleted from it (sql-view.ts). Failure: a query that dies takes its process along and nothing else.
 * Limits: ROWS_MAX rows, ANSWER_BYTES_MAX, TIME_MS, MEMORY_BYTES and SCRATCH_BYTES a query; RUNNING_MAX at a time, half of them of one tenant, and
 * WAITING_MAX of each behind them; where the store is no directory of this machine, FETCH_BYTES_MAX are downloaded for it.
 */
import { join } from 'node:path';
import { mkdirSync } from 'node:fs';
import { PenstockError } from '../../lib/errors.ts';
import type { Selected } from '../../lib/sql/duckdb.ts';
import { defaultScratchRoot, makeScratch } from '../../lib/sql/scratch.ts';
import { SqlWorker } from '../../lib/sql/sql-worker-client.ts';
import type { LakeContext } from '../../lib/table/table.ts';
import { type Party, Turns } from '../share.ts';
import { createView, type Source, sourcesOf, type View, viewOfTable } from './sql-view.ts';
import type { Tables } from './tables.ts';

export const ROWS_MAX = 10_000;
const ANSWER_BYTES_MAX = 16_000_000;
const TIME_MS = 30_000;
const MEMORY_BYTES = 512e6;
const SCRATCH_BYTES = 2e9;
const RUNNING_MAX = 2;
const WAITING_MAX = 16;
const FETCH_BYTES_MAX = 1e9;

export interface SqlAnswer extends Selected {
  readonly seconds: number;
  readonly datasets: readonly string[];
}

export class LakeSql {
  readonly #tables: Tables;
  readonly #timeMs: number;
  readonly #running = new Set<SqlWorker>();
  readonly #turns: Turns;

  /** `parties`: how many tenants may ask, with the platform. */
  constructor(tables: Tables, parties = 1, timeMs: number = TIME_MS) {
    this.#tables = tables;
    this.#turns = new Turns({ total: RUNNING_MAX, parties }, WAITING_MAX);
    this.#timeMs = timeMs;
  }

  /** Throws `usage` for what is wrong in the statement, `timeout`, `full`, `too-large`, `unavailable`. */
  async query(
    lake: LakeContext,
    datasets: readonly string[],
    sql: string,
    rowsMax: number,
    party: Party = null,
  ): Promise<SqlAnswer> {
    const named = datasets.filter((dataset) => isNamedIn(sql, dataset));
    const startedMs = performance.now();
    return this.#turns.run(party, async () => {
      const views: View[] = [];
      for (const dataset of named) {
        const table = await this.#tables.get(lake, dataset);
        const view = table === null ? null : await viewOfTable(lake, table);
        if (view !== null && view.sources.length > 0) views.push(view);
      }
      const selected = await this.#run(lake, views, sql, rowsMax);
      return {
        ...selected,
        seconds: Math.round(performance.now() - startedMs) / 1000,
        datasets: views.map(({ name }) => name),
      };
    });
  }

  /** Rows of one Parquet object that is no table's, as `object`. */
  async readObject(lake: LakeContext, source: Source, sql: string, rowsMax: number, party: Party): Promise<Selected> {
    return this.#turns.run(party, () =>
      this.#run(lake, [{ name: 'object', sources: [source], deleted: null }], sql, rowsMax),
    );
  }

  async #run(lake: LakeContext, views: readonly View[], sql: string, rowsMax: number): Promise<Selected> {
    const scratch = await makeScratch(defaultScratchRoot(), 'control sql');
    let worker: SqlWorker | undefined;
    let timer: NodeJS.Timeout | undefined;
    let late = false;
    try {
      const spill = join(scratch.path, 'spill');
      mkdirSync(spill);
      const starting = SqlWorker.start({
        memoryBytes: MEMORY_BYTES,
        threads: 2,
        scratchDir: spill,
        scratchBytes: SCRATCH_BYTES,
      });
      const paths = await localPaths(lake, views.flatMap(sourcesOf), scratch.path).catch(async (error: unknown) => {
        await (await starting).close();
        throw error;
      });
      worker = await starting;
      this.#running.add(worker);
      timer = setTimeout(() => {
        late = true;
        void worker?.close();
      }, this.#timeMs);
      for (const [index, view] of views.entries()) {
        await createView(worker, view, index, ({ key }) => paths.get(key) ?? '');
      }
      await worker.lockDown([...paths.values()]);
      return await worker.select(sql, { rowsMax, bytesMax: ANSWER_BYTES_MAX });
    } catch (error) {
      // Set by the timer while this waited.
      if (late as boolean)
        throw new PenstockError('timeout', `the query took more than ${this.#timeMs / 1000} s and was ended`, {
          cause: error,
        });
      throw error;
    } finally {
      clearTimeout(timer);
      if (worker !== undefined) this.#running.delete(worker);
      await worker?.close();
      scratch.remove();
    }
  }

  /** Ends what runs; those queries fail with `unavailable`. */
  async close(): Promise<void> {
    await Promise.all([...this.#running].map((worker) => worker.close()));
  }
}

/** A name that appears by chance only makes a view that nobody reads. */
function isNamedIn(sql: string, dataset: string): boolean {
  return sql.replaceAll('"', '').toLowerCase().includes(dataset.toLowerCase());
}

async function localPaths(lake: LakeContext, sources: readonly Source[], dir: string): Promise<Map<string, string>> {
  const paths = new Map<string, string>();
  const absent = sources.filter(({ key }) => {
    const path = lake.store.localPath(key);
    if (path !== null) paths.set(key, path);
    return path === null;
  });
  const bytes = absent.reduce((total, source) => total + source.bytes, 0);
  if (bytes > FETCH_BYTES_MAX) {
    throw new PenstockError(
      'too-large',
      `the query would download ${bytes} bytes, at most ${FETCH_BYTES_MAX}: query it through a mount`,
    );
  }
  for (const [index, { key }] of absent.entries()) {
    const path = join(dir, `${index}.parquet`);
    await lake.store.getFile(key, path, { signal: AbortSignal.timeout(TIME_MS) });
    paths.set(key, path);
  }
  return paths;
}
