/** What the command line and the demo call: land, compact, what it cost, and what a dataset adds up to. */
import type { PipelineConfig } from '../lib/config/pipeline.ts';
import { openLake, openPipelineLog } from '../lib/lake/ports.ts';
import { type CompactorOptions, type CompactResult, runCompactor } from './compact/compactor.ts';
import { type CostReport, costReport } from './cost/cost.ts';
import { type LanderOptions, type LandResult, runLander } from './lander/lander.ts';

export { datasetStats, type DatasetStats } from '../lib/lake/dataset-stats.ts';
export { openLake } from '../lib/lake/ports.ts';

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
