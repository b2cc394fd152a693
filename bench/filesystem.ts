/**
 * The file system beside JuiceFS: mdbench on both mounts in alternation (A B A B ...), over one Redis of its own and stores of the same
 * kind, so that both meet the same machine in the same minutes. Prints the median rate of each phase, the ratio, and round trips.
 * usage: MDBENCH=PATH JUICEFS=PATH [DELAYPROXY=PATH] node bench/filesystem.ts [--files 2000] [--threads 1,8] [--rounds 3]
 *        [--redis-latency MS] [--store-latency MS --s3] [--mount-options openCache]   (root and /dev/fuse; FILES in all, divided among the threads)
 * Latencies need DELAYPROXY, which also counts the round trips to Redis then. `--s3` has both keep their objects in a versitygw of its own.
 */
import { execFile } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { cpus, loadavg, release, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs, promisify } from 'node:util';
import { median } from './median.ts';
import {
  behindProxy,
  formatJuicefs,
  formatPenstock,
  mountJuicefs,
  mountPenstock,
  required,
  startRedis,
  startS3,
  stopServers,
  umountJuicefs,
  umountPenstock,
} from './servers.ts';

const PHASE_TIMEOUT_MS = 900_000;
const run = promisify(execFile);

interface Options {
  readonly files: number;
  readonly threads: readonly number[];
  readonly rounds: number;
  readonly redisLatencyMs: number;
  readonly storeLatencyMs: number;
  readonly s3: boolean;
  readonly mountOptions: string | undefined;
}

/** Phase -> operations per second. */
type Rates = ReadonlyMap<string, number>;

interface Mounted {
  readonly label: string;
  readonly path: string;
  /** Round trips to Redis so far; undefined without a proxy. */
  readonly turns: () => Promise<number | undefined>;
  unmount(): Promise<void>;
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
      'mount-options': { type: 'string' },
    },
  });
  return {
    files: Number(values.files),
    threads: values.threads.split(',').map(Number),
    rounds: Number(values.rounds),
    redisLatencyMs: Number(values['redis-latency']),
    storeLatencyMs: Number(values['store-latency']),
    s3: values.s3,
    mountOptions: values['mount-options'],
  };
}

interface Servers {
  readonly dir: string;
  readonly redisPort: number;
  /** Where there is one. */
  readonly s3Port: number | undefined;
  readonly options: Options;
}

async function mountPeer({ dir, redisPort, s3Port, options }: Servers): Promise<Mounted> {
  const juicefs = required('JUICEFS');
  const proxy = await behindProxy(redisPort, options.redisLatencyMs);
  const url = `redis://127.0.0.1:${proxy.port}/1`;
  const path = join(dir, 'juicefs');
  await formatJuicefs(juicefs, url, join(dir, 'juicefs-objects'), s3Port);
  await mountJuicefs(juicefs, url, { path, cacheDir: join(dir, 'juicefs-cache') });
  return {
    label: 'JuiceFS',
    path,
    turns: async () => (await proxy.traffic())?.turns,
    unmount: () => umountJuicefs(juicefs, path),
  };
}

async function mountOurs({ dir, redisPort, s3Port, options }: Servers): Promise<Mounted> {
  const proxy = await behindProxy(redisPort, options.redisLatencyMs);
  const url = `redis://127.0.0.1:${proxy.port}/2`;
  const path = join(dir, 'penstock');
  await formatPenstock(url, join(dir, 'penstock-objects'), s3Port);
  const { mountOptions } = options;
  const place = { path, cacheDir: join(dir, 'penstock-cache') };
  await mountPenstock(url, place, mountOptions === undefined ? [] : ['-o', mountOptions]);
  return {
    label: 'Penstock',
    path,
    turns: async () => (await proxy.traffic())?.turns,
    unmount: () => umountPenstock(path),
  };
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
    const redisPort = await startRedis(dir);
    const s3Port = options.s3 ? (await behindProxy(await startS3(dir), options.storeLatencyMs)).port : undefined;
    const servers = { dir, redisPort, s3Port, options };
    const peer = await mountPeer(servers);
    mounts.push(peer);
    const ours = await mountOurs(servers);
    mounts.push(ours);
    console.log(
      `${cpus().length} CPUs (${cpus()[0]?.model ?? 'unknown'}), Linux ${release()}, Node ${process.version}; ` +
        `Redis latency ${options.redisLatencyMs} ms, ${options.s3 ? `S3 with ${options.storeLatencyMs} ms` : 'local store'}`,
    );
    for (const threads of options.threads) await compare(peer, ours, threads, options);
  } finally {
    for (const mount of mounts) await mount.unmount().catch((error: unknown) => console.error(error));
    stopServers();
    rmSync(dir, { recursive: true, force: true });
  }
}

await bench();
