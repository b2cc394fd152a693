/**
 * The objects of one bucket, read as files: through mounts of other programs, and through a mount of a volume in which they were published
 * (`penstock fs publish`, no copy). One versitygw behind DELAYPROXY, all programs in alternation, each on the very same objects.
 *
 * `cold` is a new mount with an empty cache, `warm` the same reads once more through new handles; `per byte` are the bytes that left the store cold for each
 * byte that was read, `trips` the round trips, `CPU` the seconds that the mount's processes used. The listing is `find -size`. Medians of the rounds.
 *
 * usage: [DELAYPROXY=PATH] node bench/objects.ts [--mountpoint-s3 PATH] [--s3fs PATH] [--size 1GiB] [--files 2000] [--file-size 16KiB]
 *        [--reads 100] [--workers 4] [--store-latency 20] [--rounds 3] [--rows PART,PART] [--dir DIR]   (root and /dev/fuse)
 */
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { cpus, loadavg, release, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs, promisify } from 'node:util';
import { mountStats } from '../fs-gateway/main.ts';
import { openStore } from '../lib/registry.ts';
import { parseBytes } from '../lib/units.ts';
import { mountBucket, mountpointS3, s3fs, type BucketMount } from './bucket-mounts.ts';
import { deal, dismiss, shuffled, whole, work } from './crew.ts';
import type { Job, Part } from './loader-worker.ts';
import { median } from './median.ts';
import { cpuSecondsOf, pidsNaming } from './memory-sampler.ts';
import {
  behindProxy,
  credentials,
  formatPenstock,
  mountPenstock,
  publishPenstock,
  startRedis,
  startS3,
  stopServers,
  storeUrl,
  umountPenstock,
  type MountPlace,
  type Proxied,
} from './servers.ts';

const MIB = 2 ** 20;
const PREFIX = 'data/';
const FOLDERS = 20;
const run = promisify(execFile);

interface Contender {
  readonly label: string;
  readonly place: MountPlace;
  /** Where in it the objects are. */
  readonly root: string;
  readonly mount: () => Promise<void>;
  readonly unmount: () => Promise<void>;
  readonly pids: () => Promise<readonly number[]>;
}

interface Row {
  readonly name: string;
  readonly unit: 'MiB/s' | 'reads/s' | 'files/s';
  /** `list`: no data is read. */
  readonly jobs: readonly Job[] | 'list';
}

interface Figures {
  readonly cold: number;
  readonly warm: number;
  readonly perByte: number;
  readonly trips: number;
  readonly cpu: number;
}

const { values } = parseArgs({
  options: {
    'mountpoint-s3': { type: 'string' },
    s3fs: { type: 'string' },
    size: { type: 'string', default: '1GiB' },
    files: { type: 'string', default: '2000' },
    'file-size': { type: 'string', default: '16KiB' },
    reads: { type: 'string', default: '100' },
    workers: { type: 'string', default: '4' },
    'store-latency': { type: 'string', default: '20' },
    rounds: { type: 'string', default: '3' },
    rows: { type: 'string', default: '' },
    dir: { type: 'string', default: tmpdir() },
  },
});
const bytes = parseBytes(values.size);
const fileBytes = parseBytes(values['file-size']);
const [workers, reads] = [Number(values.workers), Number(values.reads)];
const names = Array.from({ length: Number(values.files) }, (_, n) => `small/${n % FOLDERS}/${n}`);

async function putObjects(s3Port: number): Promise<void> {
  Object.assign(process.env, credentials);
  const store = await openStore(storeUrl(s3Port));
  const chunk = randomBytes(16 * MIB);
  await store.put(
    `${PREFIX}large`,
    Array.from({ length: Math.ceil(bytes / chunk.length) }, () => chunk),
  );
  const put = async (name: string): Promise<void> => {
    await store.put(PREFIX + name, chunk.subarray(0, fileBytes));
  };
  for (let n = 0; n < names.length; n += 16) await Promise.all(names.slice(n, n + 16).map(put));
  await store.close();
}

/** Pieces of the large object, aligned to their length, each once. */
function pieces(length: number, count: number): Part[] {
  const wanted = new Set<number>();
  while (wanted.size < Math.min(count, Math.floor(bytes / length))) {
    wanted.add(Math.floor((Math.random() * bytes) / length) * length);
  }
  return [...wanted].map((offset) => ({ path: 'large', offset, bytes: length }));
}

function rows(): Row[] {
  const all: Row[] = [
    { name: 'sequential', unit: 'MiB/s', jobs: [{ kind: 'read', parts: [whole('large')] }] },
    { name: 'random 4 KiB', unit: 'reads/s', jobs: [{ kind: 'read', parts: pieces(4096, reads) }] },
    { name: 'random 128 KiB', unit: 'reads/s', jobs: [{ kind: 'read', parts: pieces(2 ** 17, reads) }] },
    // Column chunks of some row groups, as a query that filters reads them.
    { name: 'row groups, 1 MiB', unit: 'MiB/s', jobs: deal(workers, pieces(MIB, reads)) },
    { name: 'small files, listed', unit: 'files/s', jobs: 'list' },
    { name: 'small files, read', unit: 'files/s', jobs: deal(workers, shuffled(names).map(whole)) },
  ];
  return all.filter(({ name }) => values.rows.split(',').some((part) => name.includes(part)));
}

async function pass(root: string, { jobs, unit }: Row): Promise<{ readonly rate: number; readonly read: number }> {
  if (jobs === 'list') {
    const startMs = performance.now();
    const { stdout } = await run('find', [join(root, 'small'), '-type', 'f', '-size', '+1k']);
    const found = stdout.trim().split('\n').length;
    if (found !== names.length) throw new Error(`${root} lists ${found} of ${names.length} files`);
    return { rate: (found * 1000) / (performance.now() - startMs), read: 0 };
  }
  const { bytes: read, seconds } = await work(root, jobs);
  const parts = jobs.reduce((total, job) => total + job.parts.length, 0);
  return { rate: (unit === 'MiB/s' ? read / MIB : parts) / seconds, read };
}

function sum(all: readonly number[]): number {
  return all.reduce((a, b) => a + b, 0);
}

async function measure({ place, root, mount, unmount, pids }: Contender, row: Row, store: Proxied): Promise<Figures> {
  rmSync(place.cacheDir, { recursive: true, force: true });
  await mount();
  try {
    const processes = await pids();
    const cpuBefore = sum(processes.map(cpuSecondsOf));
    const before = await store.traffic();
    const { rate: cold, read } = await pass(root, row);
    const after = await store.traffic();
    const cpu = sum(processes.map(cpuSecondsOf)) - cpuBefore;
    const { rate: warm } = await pass(root, row);
    return {
      cold,
      warm,
      perByte: before && after ? (after.bytesDown - before.bytesDown) / read : Number.NaN,
      trips: before && after ? after.turns - before.turns : Number.NaN,
      cpu,
    };
  } finally {
    await unmount();
  }
}

function bucketMount(dir: string, s3Port: number, program: BucketMount): Contender {
  const mounted = mountBucket(dir, s3Port, `volume/${PREFIX}`, program);
  const { path } = mounted.place;
  return { ...mounted, label: program.label, root: path, pids: () => Promise.resolve(pidsNaming(path)) };
}

function penstock(dir: string, url: string): Contender {
  const place = { path: join(dir, 'mount-penstock'), cacheDir: join(dir, 'cache-penstock') };
  return {
    label: 'Penstock',
    place,
    root: join(place.path, 'data'),
    mount: () => mountPenstock(url, place),
    unmount: () => umountPenstock(place.path),
    async pids() {
      const { supervisorPid, workerPid } = await mountStats(place.path);
      return [supervisorPid, Number(workerPid)];
    },
  };
}

function report(name: string, unit: string, label: string, rounds: readonly Figures[]): void {
  const of = (key: keyof Figures): number => median(rounds.map((figures) => figures[key]));
  console.log(
    `${name.padEnd(21)}${label.padEnd(18)}${of('cold').toFixed(0).padStart(8)}${of('warm').toFixed(0).padStart(9)} ${unit.padEnd(9)}` +
      `${(Number.isFinite(of('perByte')) ? of('perByte').toFixed(2) : '-').padStart(8)}${of('trips').toFixed(0).padStart(8)}${of('cpu').toFixed(2).padStart(8)}`,
  );
}

async function bench(): Promise<void> {
  const dir = mkdtempSync(join(values.dir, 'penstock-bench-objects-'));
  try {
    const url = `redis://127.0.0.1:${await startRedis(dir)}/1`;
    const s3Port = await startS3(dir);
    await putObjects(s3Port);
    const store = await behindProxy(s3Port, Number(values['store-latency']));
    await formatPenstock(url, '', store.port);
    await publishPenstock(url, PREFIX, '/data');
    const others: BucketMount[] = [];
    const { 'mountpoint-s3': mountpoint, s3fs: s3fsPath } = values;
    if (mountpoint !== undefined) others.push(mountpointS3(mountpoint, false), mountpointS3(mountpoint, true));
    if (s3fsPath !== undefined) others.push(s3fs(s3fsPath));
    const contenders = [...others.map((other) => bucketMount(dir, store.port, other)), penstock(dir, url)];
    console.log(
      `${cpus().length} CPUs (${cpus()[0]?.model ?? 'unknown'}), Linux ${release()}, Node ${process.version}, load ${loadavg()[0]?.toFixed(1)}; ` +
        `one object of ${values.size}, ${names.length} of ${values['file-size']}, ${workers} workers, S3 with ${values['store-latency']} ms, ${values.rounds} rounds`,
    );
    console.log(
      `${'row'.padEnd(21)}${'mount'.padEnd(18)}${'cold'.padStart(8)}${'warm'.padStart(9)} ${'unit'.padEnd(9)}${'per byte'.padStart(8)}${'trips'.padStart(8)}${'CPU'.padStart(8)}`,
    );
    for (const row of rows()) {
      const figures = new Map<string, Figures[]>(contenders.map(({ label }) => [label, []]));
      for (let round = 0; round < Number(values.rounds); round++) {
        for (const contender of contenders) {
          figures.get(contender.label)?.push(await measure(contender, row, store));
        }
      }
      for (const [label, all] of figures) report(row.name, row.unit, label, all);
    }
  } finally {
    dismiss();
    stopServers();
    rmSync(dir, { recursive: true, force: true, maxRetries: 3 });
  }
}

await bench();
