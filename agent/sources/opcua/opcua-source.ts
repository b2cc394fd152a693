/**
 * Values of an OPC UA server, by a subscription whose notifications are acknowledged when they are on the disk.
 *
 * The library is in a process of its own (client-process.ts), which this source starts and starts again; what must not be lost is here: the
 * position in the subscription is stored in the same group as the readings up to it, and only then is the server told.
 *
 * Invariants: readings are delivered in the order of the notifications, each once: after kill -9 of the agent or its process, the subscription goes on
 * behind the last one that is stored, as long as the server keeps it and gives it to a new session (docs/AGENT.md says when not).
 * Failure: a process that ends is started again with backoff; a delivery that fails ends the process and the source.
 * Limits: those of subscription.ts: what is given out and not stored.
 */
import { fork, type ChildProcess } from 'node:child_process';
import { createHash, X509Certificate } from 'node:crypto';
import { extname, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { z } from 'zod';
import { describeError, PenstockError } from '../../../lib/errors.ts';
import type { AgentConfig } from '../../config.ts';
import { configuredFile } from '../../config-parts.ts';
import type { NewReading } from '../../spool/frame.ts';
import { Backoff } from '../../uplink/backoff.ts';
import { DeliveryQueue } from '../delivery-queue.ts';
import type { Source, SourceOutput } from '../source.ts';
import type { OpcuaSourceConfig } from './config.ts';
import { libraryDirOf } from './library.ts';
import type { ClientOptions, FromClient, NodeReading, Resumption, ToClient } from './messages.ts';

const RESTART_MS_MIN = 1000;
const RESTART_MS_MAX = 30_000;
/** A process that ran that long is started again at once. */
const STEADY_MS = 60_000;
const END_MS_MAX = 6000;
const LAST_WORDS_MAX = 2000;

const storedSchema = z.strictObject({
  server: z.string(),
  subscription: z.int(),
  sequence: z.int(),
  refused: z.array(z.int()),
  /** Which configuration the nodes' indexes are of. */
  of: z.string(),
});

/** What `penstock agent validate` says where the library is missing. */
export function libraryProblem(baseDir: string): string | null {
  if (libraryDirOf(baseDir) !== null) return null;
  return 'OPC UA needs a package that is not installed with the agent: run `npm install node-opcua-client@2` in the folder of agent.yaml, or where penstock is installed';
}

export function opcuaSource(config: OpcuaSourceConfig, agent: AgentConfig, baseDir: string): Source {
  const { host, pathname } = new URL(config.url);
  const name = `opcua:${host}${pathname === '/' ? '' : pathname}`;
  return {
    name,
    run: (output, signal) => new OpcuaSource(config, agent, baseDir, name, output, signal).run(),
  };
}

interface Notification {
  readonly from: Resumption;
  readonly readings: readonly NodeReading[];
}

class OpcuaSource {
  readonly #config: OpcuaSourceConfig;
  readonly #agent: AgentConfig;
  readonly #baseDir: string;
  readonly #key: string;
  /** Of what the nodes' indexes and the subscription depend on. */
  readonly #of: string;
  readonly #output: SourceOutput;
  readonly #stop: AbortSignal;
  readonly #failed = new AbortController();
  readonly #queue: DeliveryQueue<Notification>;
  #failure: Error | undefined;
  #child: ChildProcess | undefined;

  constructor(
    config: OpcuaSourceConfig,
    agent: AgentConfig,
    baseDir: string,
    name: string,
    output: SourceOutput,
    signal: AbortSignal,
  ) {
    this.#config = config;
    this.#agent = agent;
    this.#baseDir = baseDir;
    this.#key = `${name}|subscription`;
    this.#of = createHash('sha256')
      .update(JSON.stringify({ ...config, to: null, priority: null }))
      .digest('hex')
      .slice(0, 16);
    this.#output = output;
    this.#stop = AbortSignal.any([signal, this.#failed.signal]);
    this.#queue = new DeliveryQueue({
      deliver: (batch) => this.#deliver(batch),
      // Its process gives out a bounded number of notifications.
      onRoom: () => undefined,
      onFailure: (error) => {
        this.#failure ??= error;
        this.#failed.abort();
      },
    });
  }

  async run(): Promise<void> {
    const { clock } = this.#output;
    const backoff = new Backoff({ minMs: RESTART_MS_MIN, maxMs: RESTART_MS_MAX, random: Math.random });
    for (let attempt = 0; !this.#isOver(); attempt += 1) {
      const startedMs = clock.monotonicMs();
      const reason = await this.#runProcess(await this.#clientOptions());
      // What it gave out before its end is stored, so that the next one goes on behind it.
      await this.#queue.idle();
      if (this.#isOver()) break;
      this.#output.count('process_end');
      this.#output.report(reason);
      if (clock.monotonicMs() - startedMs >= STEADY_MS) attempt = 0;
      await backoff.wait(attempt, this.#stop);
    }
    await this.#queue.idle();
    if (this.#failure !== undefined) throw this.#failure;
  }

  // A method, because the type checker does not see that an await in between can change it.
  #isOver(): boolean {
    return this.#stop.aborted;
  }

  /** Throws `config` when a file is missing or the library is. */
  async #clientOptions(): Promise<ClientOptions> {
    const { security, passwordFile } = this.#config;
    const libraryDir = libraryDirOf(this.#baseDir);
    if (libraryDir === null) throw new PenstockError('config', libraryProblem(this.#baseDir) ?? '');
    const stored = storedSchema.safeParse(this.#output.checkpoint(this.#key)).data;
    const { of, ...resumption } = stored ?? { of: null };
    const known = 'server' in resumption ? resumption : null;
    const password =
      passwordFile === undefined ? null : await configuredFile(this.#baseDir, passwordFile, 'passwordFile');
    return {
      config: this.#config,
      libraryDir,
      pkiDir: resolve(
        this.#baseDir,
        this.#agent.agent.dataDir,
        'opcua',
        new URL(this.#config.url).host.replaceAll(':', '_'),
      ),
      // Stable: to an anonymous user, a server gives its subscriptions again by this name.
      applicationUri: `urn:penstock:agent:${encodeURIComponent(this.#agent.agent.id)}`,
      password: password?.toString('utf8').replace(/\r?\n$/, '') ?? null,
      serverCert: security === undefined ? null : await certificateIn(this.#baseDir, security.serverCert),
      certPath: security?.cert === undefined ? null : resolve(this.#baseDir, security.cert),
      keyPath: security?.key === undefined ? null : resolve(this.#baseDir, security.key),
      resumption: of === this.#of ? known : null,
      outdated: of === this.#of ? null : known,
    };
  }

  /** Until the process has ended; resolves to the reason. */
  async #runProcess(options: ClientOptions): Promise<string> {
    const path = fileURLToPath(new URL(`./client-process${extname(import.meta.filename)}`, import.meta.url));
    const child = fork(path, {
      execArgv: ['--max-semi-space-size=1', '--disable-warning=ExperimentalWarning'],
      serialization: 'advanced',
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    });
    this.#child = child;
    let lastWords = '';
    child.stderr?.on('data', (chunk: Buffer) => (lastWords = (lastWords + chunk.toString()).slice(-LAST_WORDS_MAX)));
    child.on('message', (message: FromClient) => this.#hear(message));
    const exited = new Promise<string>((done) => {
      child.on('error', (error) => done(`its process cannot be started: ${error.message}`));
      child.on('close', (code, signal) => {
        const words = lastWords.trim().split('\n').at(-1) ?? '';
        done(`its process ended (${signal ?? `status ${code}`})${words === '' ? '' : `: ${words}`}`);
      });
    });
    let killTimer: NodeJS.Timeout | undefined;
    const end = (): void => {
      this.#tell({ type: 'end' });
      killTimer = setTimeout(() => child.kill('SIGKILL'), END_MS_MAX);
    };
    this.#stop.addEventListener('abort', end, { once: true });
    if (this.#stop.aborted) end();
    this.#tell({ type: 'start', options });
    try {
      return await exited;
    } finally {
      clearTimeout(killTimer);
      this.#stop.removeEventListener('abort', end);
      this.#child = undefined;
    }
  }

  #tell(message: ToClient): void {
    // It may have ended at this moment; whoever waits for its end knows then.
    if (this.#child?.connected === true) this.#child.send(message, () => undefined);
  }

  #hear(message: FromClient): void {
    switch (message.type) {
      case 'notification':
        this.#queue.push(
          message,
          message.readings.reduce((sum, { fields }) => sum + fields.length, 0),
        );
        return;
      case 'event':
        this.#output.count(message.event);
        return;
      case 'problem':
        this.#output.report(message.problem);
    }
  }

  async #deliver(batch: readonly Notification[]): Promise<void> {
    const last = batch.at(-1);
    if (last === undefined) return;
    const arrivalUs = this.#output.clock.nowMs() * 1000;
    const values = batch.flatMap(({ readings }) => readings);
    const readings = values.flatMap((value) => this.#readingOf(value, arrivalUs));
    const state = { ...last.from, refused: [...last.from.refused], of: this.#of };
    await this.#output.deliver(readings, [{ source: this.#key, state }]);
    const overflows = values.filter(({ hasOverflowed }) => hasOverflowed).length;
    if (overflows > 0) this.#output.count('overflow', overflows);
    for (const { from } of batch) {
      this.#tell({ type: 'stored', subscription: from.subscription, sequence: from.sequence });
    }
  }

  #readingOf({ node, fields, timeUs }: NodeReading, arrivalUs: number): readonly NewReading[] {
    const { to: topic, priority, nodes } = this.#config;
    const config = nodes[node];
    // A handle that nobody gave.
    if (config === undefined) return [];
    const { sensor, unit } = config;
    const own = { sensor, ts: (timeUs ?? arrivalUs) / 1000, ...(unit === undefined ? {} : { unit }) };
    const value = `${JSON.stringify(own).slice(0, -1)},${fields}`;
    return [{ topic, key: sensor, value, eventUs: timeUs ?? arrivalUs, arrivalUs, priority }];
  }
}

/** Of a file in PEM or DER. Throws `config`. */
async function certificateIn(baseDir: string, path: string): Promise<Buffer> {
  const bytes = await configuredFile(baseDir, path, 'security.serverCert');
  try {
    return new X509Certificate(bytes).raw;
  } catch (cause) {
    const message = `security.serverCert: ${path} is no certificate in PEM or DER: ${describeError(cause)}`;
    throw new PenstockError('config', message, { cause });
  }
}
