/**
 * The lander: the records of every dataset's topic from the Log into small Parquet files of its table, each exactly once.
 *
 * Several landers share the partitions of a dataset: see membership.ts and dataset-share.ts.
 * All datasets share one in-process DuckDB and its memory limit. Failure and exactness: see commit-staged.ts.
 * Limits: at most STAGED_PER_FILE_BYTE x fileBytes of values are staged over all datasets, plus 32 MiB of fetched batches a dataset;
 * DuckDB spills beyond its limit into the scratch directory, bounded too.
 */
import { randomUUID } from 'node:crypto';
import { defaultScratchRoot, makeScratch } from '../../lib/sql/scratch.ts';
import type { PipelineConfig } from '../../lib/config/pipeline.ts';
import { describeError, PenstockError } from '../../lib/errors.ts';
import type { Log } from '../../lib/log/log.ts';
import { DuckDb } from '../../lib/sql/duckdb.ts';
import type { LakeContext } from '../../lib/table/table.ts';
import type { SpanSink } from '../../lib/tracing/span.ts';
import type { LandTotals } from './commit-staged.ts';
import { openDecoder } from '../values/open-decoder.ts';
import { DatasetLander, type DatasetResult, type HeldShare, STAGED_BYTES_MIN } from './land-dataset.ts';
import { LandingCosts } from './landing-costs.ts';
import { Membership } from './membership.ts';

/** Rows of JSON come to a third or less as Parquet; twice the file's size keeps a commit within a file and memory within reason. */
const STAGED_PER_FILE_BYTE = 2;
const MEMORY_PER_FILE_BYTE = 4;
const MEMORY_BYTES_MIN = 512_000_000;
const SCRATCH_PER_FILE_BYTE = 16;

export interface LandSummary {
  /** Taken from the log: rows and quarantined. */
  readonly records: number;
  readonly rows: number;
  readonly quarantined: number;
  /** Gone from the log before they landed; not among `records`. */
  readonly lost: number;
  readonly files: number;
}

export interface LandResult {
  readonly summary: LandSummary;
  /** What did not land, by name. Not empty: exit status 3. */
  readonly problems: readonly string[];
}

export type LandStatus =
  | { readonly kind: 'commit'; readonly dataset: string; readonly totals: LandTotals }
  /** `lasting`: among the problems of the result. */
  | { readonly kind: 'problem'; readonly dataset: string; readonly message: string; readonly lasting: boolean };

export interface LanderOptions {
  readonly config: PipelineConfig;
  readonly lake: LakeContext;
  readonly log: Log;
  /** Ends at the log's end as seen at the start. */
  readonly once: boolean;
  /** Steps over what is damaged in the log, by name, and counts it as lost. */
  readonly skipDamaged?: boolean;
  /** Where the parts of traces go. */
  readonly spans?: SpanSink | null;
  /** Takes a line about a reading that is traced. */
  readonly onTrace?: (line: string) => void;
  readonly signal: AbortSignal;
  readonly onStatus?: (status: LandStatus) => void;
  /** A dataset goes on; `read`: its log was looked at. */
  readonly onTurn?: (dataset: string, read: boolean) => void;
  /** How much of a dataset is this lander's. */
  readonly onShare?: (dataset: string, held: HeldShare) => void;
  /** By which other landers know it; kept over its sessions. */
  readonly landerId?: string;
  /** Without a sign of life for this long its partitions go to others; ten seconds when it is left out. */
  readonly leaseMs?: number;
  readonly scratchRoot?: string;
  /** How often the cost of a lander that goes on is recorded; an hour when it is left out. */
  readonly costEveryMs?: number;
}

/**
 * Throws `fenced`, `config`, passing errors that did not pass, and `aborted` when `once` was ended before
 * anything landed.
 */
export async function runLander(options: LanderOptions): Promise<LandResult> {
  const { config, lake, log, skipDamaged = false } = options;
  if (skipDamaged && log.damagedRange === undefined) {
    throw new PenstockError(
      'usage',
      `--skip-damaged is for a log in files, not for ${log.url}: a broker's own tools (kafka-delete-records) move the start of a partition`,
    );
  }
  const scratch = await makeScratch(options.scratchRoot ?? defaultScratchRoot(), 'lander');
  const costs = new LandingCosts(lake, options.costEveryMs);
  let db: DuckDb | undefined;
  let membership: Membership | undefined;
  try {
    db = await openStagingDb(config, scratch.path);
    const datasets = config.datasets.map(({ name }) => name);
    membership = await Membership.join(lake, options.landerId ?? randomUUID(), datasets, options.leaseMs);
    return await landAll(options, membership, costs, db, scratch.path);
  } finally {
    await membership?.leave();
    await costs.end();
    db?.close();
    scratch.remove();
  }
}

/** What the records of a commit are staged in. */
export function openStagingDb(config: PipelineConfig, scratchDir: string): Promise<DuckDb> {
  const { fileBytes } = config.lander;
  return DuckDb.open({
    memoryBytes: Math.max(MEMORY_BYTES_MIN, MEMORY_PER_FILE_BYTE * fileBytes),
    // One: staging on the main thread is the other half of the work, and the bytes of a file are the same each time.
    threads: 1,
    scratchDir,
    scratchBytes: Math.max(MEMORY_BYTES_MIN, SCRATCH_PER_FILE_BYTE * fileBytes),
  });
}

async function landAll(
  options: LanderOptions,
  membership: Membership,
  costs: LandingCosts,
  db: DuckDb,
  scratchDir: string,
): Promise<LandResult> {
  const { config, log, once, skipDamaged = false } = options;
  // One dataset that fails for good must not leave the others running behind the caller's back.
  const stop = new AbortController();
  const signal = AbortSignal.any([options.signal, stop.signal]);
  const landers = config.datasets.map(async (dataset) => {
    const decoder = await openDecoder(dataset.value);
    const connection = await db.connect();
    const lander = new DatasetLander({
      lake: costs.lake,
      log,
      membership,
      db: connection,
      scratchDir,
      dataset,
      decoder,
      commitEveryMs: config.lander.commitEvery,
      stagedBytesMax: Math.max(
        STAGED_BYTES_MIN,
        Math.floor((STAGED_PER_FILE_BYTE * config.lander.fileBytes) / config.datasets.length),
      ),
      topic: { partitions: config.topics.partitions, retentionMs: config.topics.retention },
      once,
      skipDamaged,
      ...(options.spans != null && {
        traces: {
          sink: options.spans,
          dataset: dataset.name,
          clock: options.lake.clock,
          log: (line: string) => options.onTrace?.(line),
        },
      }),
      signal,
      onTurn: (read) => options.onTurn?.(dataset.name, read),
      onShare: (held) => options.onShare?.(dataset.name, held),
      onCommit: (totals) => {
        costs.add(dataset.name, totals);
        options.onStatus?.({ kind: 'commit', dataset: dataset.name, totals });
      },
      onProblem: (message, lasting) => options.onStatus?.({ kind: 'problem', dataset: dataset.name, message, lasting }),
    });
    try {
      return await lander.run();
    } catch (error) {
      stop.abort();
      throw error;
    } finally {
      connection.close();
    }
  });
  const settled = await Promise.allSettled(landers);
  const failed = settled.find((result) => result.status === 'rejected');
  if (failed !== undefined) throw failed.reason;
  const results = settled.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []));
  const problems = results.flatMap((result) => result.problems);
  const { records, lost } = sumOf(results);
  if (once && options.signal.aborted && records + lost === 0 && problems.length > 0) {
    throw new PenstockError('aborted', `${describeError(options.signal.reason)} before anything landed`);
  }
  const unrecorded = await costs.record();
  if (unrecorded !== null) problems.push(unrecorded);
  return { summary: sumOf(results), problems };
}

function sumOf(results: readonly DatasetResult[]): LandSummary {
  const sum = (pick: (totals: LandTotals) => number): number =>
    results.reduce((total, result) => total + pick(result.totals), 0);
  return {
    records: sum((totals) => totals.records),
    rows: sum((totals) => totals.rows),
    quarantined: sum((totals) => totals.quarantined),
    lost: sum((totals) => totals.lost),
    files: sum((totals) => totals.files),
  };
}
