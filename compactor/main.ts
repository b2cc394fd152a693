/** What the command line and the demo call: land, compact, what it cost, and what a dataset adds up to. */
import { randomUUID } from 'node:crypto';
import type { PipelineConfig } from '../lib/config/pipeline.ts';
import { systemClock } from '../lib/clock.ts';
import { isCode } from '../lib/errors.ts';
import { serveHealth } from '../lib/health-server.ts';
import { openLake, openPipelineLog } from '../lib/lake/ports.ts';
import type { LakeContext } from '../lib/table/table.ts';
import { type CompactorOptions, type CompactResult, runCompactor } from './compact/compactor.ts';
import { type CostOptions, type CostTable, costTable } from './cost/cost-rows.ts';
import { type EraseOptions, type EraseResult, runErase } from './erase/erase.ts';
import { type ReplayOptions, type ReplayResult, runReplay } from './quarantine/replay.ts';
import {
  listQuarantine,
  type QuarantineEntry,
  type ShownLetter,
  type ShowOptions,
  showQuarantine,
} from './quarantine/show.ts';
import { LandingHealth } from './lander/landing-health.ts';
import { type LanderOptions, type LandResult, type LandStatus, runLander } from './lander/lander.ts';

export { datasetStats, type DatasetStats } from '../lib/lake/dataset-stats.ts';
export { openLake } from '../lib/lake/ports.ts';

export type { CompactStatus } from './compact/compactor.ts';
export type { PlannedGroup } from './compact/expectation.ts';

export interface LandRequest extends Omit<
  LanderOptions,
  'config' | 'lake' | 'log' | 'onTurn' | 'onShare' | 'landerId'
> {
  /** HOST:PORT of /healthz, /readyz and /metrics. */
  readonly listen?: string;
  onListening?(url: string): void;
}

/**
 * Opens the ports of `config`, lands, and closes them. Relative paths are from `baseDir`. Without `once` it outlives its session: when the
 * metadata engine was restarted or failed over, or this process stood still for longer than its lease, it goes on with a new one.
 */
export async function land(config: PipelineConfig, baseDir: string, options: LandRequest): Promise<LandResult> {
  const { listen } = options;
  const health = new LandingHealth(
    systemClock,
    config.datasets.map(({ name }) => name),
  );
  const server = listen === undefined ? undefined : await serveHealth(listen, health);
  if (server !== undefined) options.onListening?.(server.url);
  try {
    return await landOn(config, baseDir, options, health);
  } finally {
    await server?.close();
  }
}

async function landOn(
  config: PipelineConfig,
  baseDir: string,
  options: LandRequest,
  health: LandingHealth,
): Promise<LandResult> {
  const log = await openPipelineLog(config, baseDir);
  const sum = { records: 0, rows: 0, quarantined: 0, lost: 0, files: 0 };
  const problems = new Set<string>();
  const landerId = randomUUID();
  const onStatus = (status: LandStatus): void => {
    if (status.kind === 'commit') {
      health.committed(status.dataset, status.totals);
      for (const key of ['records', 'rows', 'quarantined', 'lost', 'files'] as const) sum[key] += status.totals[key];
    } else {
      health.failed(status.dataset, status.message, status.lasting);
      if (status.lasting) problems.add(status.message);
    }
    options.onStatus?.(status);
  };
  try {
    while (true) {
      const ports = await openLake(config, baseDir, 'lander');
      try {
        const result = await runLander({
          ...options,
          ...{ config, lake: ports.lake, log, onStatus, landerId },
          onTurn: (dataset, read) => health.turned(dataset, read),
          onShare: (dataset, held) => health.holds(dataset, held),
        });
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

async function withLake<T>(
  config: PipelineConfig,
  baseDir: string,
  kind: string,
  use: (lake: LakeContext) => Promise<T>,
): Promise<T> {
  const ports = await openLake(config, baseDir, kind);
  try {
    return await use(ports.lake);
  } finally {
    await ports.close();
  }
}

/** Opens the ports of `config`, compacts, and closes them. */
export async function compact(
  config: PipelineConfig,
  baseDir: string,
  options: Omit<CompactorOptions, 'config' | 'lake'>,
): Promise<CompactResult> {
  return withLake(config, baseDir, 'compactor', (lake) => runCompactor({ ...options, config, lake }));
}

export async function cost(config: PipelineConfig, baseDir: string, options: CostOptions): Promise<CostTable> {
  return withLake(config, baseDir, 'cost', (lake) => costTable(config, lake, options));
}

/** The objects that hold quarantined records, newest first. */
export async function quarantineList(
  config: PipelineConfig,
  baseDir: string,
  dataset?: string,
): Promise<QuarantineEntry[]> {
  return withLake(config, baseDir, 'quarantine', (lake) => listQuarantine(config, lake, dataset));
}

export async function quarantineShow(
  config: PipelineConfig,
  baseDir: string,
  options: ShowOptions,
): Promise<ShownLetter[]> {
  return withLake(config, baseDir, 'quarantine', (lake) => showQuarantine(config, lake, options));
}

export async function quarantineReplay(
  config: PipelineConfig,
  baseDir: string,
  options: Omit<ReplayOptions, 'config' | 'lake'>,
): Promise<ReplayResult> {
  return withLake(config, baseDir, 'replay', (lake) => runReplay({ ...options, config, lake }));
}

/** Erases rows of one dataset: see erase/erase.ts. */
export async function eraseRows(
  config: PipelineConfig,
  baseDir: string,
  options: Omit<EraseOptions, 'config' | 'lake'>,
): Promise<EraseResult> {
  return withLake(config, baseDir, 'erase', (lake) => runErase({ ...options, config, lake }));
}
