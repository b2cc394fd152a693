/**
 * The agent: sources -> spool -> uplink, in one process.
 *
 * Order of a start: the spool (and its lock) first, then the sources; the uplink joins when the log can be opened, so an agent whose
 * link is down takes readings from the first moment. Order of an end: sources stop, the spool syncs, the uplink gets a bounded time to
 * deliver what is left, everything closes; the rest stays in the spool.
 * Failure: a source that fails is started again with backoff, from its checkpoint, and shows its problem meanwhile; the other sources
 * go on. A spool that cannot sync any more ends the agent with that error: the next start reads what the disk really has.
 */
import { resolve } from 'node:path';
import { systemClock, type Clock } from '../lib/clock.ts';
import {
  ConfigError,
  loadedFrom,
  readConfig,
  type ConfigProblem,
  type Loaded,
  type PathProblem,
} from '../lib/config/load.ts';
import { describeError, isCode } from '../lib/errors.ts';
import type { Log, TopicOptions } from '../lib/log/log.ts';
import { absoluteUrl, openLog, urlProblem } from '../lib/registry.ts';
import { openSpans } from '../lib/tracing/open-spans.ts';
import { agentSchema, type AgentConfig, type SourceConfig } from './config.ts';
import { ControlPlane } from './control/control-plane.ts';
import type { DesiredStatus } from './control/desired-config.ts';
import { sendHeartbeats } from './control/heartbeat.ts';
import { countDiskWrites } from './disk-writes.ts';
import { Intake } from './intake.ts';
import { namedFilesProblems } from './named-files.ts';
import { Quarantine } from './quarantine.ts';
import { AgentSourceOutput } from './source-output.ts';
import { Ruler } from './rules/ruler.ts';
import { Rules } from './rules/rules.ts';
import { makeSource } from './sources/make-source.ts';
import { pause } from './sources/source.ts';
import { oldestUndeliveredUs } from './spool/spool-reader.ts';
import { openSpool, type Spool } from './spool/spool.ts';
import { prometheusText, summaryOf, type AgentStatus, type AgentSummary } from './status.ts';
import { Taps } from './tap.ts';
import type { ReadingTraces } from './traces.ts';
import { TransformChain } from './transforms/chain.ts';
import { Uplink } from './uplink/uplink.ts';

/** Twice a second is live to a person and nothing to a machine. */
const STATUS_EVERY_MS = 500;
/** Within the 30 s that systemd and Kubernetes give by default, with room for closing. */
const DRAIN_MS_DEFAULT = 10_000;
const RESTART_MS_MIN = 1000;
const RESTART_MS_MAX = 30_000;
/** As pipeline.yaml's defaults, for topics that nobody made before. */
const TOPICS_DEFAULT: TopicOptions = { partitions: 3, retentionMs: 7 * 86_400_000 };
/** A batch that is not full waits this long: below what a person notices, and enough to fill batches under load. */
const LINGER_MS = 20;
const UPLINK_BACKOFF_MS_MAX = 5000;
/** Soon enough after somebody changed the permissions, and little beside the budget of a thin link. */
const UPLINK_REFUSED_BACKOFF_MS_MAX = 30_000;
/** Part of the goal of 80 MB resident. */
const UPLINK_BYTES_IN_MEMORY_MAX = 16 * 1024 * 1024;

export interface RunAgentOptions {
  readonly config: AgentConfig;
  /** The folder that relative paths of the configuration are from. */
  readonly baseDir: string;
  /** Ends the agent: it stops its sources, delivers what it can within `drainMs`, and resolves. */
  readonly signal: AbortSignal;
  /** Called twice a second, and once at the end. */
  readonly onStatus?: (status: AgentStatus) => void;
  readonly clock?: Clock;
  /** How long what is left may be delivered at the end; asked at the end. */
  readonly drainMs?: number | (() => number | undefined);
  /** For topics that do not exist yet. */
  readonly topics?: TopicOptions;
  /** Takes a line when something about a source or a trace is worth one. */
  readonly log?: (line: string) => void;
  /** Which configuration of the control plane this is, for the heartbeat. */
  readonly desired?: () => DesiredStatus | undefined;
}

/** Reads agent.yaml. Throws `config` with every problem, each with line, key and what was expected. */
export async function loadAgentConfig(path: string): Promise<Loaded<AgentConfig>> {
  return agentConfigFrom(await readConfig(path), path);
}

/** The same of `text`, which agent.yaml held when it was read. */
export function agentConfigFrom(text: string, path: string): Promise<Loaded<AgentConfig>> {
  return loadedFrom(text, path, agentSchema, modulesProblems);
}

/** What only files beside agent.yaml, drivers, or libraries that few configurations need, can show. */
async function modulesProblems({ log, sources, transforms }: AgentConfig, baseDir: string): Promise<PathProblem[]> {
  const problems: PathProblem[] = [];
  const logProblem = await urlProblem('log', absoluteUrl(log, baseDir));
  if (logProblem !== null) problems.push({ path: ['log'], message: logProblem });
  for (const [index, source] of sources.entries()) {
    if (source.type === 'opcua') {
      const { libraryProblem } = await import('./sources/opcua/opcua-source.ts');
      const message = libraryProblem(baseDir);
      if (message !== null) problems.push({ path: ['sources', index, 'type'], message });
    }
    if (source.type !== 'file' || source.multiline === undefined) continue;
    const { patternProblem } = await import('./pattern.ts');
    for (const key of ['start', 'continuation'] as const) {
      const message = patternProblem(source.multiline[key] ?? '');
      if (message !== null) problems.push({ path: ['sources', index, 'multiline', key], message });
    }
  }
  for (const [index, transform] of transforms.entries()) {
    if (transform.type === 'parse') {
      const { parsePatternProblem } = await import('./transforms/parse/parse-step.ts');
      const problem = parsePatternProblem(transform);
      if (problem !== null) problems.push({ path: ['transforms', index, problem.key], message: problem.message });
    }
    if (transform.type !== 'wasm') continue;
    const { moduleProblem } = await import('./transforms/wasm/wasm-step.ts');
    const message = await moduleProblem(transform, baseDir);
    if (message !== null) problems.push({ path: ['transforms', index, 'module'], message });
  }
  return problems;
}

/** The same, with the passwords, keys and certificates that it names: they must be there and readable. */
export async function checkAgentConfig(path: string): Promise<Loaded<AgentConfig>> {
  return loadedFrom(await readConfig(path), path, agentSchema, async (config, baseDir) => [
    ...(await modulesProblems(config, baseDir)),
    ...(await namedFilesProblems(config, baseDir)),
  ]);
}

/** What is wrong with agent.yaml, all of it at once; empty when nothing is. Throws `config` when it cannot be read at all. */
export async function validateAgent(path: string): Promise<readonly ConfigProblem[]> {
  try {
    await checkAgentConfig(path);
    return [];
  } catch (error) {
    if (error instanceof ConfigError) return error.problems;
    throw error;
  }
}

/** Runs until the signal fires. Throws `held` when another process has the data directory, `config`, `full`, `denied`, `io`. */
export async function runAgent(options: RunAgentOptions): Promise<AgentSummary> {
  const dataDir = resolve(options.baseDir, options.config.agent.dataDir);
  const { maxBytes, whenFull } = options.config.spool;
  const clock = options.clock ?? systemClock;
  const diskWritten = countDiskWrites();
  const spool = await openSpool({
    dir: resolve(dataDir, 'spool'),
    agent: options.config.agent.id,
    maxBytes,
    whenFull,
    clock,
  });
  try {
    const quarantine = new Quarantine(resolve(dataDir, 'quarantine'), clock);
    const rules = new Rules(options.config.rules);
    const taps = new Taps();
    const traces = await openTraces(options, clock);
    const chain = await TransformChain.open(options.config.transforms, options.baseDir);
    const intake = new Intake(spool, { chain, rules, taps, ...(traces && { traces }) }, quarantine, clock);
    try {
      await intake.start();
      const parts = { spool, intake, quarantine, rules, taps, traces, diskWritten };
      const agent = new RunningAgent(options, clock, dataDir, parts);
      return await agent.run();
    } finally {
      await intake.close();
      await chain.close();
      await quarantine.close();
      await traces?.close();
    }
  } finally {
    await spool.close();
  }
}

/** Loaded where the environment names a receiver. */
async function openTraces(
  { config, log = () => undefined }: RunAgentOptions,
  clock: Clock,
): Promise<ReadingTraces | undefined> {
  const sink = await openSpans('penstock-agent', log);
  if (sink === null) return undefined;
  const { ReadingTraces: Traces } = await import('./traces.ts');
  return new Traces({ sink, everyMs: config.traces.every, agent: config.agent.id, clock, log });
}

interface AgentParts {
  readonly spool: Spool;
  readonly intake: Intake;
  readonly quarantine: Quarantine;
  readonly rules: Rules;
  readonly taps: Taps;
  readonly traces: ReadingTraces | undefined;
  readonly diskWritten: () => number | null;
}

class RunningAgent {
  readonly #options: RunAgentOptions;
  readonly #clock: Clock;
  readonly #dataDir: string;
  readonly #spool: Spool;
  readonly #intake: Intake;
  readonly #quarantine: Quarantine;
  readonly #taps: Taps;
  readonly #traces: ReadingTraces | undefined;
  readonly #diskWritten: () => number | null;
  readonly #rules: Rules;
  readonly #ruler: Ruler;
  readonly #outputs: AgentSourceOutput[] = [];
  /** Fires with the caller's signal, or when the spool failed. */
  readonly #stop = new AbortController();
  #failure: Error | undefined;
  #log: Log | undefined;
  #uplink: Uplink | undefined;
  #uplinkProblem: string | null = 'the log is not open yet';
  #controlProblem: string | null = null;

  constructor(options: RunAgentOptions, clock: Clock, dataDir: string, parts: AgentParts) {
    this.#options = options;
    this.#clock = clock;
    this.#dataDir = dataDir;
    this.#spool = parts.spool;
    this.#intake = parts.intake;
    this.#quarantine = parts.quarantine;
    this.#taps = parts.taps;
    this.#traces = parts.traces;
    this.#diskWritten = parts.diskWritten;
    this.#rules = parts.rules;
    this.#ruler = new Ruler(parts.rules, clock, () => {
      const { bytes, maxBytes } = this.#spool.stats();
      return { spoolUsed: (100 * bytes) / maxBytes, isUplinkUp: this.#uplinkProblemNow() === null };
    });
  }

  async run(): Promise<AgentSummary> {
    const { config, signal, onStatus, drainMs } = this.#options;
    const stop = (): void => this.#stop.abort();
    signal.addEventListener('abort', stop, { once: true });
    if (signal.aborted) stop();
    const endpoint = config.agent.listen === undefined ? undefined : await this.#serve(config.agent.listen);
    const timer = setInterval(() => onStatus?.(this.status()), STATUS_EVERY_MS);
    try {
      const uplinkStarted = this.#startUplink();
      void this.#heartbeats();
      void this.#ruler.run(this.#stop.signal);
      await Promise.all(config.sources.map((source, index) => this.#keepRunning(source, index)));
      await this.#whenStopped();
      await this.#spool.sync();
      await uplinkStarted;
      // Asked also where no uplink could be started: whoever gives the time knows by that which end this is.
      const graceMs = (typeof drainMs === 'function' ? drainMs() : drainMs) ?? DRAIN_MS_DEFAULT;
      await this.#uplink?.drain(graceMs);
    } finally {
      clearInterval(timer);
      signal.removeEventListener('abort', stop);
      await this.#close();
      await endpoint?.close();
    }
    const status = this.status();
    onStatus?.(status);
    if (this.#failure !== undefined) throw this.#failure;
    return summaryOf(status);
  }

  /** Loaded when it is configured: an HTTP server is a fifth of a small agent's memory. */
  async #serve(listen: string): Promise<{ close(): Promise<void> }> {
    const { closeEndpoint, openEndpoint } = await import('./endpoint.ts');
    const server = await openEndpoint(listen, {
      notReady: () => (this.#failure === undefined ? null : describeError(this.#failure)),
      remarks: () => {
        const { heldUp, cuts } = this.status().uplink;
        const waiting = heldUp.map(
          ({ topic, readings, problem }) => `topic ${topic}: ${readings} readings wait: ${problem}`,
        );
        return [...waiting, ...cuts];
      },
      metrics: () => this.#metrics(),
      status: () => this.status(),
      taps: this.#taps,
    });
    return { close: () => closeEndpoint(server) };
  }

  status(): AgentStatus {
    const spool = this.#spool.stats();
    const sources = this.#outputs.map((output) => ({ ...output.counters }));
    const transforms = this.#intake.counters();
    const { agent, incarnation } = this.#spool.identity;
    const uplink = this.#uplink?.status();
    return {
      agent,
      incarnation,
      readings: spool.topics.reduce((sum, topic) => sum + topic.accepted, 0),
      delivered: spool.topics.reduce((sum, topic) => sum + topic.acknowledged, 0),
      spooled: sources.reduce((sum, source) => sum + source.readings, 0),
      quarantined: [...sources.map((source) => source.quarantined), ...transforms.map(({ failed }) => failed)].reduce(
        (sum, count) => sum + count,
        0,
      ),
      sources,
      transforms,
      spool,
      diskWritten: this.#diskWritten(),
      setAside: [...spool.setAside, ...(uplink?.setAside ?? [])],
      uplink: {
        bytes: uplink?.bytes ?? 0,
        inFlight: uplink?.inFlight ?? 0,
        backlog: uplink?.backlog ?? false,
        budget: uplink?.budget ?? null,
        heldUp: uplink?.heldUp ?? [],
        cuts: uplink?.cuts ?? [],
      },
      rules: this.#rules.states(),
      sampledOut: this.#rules.sampledOut,
      uplinkProblem: this.#uplinkProblemNow(uplink),
      controlProblem: this.#controlProblem,
      config: this.#options.desired?.() ?? null,
      spansDropped: this.#traces?.dropped ?? null,
    };
  }

  #uplinkProblemNow(uplink = this.#uplink?.status()): string | null {
    return this.#uplinkProblem ?? uplink?.linkProblem ?? null;
  }

  async #heartbeats(): Promise<void> {
    const control = ControlPlane.of(this.#options);
    if (control === null) return;
    await sendHeartbeats(control, {
      status: () => this.status(),
      signal: this.#stop.signal,
      onProblem: (problem) => (this.#controlProblem = problem),
    });
  }

  async #metrics(): Promise<string> {
    const oldestUs = await oldestUndeliveredUs(this.#spool);
    // A clock that was set back must not give a negative age.
    const seconds = oldestUs === null ? 0 : Math.max(0, this.#clock.nowMs() / 1000 - oldestUs / 1e6);
    return prometheusText(this.status(), seconds);
  }

  /** Until the agent stops or the source has come to its end; a rule that disables it makes it rest. */
  async #keepRunning(config: SourceConfig, index: number): Promise<void> {
    const { signal } = this.#stop;
    const source = await makeSource(config, index, this.#options.config, this.#options.baseDir);
    const { log = () => undefined } = this.#options;
    const output = new AgentSourceOutput(source.name, this.#intake, this.#quarantine, this.#clock, signal, log);
    this.#outputs.push(output);
    for (let waitMs = RESTART_MS_MIN; !signal.aborted; waitMs = Math.min(RESTART_MS_MAX, waitMs * 2)) {
      const turn = await this.#ruler.turnOf(config, signal);
      try {
        await source.run(output, turn.signal);
        if (!turn.signal.aborted) return;
        waitMs = RESTART_MS_MIN;
        continue;
      } catch (error) {
        if (this.#isStopped()) return;
        if (turn.signal.aborted) continue;
        output.report(describeError(error));
        if (isCode(error, 'closed', 'io') && this.#spool.failure !== undefined) {
          this.#failure = this.#spool.failure;
          this.#stop.abort();
          return;
        }
      } finally {
        turn.end();
      }
      await pause(waitMs, signal);
    }
  }

  // A method, because the type checker does not see that an await in between can change it.
  #isStopped(): boolean {
    return this.#stop.signal.aborted;
  }

  #whenStopped(): Promise<void> {
    const { signal } = this.#stop;
    if (signal.aborted) return Promise.resolve();
    return new Promise((done) => signal.addEventListener('abort', () => done(), { once: true }));
  }

  /** Opens the log and starts the uplink, again and again until it works or the agent stops. Never rejects. */
  async #startUplink(): Promise<void> {
    const { config, baseDir, topics = TOPICS_DEFAULT } = this.#options;
    const { signal } = this.#stop;
    for (let waitMs = RESTART_MS_MIN; ; waitMs = Math.min(RESTART_MS_MAX, waitMs * 2)) {
      try {
        this.#log ??= await openLog(absoluteUrl(config.log, baseDir));
        this.#uplink = await Uplink.start({
          log: this.#log,
          spool: this.#spool,
          directory: resolve(this.#dataDir, 'uplink'),
          topics,
          compression: 'zstd',
          lingerMs: LINGER_MS,
          bytesInMemoryMax: UPLINK_BYTES_IN_MEMORY_MAX,
          order: config.uplink.order,
          maxAgeMs: config.uplink.maxAge,
          budget: config.uplink,
          backoff: {
            minMs: 100,
            maxMs: UPLINK_BACKOFF_MS_MAX,
            refusedMaxMs: UPLINK_REFUSED_BACKOFF_MS_MAX,
            random: Math.random,
          },
          clock: this.#clock,
          ...(this.#traces && { traces: this.#traces }),
          ...(this.#options.log && { say: this.#options.log }),
        });
        const uplink = this.#uplink;
        this.#spool.room.isRefused = (topic) => uplink.isRefused(topic);
        this.#uplinkProblem = null;
        return;
      } catch (error) {
        this.#uplinkProblem = describeError(error);
        if (isCode(error, 'config', 'usage')) {
          this.#failure = error;
          this.#stop.abort();
        }
        if (signal.aborted) return;
      }
      await pause(waitMs, signal);
      if (this.#isStopped()) return;
    }
  }

  async #close(): Promise<void> {
    this.#stop.abort();
    await this.#uplink?.close();
    // The acknowledgements of the last deliveries.
    await this.#spool.sync();
    await this.#log?.close();
  }
}
