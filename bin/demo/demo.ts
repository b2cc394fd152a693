/**
 * `penstock demo`: the whole pipeline as one process tree in one directory. This process is the head: it starts agent, lander, compactor,
 * mount and admin page as children, starts those again that die, shows what happens, and at the end drains, lands, compacts, and queries.
 *
 * Invariants: one head per directory (a kernel lock). The head keeps no state of its own: every figure it prints is read from the spool's
 * and the table's own records, so it may be killed at any moment and a second start goes on where the first was.
 * Failure: a child that is killed is started again; the head that is killed takes its children along (they see the channel close), and
 * its mount is found and replaced by the next start.
 */
import { once } from 'node:events';
import { createServer } from 'node:net';
import { basename, join, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { z } from 'zod';
import type { AgentConfig } from '../../agent/config.ts';
import { runAgent } from '../../agent/main.ts';
import { compact, datasetStats, land, openLake, type DatasetStats } from '../../compactor/main.ts';
import { ensureVolume, mountability } from '../../fs-gateway/main.ts';
import { PenstockError } from '../../lib/errors.ts';
import { acquireProcessLock } from '../../lib/process-lock.ts';
import { counted } from '../../lib/units.ts';
import type { LakeContext } from '../../lib/table/table.ts';
import { DemoChild } from './child.ts';
import {
  demoPaths,
  makeConfiguration,
  refuseForeignDirectory,
  type DemoConfiguration,
  type DemoPaths,
} from './configuration.ts';
import { liveFilePaths, parquetBelow, queryDatasets, type QueryResult } from './query.ts';
import { DemoScreen, type DemoProgress } from './screen.ts';

/** How often the small files are compacted while readings come in. */
const COMPACT_EVERY_MS = 15_000;
const PROGRESS_EVERY_MS = 500;
/** The spool is drained in steps of this; a step that delivers nothing ends the demo with the reason. */
const DRAIN_STEP_MS = 30_000;
const COMPACT_ATTEMPTS = 3;
const STOP_MS = 30_000;
const MOUNT_MS = 30_000;
/** Twice the lease of a mount. */
const LISTING_MS = 10_000;

/** What the head reads of the agent's status. */
const agentStatusSchema = z.object({
  readings: z.number(),
  delivered: z.number(),
  spool: z.object({ bytes: z.number() }),
  setAside: z.array(z.string()),
});

export interface DemoOptions {
  readonly dir: string;
  /** Ends by itself after this; undefined: at the signal. */
  readonly forMs: number | undefined;
  /** Simulated readings per second. */
  readonly rate: number;
  readonly signal: AbortSignal;
}

export interface DemoSummary {
  readonly readings: number;
  readonly spooled: number;
  readonly landedRows: number;
  readonly duplicates: number;
  readonly quarantined: number;
  readonly compactedRows: number;
  readonly smallFiles: number;
  readonly compactedFiles: number;
  readonly bytesBefore: number;
  readonly bytesAfter: number;
  readonly mountpoint: string | null;
  readonly queryRows: number;
  readonly seconds: number;
}

export interface DemoResult {
  readonly summary: DemoSummary;
  readonly query: QueryResult;
  /** What did not go through, by name. Not empty: exit status 3. */
  readonly problems: readonly string[];
}

/** Throws `held` when another demo has the directory, `usage` when the directory is somebody else's, `config`. */
export async function runDemo(options: DemoOptions): Promise<DemoResult> {
  const paths = demoPaths(resolve(options.dir));
  refuseForeignDirectory(paths);
  const lock = await acquireProcessLock(join(paths.dir, 'demo.lock'), { label: 'penstock demo' });
  try {
    const free = { agent: await freePort(), control: await freePort() };
    const configuration = await makeConfiguration(paths, options.rate, free);
    await ensureVolume({ metaUrl: paths.metaUrl, storeUrl: paths.storeUrl });
    const ports = await openLake(configuration.pipeline, paths.dir, 'demo');
    try {
      return await new Demo(options, paths, configuration, ports.lake).run();
    } finally {
      await ports.close();
    }
  } finally {
    lock.release();
  }
}

/** For the page and the agent that reports to it, and for who asks the agent: each must know it before the other runs. */
async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  return typeof address === 'object' && address !== null ? address.port : 0;
}

/** Nobody looks at the agent that drains. */
const withoutListen = ({ listen: _, ...rest }: AgentConfig['agent']): AgentConfig['agent'] => rest;

class Demo {
  readonly #options: DemoOptions;
  readonly #paths: DemoPaths;
  readonly #configuration: DemoConfiguration;
  readonly #lake: LakeContext;
  readonly #screen = new DemoScreen(process.stderr);
  readonly #startedMs = performance.now();
  readonly #agent: DemoChild;
  readonly #lander: DemoChild;
  readonly #mount: DemoChild;
  readonly #control: DemoChild;
  readonly #problems = new Set<string>();
  /** Ends collecting when a child has failed for good: nothing may go on behind the error. */
  readonly #failed = new AbortController();
  #isMountPossible = true;
  #phase: DemoProgress['phase'] = 'collecting';
  #stats: DatasetStats[] = [];
  #agentTotals = { readings: 0, delivered: 0, spoolBytes: 0 };
  #rate = { readings: 0, atMs: performance.now(), perSecond: 0 };

  constructor(options: DemoOptions, paths: DemoPaths, configuration: DemoConfiguration, lake: LakeContext) {
    this.#options = options;
    this.#paths = paths;
    this.#configuration = configuration;
    this.#lake = lake;
    const child = (name: string, args: readonly string[]): DemoChild =>
      new DemoChild(name, args, join(paths.logs, `${name}.log`));
    this.#agent = child('agent', ['agent', 'run', '-c', paths.agent]);
    this.#lander = child('lander', ['land', '-c', paths.pipeline]);
    this.#control = child('control', ['serve', '-c', paths.pipeline, '--port', String(configuration.controlPort)]);
    this.#mount = child('mount', [
      'fs',
      'mount',
      paths.metaUrl,
      paths.mountpoint,
      '--cache-dir',
      join(paths.dir, 'cache'),
    ]);
  }

  async run(): Promise<DemoResult> {
    for (const note of this.#configuration.notes) this.#screen.say(`penstock: ${note}`);
    const progress = this.#showProgress();
    try {
      this.#startMount();
      this.#agent.start();
      this.#lander.start();
      this.#control.start();
      void this.#sayAddress();
      await Promise.race([
        this.#collect(),
        this.#agent.failure,
        this.#lander.failure,
        this.#mount.failure,
        this.#control.failure,
      ]);
      return await this.#finish();
    } finally {
      this.#failed.abort();
      progress.stop();
      await Promise.all([this.#agent.stop(STOP_MS), this.#lander.stop(STOP_MS), this.#control.stop(STOP_MS)]);
      await this.#mount.stop(STOP_MS);
    }
  }

  #startMount(): void {
    const possible = mountability();
    if (possible.ok) {
      this.#mount.start();
      return;
    }
    this.#isMountPossible = false;
    this.#screen.say(`penstock: no mount here (${possible.reason}); the query will read the objects`);
  }

  get #mountpoint(): string | null {
    return this.#mount.status?.['kind'] === 'mounted' ? this.#paths.mountpoint : null;
  }

  /** Readings are collected and land without it: only the query at the end needs the mount. */
  async #untilMounted(): Promise<void> {
    const deadline = performance.now() + MOUNT_MS;
    while (this.#isMountPossible && this.#mountpoint === null) {
      await Promise.race([delay(50), this.#mount.failure]);
      if (performance.now() > deadline) {
        throw new PenstockError(
          'timeout',
          `the mount at ${this.#paths.mountpoint} is not there after ${MOUNT_MS / 1000} s: see ${this.#paths.logs}/mount.log`,
        );
      }
    }
  }

  /** Once: the page is for whoever watches, the pipeline does not wait for it. */
  async #sayAddress(): Promise<void> {
    while (this.#phase === 'collecting' && this.#control.status?.['kind'] !== 'serving') await delay(100);
    const url = this.#control.status?.['url'];
    if (typeof url === 'string') this.#screen.say(`penstock: the admin page is at ${url}`);
  }

  /** Until the time is over or the signal fires; compacts what has landed meanwhile. The time begins when the agent is at work. */
  async #collect(): Promise<void> {
    const { forMs } = this.#options;
    const ended = AbortSignal.any([this.#options.signal, this.#failed.signal]);
    while (this.#agent.status === undefined && !ended.aborted) await delay(50);
    const over = forMs === undefined ? ended : AbortSignal.any([ended, AbortSignal.timeout(forMs)]);
    while (!over.aborted) {
      const waited = await delay(COMPACT_EVERY_MS, true, { signal: over }).catch(() => false);
      if (!waited) return;
      const run = new DemoChild(
        'compactor',
        ['compact', '-c', this.#paths.pipeline, '--ignore-lag', '--json'],
        join(this.#paths.logs, 'compactor.log'),
        { restart: false },
      );
      run.start();
      await Promise.race([run.ended, new Promise((done) => over.addEventListener('abort', done, { once: true }))]);
      await run.stop(STOP_MS);
    }
  }

  async #finish(): Promise<DemoResult> {
    this.#enter('draining');
    await this.#agent.stop(STOP_MS);
    const totals = await this.#drain();
    this.#enter('landing');
    await this.#lander.stop(STOP_MS);
    const signal = new AbortController().signal;
    const landed = await land(this.#configuration.pipeline, this.#paths.dir, { once: true, signal });
    this.#addProblems(landed.problems);
    this.#enter('compacting');
    this.#addProblems(await this.#compactAll(signal));
    this.#enter('querying');
    await this.#untilMounted();
    const stats = await this.#readStats();
    const query = await queryDatasets(await this.#files());
    this.#addProblems(query.problems);
    const sum = (pick: (stats: DatasetStats) => number): number => stats.reduce((total, one) => total + pick(one), 0);
    const summary: DemoSummary = {
      readings: totals.readings,
      spooled: totals.delivered,
      landedRows: sum((one) => one.landed),
      duplicates: sum((one) => one.duplicates),
      quarantined: sum((one) => one.quarantined),
      compactedRows: sum((one) => one.liveRows),
      smallFiles: sum((one) => one.landedFiles),
      compactedFiles: sum((one) => one.liveFiles),
      bytesBefore: sum((one) => one.landedBytes),
      bytesAfter: sum((one) => one.liveBytes),
      mountpoint: this.#mountpoint,
      queryRows: query.rows,
      seconds: Math.round((performance.now() - this.#startedMs) / 100) / 10,
    };
    return { summary, query, problems: [...this.#problems] };
  }

  #addProblems(problems: Iterable<string>): void {
    for (const problem of problems) this.#problems.add(problem);
  }

  /** What is left of a run whose SQL worker was killed is done by the next. Returns the problems that stayed. */
  async #compactAll(signal: AbortSignal): Promise<readonly string[]> {
    for (let attempt = 1; ; attempt++) {
      const { problems } = await compact(this.#configuration.pipeline, this.#paths.dir, { ignoreLag: true, signal });
      if (problems.length === 0 || attempt === COMPACT_ATTEMPTS) return problems;
    }
  }

  #enter(phase: DemoProgress['phase']): void {
    this.#phase = phase;
    this.#screen.show(this.#progress());
  }

  /** Delivers what is left in the spool, without sources, and returns what the spool itself says. */
  async #drain(): Promise<{ readings: number; delivered: number }> {
    const { agent } = this.#configuration;
    for (let before = -1; ;) {
      const problems: string[] = [];
      const summary = await runAgent({
        config: { ...agent, agent: withoutListen(agent.agent), sources: [] },
        baseDir: this.#paths.dir,
        signal: AbortSignal.abort(),
        drainMs: DRAIN_STEP_MS,
        onStatus: (status) => {
          if (status.uplinkProblem !== null) problems.push(status.uplinkProblem);
          this.#noteAgent(status);
        },
      });
      if (summary.delivered >= summary.readings) return summary;
      if (summary.delivered === before) {
        this.#addProblems([
          `${counted(summary.readings - summary.delivered, 'reading')} not sent, in the spool: ${problems.at(-1) ?? 'the log takes nothing'}`,
        ]);
        return summary;
      }
      before = summary.delivered;
    }
  }

  /**
   * As a program that uses the mount finds them; without a mount, the objects of the table. What was committed a moment ago reaches the
   * mount by the feed: the listing may be behind by that, never by more than the lease (docs/SEMANTICS.md).
   */
  async #files(): Promise<Map<string, readonly string[]>> {
    const files = new Map<string, readonly string[]>();
    for (const { name: dataset } of this.#configuration.pipeline.datasets) {
      const objects = await liveFilePaths(this.#lake, dataset);
      files.set(dataset, this.#mountpoint === null ? objects : await this.#listed(dataset, objects));
    }
    return files;
  }

  async #listed(dataset: string, objects: readonly string[]): Promise<readonly string[]> {
    const expected = new Set(objects.map((path) => basename(path)));
    const dir = join(this.#paths.mountpoint, 'lake', dataset);
    for (const deadline = performance.now() + LISTING_MS; ;) {
      const paths = parquetBelow(dir);
      const isCurrent = paths.length === expected.size && paths.every((path) => expected.has(basename(path)));
      if (isCurrent || performance.now() > deadline) return paths;
      await delay(50);
    }
  }

  async #readStats(): Promise<DatasetStats[]> {
    const stats: DatasetStats[] = [];
    for (const { name } of this.#configuration.pipeline.datasets) stats.push(await datasetStats(this.#lake, name));
    this.#stats = stats;
    return stats;
  }

  #showProgress(): { stop(): void } {
    let busy = false;
    const timer = setInterval(() => {
      if (busy) return;
      busy = true;
      void this.#readStats()
        // The figures of a moment: a failed read is repeated half a second later, and the phases report their own errors.
        .catch(() => undefined)
        .then(() => this.#screen.show(this.#progress()))
        .finally(() => (busy = false));
    }, PROGRESS_EVERY_MS);
    return { stop: () => clearInterval(timer) };
  }

  #progress(): DemoProgress {
    if (this.#phase === 'collecting') this.#noteAgent(this.#agent.status);
    const { readings, delivered, spoolBytes } = this.#agentTotals;
    const nowMs = performance.now();
    if (nowMs - this.#rate.atMs > 1000) {
      const perSecond =
        this.#rate.readings === 0
          ? 0
          : Math.max(0, ((readings - this.#rate.readings) * 1000) / (nowMs - this.#rate.atMs));
      this.#rate = { readings, atMs: nowMs, perSecond };
    }
    const sum = (pick: (stats: DatasetStats) => number): number =>
      this.#stats.reduce((total, one) => total + pick(one), 0);
    const seconds = (nowMs - this.#startedMs) / 1000;
    const { forMs } = this.#options;
    return {
      phase: this.#phase,
      seconds,
      secondsLeft: forMs === undefined ? undefined : forMs / 1000 - seconds,
      readings,
      readingsPerSecond: this.#rate.perSecond,
      spoolBytes,
      notDelivered: readings - delivered,
      landed: sum((one) => one.landed),
      quarantined: sum((one) => one.quarantined),
      duplicates: sum((one) => one.duplicates),
      smallFiles: sum((one) => one.landedFiles),
      smallBytes: sum((one) => one.landedBytes),
      liveFiles: sum((one) => one.liveFiles),
      liveBytes: sum((one) => one.liveBytes),
      mountpoint: this.#mountpoint,
      restarts: this.#agent.restarts + this.#lander.restarts + this.#mount.restarts + this.#control.restarts,
    };
  }

  /** The agent's status, from this process or as it came over the channel. */
  #noteAgent(status: unknown): void {
    const { data: known } = agentStatusSchema.safeParse(status);
    if (known === undefined) return;
    this.#agentTotals = { readings: known.readings, delivered: known.delivered, spoolBytes: known.spool.bytes };
    this.#addProblems(
      known.setAside.map(
        (path) =>
          `${path} was found damaged and set aside: of a spool segment, what could not be read is lost; of intents, nothing`,
      ),
    );
  }
}
