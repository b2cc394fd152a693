/**
 * One large file read from its beginning to its end through a mount that has nothing in its cache, on JuiceFS and here in alternation, each with a
 * cold cache in every round. Prints the rate, the bytes that left the store for each byte of the file, CPU time, and the most memory that a process had.
 * usage: JUICEFS=PATH [DELAYPROXY=PATH] node bench/cold-read.ts [--size 512MiB] [--rounds 3] [--readers 1] [--store-latency 20] [--local] [--dir DIR]
 *        [--passthrough read|off]   (root and /dev/fuse)
 * `--local` has both keep their objects in a directory; else in a versitygw behind DELAYPROXY. READERS read the same file at once.
 */
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { cpus, loadavg, release, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs, promisify } from 'node:util';
import { mountStats } from '../fs-gateway/main.ts';
import { parseBytes } from '../lib/units.ts';
import { cpuSecondsOf, pidsNaming } from './memory-sampler.ts';
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
  type MountPlace,
  type Proxied,
} from './servers.ts';

const MIB = 2 ** 20;
const run = promisify(execFile);
const { values } = parseArgs({
  options: {
    size: { type: 'string', default: '512MiB' },
    rounds: { type: 'string', default: '3' },
    readers: { type: 'string', default: '1' },
    'store-latency': { type: 'string', default: '20' },
    local: { type: 'boolean', default: false },
    dir: { type: 'string', default: tmpdir() },
    passthrough: { type: 'string', default: 'off' },
  },
});
const bytes = parseBytes(values.size);

interface Contender {
  readonly label: string;
  readonly place: MountPlace;
  readonly mount: () => Promise<void>;
  readonly unmount: () => Promise<void>;
  /** Its processes. */
  readonly pids: () => Promise<readonly number[]>;
}

async function write(path: string): Promise<void> {
  await run('dd', ['if=/dev/urandom', `of=${path}`, 'bs=1M', `count=${bytes / MIB}`, 'conv=fsync']);
}

/** Seconds until all readers were at the end. */
async function read(path: string): Promise<number> {
  const startMs = performance.now();
  const readers = Array.from({ length: Number(values.readers) }, () =>
    run('dd', [`if=${path}`, 'of=/dev/null', 'bs=1M']),
  );
  await Promise.all(readers);
  return (performance.now() - startMs) / 1000;
}

/** The most that the process had in memory at once, bytes. */
function peakOf(pid: number): number {
  const found = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'));
  return Number(found?.[1]) * 1024;
}

function sum(all: readonly number[]): number {
  return all.reduce((a, b) => a + b, 0);
}

function penstock(dir: string, url: string): Contender {
  const place = { path: join(dir, 'penstock'), cacheDir: join(dir, 'penstock-cache') };
  return {
    label: 'Penstock',
    place,
    mount: () => mountPenstock(url, place, ['-o', `passthrough=${values.passthrough}`]),
    unmount: () => umountPenstock(place.path),
    async pids() {
      const { supervisorPid, workerPid } = await mountStats(place.path);
      return [supervisorPid, Number(workerPid)];
    },
  };
}

function juicefs(dir: string, url: string): Contender {
  const program = required('JUICEFS');
  const place = { path: join(dir, 'juicefs'), cacheDir: join(dir, 'juicefs-cache') };
  return {
    label: 'JuiceFS',
    place,
    mount: () => mountJuicefs(program, url, place),
    unmount: () => umountJuicefs(program, place.path),
    pids: () => Promise.resolve(pidsNaming(place.path)),
  };
}

async function measure({ label, place, mount, unmount, pids }: Contender, store: Proxied): Promise<void> {
  rmSync(place.cacheDir, { recursive: true, force: true });
  await mount();
  const processes = await pids();
  const cpuBefore = sum(processes.map(cpuSecondsOf));
  const before = await store.traffic();
  const seconds = await read(join(place.path, 'file'));
  const after = await store.traffic();
  const cpu = sum(processes.map(cpuSecondsOf)) - cpuBefore;
  const peak = Math.max(...processes.map(peakOf));
  const fetched = before && after ? (after.bytesDown - before.bytesDown) / bytes : undefined;
  await unmount();
  console.log(
    `${label.padEnd(10)}${(bytes / MIB / seconds).toFixed(0).padStart(7)} MiB/s for each reader, ` +
      (fetched === undefined ? '' : `${fetched.toFixed(3)} bytes from the store per byte, `) +
      `${((cpu * 2 ** 30) / bytes).toFixed(2)} CPU seconds per GiB, at most ${(peak / 1e6).toFixed(0)} MB in memory`,
  );
}

async function bench(): Promise<void> {
  const dir = mkdtempSync(join(values.dir, 'penstock-bench-cold-'));
  try {
    const redisPort = await startRedis(dir);
    const store = values.local ? undefined : await behindProxy(await startS3(dir), Number(values['store-latency']));
    const [peerUrl, ownUrl] = [`redis://127.0.0.1:${redisPort}/1`, `redis://127.0.0.1:${redisPort}/2`];
    await formatJuicefs(required('JUICEFS'), peerUrl, join(dir, 'juicefs-objects'), store?.port);
    await formatPenstock(ownUrl, join(dir, 'penstock-objects'), store?.port);
    const contenders = [juicefs(dir, peerUrl), penstock(dir, ownUrl)];
    for (const { place, mount, unmount } of contenders) {
      await mount();
      await write(join(place.path, 'file'));
      await unmount();
    }
    console.log(
      `${cpus().length} CPUs (${cpus()[0]?.model ?? 'unknown'}), Linux ${release()}, Node ${process.version}, load ${loadavg()[0]?.toFixed(1)}; ` +
        `${values.size}, ${values.readers} readers, ${values.local ? 'local store' : `S3 with ${values['store-latency']} ms`}, passthrough=${values.passthrough}`,
    );
    const nothing: Proxied = { port: 0, traffic: () => Promise.resolve(undefined) };
    for (let round = 0; round < Number(values.rounds); round++) {
      for (const contender of contenders) await measure(contender, store ?? nothing);
    }
  } finally {
    stopServers();
    rmSync(dir, { recursive: true, force: true, maxRetries: 3 });
  }
}

await bench();
