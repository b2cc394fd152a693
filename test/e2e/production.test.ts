/**
 * The whole pipeline on the services of production: one Kafka broker, one Redis, one S3 server, and the programs as their users start
 * them. Every program is killed -9 at random moments, the broker and Redis once each, and S3 is cut off for a while, while lines with
 * numbers come in and a reader checks every snapshot. In the end each number is in the table, and in the mount, exactly once.
 */
import { fork, spawn, type ChildProcess } from 'node:child_process';
import { appendFileSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { parquetReadObjects } from 'hyparquet';
import { compressors } from 'hyparquet-compressors';
import { afterAll, beforeAll, describe, expect, it, onTestFinished, vi } from 'vitest';
import { datasetStats, openLake, type DatasetStats } from '../../compactor/main.ts';
import { loadConfig } from '../../lib/config/load.ts';
import { pipelineSchema } from '../../lib/config/pipeline.ts';
import { KafkaBroker } from '../support/kafka.ts';
import { guardMount, isMounted, mountDirs, shell } from '../support/mount-guard.ts';
import { descendants, eventually, isAlive, kill, processes } from '../support/processes.ts';
import { startRedis, type RedisServer } from '../support/redis.ts';
import { cannotMount, missing } from '../support/services.ts';
import { startVersitygw, type S3Server } from '../support/versitygw.ts';
import type { Watched } from './snapshot-reader-child.ts';
import { HANG_MS, LONG_MS } from '../support/hang.ts';
import { freePorts } from '../support/ports.ts';

const BUCKET = 'plant';
const PREFIX = 'lake';
/** All numbered lines are of this hour: one directory of the mount, whose listing is one snapshot. */
const EVENT_TIME = '2026-01-31T07:30:00Z';
const HOUR = 'dt=2026-01-31/hour=07';
const LINES_EVERY_MS = 50;
const LINES = 20;
const KILL_ROUNDS = 3;
/** As a supervisor waits. */
const RESTART_MS = 200;
/** Longer than the first retries of a request, shorter than any deadline. */
const S3_OUTAGE_MS = 2500;

let broker: KafkaBroker;
let redis: RedisServer;
let s3: S3Server;

/** The same kill moments each time, as far as a machine repeats itself. */
let seed = 20260131;
const random = (): number => (seed = (seed * 48271) % 2147483647) / 2147483647;

interface Ended {
  readonly status: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** One command of the CLI as a process, until it ends. */
class Command {
  readonly child: ChildProcess;
  readonly pid: number;
  readonly ended: Promise<Ended>;
  stderr = '';

  constructor(...args: string[]) {
    this.child = spawn(join(import.meta.dirname, '../../bin/penstock'), args, { stdio: ['ignore', 'pipe', 'pipe'] });
    this.pid = this.child.pid ?? 0;
    let stdout = '';
    this.child.stdout?.on('data', (text: Buffer) => (stdout += text.toString()));
    this.child.stderr?.on('data', (text: Buffer) => (this.stderr += text.toString()));
    this.ended = new Promise((resolve) => {
      this.child.once('close', (status, signal) => resolve({ status, signal, stdout, stderr: this.stderr }));
    });
    onTestFinished(() => {
      for (const { pid } of [...descendants(this.pid), { pid: this.pid }]) kill(pid);
    });
  }

  /** What it printed with --json. Fails with its messages when its status is not 0. */
  async result(): Promise<Readonly<Record<string, unknown>>> {
    const { status, signal, stdout, stderr } = await this.ended;
    expect(`${stderr}\n${this.child.spawnargs.join(' ')}: ${signal ?? `status ${status ?? '?'}`}`).toMatch(/status 0$/);
    return JSON.parse(stdout.trim().split('\n').at(-1) ?? '{}') as Readonly<Record<string, unknown>>; // what print() wrote
  }
}

/** A program that its supervisor (systemd, Kubernetes) starts again whenever it ends; an end that no kill explains is kept by name. */
class Service {
  readonly unexplained: string[] = [];
  command: Command;
  #stopping = false;
  #killed = new Set<number>();
  readonly #args: readonly string[];
  readonly #isBatch: boolean;
  #loop: Promise<void>;

  /** `batch`: it ends by itself with status 0, and is started again a moment later. */
  constructor(args: readonly string[], options: { readonly batch: boolean } = { batch: false }) {
    this.#args = args;
    this.#isBatch = options.batch;
    this.command = new Command(...args);
    this.#loop = this.#supervise();
  }

  async #supervise(): Promise<void> {
    for (; ; this.command = new Command(...this.#args)) {
      const { status, signal, stderr } = await this.command.ended;
      const expected = this.#killed.has(this.command.pid) || (status === 0 && (this.#isBatch || this.#stopping));
      if (!expected)
        this.unexplained.push(`${this.#args.join(' ')}: ${signal ?? `status ${status ?? '?'}`}\n${stderr}`);
      if (this.#isStopping()) return;
      await delay(RESTART_MS);
      if (this.#isStopping()) return;
    }
  }

  // A method, because the type checker does not see that an await in between can change it.
  #isStopping(): boolean {
    return this.#stopping;
  }

  /** kill -9 of the program itself, or of a process under it whose command line contains `part`; a batch may fail by that. */
  async kill(part?: string): Promise<void> {
    const pid = await eventually(`a process of ${this.#args.join(' ')}`, () => {
      const { pid } = this.command;
      if (part === undefined) return isAlive(pid) && pid;
      return descendants(pid).find((entry) => entry.command.includes(part))?.pid;
    });
    if (part === undefined || this.#isBatch) this.#killed.add(this.command.pid);
    kill(pid);
    await eventually(`the end of ${pid}`, () => !isAlive(pid));
  }

  /** SIGTERM; what it printed with --json. */
  async stop(): Promise<Readonly<Record<string, unknown>>> {
    this.#stopping = true;
    const { command } = this;
    command.child.kill('SIGTERM');
    const result = await command.result();
    await this.#loop;
    return result;
  }

  /** The end of the run that is under way; none follows. */
  async finish(): Promise<void> {
    this.#stopping = true;
    await this.#loop;
  }
}

/** Numbered lines into a machine's file, until `stop`. */
class NumberedLines {
  count = 0;
  readonly #timer: NodeJS.Timeout;

  constructor(path: string) {
    this.#timer = setInterval(() => {
      const line = (n: number): string => `${JSON.stringify({ n, id: `s-${n % 7}`, ts: EVENT_TIME })}\n`;
      appendFileSync(path, Array.from({ length: LINES }, (_, i) => line(this.count + i)).join(''));
      this.count += LINES;
    }, LINES_EVERY_MS);
    onTestFinished(() => this.stop());
  }

  stop(): void {
    clearInterval(this.#timer);
  }
}

/** The reader beside the pipeline, and what it last told. */
class SnapshotReader {
  watched: Watched = { tableSamples: 0, mountSamples: 0, tableRows: 0, mountRows: 0, unavailable: 0 };
  readonly #child: ChildProcess;

  constructor(...args: string[]) {
    this.#child = fork(join(import.meta.dirname, 'snapshot-reader-child.ts'), args, {
      stdio: ['ignore', 'ignore', 'ignore', 'ipc'],
    });
    this.#child.on('message', (watched: Watched) => (this.watched = watched));
    onTestFinished(() => void this.#child.kill('SIGKILL'));
  }

  /** Until the table and the mount show rows that were not there when this was called: all of the pipeline works. */
  async progress(what: string): Promise<void> {
    const { tableRows, mountRows } = this.watched;
    const detail = (): string => `new rows after ${what}; last seen ${JSON.stringify(this.watched)}`;
    await eventually(detail(), () => {
      expect(this.watched.problem).toBeUndefined();
      expect(this.#child.exitCode).toBeNull();
      return this.watched.tableRows > tableRows && this.watched.mountRows > mountRows;
    });
  }

  end(): void {
    this.#child.kill('SIGKILL');
  }
}

/** A number of the agent's `/metrics`. */
async function agentMetric(port: number, name: string): Promise<number> {
  const text = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text();
  const line = text.split('\n').find((entry) => entry.startsWith(`penstock_agent_${name} `));
  return Number(line?.split(' ').at(-1));
}

/** `DatasetStats` by topic. */
async function readStats(pipelineYaml: string): Promise<Readonly<Record<string, DatasetStats>>> {
  const { config, baseDir } = await loadConfig(pipelineYaml, pipelineSchema);
  const ports = await openLake(config, baseDir, 'test');
  try {
    const entries = config.datasets.map(
      async ({ topic, name }) => [topic, await datasetStats(ports.lake, name)] as const,
    );
    return Object.fromEntries(await Promise.all(entries));
  } finally {
    await ports.close();
  }
}

/** The numbers in the Parquet files of a directory of the mount, in order, by a reader that is not the one that wrote them. */
async function numbersThroughMount(directory: string, copy: string): Promise<number[]> {
  await shell(`cp -r "$1" ${copy}`, directory);
  const numbers: number[] = [];
  for (const name of readdirSync(copy)) {
    const bytes = readFileSync(join(copy, name));
    const file = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
    const rows = await parquetReadObjects({ file, compressors, columns: ['n'] });
    numbers.push(...rows.map((row) => Number(row['n'])));
  }
  return numbers.sort((a, b) => a - b);
}

/** What the test reads of `penstock agent run --json`. */
interface AgentResult {
  readonly perTopic: Readonly<Record<string, { readonly readings: number; readonly delivered: number }>>;
}

describe.skipIf(missing('kafka', 'redis-server', 'versitygw') || cannotMount())('on Kafka, Redis and S3', () => {
  beforeAll(async () => {
    [broker, redis, s3] = await Promise.all([
      KafkaBroker.start(),
      startRedis('--appendonly', 'yes', '--appendfsync', 'everysec'),
      startVersitygw(),
    ]);
    s3.createBucket(BUCKET);
    vi.stubEnv('AWS_ACCESS_KEY_ID', s3.accessKeyId);
    vi.stubEnv('AWS_SECRET_ACCESS_KEY', s3.secretAccessKey);
  });
  afterAll(async () => {
    vi.unstubAllEnvs();
    await Promise.all([broker.close(), redis.stop(), s3.stop()]);
  });

  it('loses and doubles nothing, whatever is killed or out of reach', { timeout: LONG_MS }, async () => {
    const { base: dir, mountpoint } = mountDirs();
    guardMount(mountpoint);
    const [agentPort = 0] = await freePorts(1);
    const store = `s3://${BUCKET}/${PREFIX}?endpoint=${s3.endpoint}&region=us-east-1`;
    const agentYaml = join(dir, 'agent.yaml');
    const pipelineYaml = join(dir, 'pipeline.yaml');
    writeFileSync(
      agentYaml,
      `agent: { id: edge-1, dataDir: ./agent, listen: 127.0.0.1:${agentPort} }
log: kafka://${broker.plain}
spool: { maxBytes: 1GB, whenFull: reject, fsync: group }
sources:
  - { type: file, path: ./machine/*.ndjson, sensor: id, to: numbers, poll: 50ms }
  - { type: simulator, rate: 200, sensors: 20, to: vibration }
`,
    );
    writeFileSync(
      pipelineYaml,
      `log: kafka://${broker.plain}
store: ${store}
meta: ${redis.url()}
datasets:
  - { name: plant.numbers, topic: numbers, eventTime: ts, sort: [id, n] }
  - { name: plant.vibration, topic: vibration, sort: [sensor, ts] }
lander: { commitEvery: 500ms }
compactor: { keepReplaced: 1h }
`,
    );
    mkdirSync(join(dir, 'machine'));

    await new Command('fs', 'format', redis.url(), '--store', store, '--json').result();
    const mount = new Service(['fs', 'mount', redis.url(), mountpoint, '--cache-dir', join(dir, 'cache'), '--json']);
    await eventually('the mount', () => isMounted(mountpoint));
    const lines = new NumberedLines(join(dir, 'machine', 'numbers.ndjson'));
    const agent = new Service(['agent', 'run', '-c', agentYaml, '--json']);
    const lander = new Service(['land', '-c', pipelineYaml, '--json']);
    const compactor = new Service(['compact', '-c', pipelineYaml, '--ignore-lag', '--json'], { batch: true });
    const hourDirectory = join(mountpoint, 'lake/plant.numbers', HOUR);
    const reader = new SnapshotReader(pipelineYaml, join(s3.folder, BUCKET, PREFIX), hourDirectory);
    await reader.progress('the start');

    for (let round = 0; round < KILL_ROUNDS; round++) {
      const kills = [
        () => agent.kill(),
        () => lander.kill(),
        () => compactor.kill(),
        () => mount.kill('worker.ts'),
        () => compactor.kill('sql-worker'),
      ];
      for (const killOne of kills) {
        // A random moment, not a wait for something.
        await delay(random() * 400);
        await killOne();
      }
      await reader.progress(`kill -9 of each program, round ${round}`);
    }
    await broker.kill();
    await broker.start();
    await reader.progress('kill -9 of the broker');
    await redis.kill();
    await redis.start();
    await reader.progress('kill -9 of Redis');
    await s3.cut();
    // How long the outage lasts.
    await delay(S3_OUTAGE_MS);
    await s3.restore();
    await reader.progress('an outage of S3');

    lines.stop();
    const ofNumbers = '{topic="numbers"}';
    await vi.waitFor(
      async () => {
        expect(await agentMetric(agentPort, `topic_readings_total${ofNumbers}`)).toBe(lines.count);
        expect(await agentMetric(agentPort, `topic_lag_readings${ofNumbers}`)).toBe(0);
      },
      { timeout: HANG_MS, interval: 100 },
    );
    const { perTopic } = (await agent.stop()) as unknown as AgentResult; // AgentSummary as JSON
    await lander.stop();
    await compactor.finish();
    await new Command('land', '-c', pipelineYaml, '--once', '--json').result();
    await new Command('compact', '-c', pipelineYaml, '--ignore-lag', '--json').result();

    const stats = await readStats(pipelineYaml);
    for (const [topic, { landed, liveRows, duplicates, quarantined, smallFiles }] of Object.entries(stats)) {
      expect({ topic, landed, quarantined, smallFiles }).toEqual({
        topic,
        landed: liveRows + duplicates,
        quarantined: 0,
        smallFiles: 0,
      });
      expect(perTopic[topic]).toEqual({ readings: liveRows, delivered: liveRows });
    }
    expect(stats['numbers']?.liveRows).toBe(lines.count);
    await eventually('the same rows through the mount', () => {
      expect(reader.watched.problem).toBeUndefined();
      return reader.watched.mountRows === lines.count && reader.watched.tableRows === lines.count;
    });
    expect(reader.watched.tableSamples).toBeGreaterThan(2 * KILL_ROUNDS);
    expect(reader.watched.mountSamples).toBeGreaterThan(2 * KILL_ROUNDS);
    reader.end();
    expect(await numbersThroughMount(hourDirectory, join(dir, 'copy'))).toEqual(
      Array.from({ length: lines.count }, (_, n) => n),
    );

    expect(await new Command('fs', 'fsck', redis.url(), '--json').result()).toMatchObject({ findings: [] });
    await mount.stop();
    // A batch whose session fell with Redis ends by name, and the next one goes on; whatever runs for long must not end.
    const batches = compactor.unexplained.filter((end) => !end.includes('Redis has another replication id'));
    expect([batches, ...[agent, lander, mount].map((service) => service.unexplained)].flat()).toEqual([]);
    expect(isMounted(mountpoint)).toBe(false);
    expect(processes().filter((entry) => entry.command.includes(dir))).toEqual([]);
  });
});
