/**
 * Whether a lander works, from what its datasets say: each reads its topic again and again, and each commits.
 *
 * - Ready: every dataset's last look at its topic succeeded. (What cannot land, as a damaged batch, is counted and named, and stops nothing else.)
 * - Alive: no dataset has been silent for longer than STALLED_MS, whether it fails or not. Every remote call has a deadline far below that, and a commit of
 *   the largest file takes minutes.
 */
import { Counter, Gauge, Registry } from 'prom-client';
import type { Clock } from '../../lib/clock.ts';
import type { HealthAnswers } from '../../lib/health-server.ts';
import type { SpanSink } from '../../lib/tracing/span.ts';
import type { LandTotals } from './commit-staged.ts';
import type { HeldShare } from './land-dataset.ts';

const STALLED_MS = 15 * 60_000;
const COUNTED = ['records', 'rows', 'quarantined', 'lost', 'files'] as const;

interface State {
  heardMs: number;
  /** Null: it reads. */
  trouble: string | null;
}

export class LandingHealth implements HealthAnswers {
  readonly #clock: Clock;
  readonly #states: ReadonlyMap<string, State>;
  readonly #registry = new Registry();
  readonly #counters = new Map(
    COUNTED.map((name) => {
      const help = `Of what landed since the start: ${name}.`;
      const options = { name: `penstock_lander_${name}_total`, help, labelNames: ['dataset'] };
      return [name, new Counter({ ...options, registers: [this.#registry] })];
    }),
  );
  readonly #ready = new Gauge({
    name: 'penstock_lander_ready',
    help: "1 when the dataset's last look at its topic succeeded.",
    labelNames: ['dataset'],
    registers: [this.#registry],
    collect: () => {
      for (const [dataset, state] of this.#states) this.#ready.set({ dataset }, state.trouble === null ? 1 : 0);
    },
  });
  readonly #problems = new Counter({
    name: 'penstock_lander_problems_total',
    help: 'Trouble by name in the log; lasting: what does not land until somebody mends it.',
    labelNames: ['dataset', 'lasting'],
    registers: [this.#registry],
  });
  readonly #committed = new Gauge({
    name: 'penstock_lander_last_commit_timestamp_seconds',
    help: 'When the dataset was committed last, seconds since the epoch.',
    labelNames: ['dataset'],
    registers: [this.#registry],
  });

  readonly #partitions = new Gauge({
    name: 'penstock_lander_partitions',
    help: 'Partitions of the dataset that this lander lands.',
    labelNames: ['dataset'],
    registers: [this.#registry],
  });
  readonly #unlanded = new Gauge({
    name: 'penstock_lander_unlanded_records',
    help: 'Records in the partitions of this lander that have not landed: its lag.',
    labelNames: ['dataset'],
    registers: [this.#registry],
  });

  constructor(clock: Clock, datasets: readonly string[], spans: SpanSink | null = null) {
    this.#clock = clock;
    if (spans !== null) {
      new Gauge({
        name: 'penstock_lander_spans_dropped',
        help: 'Spans of traces that the receiver did not take, since the start.',
        registers: [this.#registry],
        collect() {
          this.set(spans.dropped);
        },
      });
    }
    const heardMs = clock.monotonicMs();
    this.#states = new Map(datasets.map((name) => [name, { heardMs, trouble: 'its topic was not read yet' }]));
  }

  /** It goes on; `read`: a look at its topic succeeded, whatever that found. */
  turned(dataset: string, read: boolean): void {
    this.#hear(dataset, read ? { trouble: null } : {});
  }

  holds(dataset: string, { partitions, unlanded }: HeldShare): void {
    this.#partitions.set({ dataset }, partitions);
    this.#unlanded.set({ dataset }, unlanded);
  }

  committed(dataset: string, totals: LandTotals): void {
    this.#hear(dataset, {});
    for (const [name, counter] of this.#counters) counter.inc({ dataset }, totals[name]);
    this.#committed.set({ dataset }, this.#clock.nowMs() / 1000);
  }

  failed(dataset: string, message: string, lasting: boolean): void {
    this.#hear(dataset, lasting ? {} : { trouble: message });
    this.#problems.inc({ dataset, lasting: String(lasting) });
  }

  notAlive(): string | null {
    const now = this.#clock.monotonicMs();
    for (const [dataset, { heardMs }] of this.#states) {
      if (now - heardMs > STALLED_MS) return `${dataset}: nothing for ${Math.round((now - heardMs) / 1000)} s`;
    }
    return null;
  }

  notReady(): string | null {
    for (const [dataset, { trouble }] of this.#states) {
      if (trouble !== null) return `${dataset}: ${trouble}`;
    }
    return null;
  }

  get contentType(): string {
    return this.#registry.contentType;
  }

  metrics(): Promise<string> {
    return this.#registry.metrics();
  }

  #hear(dataset: string, change: Partial<State>): void {
    const state = this.#states.get(dataset);
    if (state !== undefined) Object.assign(state, change, { heardMs: this.#clock.monotonicMs() });
  }
}
