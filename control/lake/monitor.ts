/**
 * The pipeline at a glance: one sample of every dataset every SAMPLE_EVERY_MS, and the last HISTORY_MAX of them for the plots.
 *
 * Invariants: a sample is taken whole or not at all; while ports are down the last one stays, with its age.
 * Limits: reads of a sample are a few per dataset and none of manifests; one sample at a time.
 */
import type { Clock } from '../../lib/clock.ts';
import type { DatasetConfig } from '../../lib/config/pipeline.ts';
import { readCounters } from '../../lib/lake/counters.ts';
import type { Connections } from '../connections.ts';
import { liveTotals, type Tables } from './tables.ts';
import { UnlandedReader } from './unlanded.ts';

export const SAMPLE_EVERY_MS = 2000;
/** Half an hour. */
const HISTORY_MAX = 900;
/** A rate over less than this is noise of the commits' rhythm. */
const RATE_SPAN_MS = 10_000;

export interface DatasetSample {
  readonly appendedPerSecond: number;
  readonly landedPerSecond: number;
  readonly name: string;
  readonly topic: string;
  readonly appended: number;
  readonly landed: number;
  readonly quarantined: number;
  readonly lost: number;
  readonly duplicates: number;
  readonly removed: number;
  readonly landedFiles: number;
  readonly landedBytes: number;
  readonly liveRows: number;
  readonly liveFiles: number;
  readonly liveBytes: number | null;
  readonly unlanded: number;
  readonly oldestUnlandedMs: number | null;
}

export interface Sample {
  readonly atMs: number;
  readonly datasets: readonly DatasetSample[];
}

type Figures = Omit<DatasetSample, 'appendedPerSecond' | 'landedPerSecond'>;

export class Monitor {
  readonly #connections: Connections;
  readonly #datasets: readonly DatasetConfig[];
  readonly #tables: Tables;
  readonly #clock: Clock;
  readonly #unlanded = new UnlandedReader();
  readonly #history: Sample[] = [];
  #timer: NodeJS.Timeout | undefined;
  #sampling: Promise<void> | undefined;

  constructor(connections: Connections, datasets: readonly DatasetConfig[], tables: Tables, clock: Clock) {
    this.#connections = connections;
    this.#datasets = datasets;
    this.#tables = tables;
    this.#clock = clock;
  }

  /** Resolves after the first sample, or the first failure to take one. */
  async start(): Promise<void> {
    this.#timer = setInterval(() => void this.sample(), SAMPLE_EVERY_MS).unref();
    await this.sample();
  }

  async stop(): Promise<void> {
    clearInterval(this.#timer);
    await this.#sampling;
  }

  /** null: none could be taken yet. */
  get latest(): Sample | null {
    return this.#history.at(-1) ?? null;
  }

  get history(): readonly Sample[] {
    return this.#history;
  }

  /** Takes a sample now; one under way is joined. Never throws: what is down is in the health of the connections. */
  sample(): Promise<void> {
    return (this.#sampling ??= this.#take().finally(() => (this.#sampling = undefined)));
  }

  async #take(): Promise<void> {
    let figures: Figures[];
    try {
      figures = await Promise.all(this.#datasets.map((dataset) => this.#sampleDataset(dataset)));
    } catch {
      // A port is down, or answered half: the last whole sample stays and its age tells.
      return;
    }
    const atMs = this.#clock.nowMs();
    const base = this.#history.findLast((sample) => atMs - sample.atMs >= RATE_SPAN_MS) ?? this.#history[0];
    const datasets = figures.map((now) => {
      const before = base?.datasets.find(({ name }) => name === now.name);
      const rate = (of: 'appended' | 'landed'): number =>
        base === undefined || before === undefined || atMs <= base.atMs
          ? 0
          : Math.max(0, ((now[of] - before[of]) * 1000) / (atMs - base.atMs));
      return { ...now, appendedPerSecond: rate('appended'), landedPerSecond: rate('landed') };
    });
    this.#history.push({ atMs, datasets });
    if (this.#history.length > HISTORY_MAX) this.#history.shift();
  }

  async #sampleDataset(dataset: DatasetConfig): Promise<Figures> {
    const { lake, log } = this.#connections;
    // What waits is read before the counters: a commit in between makes the sum too large for a moment, never a reading invisible.
    const unlanded = await this.#unlanded.read(lake.engine, log, lake.volume, dataset);
    const counters = await readCounters(lake.engine, lake.volume, dataset.name);
    const live = liveTotals(await this.#tables.get(lake, dataset.name));
    return {
      name: dataset.name,
      topic: dataset.topic,
      appended: unlanded.appended,
      landed: counters.landed,
      quarantined: counters.quarantined,
      lost: counters.lost,
      duplicates: counters.duplicates,
      removed: counters.removed,
      landedFiles: counters.files,
      landedBytes: counters.bytes,
      liveRows: live.rows,
      liveFiles: live.files,
      liveBytes: live.bytes,
      unlanded: unlanded.records,
      oldestUnlandedMs: unlanded.oldestMs,
    };
  }
}
