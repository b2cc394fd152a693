/** What /metrics answers: the lake and the agents of whoever asks (lake-metrics.ts), and for the platform this process and its ports. */
import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from 'prom-client';
import type { ControlContext } from './context.ts';
import { LakeMetrics } from './lake-metrics.ts';
import type { Scope } from './scope/scope.ts';

const REQUEST_SECONDS = [0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10, 30];

export class ControlMetrics {
  readonly #registry = new Registry();
  readonly #requests: Histogram;
  readonly #connections: Gauge;
  readonly #connectionsMax: Gauge;
  readonly #refused: Counter;
  readonly #context: ControlContext;
  readonly #lakes = new Map<Scope, LakeMetrics>();

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
    this.#connections = new Gauge({
      name: 'penstock_control_connections',
      help: 'Connections that are open.',
      registers,
    });
    this.#connectionsMax = new Gauge({
      name: 'penstock_control_connections_max',
      help: 'Their bound: serve.maxConnections, or less by the limit of open files.',
      registers,
    });
    this.#refused = new Counter({
      name: 'penstock_control_connections_refused_total',
      help: 'Connections above that bound.',
      registers,
    });
    this.#addPorts(registers);
  }

  get contentType(): string {
    return this.#registry.contentType;
  }

  observe(route: string, method: string, status: number, seconds: number): void {
    this.#requests.observe({ route, method, status }, seconds);
  }

  connections(open: number): void {
    this.#connections.set(open);
  }

  connectionsMax(max: number): void {
    this.#connectionsMax.set(max);
  }

  connectionRefused(): void {
    this.#refused.inc();
  }

  async text(scope: Scope): Promise<string> {
    let lake = this.#lakes.get(scope);
    if (lake === undefined) this.#lakes.set(scope, (lake = new LakeMetrics(scope)));
    const own = scope.tenant === null ? await this.#registry.metrics() : '';
    return own + (await lake.text());
  }

  #addPorts(registers: Registry[]): void {
    const context = this.#context;
    const { connections } = context;
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
      name: 'penstock_sessions',
      help: 'Live sessions of the metadata engine, by kind.',
      labelNames: ['kind'],
      registers,
      async collect() {
        const counts = await context.sessionCounts().catch(() => ({}));
        this.reset();
        for (const [kind, count] of Object.entries(counts)) this.set({ kind }, count);
      },
    });
  }
}
