/**
 * The file system beside JuiceFS: mdbench on both mounts in alternation (A B A B ...), over one Redis of its own and stores of the same
 * kind, so that both meet the same machine in the same minutes. Prints the median rate of each phase, the ratio, and round trips.
 * usage: MDBENCH=PATH JUICEFS=PATH [DELAYPROXY=PATH] node bench/filesystem.ts [--files 2000] [--threads 1,8] [--rounds 3]
 *        [--redis-latency MS] [--store-latency MS --s3]   (root and /dev/fuse; FILES in all, divided among the threads)
 * Latencies need DELAYPROXY, which also counts the round trips to Redis then. `--s3` has both keep their objects in a versitygw of its own.
 */
import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { connect, createServer, type AddressInfo } from 'node:net';
import { cpus, loadavg, release, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs, promisify } from 'node:util';
import { requireService } from '../test/support/services.ts';

const PHASE_TIMEOUT_MS = 900_000;
const READY_TIMEOUT_MS = 20_000;
const ACCESS_KEY = 'bench';
const SECRET_KEY = 'benchsecret';
const PENSTOCK = join(import.meta.dirname, '..', 'bin', 'penstock');
const run = promisify(execFile);

interface Options {
  readonly files: number;
  readonly threads: readonly number[];
  readonly rounds: number;
  readonly redisLatencyMs: number;
  readonly storeLatencyMs: number;
  readonly s3: boolean;
}

type Turns = () => Promise<number | undefined>;

/** Phase -> operations per second. */
type Rates = ReadonlyMap<string, number>;

interface Mounted {
  readonly label: string;
  readonly path: string;
  /** Round trips to Redis so far; undefined without a proxy. */
  readonly turns: Turns;
  unmount(): Promise<void>;
}

function required(name: string): string {
  const value = process.env[name];
  if (value === undefined) throw new Error(`${name}=path of the program is needed`);
  return value;
}

function readOptions(): Options {
  const { values } = parseArgs({
    options: {
      files: { type: 'string', default: '2000' },
      threads: { type: 'string', default: '1,8' },
      rounds: { type: 'string', default: '3' },
      'redis-latency': { type: 'string', default: '0' },
      'store-latency': { type: 'string', default: '0' },
      s3: { type: 'boolean', default: false },
    },
  });
  return {
    files: Number(values.files),
    threads: values.threads.split(',').map(Number),
    rounds: Number(values.rounds),
    redisLatencyMs: Number(values['redis-latency']),
    storeLatencyMs: Number(values['store-latency']),
    s3: values.s3,
  };
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo; // a TCP server's address is never a string
  server.close();
  return port;
}

/** The processes that the bench has started, ended with it. */
const children: ChildProcess[] = [];

async function serve(program: string, args: readonly string[], port: number, env = {}): Promise<void> {
  children.push(spawn(program, args, { stdio: 'ignore', env: { ...process.env, ...env } }));
  const deadlineMs = performance.now() + READY_TIMEOUT_MS;
  while (performance.now() < deadlineMs) {
    const socket = connect(port, '127.0.0.1');
    const answered = await once(socket, 'connect').then(
      () => true,
      () => false,
    );
    socket.destroy();
    if (answered) return;
    await sleep(20);
  }
  throw new Error(`${program} did not answer on port ${port}`);
}

/** A proxy in front of `port` where a latency is wanted: the port to use instead, and its count of round trips. */
async function behindProxy(port: number, latencyMs: number): Promise<{ readonly port: number; readonly turns: Turns }> {
  // Without a latency the clients meet the server itself: two more hops would hide the differences between them.
  if (latencyMs === 0) return { port, turns: () => Promise.resolve(undefined) };
  const [listen, control] = [await freePort(), await freePort()];
  await serve(required('DELAYPROXY'), [listen, port, latencyMs * 1000, control].map(String), control);
  const turns = async (): Promise<number> => {
    const answer = (await (await fetch(`http://127.0.0.1:${control}/`)).json()) as { turns: number }; // as it documents
    return answer.turns;
  };
  return { port: listen, turns };
}

interface Servers {
  readonly dir: string;
  readonly redisPort: number;
  /** Where there is one. */
  readonly s3Port: number | undefined;
  readonly options: Options;
}

const credentials = { AWS_ACCESS_KEY_ID: ACCESS_KEY, AWS_SECRET_ACCESS_KEY: SECRET_KEY };

async function mountJuicefs({ dir, redisPort, s3Port, options }: Servers): Promise<Mounted> {
  const juicefs = required('JUICEFS');
  const proxy = await behindProxy(redisPort, options.redisLatencyMs);
  const url = `redis://127.0.0.1:${proxy.port}/1`;
  const path = join(dir, 'juicefs');
  mkdirSync(path);
  const store =
    s3Port === undefined
      ? ['--storage', 'file', '--bucket', join(dir, 'juicefs-objects/')]
      : [
          ...['--storage', 's3', '--bucket', `http://127.0.0.1:${s3Port}/juicefs`],
          ...['--access-key', ACCESS_KEY, '--secret-key', SECRET_KEY],
        ];
  await run(juicefs, ['format', ...store, url, 'bench']);
  await run(juicefs, ['mount', '-d', '--no-usage-report', '--cache-dir', join(dir, 'juicefs-cache'), url, path]);
  const unmount = async (): Promise<void> => {
    await run(juicefs, ['umount', path]);
  };
  return { label: 'JuiceFS', path, turns: proxy.turns, unmount };
}

async function mountPenstock({ dir, redisPort, s3Port, options }: Servers): Promise<Mounted> {
  const proxy = await behindProxy(redisPort, options.redisLatencyMs);
  const url = `redis://127.0.0.1:${proxy.port}/2`;
  const path = join(dir, 'penstock');
  mkdirSync(path);
  const store =
    s3Port === undefined
      ? `dir:${join(dir, 'penstock-objects')}`
      : `s3://penstock/volume?endpoint=http://127.0.0.1:${s3Port}&region=us-east-1`;
  const env = { ...process.env, ...credentials };
  await run(PENSTOCK, ['fs', 'format', url, '--store', store], { env });
  await run(PENSTOCK, ['fs', 'mount', url, path, '--cache-dir', join(dir, 'penstock-cache'), '--background'], { env });
  const unmount = async (): Promise<void> => {
    await run(PENSTOCK, ['fs', 'umount', path]);
  };
  return { label: 'Penstock', path, turns: proxy.turns, unmount };
}

async function measure(mount: Mounted, threads: number, files: number): Promise<Rates> {
  const rates = new Map<string, number>();
  const before = await mount.turns();
  const args = [mount.path, String(threads), String(Math.ceil(files / threads))];
  const { stdout } = await run(required('MDBENCH'), args, { timeout: PHASE_TIMEOUT_MS });
  const after = await mount.turns();
  for (const line of stdout.split('\n')) {
    const found = /^(\w+) +\d+ +[\d.]+ s +(\d+) \/s/.exec(line);
    if (found?.[1] !== undefined) rates.set(found[1], Number(found[2]));
  }
  if (before !== undefined && after !== undefined) rates.set('round trips', after - before);
  for (const name of readdirSync(mount.path)) {
    if (name.startsWith('mdb.')) rmSync(join(mount.path, name), { recursive: true });
  }
  return rates;
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[sorted.length >> 1] ?? Number.NaN;
}

async function compare(peer: Mounted, ours: Mounted, threads: number, { files, rounds }: Options): Promise<void> {
  const results: Record<'peer' | 'ours', Rates[]> = { peer: [], ours: [] };
  const loadBefore = loadavg()[0] ?? 0;
  for (let round = 0; round < rounds; round++) {
    results.peer.push(await measure(peer, threads, files));
    results.ours.push(await measure(ours, threads, files));
  }
  console.log(
    `\n${threads} thread${threads > 1 ? 's' : ''} x ${Math.ceil(files / threads)} files, median of ${rounds} rounds, ` +
      `load ${loadBefore.toFixed(1)} before, ${(loadavg()[0] ?? 0).toFixed(1)} after`,
  );
  console.log(`${'phase'.padEnd(12)}${peer.label.padStart(10)}${ours.label.padStart(10)}${'ratio'.padStart(8)}`);
  for (const phase of results.ours[0]?.keys() ?? []) {
    const [theirs, own] = [results.peer, results.ours].map((all) => median(all.map((rates) => rates.get(phase) ?? 0)));
    if (theirs === undefined || own === undefined) continue;
    console.log(
      `${phase.padEnd(12)}${theirs.toFixed(0).padStart(10)}${own.toFixed(0).padStart(10)}${(own / theirs).toFixed(2).padStart(8)}`,
    );
  }
}

async function bench(): Promise<void> {
  const options = readOptions();
  const dir = mkdtempSync(join(tmpdir(), 'penstock-bench-fs-'));
  const mounts: Mounted[] = [];
  try {
    const redisPort = await freePort();
    await serve('redis-server', ['--port', String(redisPort), '--save', '', '--dir', dir], redisPort);
    let s3Port: number | undefined;
    if (options.s3) {
      const port = await freePort();
      for (const bucket of ['juicefs', 'penstock']) mkdirSync(join(dir, 's3', bucket), { recursive: true });
      const args = ['--port', `127.0.0.1:${port}`, '--quiet', 'posix', join(dir, 's3')];
      await serve(requireService('versitygw'), args, port, {
        ROOT_ACCESS_KEY: ACCESS_KEY,
        ROOT_SECRET_KEY: SECRET_KEY,
      });
      s3Port = (await behindProxy(port, options.storeLatencyMs)).port;
    }
    const servers = { dir, redisPort, s3Port, options };
    const peer = await mountJuicefs(servers);
    mounts.push(peer);
    const ours = await mountPenstock(servers);
    mounts.push(ours);
    console.log(
      `${cpus().length} CPUs (${cpus()[0]?.model ?? 'unknown'}), Linux ${release()}, Node ${process.version}; ` +
        `Redis latency ${options.redisLatencyMs} ms, ${options.s3 ? `S3 with ${options.storeLatencyMs} ms` : 'local store'}`,
    );
    for (const threads of options.threads) await compare(peer, ours, threads, options);
  } finally {
    for (const mount of mounts) await mount.unmount().catch((error: unknown) => console.error(error));
    for (const child of children) child.kill();
    rmSync(dir, { recursive: true, force: true });
  }
}

await bench();
