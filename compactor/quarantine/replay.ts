/**
 * `penstock quarantine replay`: dead letters once more through the lander, after the schema, the configuration or the lander itself
 * was changed so that they fit. See replay-object.ts for what is exact about it.
 *
 * An object that cannot be replayed (damaged, or in the hands of another process) is named and stays; the others go on.
 */
import type { DatasetConfig, PipelineConfig } from '../../lib/config/pipeline.ts';
import { describeError, isCode } from '../../lib/errors.ts';
import { readQuarantine } from '../../lib/lake/quarantine.ts';
import type { DuckDb } from '../../lib/sql/duckdb.ts';
import { defaultScratchRoot, makeScratch } from '../../lib/sql/scratch.ts';
import type { LakeContext } from '../../lib/table/table.ts';
import { CostMeter, writeCost } from '../cost/cost.ts';
import { selectDatasets } from '../../lib/config/dataset-selection.ts';
import { openStagingDb } from '../lander/lander.ts';
import { openDecoder } from '../values/open-decoder.ts';
import { replayObject } from './replay-object.ts';

export interface ReplayOptions {
  readonly config: PipelineConfig;
  readonly lake: LakeContext;
  /** All datasets when it is absent. */
  readonly dataset?: string;
  /** Only this quarantine object. */
  readonly object?: string;
  /** Stage and count, commit nothing. */
  readonly dryRun?: boolean;
  readonly signal: AbortSignal;
  readonly scratchRoot?: string;
}

export interface ReplaySummary {
  readonly objects: number;
  /** Letters that were tried: rows and quarantined. */
  readonly records: number;
  readonly rows: number;
  /** Letters that still do not fit. */
  readonly quarantined: number;
  readonly files: number;
}

export interface ReplayResult {
  readonly summary: ReplaySummary;
  /** Why letters are still in quarantine, and objects that could not be replayed. Not empty: exit status 3. */
  readonly problems: readonly string[];
}

interface Totals {
  objects: number;
  rows: number;
  files: number;
  readonly reasons: Map<string, number>;
}

/** Throws `fenced`, `usage`, `aborted`, and what the ports throw. */
export async function runReplay(options: ReplayOptions): Promise<ReplayResult> {
  const { config } = options;
  const datasets = selectDatasets(config, options.dataset);
  const summary = { objects: 0, records: 0, rows: 0, quarantined: 0, files: 0 };
  const problems: string[] = [];
  const scratch = await makeScratch(options.scratchRoot ?? defaultScratchRoot(), 'replay');
  let db: DuckDb | undefined;
  try {
    db = await openStagingDb(config, scratch.path);
    const reader = await db.connect();
    try {
      for (const dataset of datasets) {
        const totals = await replayDataset(options, dataset, { db, reader, scratchDir: scratch.path }, problems);
        const left = [...totals.reasons.values()].reduce((sum, count) => sum + count, 0);
        summary.objects += totals.objects;
        summary.records += totals.rows + left;
        summary.rows += totals.rows;
        summary.quarantined += left;
        summary.files += totals.files;
        for (const [reason, count] of totals.reasons) {
          problems.push(`${dataset.name}: ${count} of the records in quarantine still do not fit: ${reason}`);
        }
      }
    } finally {
      reader.close();
    }
  } finally {
    db?.close();
    scratch.remove();
  }
  return { summary, problems };
}

async function replayDataset(
  options: ReplayOptions,
  dataset: DatasetConfig,
  local: { readonly db: DuckDb; readonly reader: DuckDb; readonly scratchDir: string },
  problems: string[],
): Promise<Totals> {
  const meter = new CostMeter(options.lake);
  const { lake } = meter;
  const totals: Totals = { objects: 0, rows: 0, files: 0, reasons: new Map() };
  const found: { readonly key: string; readonly committedMs: number }[] = [];
  for await (const [key, { committedMs }] of readQuarantine(lake.engine, lake.volume, dataset.name)) {
    if (options.object === undefined || options.object === key) found.push({ key, committedMs });
  }
  // In the order in which they were quarantined: an inferred schema then grows as it would have.
  found.sort((a, b) => a.committedMs - b.committedMs || (a.key < b.key ? -1 : 1));
  const decoder = await openDecoder(dataset.value);
  const scope = { lake, dataset, decoder, ...local, dryRun: options.dryRun === true };
  for (const object of found) {
    options.signal.throwIfAborted();
    try {
      const replayed = await replayObject(scope, object);
      if (replayed === null) continue;
      totals.objects++;
      totals.rows += replayed.rows;
      totals.files += replayed.files;
      for (const [reason, count] of Object.entries(replayed.reasons)) {
        totals.reasons.set(reason, (totals.reasons.get(reason) ?? 0) + count);
      }
    } catch (error) {
      if (!isCode(error, 'corrupt', 'conflict', 'unsupported')) throw error;
      problems.push(`${dataset.name}: ${describeError(error)}`);
    }
  }
  if (totals.files > 0)
    await writeCost(options.lake, dataset.name, { kind: 'land', ...meter.usage(1), rows: totals.rows });
  return totals;
}
