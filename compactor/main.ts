/** What the command line and the demo call: land, compact, what it cost, and what a dataset adds up to. */
import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { PipelineConfig } from '../lib/config/pipeline.ts';
import { systemClock } from '../lib/clock.ts';
import { describeError, isCode, PenstockError } from '../lib/errors.ts';
import { serveHealth } from '../lib/health-server.ts';
import { openPipelineLog, withLake } from '../lib/lake/ports.ts';
import { openSpans } from '../lib/tracing/open-spans.ts';
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

/** Between two attempts to have a session again; each of them waits for the engine for as long as its own deadline says. */
const REOPEN_PAUSE_MS_MIN = 100;
const REOPEN_PAUSE_MS_MAX = 10_000;

export interface LandRequest extends Omit<
  LanderOptions,
  'config' | 'lake' | 'log' | 'onTurn' | 'onShare' | 'landerId' | 'spans'
> {
  /** HOST:PORT of /healthz, /readyz and /metrics. */
  readonly listen?: string;
  onListening?(url: string): void;
}

/**
 * Opens the ports of `config`, lands, and closes them. Relative paths are from `baseDir`. Without `once` it outlives its session: when the
 * metadata engine was restarted or failed over, or this process stood still for longer than its lease, it goes on with a new one, and waits for
 * an engine that is away meanwhile. One that is away at the start is an error at once.
 */
export async function land(config: PipelineConfig, baseDir: string, options: LandRequest): Promise<LandResult> {
  const { listen } = options;
  const spans = await openSpans('penstock-lander', (line) => options.onTrace?.(line));
  const datasets = config.datasets.map(({ name }) => name);
  const health = new LandingHealth(systemClock, datasets, spans);
  const server = listen === undefined ? undefined : await serveHealth(listen, health);
  if (server !== undefined) options.onListening?.(server.url);
  try {
    return await landOn(config, baseDir, { ...options, spans }, health);
  } finally {
    await server?.close();
    await spans?.close();
  }
}

async function landOn(
  config: PipelineConfig,
  baseDir: string,
  options: LandRequest & Pick<LanderOptions, 'spans'>,
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
  const result = (more: readonly string[] = []): LandResult => ({ summary: sum, problems: [...problems, ...more] });
  try {
    let hadSession = false;
    for (let failures = 0; ;) {
      try {
        const { problems: more } = await withLake(config, baseDir, 'lander', (lake) =>
          runLander({
            ...options,
            ...{ config, lake, log, onStatus, landerId },
            onTurn: (dataset, read) => health.turned(dataset, read),
            onShare: (dataset, held) => health.holds(dataset, held),
          }),
        );
        return result(more.filter((problem) => !problems.has(problem)));
      } catch (error) {
        const lost = isCode(error, 'fenced');
        if (options.once) throw error;
        // Nothing is staged without a session, and what was lands the next time.
        if (lost && options.signal.aborted) return result();
        if (lost) {
          [hadSession, failures] = [true, 0];
          continue;
        }
        if (!hadSession || !(error instanceof PenstockError) || !error.retryable) throw error;
        if (options.signal.aborted) return result();
        const message = `the lander has no session: ${describeError(error)}`;
        for (const { name } of config.datasets) {
          onStatus({ kind: 'problem', dataset: name, message, lasting: false });
        }
        const pauseMs = Math.random() * Math.min(REOPEN_PAUSE_MS_MAX, REOPEN_PAUSE_MS_MIN * 2 ** ++failures);
        await sleep(pauseMs, undefined, { signal: options.signal }).catch(() => undefined);
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
  options: Omit<CompactorOptions, 'config' | 'lake' | 'spans'>,
): Promise<CompactResult> {
  const spans = await openSpans('penstock-compactor', (message) => options.onStatus?.({ kind: 'note', message }));
  try {
    return await withLake(config, baseDir, 'compactor', (lake) => runCompactor({ ...options, config, lake, spans }));
  } finally {
    await spans?.close();
  }
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
