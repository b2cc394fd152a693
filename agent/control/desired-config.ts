/**
 * The configuration that the control plane wants of this agent: asked for, checked, tried, and kept for starts without a control plane.
 *
 *   asked ──not valid──► refused            (the agent goes on with what it has)
 *     └──► trying ──ran PROVEN_MS──► good   (on the disk)
 *             └──ended with an error, or killed STARTS_MAX times before──► refused: back to `good`, or to agent.yaml
 *
 * Invariants: what the agent runs with was valid by its own schema; `good` is replaced only by what has run. What was refused, and why,
 * stands in the status until something else is wanted or agent.yaml changes.
 * Failure: a control plane that is away changes nothing. A disk that takes no state does not stop the agent: it is logged, and tried again with the next.
 */
import { resolve } from 'node:path';
import { z } from 'zod';
import type { Clock } from '../../lib/clock.ts';
import { ConfigError, parseConfig, type Loaded } from '../../lib/config/load.ts';
import { describeError, isCode } from '../../lib/errors.ts';
import type { AgentConfig } from '../config.ts';
import { pause } from '../sources/source.ts';
import { Backoff } from '../uplink/backoff.ts';
import { ControlPlane, refusalOf } from './control-plane.ts';
import { desiredSchema } from './desired-schema.ts';
import { readState, statePath, writeState, type Desired, type DesiredState } from './desired-state.ts';

/** Whoever waits for a wrong address or a missing file sees it at once; a loop of crashes takes longer to show. */
const PROVEN_MS = 5000;
/** One kill may be an accident. */
const STARTS_MAX = 3;
/** How long the control plane may keep a question open, and what it and the way take besides. */
const WAIT_SECONDS = 30;
const ANSWER_MS = 15_000;
const RETRY_MS_MIN = 1000;
const RETRY_MS_MAX = 30_000;
const UNHELD_MS = 10_000;
const REASON_CHARS_MAX = 1000;

/** `config` null: nothing is wanted. */
const answerSchema = z.object({ version: z.string(), config: z.record(z.string(), z.unknown()).nullable() });

/** In the heartbeat. */
export interface DesiredStatus {
  /** What it runs with; null: its own agent.yaml. */
  readonly version: string | null;
  readonly runningSeconds: number;
  /** What it was asked to run with and does not. */
  readonly refused: { readonly version: string; readonly reason: string } | null;
}

export class DesiredConfig {
  readonly #own: Loaded<AgentConfig>;
  readonly #control: ControlPlane | null;
  readonly #path: string;
  readonly #clock: Clock;
  readonly #log: (line: string) => void;
  readonly #backoff = new Backoff({ minMs: RETRY_MS_MIN, maxMs: RETRY_MS_MAX, random: Math.random });
  #state: DesiredState;
  /** The version of the last answer, whatever came of it. */
  #answered: string | undefined;
  #running: { readonly version: string | null; readonly sinceMs: number };
  #refused: DesiredStatus['refused'] = null;
  #proving: NodeJS.Timeout | undefined;

  private constructor(own: Loaded<AgentConfig>, state: DesiredState, clock: Clock, log: (line: string) => void) {
    this.#own = own;
    this.#control = ControlPlane.of(own);
    this.#path = pathOf(own);
    this.#state = state;
    this.#clock = clock;
    this.#log = log;
    this.#running = { version: null, sinceMs: clock.monotonicMs() };
  }

  /** `own` is agent.yaml: without `control` in it, nothing else is ever chosen. Throws `denied` or `io`. */
  static async open(own: Loaded<AgentConfig>, clock: Clock, log: (line: string) => void): Promise<DesiredConfig> {
    const none: DesiredState = { good: null, trying: null };
    const state = own.config.control === undefined ? none : await readState(pathOf(own), log);
    return new DesiredConfig(own, state, clock, log);
  }

  /** undefined: the agent has no control plane. */
  get status(): DesiredStatus | undefined {
    if (this.#control === null) return undefined;
    const runningSeconds = Math.floor((this.#clock.monotonicMs() - this.#running.sinceMs) / 1000);
    return { version: this.#running.version, runningSeconds, refused: this.#refused };
  }

  /** What to run with now. */
  async choose(): Promise<Loaded<AgentConfig>> {
    const { trying, good } = this.#state;
    if (trying !== null) {
      const reason =
        trying.starts >= STARTS_MAX
          ? `the agent ended ${trying.starts} times in the first ${PROVEN_MS / 1000} s with it`
          : this.#problemOf(trying);
      if (reason === null) {
        await this.#save({ good, trying: { ...trying, starts: trying.starts + 1 } });
        return this.#runWith(trying);
      }
      await this.#refuse(trying, reason);
    }
    if (good === null) return this.#runWith(null);
    const reason = this.#problemOf(good);
    if (reason === null) return this.#runWith(good);
    this.#refused = { version: good.version, reason };
    return this.#runWith(null);
  }

  /** The agent ended with an error. True: it was what had been tried that ended it, and there is another choice. */
  async failed(error: unknown): Promise<boolean> {
    const { trying } = this.#state;
    // Another process has the data directory: that is no matter of a configuration.
    if (trying?.version !== this.#running.version || isCode(error, 'held')) return false;
    await this.#refuse(trying, describeError(error));
    return true;
  }

  /** The agent ended in order, before what it tried was proved. */
  async ended(): Promise<void> {
    const { good, trying } = this.#state;
    if (trying !== null && trying.starts > 0) await this.#save({ good, trying: { ...trying, starts: 0 } });
  }

  /** Sources run with what was chosen: from now on it proves itself. May be told again. */
  started(): void {
    this.#proving ??= setTimeout(() => void this.#proven(), PROVEN_MS);
  }

  /** Resolves to true when something else is to be chosen, to false when the signal fires. Never rejects. */
  async next(signal: AbortSignal): Promise<boolean> {
    try {
      for (let failures = 0; !signal.aborted && this.#control !== null;) {
        try {
          const askedMs = this.#clock.monotonicMs();
          const answer = await this.#ask(this.#control, signal);
          failures = 0;
          if (answer !== null && (await this.#take(answer))) return true;
          // Something on the way does not keep questions open.
          if (answer === null && this.#clock.monotonicMs() - askedMs < RETRY_MS_MIN) await pause(UNHELD_MS, signal);
        } catch {
          // The heartbeat tells what is wrong with the control plane.
          await this.#backoff.wait(failures++, signal);
        }
      }
      if (!signal.aborted) await new Promise((done) => signal.addEventListener('abort', done, { once: true }));
      return false;
    } finally {
      clearTimeout(this.#proving);
      this.#proving = undefined;
    }
  }

  /** null: nothing new within the time that it waited. */
  async #ask(control: ControlPlane, signal: AbortSignal): Promise<z.output<typeof answerSchema> | null> {
    const answer = await control.request(`config?wait=${WAIT_SECONDS}`, {
      signal,
      timeoutMs: WAIT_SECONDS * 1000 + ANSWER_MS,
      ...(this.#answered === undefined ? {} : { headers: { 'if-none-match': `"${this.#answered}"` } }),
    });
    if (answer.status === 304) return null;
    if (answer.status !== 200) throw new Error(refusalOf(answer));
    return answerSchema.parse(JSON.parse(answer.text));
  }

  async #take({ version, config }: z.output<typeof answerSchema>): Promise<boolean> {
    this.#answered = version;
    if (config === null) {
      this.#refused = null;
      const { good, trying } = this.#state;
      if (good !== null || trying !== null) await this.#save({ good: null, trying: null });
      return this.#running.version !== null;
    }
    const desired: Desired = { version, config };
    if (version === this.#running.version) {
      this.#refused = null;
      return false;
    }
    const reason = this.#problemOf(desired);
    if (reason !== null) {
      await this.#refuse(desired, reason);
      return false;
    }
    this.#refused = null;
    const { good } = this.#state;
    // Back to what has run before: there is nothing to prove.
    await this.#save(good?.version === version ? { good, trying: null } : { good, trying: { ...desired, starts: 0 } });
    return true;
  }

  async #proven(): Promise<void> {
    const { trying } = this.#state;
    if (trying === null || trying.version !== this.#running.version) return;
    const { version, config } = trying;
    await this.#save({ good: { version, config }, trying: null });
  }

  #runWith(desired: Desired | null): Loaded<AgentConfig> {
    this.#running = { version: desired?.version ?? null, sinceMs: this.#clock.monotonicMs() };
    return desired === null ? this.#own : { ...this.#own, config: this.#parse(desired) };
  }

  /** Why the agent cannot run with it, or null. */
  #problemOf(desired: Desired): string | null {
    try {
      this.#parse(desired);
      return null;
    } catch (error) {
      if (!(error instanceof ConfigError)) return describeError(error);
      return error.problems.map(({ key, message }) => (key === '' ? message : `${key}: ${message}`)).join('; ');
    }
  }

  /** As a file: with the environment, and the messages. Throws `config`. */
  #parse({ version, config }: Desired): AgentConfig {
    return parseConfig(JSON.stringify(config), `configuration ${version}`, desiredSchema(ownKeys(this.#own)));
  }

  async #refuse({ version }: Desired, reason: string): Promise<void> {
    this.#log(
      `the configuration ${version} of the control plane was not taken over, the agent goes on without it: ${reason}`,
    );
    this.#refused = { version, reason: reason.slice(0, REASON_CHARS_MAX) };
    if (this.#state.trying?.version === version) await this.#save({ good: this.#state.good, trying: null });
  }

  async #save(state: DesiredState): Promise<void> {
    this.#state = state;
    await writeState(this.#path, state).catch((error: unknown) => {
      this.#log(`a restart will not know what the control plane wants: ${describeError(error)}`);
    });
  }
}

const pathOf = ({ config, baseDir }: Loaded<AgentConfig>): string => statePath(resolve(baseDir, config.agent.dataDir));

const ownKeys = ({ config: { agent, control, log } }: Loaded<AgentConfig>): Parameters<typeof desiredSchema>[0] => ({
  agent,
  control,
  log,
});
