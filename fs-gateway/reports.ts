/**
 * A mount tells the control plane who uses it (lib/volume/mount-reports.ts): every EVERY_MS while it is used, once more when it comes to rest,
 * and not at all while nobody asks for anything.
 *
 * Failure: a report that cannot be written is left out; the next one has all of it but the rates in between.
 * Limits: WORKLOADS_MAX of those that moved most, the rest in one; some 10 KB.
 */
import type { MountReport, ReportedWorkload, UsageRates, WorkloadUsage } from '../lib/volume/mount-reports.ts';
import type { Clock } from '../lib/clock.ts';
import type { Usage } from './callers/usage.ts';

const EVERY_MS = 10_000;
const WORKLOADS_MAX = 20;
const FILES_MAX = 10;

export interface ReportsOptions {
  /** Nothing was asked since a while. */
  isIdle(): boolean;
  usage(): Promise<Usage>;
  /** Of the volume: `OpenVolume.stats`. */
  stats(): Readonly<Record<string, string | number>>;
  save(report: MountReport): Promise<void>;
  readonly clock: Clock;
  readonly everyMs?: number;
}

interface Last {
  readonly monotonicMs: number;
  readonly workloads: ReadonlyMap<string, WorkloadUsage>;
  readonly atRest: boolean;
}

export class Reports {
  readonly #options: ReportsOptions;
  readonly #startedMs: number;
  readonly #timer: NodeJS.Timeout;
  #last: Last;
  #running: Promise<void> | undefined;

  constructor(options: ReportsOptions) {
    this.#options = options;
    this.#startedMs = options.clock.nowMs();
    this.#last = { monotonicMs: options.clock.monotonicMs(), workloads: new Map(), atRest: true };
    this.#timer = setInterval(() => void this.#tick(), options.everyMs ?? EVERY_MS).unref();
  }

  #tick(): Promise<void> {
    return (this.#running ??= this.#report()
      .catch(() => undefined) // The engine is away: said elsewhere.
      .finally(() => (this.#running = undefined)));
  }

  async #report(): Promise<void> {
    const { clock } = this.#options;
    if (this.#options.isIdle() && this.#last.atRest) return;
    const { workloads, files } = await this.#options.usage();
    const monotonicMs = clock.monotonicMs();
    const seconds = Math.max(0.001, (monotonicMs - this.#last.monotonicMs) / 1000);
    const rated = workloads.map((workload) => ({
      ...workload,
      perSecond: rates(workload, this.#last.workloads.get(keyOf(workload)), seconds),
    }));
    const byKey = new Map(workloads.map((workload) => [keyOf(workload), workload]));
    this.#last = { monotonicMs, workloads: byKey, atRest: rated.every(({ perSecond }) => perSecond.requests === 0) };
    const figures = this.#options.stats();
    const figure = (name: string): number => Number(figures[name] ?? 0);
    await this.#options.save({
      atMs: clock.nowMs(),
      workerStartedMs: this.#startedMs,
      fetchedBytes: figure('fetchedBytes'),
      peerFetchedBytes: figure('peerFetchedBytes'),
      uploadedBytes: figure('uploadedBytes'),
      cachedBytes: figure('cachedBytes'),
      stagedBytes: figure('stagedBytes'),
      workloads: bounded(rated),
      files: files.slice(0, FILES_MAX),
    });
  }

  async close(): Promise<void> {
    clearInterval(this.#timer);
    await this.#running;
  }
}

const keyOf = ({ kind, id }: WorkloadUsage): string => `${kind}:${id}`;

function rates(now: WorkloadUsage, before: WorkloadUsage | undefined, seconds: number): UsageRates {
  const since = (pick: (of: WorkloadUsage) => number): number =>
    Math.max(0, pick(now) - (before === undefined ? 0 : pick(before))) / seconds;
  return {
    requests: since(({ requests }) => requests),
    readBytes: since(({ readBytes, kernelReadBytes }) => readBytes + kernelReadBytes),
    writtenBytes: since(({ writtenBytes, kernelWrittenBytes }) => writtenBytes + kernelWrittenBytes),
    waitSeconds: since(({ waitSeconds }) => waitSeconds),
  };
}

/** Those that moved most come first. */
function bounded(workloads: readonly ReportedWorkload[]): ReportedWorkload[] {
  if (workloads.length <= WORKLOADS_MAX) return [...workloads];
  const [first, ...rest] = workloads.slice(WORKLOADS_MAX - 1);
  if (first === undefined) return [...workloads];
  const other = rest.reduce(sum, { ...first, kind: 'none', id: 'other', name: null });
  return [...workloads.slice(0, WORKLOADS_MAX - 1), other];
}

function sum(a: ReportedWorkload, b: ReportedWorkload): ReportedWorkload {
  const added = (one: number | null, two: number | null): number | null =>
    one === null && two === null ? null : (one ?? 0) + (two ?? 0);
  return {
    ...a,
    requests: a.requests + b.requests,
    errors: a.errors + b.errors,
    reads: a.reads + b.reads,
    readsWaited: a.readsWaited + b.readsWaited,
    writes: a.writes + b.writes,
    readBytes: a.readBytes + b.readBytes,
    writtenBytes: a.writtenBytes + b.writtenBytes,
    waitSeconds: a.waitSeconds + b.waitSeconds,
    kernelReadBytes: a.kernelReadBytes + b.kernelReadBytes,
    kernelWrittenBytes: a.kernelWrittenBytes + b.kernelWrittenBytes,
    diskReadBytes: added(a.diskReadBytes, b.diskReadBytes),
    diskWrittenBytes: added(a.diskWrittenBytes, b.diskWrittenBytes),
    perSecond: {
      requests: a.perSecond.requests + b.perSecond.requests,
      readBytes: a.perSecond.readBytes + b.perSecond.readBytes,
      writtenBytes: a.perSecond.writtenBytes + b.perSecond.writtenBytes,
      waitSeconds: a.perSecond.waitSeconds + b.perSecond.waitSeconds,
    },
  };
}
