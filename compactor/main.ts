/** What the command line and the demo call: land, compact, what it cost, and what a dataset adds up to. */
import type { PipelineConfig } from '../lib/config/pipeline.ts';
import { isCode } from '../lib/errors.ts';
import { openLake, openPipelineLog } from '../lib/lake/ports.ts';
import { type CompactorOptions, type CompactResult, runCompactor } from './compact/compactor.ts';
import { type CostReport, costReport } from './cost/cost.ts';
import { type LanderOptions, type LandResult, type LandStatus, runLander } from './lander/lander.ts';

export { datasetStats, type DatasetStats } from '../lib/lake/dataset-stats.ts';
export { openLake } from '../lib/lake/ports.ts';

export type { CompactStatus } from './compact/compactor.ts';

/**
 * Opens the ports of `config`, lands, and closes them. Relative paths are from `baseDir`. Without `once` it outlives its session: when the
 * metadata engine was restarted or failed over, or this process stood still for longer than its lease, it goes on with a new one.
 */
export async function land(
  config: PipelineConfig,
  baseDir: string,
  options: Omit<LanderOptions, 'config' | 'lake' | 'log'>,
): Promise<LandResult> {
  const log = await openPipelineLog(config, baseDir);
  const sum = { records: 0, rows: 0, quarantined: 0, files: 0 };
  const problems = new Set<string>();
  const onStatus = (status: LandStatus): void => {
    if (status.kind === 'commit') {
      for (const key of ['records', 'rows', 'quarantined', 'files'] as const) sum[key] += status.totals[key];
    } else if (status.lasting) problems.add(status.message);
    options.onStatus?.(status);
  };
  try {
    while (true) {
      const ports = await openLake(config, baseDir, 'lander');
      try {
        const result = await runLander({ ...options, config, lake: ports.lake, log, onStatus });
        return { summary: sum, problems: [...new Set([...problems, ...result.problems])] };
      } catch (error) {
        if (!isCode(error, 'fenced') || options.once || options.signal.aborted) throw error;
      } finally {
        await ports.close();
      }
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
