/**
 * `penstock dataset erase`: the rows of a dataset for which a condition is true, gone from the table, its older snapshots, the volume's
 * listings and the store.
 *
 * 1. Every live file is looked at; those with such rows are rewritten without them, hour by hour (erase-hour.ts).
 * 2. The table is looked at again, until every file of its current snapshot has been scanned and has no such row: the proof. What lands
 *    meanwhile, and what this run wrote, is scanned like the rest.
 * 3. The older snapshots expire, replaced names leave the listings at once, and the objects of the rewritten hours that only those
 *    snapshots had are deleted. A program that still reads one of them gets an error: that is what erasure means.
 *
 * Invariants: an object is deleted only when no snapshot of the table (branches and tags have some) and no clone refers to it; those that
 * are kept are named, and the exit status is 3.
 * Failure: killed anywhere, the next run goes on: what is rewritten is clean, what is to be deleted is recorded (pending.ts).
 * Limits: quarantined records and the log hold values as they came; no column can be looked at there. ROUNDS_MAX looks at a table
 * that others change all the time.
 */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { PipelineConfig } from '../../lib/config/pipeline.ts';
import { describeError, isCode, PenstockError } from '../../lib/errors.ts';
import { readCounters } from '../../lib/lake/counters.ts';
import { defaultScratchRoot, makeScratch } from '../../lib/sql/scratch.ts';
import { SqlWorker } from '../../lib/sql/sql-worker-client.ts';
import type { LiveFile } from '../../lib/table/data-file.ts';
import { expireSnapshots } from '../../lib/table/maintenance.ts';
import { deleteUnreached, oldFiles } from '../../lib/table/old-files.ts';
import { type LakeContext, loadTable, type TableState } from '../../lib/table/table.ts';
import { VolumeKeys } from '../../lib/volume/keys.ts';
import { expireHours } from '../../lib/volume/lake-expire.ts';
import { clonedLakeObjects } from '../../lib/volume/references.ts';
import { CostMeter, writeCost } from '../cost/cost.ts';
import { selectDatasets } from '../../lib/config/dataset-selection.ts';
import { hourName } from '../parquet-object.ts';
import { type EraseContext, eraseHour } from './erase-hour.ts';
import { checkStatement } from './erase-sql.ts';
import { forgetObjects, type PendingObject, readPending, recordObjects } from './pending.ts';

const ROUNDS_MAX = 50;
/** As the compactor's (see there). */
const MEMORY_SHARE = 0.45;
const SCRATCH_PER_MEMORY_BYTE = 100;

export interface EraseOptions {
  readonly config: PipelineConfig;
  readonly lake: LakeContext;
  readonly dataset: string;
  /** An SQL condition on the columns of the table. */
  readonly where: string;
  readonly dryRun?: boolean;
  readonly signal: AbortSignal;
  readonly scratchRoot?: string;
  readonly onHour?: (hour: { readonly hour: string; readonly rows: number; readonly files: number }) => void;
}

export interface EraseSummary {
  /** Rows that matched; without `dryRun` they are gone. */
  readonly rows: number;
  /** Files that held them. */
  readonly files: number;
  /** Files that were scanned, rewritten ones again. */
  readonly scanned: number;
  /** The snapshot whose every file was scanned and has no such row; null when that was not reached, or by a dry run. */
  readonly snapshot: bigint | null;
  /** Objects deleted from the store, those of an earlier run that was killed included. */
  readonly objects: number;
  /** Records in quarantine: they hold raw values and were not looked at. */
  readonly quarantined: number;
}

export interface EraseResult {
  readonly summary: EraseSummary;
  /** Not empty: exit status 3. */
  readonly problems: readonly string[];
}

/** Throws `usage` for a condition that is none, `not-found` without a table. */
export async function runErase(options: EraseOptions): Promise<EraseResult> {
  const { config, lake, signal } = options;
  const [dataset] = selectDatasets(config, options.dataset);
  const table = dataset === undefined ? null : await loadTable(lake, dataset.name);
  if (dataset === undefined || table === null) {
    throw new PenstockError('not-found', `${options.dataset} has no table: nothing has landed`);
  }
  const scratch = await makeScratch(options.scratchRoot ?? defaultScratchRoot(), 'erase');
  const meter = new CostMeter(lake);
  const startMs = lake.clock.monotonicMs();
  const { memoryBytes } = config.compactor;
  const spill = join(scratch.path, 'spill');
  await mkdir(spill);
  const worker = await SqlWorker.start({
    memoryBytes: Math.floor(memoryBytes * MEMORY_SHARE),
    threads: 1,
    scratchDir: spill,
    scratchBytes: memoryBytes * SCRATCH_PER_MEMORY_BYTE,
  });
  const stop = (): void => void worker.close();
  signal.addEventListener('abort', stop);
  try {
    await checkWhere(worker, table, options.where);
    const dryRun = options.dryRun === true;
    const context = { meter, worker, scratchDir: scratch.path, where: options.where, dryRun, signal };
    const run = new Erasure(context, options);
    await run.rewrite(dataset.name);
    if (!dryRun) await run.removeObjects(dataset.name);
    const seconds = (lake.clock.monotonicMs() - startMs) / 1000;
    meter.addChild({ cpuSeconds: worker.cpuSeconds, rssBytes: worker.rssBytes, seconds });
    if (run.files > 0 && !dryRun)
      await writeCost(lake, dataset.name, { kind: 'erase', ...meter.usage(1), rows: run.rows });
    const { quarantined } = await readCounters(lake.engine, lake.volume, dataset.name);
    return { summary: { ...run.summary(), quarantined }, problems: run.problems };
  } catch (error) {
    signal.throwIfAborted();
    throw error;
  } finally {
    signal.removeEventListener('abort', stop);
    await worker.close();
    scratch.remove();
  }
}

async function checkWhere(worker: SqlWorker, table: TableState, where: string): Promise<void> {
  try {
    const { rows } = await worker.select(checkStatement(table.schema, where), { rowsMax: 1, bytesMax: 1000 });
    const type = rows[0]?.[0];
    if (type !== 'BOOLEAN') throw new PenstockError('usage', `its type is ${JSON.stringify(type)}, not BOOLEAN`);
  } catch (error) {
    if (!isCode(error, 'usage', 'io', 'corrupt')) throw error;
    throw new PenstockError('usage', `--where: expected an SQL condition on ${table.name}: ${describeError(error)}`);
  }
}

class Erasure {
  readonly problems: string[] = [];
  rows = 0;
  files = 0;
  #scanned = 0;
  #objects = 0;
  #snapshot: bigint | null = null;
  readonly #context: EraseContext;
  readonly #options: EraseOptions;
  readonly #clean = new Set<string>();
  readonly #damaged = new Set<string>();

  constructor(context: EraseContext, options: EraseOptions) {
    this.#context = context;
    this.#options = options;
  }

  summary(): Omit<EraseSummary, 'quarantined'> {
    const { rows, files } = this;
    return { rows, files, scanned: this.#scanned, snapshot: this.#snapshot, objects: this.#objects };
  }

  /** Until every file of the current snapshot is known to have no such row. */
  async rewrite(dataset: string): Promise<void> {
    const { lake } = this.#context.meter;
    for (let round = 0; round < ROUNDS_MAX; round++) {
      const table = await loadTable(lake, dataset);
      if (table === null) return;
      const hours = await this.#unknownFiles(table);
      if (hours.size === 0) {
        if (this.#damaged.size === 0 && !this.#context.dryRun) {
          this.#snapshot = table.currentSnapshot?.['snapshot-id'] ?? null;
        }
        return;
      }
      for (const [hour, files] of [...hours].sort(([a], [b]) => a - b)) await this.#eraseHour(table, hour, files);
    }
    this.problems.push(
      `${dataset}: others change the table all the time: after ${ROUNDS_MAX} looks some files are not scanned`,
    );
  }

  async #unknownFiles(table: TableState): Promise<Map<number, LiveFile[]>> {
    const hours = new Map<number, LiveFile[]>();
    for await (const file of table.liveFiles()) {
      if (this.#clean.has(file.location) || this.#damaged.has(file.location)) continue;
      hours.set(file.hour, [...(hours.get(file.hour) ?? []), file]);
    }
    return hours;
  }

  async #eraseHour(table: TableState, hour: number, files: readonly LiveFile[]): Promise<void> {
    this.#context.signal.throwIfAborted();
    try {
      const erased = await eraseHour(this.#context, table, hour, files);
      this.rows += erased.rows;
      this.files += erased.files;
      this.#scanned += files.length - erased.damaged.length;
      for (const location of erased.clean) this.#clean.add(location);
      for (const { location, message } of erased.damaged) {
        this.#damaged.add(location);
        this.problems.push(`${table.name} ${hourName(hour)}: not scanned: ${message}`);
      }
      if (erased.files > 0) this.#options.onHour?.({ hour: hourName(hour), rows: erased.rows, files: erased.files });
    } catch (error) {
      // Somebody replaced a file, or deleted rows of one: the next look finds what it became.
      if (isCode(error, 'conflict')) return;
      if (isCode(error, 'io') && error.message.includes('Conversion Error')) {
        const where = `--where: cannot be asked of every value of ${table.name} ${hourName(hour)}; nothing was erased there or in later hours`;
        throw new PenstockError(
          'usage',
          `${where}. Compare with a constant of the column's type, or use TRY_CAST: ${error.message}`,
        );
      }
      // Delete files of another writer that cannot be applied: a rewrite would bring their rows back.
      if (!isCode(error, 'corrupt', 'unsupported', 'not-found')) throw error;
      for (const { location } of files) this.#damaged.add(location);
      this.problems.push(`${table.name} ${hourName(hour)}: nothing erased: ${describeError(error)}`);
    }
  }

  async removeObjects(dataset: string): Promise<void> {
    const { lake } = this.#context.meter;
    const { hours } = await readPending(lake, dataset);
    if (hours.length > 0) {
      const found: PendingObject[] = [];
      for await (const { location, hour } of oldFiles(lake, dataset, new Set(hours))) {
        const key = lake.store.keyOf(location);
        if (key === null) this.problems.push(`${location} is not in the store ${lake.store.url}: delete it there`);
        else found.push({ key, hour });
      }
      await recordObjects(lake, dataset, hours, found);
    }
    const { objects } = await readPending(lake, dataset);
    if (objects.length === 0) return;
    await expireSnapshots(lake, dataset, { olderThanMs: Infinity, keepLast: 1, ignoreRetention: true });
    const inHours = [...new Set(objects.map((object) => object.hour))];
    await expireHours(lake.engine, lake.volume, dataset, inHours, lake.clock.nowMs());
    const keys = objects.map((object) => object.key);
    const volume = new VolumeKeys(lake.volume);
    const stays = await deleteUnreached(lake, dataset, keys, (batch) => clonedLakeObjects(lake.engine, volume, batch));
    const gone = keys.filter((key) => !stays.has(key));
    await forgetObjects(lake, dataset, gone);
    this.#objects = gone.length;
    for (const key of stays) {
      this.problems.push(
        `${key} still holds erased rows: a branch, a tag, a clone or a kept snapshot refers to it; remove that and run the erasure again`,
      );
    }
  }
}
