/**
 * Prometheus metrics of the lake and of this process. The lake's figures are those of the monitor's last sample; while ports are down they
 * stand still and `penstock_sample_age_seconds` grows.
 */
import { collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import type { Group } from './agents/records.ts';
import { LATE_MS, readReports } from './agents/reports.ts';
import { isUnderWay } from './agents/rollout.ts';
import type { ControlContext } from './context.ts';
import { SIZE_BOUNDS } from './lake/file-sizes.ts';
import type { DatasetSample } from './lake/monitor.ts';

const REQUEST_SECONDS = [0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10, 30];

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

export class ControlMetrics {
  readonly #registry = new Registry();
  readonly #requests: Histogram;
  readonly #context: ControlContext;

  constructor(context: ControlContext) {
    this.#context = context;
    const registers = [this.#registry];
    collectDefaultMetrics({ register: this.#registry, prefix: 'penstock_control_' });
    // Gauges with the suffix of counters, against Prometheus' own naming rules; their parts by type stay.
    for (const what of ['handles', 'requests', 'resources']) {
      this.#registry.removeSingleMetric(`penstock_control_nodejs_active_${what}_total`);
    }
    this.#requests = new Histogram({
      name: 'penstock_control_request_seconds',
      help: 'Time to answer a request, by route, method and status.',
      labelNames: ['route', 'method', 'status'],
      buckets: REQUEST_SECONDS,
      registers,
    });
    this.#addPorts(registers);
    this.#addDatasets(registers);
    this.#addCosts(registers);
    this.#addAgents(registers);
  }

  get contentType(): string {
    return this.#registry.contentType;
  }

  observe(route: string, method: string, status: number, seconds: number): void {
    this.#requests.observe({ route, method, status }, seconds);
  }

  text(): Promise<string> {
    return this.#registry.metrics();
  }

  #addPorts(registers: Registry[]): void {
    const { connections, monitor, clock } = this.#context;
    new Gauge({
      name: 'penstock_port_up',
      help: '1 while the engine, the store or the log answers.',
      labelNames: ['port'],
      registers,
      collect() {
        for (const { name, ok } of connections.health) this.set({ port: name }, Number(ok));
      },
    });
    new Gauge({
      name: 'penstock_sample_age_seconds',
      help: 'Age of the figures of the lake below.',
      registers,
      collect() {
        this.set(monitor.latest === null ? NaN : (clock.nowMs() - monitor.latest.atMs) / 1000);
      },
    });
    new Gauge({
      name: 'penstock_sessions',
      help: 'Live sessions of the metadata engine, by kind.',
      labelNames: ['kind'],
      registers,
      async collect() {
        const sessions = await connections.engine.sessions().catch(() => []);
        this.reset();
        for (const { kind, live } of sessions) if (live) this.inc({ kind });
      },
    });
  }

  #addDatasets(registers: Registry[]): void {
    const { monitor, clock, connections, tables, fileSizes } = this.#context;
    for (const [name, help, pick] of DATASET_FIGURES) {
      new Gauge({
        name: `penstock_dataset_${name}`,
        help,
        labelNames: ['dataset'],
        registers,
        collect() {
          for (const dataset of monitor.latest?.datasets ?? [])
            this.set({ dataset: dataset.name }, pick(dataset, clock.nowMs()));
        },
      });
    }
    new Gauge({
      name: 'penstock_dataset_files_by_size',
      help: 'Live files by the upper bound of their size class in bytes, and whether a compaction has sorted them.',
      labelNames: ['dataset', 'state', 'max_bytes'],
      registers,
      async collect() {
        for (const { name } of monitor.latest?.datasets ?? []) {
          const sizes = await fileSizesOf(name).catch(() => null);
          if (sizes === null) continue;
          for (const state of ['small', 'compacted'] as const) {
            sizes[state].forEach((count, index) => {
              this.set({ dataset: name, state, max_bytes: String(SIZE_BOUNDS[index] ?? '+Inf') }, count);
            });
          }
        }
      },
    });
    const fileSizesOf = async (name: string): ReturnType<typeof fileSizes.get> =>
      fileSizes.get(await tables.get(connections.lake, name));
  }

  #addCosts(registers: Registry[]): void {
    const { runs, connections, datasetNames } = this.#context;
    for (const figure of COST_FIGURES) {
      const name = figure.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
      new Gauge({
        name: `penstock_runs_${name}`,
        help: `Sum of ${figure} over the runs that are kept, by dataset and kind.`,
        labelNames: ['dataset', 'kind'],
        registers,
        async collect() {
          const all = await runs.list(connections.engine, connections.volume, datasetNames).catch(() => []);
          this.reset();
          for (const run of all) this.inc({ dataset: run.dataset, kind: run.kind }, run[figure]);
        },
      });
    }
  }

  #addAgents(registers: Registry[]): void {
    const { connections, configRecords, clock } = this.#context;
    new Gauge({
      name: 'penstock_agents',
      help: 'Agents that ever reported, by whether they are late.',
      labelNames: ['late'],
      registers,
      async collect() {
        const reports = await readReports(connections.engine, connections.volume).catch(() => null);
        this.reset();
        if (reports === null) return;
        const late = [...reports.values()].filter(({ seenMs }) => clock.nowMs() - seenMs > LATE_MS).length;
        this.set({ late: 'true' }, late);
        this.set({ late: 'false' }, reports.size - late);
      },
    });
    new Gauge({
      name: 'penstock_rollout_stopped',
      help: '1 while the roll-out to a group has stopped and waits for a person, 0 while it runs.',
      labelNames: ['group'],
      registers,
      async collect() {
        const groups = await configRecords.groups().catch(() => new Map<string, Group>());
        this.reset();
        for (const [group, { rollout }] of groups) {
          if (isUnderWay(rollout)) this.set({ group }, Number(rollout.state === 'stopped'));
        }
      },
    });
  }
}
