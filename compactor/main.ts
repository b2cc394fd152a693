/** What the command line, the demo and the control plane call: land, compact, what it cost, and what a dataset adds up to. */
import type { PipelineConfig } from '../lib/config/pipeline.ts';
import { type LakeContext, loadTable } from '../lib/table/table.ts';
import { type CompactorOptions, type CompactResult, runCompactor } from './compact/compactor.ts';
import { type CostReport, costReport } from './cost/cost.ts';
import { readCounters } from './counters.ts';
import { type LanderOptions, type LandResult, runLander } from './lander/lander.ts';
import { openLake, openPipelineLog } from './ports.ts';

export { openLake } from './ports.ts';

export type { CompactStatus } from './compact/compactor.ts';

/** Opens the ports of `config`, lands, and closes them. Relative paths are from `baseDir`. */
export async function land(
  config: PipelineConfig,
  baseDir: string,
  options: Omit<LanderOptions, 'config' | 'lake' | 'log'>,
): Promise<LandResult> {
  const log = await openPipelineLog(config, baseDir);
  try {
    const ports = await openLake(config, baseDir, 'lander');
    try {
      return await runLander({ ...options, config, lake: ports.lake, log });
    } finally {
      await ports.close();
    }
  } finally {
    await log.close();
  }
}

/** Opens the ports of `config`, compacts, and closes them. */
export async function compact(
  config: PipelineConfig,
  baseDir: string,
  options: Omit<CompactorOptions, 'config' | 'lake'>,
): Promise<CompactResult> {
  const ports = await openLake(config, baseDir, 'compactor');
  try {
    return await runCompactor({ ...options, config, lake: ports.lake });
  } finally {
    await ports.close();
  }
}

/** What the runs of every dataset cost that started in [fromMs, toMs). */
export async function cost(
  config: PipelineConfig,
  baseDir: string,
  span: { readonly fromMs: number; readonly toMs: number },
): Promise<CostReport[]> {
  const ports = await openLake(config, baseDir, 'cost');
  try {
    const reports: CostReport[] = [];
    for (const { name } of config.datasets) reports.push(await costReport(ports.lake, name, span));
    return reports;
  } finally {
    await ports.close();
  }
}

export interface DatasetStats {
  /** Taken from the log, quarantined ones included. */
  readonly landed: number;
  readonly quarantined: number;
  /** Rows that compactions left out as repeats. */
  readonly duplicates: number;
  /** In the current snapshot. After a compaction of everything: landed - duplicates - quarantined. */
  readonly liveRows: number;
  readonly liveFiles: number;
  readonly liveBytes: number;
  /** Live files that no compaction has sorted yet. */
  readonly smallFiles: number;
  /** What the lander ever wrote. */
  readonly landedFiles: number;
  readonly landedBytes: number;
}

/** All numbers are of one moment only when nothing commits meanwhile. */
export async function datasetStats(lake: LakeContext, dataset: string): Promise<DatasetStats> {
  const counters = await readCounters(lake.engine, lake.volume, dataset);
  const table = await loadTable(lake, dataset);
  const live = { rows: 0, files: 0, bytes: 0, small: 0 };
  if (table !== null) {
    const sortOrderId = table.metadata['default-sort-order-id'];
    for await (const file of table.liveFiles()) {
      live.rows += Number(file.recordCount);
      live.files++;
      live.bytes += Number(file.bytes);
      if (file.sortOrderId !== sortOrderId) live.small++;
    }
  }
  return {
    landed: counters.landed,
    quarantined: counters.quarantined,
    duplicates: counters.duplicates,
    liveRows: live.rows,
    liveFiles: live.files,
    liveBytes: live.bytes,
    smallFiles: live.small,
    landedFiles: counters.files,
    landedBytes: counters.bytes,
  };
}
