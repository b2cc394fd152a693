/**
 * Runs programs on several mounts of one volume over a real Redis and S3, with faults, and checks what they saw. Each mount reaches Redis
 * through a link of its own that can be slow, reset and cut.
 *
 * In rounds: every client does some operations while one fault is made; then all mounts are looked at until they agree (what was committed
 * must reach them all), and the round is checked against the state before it.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { onTestFinished } from 'vitest';
import { mountStats } from '../../fs-gateway/main.ts';
import { mountTestVolume, startServices } from '../support/fs-volume.ts';
import type { MountedVolume, Services, TestMountOptions } from '../support/fs-volume.ts';
import { shell } from '../support/mount-guard.ts';
import { volumeStats } from '../fs-gateway/passthrough-volume.ts';
import { TcpProxy } from '../support/tcp-proxy.ts';
import { checkContents, checkDurable, checkLocks } from './check-content.ts';
import { checkNames } from './check-names.ts';
import { describe, failed, type Durable, type Operation, type State } from './history.ts';
import { HANG_MS } from '../support/hang.ts';

/** Below the lease, so that no session, and no lock, is lost by it. */
const CUT_MS_MAX = 1500;

export const FAULTS = ['none', 'worker', 'redis', 'cut', 'reset', 'store', 'workers', 'late'] as const;
/** As client.py names them. */
const FILES = ['f0', 'f1', 'f2'];
export type Fault = (typeof FAULTS)[number];

export interface HistoryOptions {
  readonly seed: number;
  readonly mounts: number;
  readonly clientsPerMount: number;
  readonly operationsPerRound: number;
  /** Of all mounts. */
  readonly mode: Pick<TestMountOptions, 'passthrough' | 'writeback'>;
  /** Whether to make another round, and with which fault; undefined ends. */
  next(round: number): Fault | undefined;
}

export interface HistoryReport {
  readonly operations: number;
  readonly rounds: number;
  /** Workers that were killed -9. */
  readonly kills: number;
  readonly faults: Readonly<Record<Fault, number>>;
  /** Opens that the kernel served by itself, of the worker that had most. */
  readonly passthroughOpens: number;
  readonly errors: readonly string[];
  readonly violations: readonly string[];
}

/** xorshift32: a seed replays the faults. */
function generator(seed: number): () => number {
  let state = seed | 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
}

class Client {
  readonly name: string;
  readonly mount: number;
  readonly #child: ChildProcess;
  #lines: unknown[][] = [];
  #begun: unknown[] = [];
  #done: ((lines: unknown[][]) => void) | undefined;

  /** `written`: the files that it writes. */
  constructor(name: string, mount: number, mountpoint: string, seed: number, written: readonly string[]) {
    this.name = name;
    this.mount = mount;
    const script = join(import.meta.dirname, 'client.py');
    const child = spawn('python3', [script, mountpoint, name, String(seed), written.join(',')], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    this.#child = child;
    onTestFinished(() => {
      child.kill('SIGKILL');
    });
    createInterface({ input: child.stdout }).on('line', (line) => {
      const fields = JSON.parse(line) as unknown[]; // an array, by client.py
      if (fields[0] === 'begin') this.#begun = fields;
      else if (fields[0] !== 'done') this.#lines.push(fields);
      else {
        const lines = this.#lines;
        this.#lines = [];
        this.#done?.(lines);
      }
    });
  }

  /** What the client printed for the command. */
  async ask(command: string): Promise<unknown[][]> {
    const { promise, resolve, reject } = Promise.withResolvers<unknown[][]>();
    const timer = setTimeout(() => {
      reject(
        new Error(
          `${this.name} did not end '${command}' within ${HANG_MS} ms: it is in ${JSON.stringify(this.#begun)}`,
        ),
      );
    }, HANG_MS);
    this.#done = resolve;
    const ended = (): void => reject(new Error(`${this.name} ended before '${command}' did`));
    this.#child.once('exit', ended);
    this.#child.stdin?.write(`${command}\n`);
    try {
      return await promise;
    } finally {
      clearTimeout(timer);
      this.#child.off('exit', ended);
    }
  }

  async operate(round: number, count: number): Promise<Operation[]> {
    const lines = await this.ask(`run ${round} ${count}`);
    return lines.map(([kind, args, result, start, end]) => ({
      mount: this.mount,
      client: this.name,
      kind: String(kind),
      args: (args as unknown[]).map(String), // an array, by client.py
      result,
      start: Number(start),
      end: Number(end),
    }));
  }

  async look(): Promise<State> {
    const [answer] = await this.ask('look');
    return answer?.[1] as State; // as client.py builds it
  }
}

interface World {
  readonly services: Services;
  readonly links: readonly TcpProxy[];
  readonly mounts: readonly MountedVolume[];
  readonly clients: readonly Client[];
  readonly random: () => number;
  kills: number;
}

async function build({ seed, mounts: count, clientsPerMount, mode }: HistoryOptions): Promise<World> {
  const services = await startServices('--appendonly', 'yes', '--appendfsync', 'always');
  onTestFinished(() => services.stop());
  // The kernel reads by itself what is in objects.
  const volume = await services.volume(mode.passthrough === undefined ? {} : { inlineBytes: '0' });
  const links: TcpProxy[] = [];
  const mounts: MountedVolume[] = [];
  for (let n = 0; n < count; n++) {
    const link = await TcpProxy.start(() => services.redis.port);
    onTestFinished(() => link.close());
    links.push(link);
    const metaUrl = volume.metaUrl.replace(String(services.redis.port), String(link.port));
    mounts.push(await mountTestVolume({ ...volume, metaUrl }, mode));
  }
  await shell(
    'cd $1; mkdir names; for f in f0 f1 f2; do echo initial > $f; done; : > log; for c in fcntl flock; do printf %020d 0 > count-$c; done',
    mounts[0]?.mountpoint ?? '',
  );
  // Where the kernel writes, what two mounts write over each other at one time is mixed by bytes: each has files of its own.
  const writtenBy = (mount: number): readonly string[] =>
    mode.passthrough === 'full' ? FILES.filter((_, n) => n % count === mount) : FILES;
  const clients = mounts.flatMap(({ mountpoint }, mount) =>
    Array.from(
      { length: clientsPerMount },
      (_, n) => new Client(`c${mount * clientsPerMount + n}`, mount, mountpoint, seed, writtenBy(mount)),
    ),
  );
  return { services, links, mounts, clients, random: generator(seed), kills: 0 };
}

function pick<T>(random: () => number, all: readonly T[]): T {
  const one = all[Math.floor(random() * all.length)];
  if (one === undefined) throw new Error('nothing to pick from');
  return one;
}

async function killWorker(world: World, { mountpoint }: MountedVolume): Promise<void> {
  const { workerPid } = await mountStats(mountpoint);
  if (typeof workerPid !== 'number' || workerPid === 0) return;
  try {
    process.kill(workerPid, 'SIGKILL');
    world.kills++;
  } catch {
    // It has just been replaced.
  }
}

async function disturb(world: World, fault: Fault): Promise<void> {
  const { services, links, mounts, random } = world;
  await sleep(random() * 60);
  switch (fault) {
    case 'none':
      return;
    case 'worker':
      return killWorker(world, pick(random, mounts));
    case 'workers':
      await Promise.all(mounts.map((mount) => killWorker(world, mount)));
      return;
    case 'redis':
      await services.redis.kill();
      await sleep(random() * 300);
      return services.redis.start();
    case 'late':
      // Supervisors write the invalidations: kernels hear late of what other mounts did.
      for (const { supervisorPid } of mounts) process.kill(supervisorPid, 'SIGSTOP');
      await sleep(random() * 300);
      for (const { supervisorPid } of mounts) process.kill(supervisorPid, 'SIGCONT');
      return;
    case 'reset':
      pick(random, links).reset();
      return;
    case 'cut': {
      const link = pick(random, links);
      link.cut();
      await sleep(random() * CUT_MS_MAX);
      link.restore();
      return;
    }
    case 'store':
      await services.s3.cut();
      await sleep(random() * 300);
      return services.s3.restore();
  }
}

/** Looks at all mounts until they agree. */
async function agreed(clients: readonly Client[]): Promise<State> {
  const perMount = clients.filter(({ mount }, index) => clients.findIndex((one) => one.mount === mount) === index);
  const endMs = performance.now() + HANG_MS;
  while (true) {
    const states = await Promise.all(perMount.map((client) => client.look()));
    const texts = new Set(states.map((state) => JSON.stringify(state)));
    const [state] = states;
    if (texts.size === 1 && state !== undefined && typeof state !== 'string') return state;
    if (performance.now() > endMs)
      throw new Error(`the mounts do not agree after ${HANG_MS} ms: ${[...texts].join('\n')}`);
    await sleep(5);
  }
}

function namesOf(state: State): Map<string, number> {
  return new Map(Object.entries(state.names));
}

function checkRound(
  before: State,
  history: readonly Operation[],
  after: State,
  mode: HistoryOptions['mode'],
): string[] {
  const closeToOpen = mode.writeback !== true;
  const wrong = [...checkContents(before, history, after, { closeToOpen }), ...checkLocks(history)];
  const names = history.filter(({ kind }) => ['create', 'look', 'unlink', 'move', 'replace', 'link'].includes(kind));
  const verdict = checkNames(namesOf(before), names, namesOf(after));
  if (!verdict.ok) {
    const [from, to] = [before.names, after.names].map((state) => JSON.stringify(state));
    wrong.push(
      `names are not linearizable from ${from} to ${to}; not explained:\n${verdict.stuck.map(describe).join('\n')}\nall:\n` +
        names
          .toSorted((a, b) => a.start - b.start)
          .map(describe)
          .join('\n'),
    );
  }
  const present = Object.entries(after.names).filter(([, ino]) => ino !== 0);
  const expected = present.map(([name]) => name).sort();
  if (JSON.stringify(expected) !== JSON.stringify(after.listed)) {
    wrong.push(`a listing has ${after.listed.join(' ')}, looks find ${expected.join(' ')}`);
  }
  return wrong;
}

/** Throws when something hangs; what is wrong is in the report, and then the mounts' logs are printed. */
export async function runHistory(options: HistoryOptions): Promise<HistoryReport> {
  const world = await build(options);
  let report: HistoryReport | undefined;
  try {
    report = await rounds(world, options);
    return report;
  } finally {
    if (report === undefined || report.violations.length + report.errors.length > 0) {
      for (const { mountpoint, logPath } of world.mounts)
        console.log(`${mountpoint}:\n${readFileSync(logPath, 'utf8')}`);
    }
  }
}

/** What was acknowledged and is not there as a client sees it; only with `writeback` may it follow. */
async function undurable(
  client: Client,
  clients: readonly Client[],
  state: State,
  durable: ReadonlyMap<string, Durable>,
  mode: HistoryOptions['mode'],
): Promise<string[]> {
  const endMs = performance.now() + (mode.writeback === true ? HANG_MS : 0);
  while (true) {
    const own = new Map<string, readonly string[]>();
    for (const { name } of clients) own.set(name, (await client.ask(`own ${name}`))[0]?.[1] as string[]);
    const wrong = checkDurable(state, durable, own);
    if (wrong.length === 0 || performance.now() > endMs) return wrong;
    await sleep(20);
  }
}

async function rounds(world: World, options: HistoryOptions): Promise<HistoryReport> {
  const { clients, links, random } = world;
  const faults = Object.fromEntries(FAULTS.map((fault) => [fault, 0])) as Record<Fault, number>; // all of them, just made
  const errors: string[] = [];
  const violations: string[] = [];
  let state = await agreed(clients);
  let operations = 0;
  let passthroughOpens = 0;
  let round = 0;
  for (let fault = options.next(0); fault !== undefined && violations.length === 0; fault = options.next(++round)) {
    for (const link of links) link.delayMs = random() < 0.5 ? 0 : Math.floor(random() * 4);
    faults[fault]++;
    const [, ...histories] = await Promise.all([
      disturb(world, fault),
      ...clients.map((client) => client.operate(round, options.operationsPerRound)),
    ]);
    const history = histories.flat();
    operations += history.length;
    errors.push(...history.filter(failed).map((operation) => `round ${round} (${fault}): ${describe(operation)}`));
    const after = await agreed(clients);
    if (options.mode.passthrough !== undefined) {
      const opens = await Promise.all(world.mounts.map(async (mount) => (await volumeStats(mount)).passthroughOpens));
      passthroughOpens = Math.max(passthroughOpens, ...opens);
    }
    violations.push(
      ...checkRound(state, history, after, options.mode).map((text) => `round ${round} (${fault}): ${text}`),
    );
    state = after;
  }
  const durable = new Map<string, Durable>();
  for (const client of clients) {
    const [answer] = await client.ask('sum');
    durable.set(client.name, answer?.[1] as Durable); // as client.py builds it
  }
  for (const client of clients) {
    violations.push(...(await undurable(client, clients, state, durable, options.mode)));
  }
  return { operations, rounds: round, kills: world.kills, faults, passthroughOpens, errors, violations };
}
