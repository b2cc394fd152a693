/**
 * Running an agent whose configuration may change under it: at SIGHUP, when the file has other bytes than before, or when the control plane
 * wants another one (control/desired-config.ts).
 *
 * A new configuration takes effect by an end in order and a new start within the process: sources stop, what they delivered is synced, what
 * is in flight is answered, and everything begins again on the same spool. So nothing is lost or doubled that kill -9 would not lose either.
 * A changed file is taken after two looks at the same bytes, and those bytes are what is parsed: a file that is being written may be valid
 * in the middle, and a transform that it seems to lack would be ended. At SIGHUP whoever sent it says that the file is whole.
 * Failure: a configuration with problems, or with another data directory, changes nothing; they are logged, and the agent goes on with what it has. When the new start
 * fails (an address that is in use), the agent ends with that error, as it would have at its start; with a configuration of the control
 * plane, it goes back to the one before.
 */
import { resolve } from 'node:path';
import { describeError, PenstockError } from '../lib/errors.ts';
import { systemClock } from '../lib/clock.ts';
import { readConfig, type Loaded } from '../lib/config/load.ts';
import type { AgentConfig } from './config.ts';
import { DesiredConfig } from './control/desired-config.ts';
import { agentConfigFrom, runAgent, type RunAgentOptions } from './main.ts';
import { ServiceManager } from './service-manager.ts';
import { pause } from './sources/source.ts';
import type { AgentSummary } from './status.ts';

/** One small file is read that often: a change is seen while the person who made it still looks. */
const LOOK_EVERY_MS = 2000;

export interface RunReloadingOptions extends Pick<RunAgentOptions, 'onStatus'> {
  readonly path: string;
  readonly signal: AbortSignal;
  readonly log: (line: string) => void;
}

/** Runs until the signal fires. Throws as `loadConfig` for the first configuration, and as `runAgent`. */
export async function runReloading({ path, signal, onStatus, log }: RunReloadingOptions): Promise<AgentSummary> {
  const manager = new ServiceManager(process.env, log);
  const text = await readConfig(path);
  const watch = new ConfigWatch(path, text, log);
  try {
    for (let desired = await DesiredConfig.open(await agentConfigFrom(text, path), systemClock, log); ;) {
      const reload = new AbortController();
      const ended = new AbortController();
      const until = AbortSignal.any([signal, ended.signal]);
      const { config, baseDir } = await desired.choose();
      // One that begins behind the signal is the last, whether it comes to be asked for its time or not.
      const end = { hadGrace: signal.aborted };
      const changes = [watch.next(until, dataDirOf({ config, baseDir })), desired.next(until)] as const;
      for (const change of changes) {
        void change.then((changed) => {
          if (changed !== null && changed !== false) reload.abort();
        });
      }
      const run = await runAgent({
        config,
        baseDir,
        signal: AbortSignal.any([signal, reload.signal]),
        // What is in the spool can wait for the new configuration.
        drainMs: () => {
          end.hadGrace = signal.aborted;
          return end.hadGrace ? undefined : 0;
        },
        desired: () => desired.status,
        log,
        onStatus: (status) => {
          manager.tell(status);
          if (status.sources.length > 0 && !until.aborted && !reload.signal.aborted) desired.started();
          onStatus?.(status);
        },
      }).then(
        (summary) => ({ summary }),
        (error: unknown) => ({ error }),
      );
      ended.abort();
      const [ownChanged, desiredChanged] = await Promise.all(changes);
      if ('error' in run) {
        if (!(await desired.failed(run.error))) throw run.error;
      } else {
        await desired.ended();
        // A signal that comes behind the end for a reload has one more start: its sources rest, and what is in the spool gets its time.
        if (signal.aborted && end.hadGrace) {
          manager.stopping();
          return run.summary;
        }
      }
      if (ownChanged !== null) desired = await DesiredConfig.open(ownChanged, systemClock, log);
      if (ownChanged !== null || desiredChanged) log('the configuration has changed: started anew with it');
    }
  } finally {
    watch.close();
  }
}

class ConfigWatch {
  readonly #path: string;
  readonly #log: (line: string) => void;
  /** What was taken, or refused. */
  #judged: Look;
  /** Fires at SIGHUP. Listened to from the first to the last moment: without a listener the signal ends the process. */
  #hangup = new AbortController();
  readonly #onHangup = (): void => this.#hangup.abort();

  constructor(path: string, text: string, log: (line: string) => void) {
    this.#path = path;
    this.#judged = { text };
    this.#log = log;
    process.on('SIGHUP', this.#onHangup);
  }

  /** Resolves with the next configuration that is valid and for the same spool, or null when the signal fires. Never rejects. */
  async next(signal: AbortSignal, dataDir: string): Promise<Loaded<AgentConfig> | null> {
    for (let last = this.#judged; !signal.aborted;) {
      await pause(LOOK_EVERY_MS, AbortSignal.any([signal, this.#hangup.signal]));
      const isAsked = this.#hangup.signal.aborted;
      if (isAsked) this.#hangup = new AbortController();
      const look = await lookAt(this.#path);
      const isStill = isSame(look, last);
      last = look;
      if (!isAsked && (!isStill || isSame(look, this.#judged))) continue;
      this.#judged = look;
      try {
        if ('problem' in look) throw look.problem;
        return onSameSpool(await agentConfigFrom(look.text, this.#path), dataDir);
      } catch (error) {
        this.#log(
          `the configuration was not taken over, the agent goes on with the one before:\n${describeError(error)}`,
        );
      }
    }
    return null;
  }

  close(): void {
    process.off('SIGHUP', this.#onHangup);
  }
}

function dataDirOf({ config, baseDir }: Pick<Loaded<AgentConfig>, 'config' | 'baseDir'>): string {
  return resolve(baseDir, config.agent.dataDir);
}

/** Throws `config`: on another spool, what waits in this one would be left behind, and files be read from their beginning. */
function onSameSpool(loaded: Loaded<AgentConfig>, dataDir: string): Loaded<AgentConfig> {
  const other = dataDirOf(loaded);
  if (other === dataDir) return loaded;
  const remedy = `stop the agent, move ${dataDir} to ${other} and start it: readings wait in it, and it knows what is read`;
  throw new PenstockError('config', `${loaded.path}: agent.dataDir cannot change under a running agent: ${remedy}`);
}

type Look = { readonly text: string } | { readonly problem: Error };

async function lookAt(path: string): Promise<Look> {
  try {
    return { text: await readConfig(path) };
  } catch (error) {
    return { problem: error instanceof Error ? error : new Error(String(error)) };
  }
}

function isSame(one: Look, other: Look): boolean {
  if ('text' in one && 'text' in other) return one.text === other.text;
  return 'problem' in one && 'problem' in other && one.problem.message === other.problem.message;
}
