/**
 * Prometheus metrics of the lake and the agents as one scope sees them. The lake's figures are those of the monitor's last sample; while ports are down they
 * stand still and `penstock_sample_age_seconds` grows.
 */
import { Gauge, Registry } from 'prom-client';
import { costTotals } from '../lib/lake/cost-periods.ts';
import type { Group } from './agents/records.ts';
import { isUnderWay } from './agents/rollout.ts';
import { SIZE_BOUNDS } from './lake/file-sizes.ts';
import type { DatasetSample } from './lake/monitor.ts';
import type { Run } from './lake/runs.ts';
import type { Scope } from './scope/scope.ts';

type Figure = readonly [name: string, help: string, pick: (dataset: DatasetSample, nowMs: number) => number];

/** Counters of the engine's life are exposed as what they are: numbers that only grow, read and not counted here. */
const DATASET_FIGURES: readonly Figure[] = [
  ['landed_records', 'Records taken from the log, quarantined ones included.', (dataset) => dataset.landed],
  ['quarantined_records', 'Records that did not fit.', (dataset) => dataset.quarantined],
  ['lost_records', "Records that the log's retention removed before they were taken.", (dataset) => dataset.lost],
  ['duplicate_rows', 'Rows that compactions left out as repeats.', (dataset) => dataset.duplicates],
  ['removed_rows', 'Rows that retention or an erasure took out.', (dataset) => dataset.removed],
  ['landed_files', 'Files that the lander wrote.', (dataset) => dataset.landedFiles],
  ['landed_bytes', 'Bytes of the files that the lander wrote.', (dataset) => dataset.landedBytes],
  ['live_rows', 'Rows of the current snapshot.', (dataset) => dataset.liveRows],
  ['live_files', 'Files of the current snapshot.', (dataset) => dataset.liveFiles],
  ['live_bytes', 'Bytes of the current snapshot.', (dataset) => dataset.liveBytes ?? NaN],
  ['unlanded_records', 'Records in the log that have not landed.', (dataset) => dataset.unlanded],
  [
    'oldest_unlanded_seconds',
    'Age of the oldest reading that has not landed; 0 when all have.',
    (dataset, nowMs) =>
      dataset.oldestUnlandedMs === null ? 0 : Math.max(0, (nowMs - dataset.oldestUnlandedMs) / 1000),
  ],
];

const COST_FIGURES = ['cpuSeconds', 'seconds', 'bytesRead', 'bytesWritten', 'gets', 'puts'] as const;

export class LakeMetrics {
  readonly #registry = new Registry();
  readonly #scope: Scope;
  /** Of the runs that were summed last: each figure asks. */
  #totals: { readonly runs: readonly Run[]; readonly sums: ReturnType<typeof costTotals> } | undefined;

  constructor(scope: Scope) {
    this.#scope = scope;
    const registers = [this.#registry];
    this.#addDatasets(registers);
    this.#addCosts(registers);
    this.#addAgents(registers);
  }

  text(): Promise<string> {
    return this.#registry.metrics();
  }

  #addDatasets(registers: Registry[]): void {
    const scope = this.#scope;
    const { lake } = scope;
    new Gauge({
      name: 'penstock_sample_age_seconds',
      help: 'Age of the figures of the lake below.',
      registers,
      collect() {
        this.set(lake.latest === null ? NaN : (scope.nowMs - lake.latest.atMs) / 1000);
      },
    });
    for (const [name, help, pick] of DATASET_FIGURES) {
      new Gauge({
        name: `penstock_dataset_${name}`,
        help,
        labelNames: ['dataset'],
        registers,
        collect() {
          for (const dataset of lake.latest?.datasets ?? [])
            this.set({ dataset: dataset.name }, pick(dataset, scope.nowMs));
        },
      });
    }
    new Gauge({
      name: 'penstock_dataset_files_by_size',
      help: 'Live files by the upper bound of their size class in bytes, and whether a compaction has sorted them.',
      labelNames: ['dataset', 'state', 'max_bytes'],
      registers,
      async collect() {
        for (const { name } of lake.latest?.datasets ?? []) {
          const sizes = await lake.fileSizes(name).catch(() => null);
          if (sizes === null) continue;
          for (const state of ['small', 'compacted'] as const) {
            sizes[state].forEach((count, index) => {
              this.set({ dataset: name, state, max_bytes: String(SIZE_BOUNDS[index] ?? '+Inf') }, count);
            });
          }
        }
      },
    });
  }

  #addCosts(registers: Registry[]): void {
    const { lake } = this.#scope;
    const totals = async (): Promise<ReturnType<typeof costTotals>> => {
      const runs = await lake.runs();
      if (this.#totals?.runs !== runs) this.#totals = { runs, sums: costTotals(runs) };
      return this.#totals.sums;
    };
    for (const figure of COST_FIGURES) {
      const name = figure.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
      new Gauge({
        name: `penstock_runs_${name}`,
        help: `Sum of ${figure} over the runs that are kept, by dataset and kind.`,
        labelNames: ['dataset', 'kind'],
        registers,
        async collect() {
          const sums = await totals().catch(() => []);
          this.reset();
          for (const { dataset, kind, [figure]: sum } of sums) this.set({ dataset, kind }, sum);
        },
      });
    }
  }

  #addAgents(registers: Registry[]): void {
    const scope = this.#scope;
    const { fleet } = scope;
    new Gauge({
      name: 'penstock_agents',
      help: 'Agents that ever reported, by whether they are late.',
      labelNames: ['late'],
      registers,
      async collect() {
        const counts = await fleet.agentCounts().catch(() => null);
        this.reset();
        if (counts === null) return;
        this.set({ late: 'true' }, counts.late);
        this.set({ late: 'false' }, counts.total - counts.late);
      },
    });
    new Gauge({
      name: 'penstock_rollout_stopped',
      help: '1 while the roll-out to a group has stopped and waits for a person, 0 while it runs.',
      labelNames: ['group'],
      registers,
      async collect() {
        const groups = await fleet.allGroups().catch(() => new Map<string, Group>());
        this.reset();
        for (const [group, { rollout }] of groups) {
          if (isUnderWay(rollout)) this.set({ group }, Number(rollout.state === 'stopped'));
        }
      },
    });
  }
}
