/**
 * The compactor: plans the groups that are due and compacts one after the other, in a DuckDB of its own process.
 *
 * A group that fails (damaged files, no space, a worker that died) is named and left as it was; the others go on. A group that
 * another compactor works on or was faster with is left to it.
 * Failure: killed at any point, a later run continues from the groups that are committed. Abort stops within a moment: the worker
 * process is killed and nothing that it wrote is referred to; what was committed before is told, and what is left is named.
 * Limits: `memoryBytes` for both processes: MEMORY_SHARE of it is what DuckDB may use, the rest is what it does not count;
 * SCRATCH_PER_MEMORY_BYTE for what it spills.
 */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { DatasetConfig, PipelineConfig } from '../../lib/config/pipeline.ts';
import { describeError, fromSystemError, isCode, isSystemError, PenstockError } from '../../lib/errors.ts';
import { onEngineTime } from '../../lib/meta/engine-time.ts';
import { isOutOfMemory } from '../../lib/sql/duckdb.ts';
import { defaultScratchRoot, makeScratch } from '../../lib/sql/scratch.ts';
import { SqlWorker } from '../../lib/sql/sql-worker-client.ts';
import { type LakeContext, loadTable } from '../../lib/table/table.ts';
import type { SpanSink } from '../../lib/tracing/span.ts';
import { CostMeter, writeCost } from '../cost/cost.ts';
import { selectDatasets } from '../../lib/config/dataset-selection.ts';
import { fileNameOf, hourName } from '../parquet-object.ts';
import { compactGroup, type GroupContext, type GroupResult } from './compact-group.ts';
import { expectation, measuredRates, type PlannedGroup, type Rates } from './expectation.ts';
import { GroupLease } from './lease.ts';
import { type Group, planGroups, type Shard } from './plan.ts';
import { limitsOf, type Verdict } from './selection.ts';
import { dropExpired, firstKeptHour } from './retention.ts';
import { removeReplaced } from './retire.ts';
import { differences, takeOverOrder } from './table-order.ts';

/** Measured with a limit of 400 MB: the worker takes some 300 MB beside it, this process 250 (docs/decisions/0006). Less spills more. */
const MEMORY_SHARE = 0.4;
/**
 * A worker that has read as many is followed by a new one, which costs a quarter of a CPU second and each of these groups at least six: the C
 * library's heap is left in pieces by thousands of footers, 20 MB more after every 1,100 files.
 */
const WORKER_ROWS_MAX = 4_000_000;
/** Sorting 50 times the memory: spilled runs are about as large as the data, uncompressed. */
const SCRATCH_PER_MEMORY_BYTE = 100;
/** What a group may fail by while the others go on. `unsupported`: delete files of a kind that cannot be applied. */
const GROUP_FAILURES = [
  'corrupt',
  'denied',
  'full',
  'io',
  'not-found',
  'timeout',
  'unavailable',
  'unsupported',
] as const;

export interface CompactSummary {
  readonly groups: number;
  readonly in: number;
  readonly out: number;
  readonly duplicates: number;
  /** Rows that row-level deletes of other writers took out. */
  readonly deleted: number;
  /** Rows of hours past their dataset's retention, dropped before anything was compacted. */
  readonly expired: number;
  /** Records of these datasets in quarantine: the lander put them there, compaction adds none. */
  readonly quarantined: number;
  readonly filesBefore: number;
  readonly filesAfter: number;
  /** Rows in files that could not be read: still in the table, in no new file. */
  readonly unreadable: number;
}

export interface CompactResult {
  readonly summary: CompactSummary;
  readonly plan: readonly PlannedGroup[];
  /** Only with `explain`. */
  readonly choices: readonly PlannedFile[];
  /** What could not be compacted, by name. Not empty: exit status 3. */
  readonly problems: readonly string[];
  /** Groups that were left to another compactor, and what of the configuration is not so in a table. */
  readonly notes: readonly string[];
}

/** A file of an hour that was looked at. */
export interface PlannedFile {
  readonly dataset: string;
  readonly hour: string;
  readonly file: string;
  readonly bytes: number;
  readonly rows: number;
  readonly verdict: Verdict;
}

export type CompactStatus =
  | {
      readonly kind: 'group';
      readonly group: PlannedGroup;
      readonly result: GroupResult;
      readonly left: number;
      readonly etaSeconds: number;
    }
  | { readonly kind: 'problem'; readonly message: string }
  | { readonly kind: 'note'; readonly message: string };

export interface CompactorOptions {
  readonly config: PipelineConfig;
  readonly lake: LakeContext;
  readonly dataset?: string;
  /** Hours since the epoch. */
  readonly hour?: number;
  readonly shard?: Shard;
  readonly dryRun?: boolean;
  /** Compact also hours that are not over. */
  readonly ignoreLag?: boolean;
  /** Take every file of an hour: after a change of what the dataset is sorted or de-duplicated by. */
  readonly rewriteAll?: boolean;
  /** Say of every file that was looked at what is done with it, and why. */
  readonly explain?: boolean;
  /** Where the parts of traces go. */
  readonly spans?: SpanSink | null;
  readonly signal: AbortSignal;
  readonly onStatus?: (status: CompactStatus) => void;
  readonly scratchRoot?: string;
}

/** Throws `usage` for a dataset that is not configured, `fenced`, what makes planning impossible, and `aborted` when nothing was done. */
export async function runCompactor(options: CompactorOptions): Promise<CompactResult> {
  const datasets = selectDatasets(options.config, options.dataset);
  const run = new CompactorRun(options);
  return run.run(datasets);
}

const choicesOf = ({ dataset, hour, choices }: Group): PlannedFile[] =>
  choices.map(({ file: { location, bytes, rows }, verdict }) => ({
    ...{ dataset, hour: hourName(hour), file: fileNameOf(location), bytes, rows, verdict },
  }));

interface DatasetWork {
  readonly dataset: DatasetConfig;
  /** null: it could not be planned, which is among the problems. */
  readonly groups: readonly Group[] | null;
  readonly rates: Rates;
}

class CompactorRun {
  readonly #options: CompactorOptions;
  readonly #problems: string[] = [];
  readonly #notes: string[] = [];
  readonly #plan: PlannedGroup[] = [];
  readonly #choices: PlannedFile[] = [];
  /** Groups that are compacted, or were left for a reason that is told. */
  readonly #settled = new Set<Group>();
  #worker: SqlWorker | undefined;
  #workerRows = 0;
  #expired = 0;
  #sum = { groups: 0, in: 0, out: 0, duplicates: 0, deleted: 0, filesBefore: 0, filesAfter: 0, unreadable: 0 };

  constructor(options: CompactorOptions) {
    this.#options = options;
  }

  async run(datasets: readonly DatasetConfig[]): Promise<CompactResult> {
    const work: DatasetWork[] = [];
    try {
      await this.#work(datasets, work);
    } catch (error) {
      const { signal } = this.#options;
      if (!signal.aborted || (error !== signal.reason && !isCode(error, 'aborted'))) throw error;
      const why = describeError(signal.reason);
      if (this.#sum.groups === 0 && this.#expired === 0) {
        throw new PenstockError('aborted', `${why} before anything was compacted`);
      }
      this.#nameUnfinished(datasets, work, why);
    }
    return {
      // The lander alone quarantines; a group in which rows went missing would not have been committed.
      summary: { ...this.#sum, expired: this.#expired, quarantined: 0 },
      plan: this.#plan,
      choices: this.#choices,
      problems: this.#problems,
      notes: this.#notes,
    };
  }

  /** Fills `work` as it plans. Throws the signal's reason when it was ended. */
  async #work(datasets: readonly DatasetConfig[], work: DatasetWork[]): Promise<void> {
    const { lake, signal, dryRun = false } = this.#options;
    if (!dryRun) await this.#dropExpired(datasets);
    for (const dataset of datasets) {
      signal.throwIfAborted();
      const groups = (await this.#takeOverOrder(dataset)) ? await this.#planOf(dataset) : null;
      const rates = await measuredRates(lake, dataset.name);
      work.push({ dataset, groups, rates });
      this.#plan.push(...(groups ?? []).map((group) => this.#planned(dataset, group, rates)));
    }
    if (dryRun) return;
    if (this.#plan.length > 0) await this.#compactAll(work);
    signal.throwIfAborted();
    await this.#removeReplaced(work.filter(({ groups }) => groups !== null).map(({ dataset }) => dataset));
  }

  /** One line a dataset: a backlog may be thousands of hours. */
  #nameUnfinished(datasets: readonly DatasetConfig[], work: readonly DatasetWork[], why: string): void {
    for (const { name } of datasets) {
      const planned = work.find(({ dataset }) => dataset.name === name);
      const groups = planned?.groups ?? [];
      const left = groups.filter((group) => !this.#settled.has(group)).map((group) => hourName(group.hour));
      const [first = '', last = first] = [left[0], left.at(-1)];
      const hours = left.length === 1 ? `hour ${first} is` : `${left.length} hours from ${first} to ${last} are`;
      if (planned === undefined) this.#problem(`${name}: was not looked at: ${why}`);
      else if (left.length > 0) this.#problem(`${name}: ${hours} not compacted: ${why}`);
      else if (planned.groups !== null) this.#problem(`${name}: replaced files may not have been removed: ${why}`);
    }
  }

  /** null: the table cannot be read, and why is a problem; the other datasets go on. */
  async #planOf(dataset: DatasetConfig): Promise<Group[] | null> {
    const { config, lake, hour, shard, ignoreLag = false, rewriteAll = false, explain = false } = this.#options;
    try {
      const table = await loadTable(lake, dataset.name);
      if (table === null) return [];
      for (const difference of differences(table, dataset)) this.#note(difference);
      // By a clock that is months behind the hours of today are those far ahead, which are compacted though they are not over; by one that is ahead all are.
      const nowMs = (await onEngineTime(lake.engine, lake.clock)).nowMs();
      const planned = await planGroups(
        table,
        {
          dataset,
          limits: limitsOf(config, dataset),
          ...(rewriteAll && { everything: true }),
          firstHour: firstKeptHour(dataset, nowMs),
          endedBeforeMs: ignoreLag ? Infinity : nowMs - config.compactor.lag,
          ...(hour === undefined ? {} : { hour }),
          ...(shard === undefined ? {} : { shard }),
        },
        explain,
      );
      if (explain) this.#choices.push(...planned.flatMap(choicesOf));
      return planned.filter(({ files }) => files.length > 0);
    } catch (error) {
      if (!isCode(error, 'corrupt', 'not-found')) throw error;
      this.#problem(`${dataset.name}: its files cannot be planned: ${describeError(error)}`);
      return null;
    }
  }

  /** False: that failed. Nothing is to be rewritten then in an order that nobody asked for. */
  async #takeOverOrder(dataset: DatasetConfig): Promise<boolean> {
    const { lake, hour, dryRun = false, rewriteAll = false } = this.#options;
    // With another order a single hour would make all the others unsorted.
    if (!rewriteAll || hour !== undefined || dryRun) return true;
    return this.#attempt(`${dataset.name}: the configured order was not taken over`, () =>
      takeOverOrder(lake, dataset),
    );
  }

  async #compactAll(work: readonly DatasetWork[]): Promise<void> {
    const { signal } = this.#options;
    const scratch = await makeScratch(this.#options.scratchRoot ?? defaultScratchRoot(), 'compactor');
    const stop = (): void => void this.#worker?.close();
    signal.addEventListener('abort', stop);
    try {
      for (const { dataset, groups, rates } of work) {
        if (groups !== null && groups.length > 0) await this.#compactDataset(dataset, groups, rates, scratch.path);
      }
    } finally {
      signal.removeEventListener('abort', stop);
      await this.#endWorker();
      scratch.remove();
    }
  }

  async #compactDataset(
    dataset: DatasetConfig,
    groups: readonly Group[],
    rates: Rates,
    scratchDir: string,
  ): Promise<void> {
    const { lake, signal } = this.#options;
    const meter = new CostMeter({ ...lake, clock: await onEngineTime(lake.engine, lake.clock) });
    const rowsBefore = this.#sum.in;
    try {
      for (const [index, group] of groups.entries()) {
        signal.throwIfAborted();
        const left = groups.slice(index + 1);
        const result = await this.#tryGroup(meter, dataset, group, scratchDir);
        this.#settled.add(group);
        if (result === null) continue;
        this.#count(result);
        const etaSeconds = left.reduce((sum, next) => sum + next.bytes, 0) / rates.bytesPerSecond;
        const planned = this.#planned(dataset, group, rates);
        this.#options.onStatus?.({ kind: 'group', group: planned, result, left: left.length, etaSeconds });
      }
    } finally {
      const rows = this.#sum.in - rowsBefore;
      if (rows > 0) {
        await writeCost(lake, dataset.name, { kind: 'compact', ...meter.usage(1), rows });
      }
    }
  }

  /** null: nothing was done, and why is noted. */
  async #tryGroup(
    meter: CostMeter,
    dataset: DatasetConfig,
    group: Group,
    scratchDir: string,
  ): Promise<GroupResult | null> {
    const [{ signal, config }, { lake }] = [this.#options, meter];
    const name = `${group.dataset} ${hourName(group.hour)}`;
    const lease = await GroupLease.take(lake, group.dataset, group.hour);
    if ('holder' in lease) {
      this.#note(`${name}: left to ${lease.holder}`);
      return null;
    }
    const startMs = lake.clock.monotonicMs();
    let cpuBefore = 0;
    let isCommitted = false;
    try {
      if (this.#workerRows >= WORKER_ROWS_MAX) await this.#endWorker();
      cpuBefore = this.#worker?.cpuSeconds ?? 0;
      this.#worker ??= await this.#startWorker(scratchDir);
      this.#workerRows += group.rows;
      const context: GroupContext = {
        meter,
        worker: this.#worker,
        dataset,
        targetBytes: limitsOf(config, dataset).targetBytes,
        scratchDir,
        ...(this.#options.spans && { spans: this.#options.spans }),
        signal,
      };
      const result = await compactGroup(context, group, lease);
      isCommitted = result.filesBefore > 0;
      for (const { message, rows } of result.damaged)
        this.#problem(`${name}: ${message}; its ${rows} rows stay as they are`);
      return result;
    } catch (caught) {
      signal.throwIfAborted();
      const error = isSystemError(caught) ? fromSystemError(caught, `scratch directory ${scratchDir}`) : caught;
      if (isCode(error, 'conflict', 'held')) {
        this.#note(`${name}: ${describeError(error)}`);
        return null;
      }
      if (!isCode(error, ...GROUP_FAILURES)) throw error;
      const { memoryBytes } = config.compactor;
      const remedy = isOutOfMemory(error)
        ? `; compactor.memoryBytes (${memoryBytes / 1e6} MB) is too little for its rows`
        : '';
      this.#problem(`${name}: ${describeError(error)}${remedy}`);
      // A worker after an error may have died or hold what the next one needs.
      await this.#endWorker();
      return null;
    } finally {
      meter.addChild({
        cpuSeconds: Math.max(0, (this.#worker?.cpuSeconds ?? cpuBefore) - cpuBefore),
        rssBytes: this.#worker?.rssBytes ?? 0,
        seconds: (lake.clock.monotonicMs() - startMs) / 1000,
      });
      if (!isCommitted) await lease.abandon().catch(() => undefined);
    }
  }

  async #startWorker(scratchDir: string): Promise<SqlWorker> {
    const { signal, config } = this.#options;
    const { memoryBytes } = config.compactor;
    const spillDir = join(scratchDir, 'spill');
    await mkdir(spillDir, { recursive: true });
    return SqlWorker.start(
      {
        memoryBytes: Math.floor(memoryBytes * MEMORY_SHARE),
        // One: the bytes of a file are then the same each time. Scale is by shards.
        threads: 1,
        scratchDir: spillDir,
        scratchBytes: memoryBytes * SCRATCH_PER_MEMORY_BYTE,
      },
      signal,
    );
  }

  async #endWorker(): Promise<void> {
    await this.#worker?.close();
    this.#worker = undefined;
    this.#workerRows = 0;
  }

  /** Not by every shard and not for a single hour: it is about whole tables. */
  get #isAboutTables(): boolean {
    const { hour, shard } = this.#options;
    return hour === undefined && (shard === undefined || shard.index === 0);
  }

  async #dropExpired(datasets: readonly DatasetConfig[]): Promise<void> {
    const { lake, signal } = this.#options;
    if (!this.#isAboutTables) return;
    for (const dataset of datasets) {
      await this.#attempt(`${dataset.name}: hours past its retention were not dropped`, async () => {
        this.#expired += (await dropExpired(lake, dataset, signal)).rows;
      });
    }
  }

  async #removeReplaced(datasets: readonly DatasetConfig[]): Promise<void> {
    const { lake, config, signal } = this.#options;
    if (!this.#isAboutTables) return;
    for (const dataset of datasets) {
      await this.#attempt(`${dataset.name}: replaced files were not removed`, async () => {
        await removeReplaced(lake, dataset.name, { keepReplacedMs: config.compactor.keepReplaced, signal });
      });
    }
  }

  /** False: it failed, which is a problem of its dataset alone. */
  async #attempt(failure: string, work: () => Promise<void>): Promise<boolean> {
    try {
      await work();
      return true;
    } catch (error) {
      if (isCode(error, 'fenced') || this.#options.signal.aborted) throw error;
      this.#problem(`${failure}: ${describeError(error)}`);
      return false;
    }
  }

  #planned(dataset: DatasetConfig, group: Group, rates: Rates): PlannedGroup {
    const { config } = this.#options;
    return expectation(group, rates, limitsOf(config, dataset).targetBytes, config.prices);
  }

  #count(result: GroupResult): void {
    const sum = this.#sum;
    this.#sum = {
      groups: sum.groups + (result.filesBefore === 0 ? 0 : 1),
      in: sum.in + result.in,
      out: sum.out + result.out,
      duplicates: sum.duplicates + result.duplicates,
      deleted: sum.deleted + result.deleted,
      filesBefore: sum.filesBefore + result.filesBefore,
      filesAfter: sum.filesAfter + result.filesAfter,
      unreadable: sum.unreadable + result.damaged.reduce((rows, file) => rows + file.rows, 0),
    };
  }

  #problem(message: string): void {
    this.#problems.push(message);
    this.#options.onStatus?.({ kind: 'problem', message });
  }

  #note(message: string): void {
    this.#notes.push(message);
    this.#options.onStatus?.({ kind: 'note', message });
  }
}
