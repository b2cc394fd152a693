/** What the driver tells Prometheus: its calls, and on a node the mounts that its daemons serve. */
import { Counter, Gauge, Histogram, Registry } from 'prom-client';
import type { HealthAnswers } from '../../lib/health-server.ts';
import type { WorkloadUsage } from '../../lib/volume/mount-reports.ts';
import type { Usage } from '../callers/usage.ts';
import { controlRequest } from '../fuse/control.ts';
import { allMounts, FILE_SYSTEM_TYPE } from '../fuse/mount.ts';
import type { CallReport } from './server.ts';

/** From an answer of its own memory to a mount that waits for a slow store. */
const CALL_SECONDS = [0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60];
const STATS_MS = 3_000;
/** Of each mount, those that moved most; the rest is `other`. */
const PODS_MAX = 50;

/** Health is that it answers: engines and stores are those of each call's secrets. */
export class CsiMetrics implements HealthAnswers {
  readonly #registry = new Registry();
  readonly #calls = new Counter({
    name: 'penstock_csi_calls_total',
    help: 'CSI calls by method and gRPC status.',
    labelNames: ['method', 'code'],
    registers: [this.#registry],
  });
  readonly #seconds = new Histogram({
    name: 'penstock_csi_call_seconds',
    help: 'Time of a CSI call.',
    labelNames: ['method'],
    buckets: CALL_SECONDS,
    registers: [this.#registry],
  });

  /** `mounts`: also what is mounted on this node. */
  constructor(mounts: boolean) {
    if (mounts) addMounts(this.#registry);
  }

  record({ method, code, seconds }: CallReport): void {
    this.#calls.inc({ method, code });
    this.#seconds.observe({ method }, seconds);
  }

  notAlive(): null {
    return null;
  }

  notReady(): null {
    return null;
  }

  metrics(): Promise<string> {
    return this.#registry.metrics();
  }

  get contentType(): string {
    return this.#registry.contentType;
  }
}

function addMounts(registry: Registry): void {
  const gauge = (name: string, help: string, labelNames = ['volume']): Gauge =>
    new Gauge({ name, help, labelNames, registers: [registry] });
  const restarts = gauge('penstock_mount_restarts', 'Workers of the mount that ended and were followed by another.');
  const staged = gauge('penstock_mount_staged_bytes', 'Written by programs and not yet in the object store.');
  const cached = gauge('penstock_mount_cached_bytes', 'Bytes in the cache of the node.');
  const fetched = gauge('penstock_mount_fetched_bytes', 'Bytes read from the object store since the worker started.');
  const saved = gauge(
    'penstock_mount_saved_bytes',
    'By how much compression made uploads less since the worker started.',
  );
  const fromPeers = gauge('penstock_mount_peer_fetched_bytes', 'Bytes that came from peers of the cache group.');
  const toPeers = gauge('penstock_mount_peer_served_bytes', 'Bytes served to peers of the cache group.');
  const byOperation = ['volume', 'operation'];
  const operations = gauge('penstock_mount_operations', 'File system requests since the worker started.', byOperation);
  const errors = gauge('penstock_mount_operation_errors', 'Requests that were answered with an error.', byOperation);
  const pods = new PodGauges(gauge);
  const all = [...pods.gauges, restarts, staged, cached, fetched, saved, fromPeers, toPeers, operations, errors];
  new Gauge({
    name: 'penstock_mount_up',
    help: '1 when a worker serves the mount, 0 while there is none.',
    labelNames: ['volume'],
    registers: [registry],
    async collect() {
      this.reset();
      for (const other of all) other.reset();
      for (const { volume, stats, usage } of await mountsOfNode()) {
        if (usage !== undefined) pods.set(volume, usage);
        this.set({ volume }, stats?.state === 'serving' ? 1 : 0);
        if (stats === undefined) continue;
        restarts.set({ volume }, stats.restarts);
        staged.set({ volume }, stats.worker?.volume?.stagedBytes ?? 0);
        cached.set({ volume }, stats.worker?.volume?.cachedBytes ?? 0);
        fetched.set({ volume }, stats.worker?.volume?.fetchedBytes ?? 0);
        saved.set({ volume }, stats.worker?.volume?.savedBytes ?? 0);
        fromPeers.set({ volume }, stats.worker?.volume?.peerFetchedBytes ?? 0);
        toPeers.set({ volume }, stats.worker?.volume?.peerServedBytes ?? 0);
        for (const [operation, { count, errors: failed }] of Object.entries(stats.worker?.operations ?? {})) {
          operations.set({ volume, operation }, count);
          errors.set({ volume, operation }, failed);
        }
      }
    },
  });
}

const POD_FIGURES: readonly (readonly [name: string, help: string, pick: (pod: WorkloadUsage) => number])[] = [
  ['requests', 'Requests of a pod since the worker started.', ({ requests }) => requests],
  ['errors', 'Of them, those that were answered with an error.', ({ errors }) => errors],
  ['wait_seconds', 'How long requests of a pod took, summed up.', ({ waitSeconds }) => waitSeconds],
  ['read_bytes', 'Read by a pod through the daemon; exact.', ({ readBytes }) => readBytes],
  ['written_bytes', 'Written by a pod through the daemon; exact.', ({ writtenBytes }) => writtenBytes],
  ['reads', 'Reads of a pod.', ({ reads }) => reads],
  ['reads_waited', 'Of them, those that neither memory nor the cache could answer.', ({ readsWaited }) => readsWaited],
  ['kernel_read_bytes', 'Read by a pod past the daemon (passthrough); an estimate.', (pod) => pod.kernelReadBytes],
  ['kernel_written_bytes', 'Written by a pod past the daemon; an estimate.', (pod) => pod.kernelWrittenBytes],
];

/** By pod: `namespace/name`, or its uid where the driver was not told; outside of pods a container, unit or command. */
class PodGauges {
  readonly gauges: readonly Gauge[];

  constructor(gauge: (name: string, help: string, labelNames: string[]) => Gauge) {
    this.gauges = POD_FIGURES.map(([name, help]) =>
      gauge(`penstock_mount_pod_${name}`, help, ['volume', 'kind', 'pod']),
    );
  }

  set(volume: string, { workloads }: Usage): void {
    workloads.forEach((workload, index) => {
      const isOther = index >= PODS_MAX || workload.id === 'other';
      const [kind, pod] = isOther ? ['none', 'other'] : [workload.kind, workload.name ?? workload.id];
      POD_FIGURES.forEach(([, , pick], figure) => this.gauges[figure]?.inc({ volume, kind, pod }, pick(workload)));
    });
  }
}

type VolumeFigure =
  'stagedBytes' | 'cachedBytes' | 'fetchedBytes' | 'savedBytes' | 'peerFetchedBytes' | 'peerServedBytes';

/** The parts of a supervisor's answer that are shown. */
interface Stats {
  readonly state: string;
  readonly restarts: number;
  readonly worker?: {
    readonly operations?: Readonly<Record<string, { readonly count: number; readonly errors: number }>>;
    readonly volume?: Readonly<Partial<Record<VolumeFigure, number>>>;
  };
}

interface NodeMount {
  readonly volume: string;
  readonly stats: Stats | undefined;
  readonly usage: Usage | undefined;
}

async function mountsOfNode(): Promise<NodeMount[]> {
  // The first place of a file system is where its daemon mounted it; the others are bind mounts.
  const first = new Map(
    allMounts()
      .filter(({ type }) => type === FILE_SYSTEM_TYPE)
      .reverse()
      .map((entry) => [entry.device, entry]),
  );
  return Promise.all(
    [...first.values()].map(async ({ mountpoint, source }) => {
      const volume = /^penstock:(.*)@/.exec(source)?.[1] ?? source;
      const [stats, usage] = await Promise.all(
        (['stats', 'usage'] as const).map((type) =>
          controlRequest(mountpoint, { type }, STATS_MS).catch(() => undefined),
        ),
      );
      // supervisor.ts wrote the one, callers/usage.ts the other.
      return {
        volume,
        stats: stats?.ok === true ? (stats.value as unknown as Stats) : undefined,
        usage: usage?.ok === true ? (usage.value as unknown as Usage) : undefined,
      };
    }),
  );
}
