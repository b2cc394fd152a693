/**
 * What a training job does with its files, on the plain disk, on a mount and (with JUICEFS=PATH, `--s3fs PATH`) on JuiceFS and s3fs: workers that read shuffled small
 * samples, row groups of a large file, sequential shards, and save and load a checkpoint. All over one Redis and one versitygw, in alternation.
 *
 * `cold` is a mount without anything in its cache; the store is on the same disk, so its figure says what the file system adds and not what a network
 * would. `warm` is the median of the rounds behind it; the disk's figure is from its page cache, as are those of the mounts. Last, NODES mounts read the shards
 * cold at once, with and without a cache group: how many bytes the store gave for each byte of the files.
 *
 * usage: [JUICEFS=PATH] node bench/loader.ts [--workers 4] [--samples 2000] [--sample-size 100KiB] [--shards 4] [--shard-size 64MiB] [--checkpoint 256MiB]
 *        [--rounds 3] [--nodes 3] [--passthrough read|off|full] [--s3fs PATH] [--dir DIR]   (root and /dev/fuse; DIR on a local disk, default the temporary directory)
 */
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { randomBytes } from 'node:crypto';
import { cpus, loadavg, release, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { mountStats } from '../fs-gateway/main.ts';
import { parseBytes } from '../lib/units.ts';
import { mountBucket, s3fs } from './bucket-mounts.ts';
import { deal, dismiss, shuffled, whole, work } from './crew.ts';
import { median } from './median.ts';
import type { Job } from './loader-worker.ts';
import {
  BUCKET,
  formatJuicefs,
  formatPenstock,
  mountJuicefs,
  mountPenstock,
  startRedis,
  startS3,
  stopServers,
  umountJuicefs,
  umountPenstock,
} from './servers.ts';

const ROW_GROUP_BYTES = 2 ** 20;
const MIB = 2 ** 20;

interface Contender {
  readonly label: string;
  readonly path: string;
  /** Makes it cold; undefined: it has no cache of its own. */
  readonly cool?: () => Promise<void>;
  /** Resolves when what it does in the background is done. */
  readonly settle?: () => Promise<void>;
  readonly stop: () => Promise<void>;
}

interface Row {
  readonly name: string;
  readonly unit: 'MiB/s' | 'files/s';
  /** For each worker; the paths are relative. */
  readonly jobs: readonly Job[];
}

const { values } = parseArgs({
  options: {
    workers: { type: 'string', default: '4' },
    samples: { type: 'string', default: '2000' },
    'sample-size': { type: 'string', default: '100KiB' },
    shards: { type: 'string', default: '4' },
    'shard-size': { type: 'string', default: '64MiB' },
    checkpoint: { type: 'string', default: '256MiB' },
    rounds: { type: 'string', default: '3' },
    nodes: { type: 'string', default: '3' },
    passthrough: { type: 'string', default: 'read' },
    s3fs: { type: 'string' },
    dir: { type: 'string', default: tmpdir() },
  },
});
const [workers, rounds, nodes] = [Number(values.workers), Number(values.rounds), Number(values.nodes)];
const shardBytes = parseBytes(values['shard-size']);
const samples = Array.from({ length: Number(values.samples) }, (_, n) => `samples/${n % 100}/${n}`);
const shards = Array.from({ length: Number(values.shards) }, (_, n) => `shards/${n}`);

function makeData(dir: string): void {
  for (let n = 0; n < 100; n++) mkdirSync(join(dir, `samples/${n}`), { recursive: true });
  mkdirSync(join(dir, 'shards'));
  for (const name of samples) writeFileSync(join(dir, name), randomBytes(parseBytes(values['sample-size'])));
  for (const name of shards) writeFileSync(join(dir, name), randomBytes(shardBytes));
}

function rows(): Row[] {
  const groups = Math.floor(shardBytes / ROW_GROUP_BYTES);
  const rowGroups = shards.flatMap((path) =>
    // Half of them, as a job does that filters.
    shuffled(
      Array.from({ length: groups }, (_, n) => ({ path, offset: n * ROW_GROUP_BYTES, bytes: ROW_GROUP_BYTES })),
    ).slice(0, Math.ceil(groups / 2)),
  );
  const checkpoint = { path: 'checkpoint', offset: 0, bytes: parseBytes(values.checkpoint) };
  return [
    { name: 'samples, shuffled', unit: 'files/s', jobs: deal(workers, shuffled(samples).map(whole)) },
    { name: 'row groups, random', unit: 'MiB/s', jobs: deal(workers, shuffled(rowGroups)) },
    { name: 'shards, sequential', unit: 'MiB/s', jobs: deal(workers, shuffled(shards).map(whole)) },
    { name: 'checkpoint, save', unit: 'MiB/s', jobs: [{ kind: 'write', parts: [checkpoint] }] },
    { name: 'checkpoint, load', unit: 'MiB/s', jobs: [{ kind: 'read', parts: [checkpoint] }] },
  ];
}

async function rate(contender: Contender, { unit, jobs }: Row): Promise<number> {
  const { bytes, seconds } = await work(contender.path, jobs);
  await contender.settle?.();
  return (unit === 'MiB/s' ? bytes / MIB : jobs.reduce((total, { parts }) => total + parts.length, 0)) / seconds;
}

async function workerStats(path: string): Promise<Readonly<Record<string, number>>> {
  const stats = await mountStats(path);
  return (stats['worker'] as { readonly volume?: Readonly<Record<string, number>> }).volume ?? {}; // the worker's own answer
}

function penstock(dir: string, url: string): Contender {
  const place = { path: join(dir, 'penstock'), cacheDir: join(dir, 'penstock-cache') };
  const mount = (): Promise<void> => mountPenstock(url, place, ['-o', `passthrough=${values.passthrough}`]);
  return {
    label: 'Penstock',
    path: place.path,
    async cool() {
      await umountPenstock(place.path).catch(() => undefined); // the first time it is not mounted
      rmSync(place.cacheDir, { recursive: true, force: true });
      await mount();
    },
    async settle() {
      while (true) {
        const { filling = 0, liveFiles = 0, stagedFiles = 0 } = await workerStats(place.path);
        if (filling + liveFiles + stagedFiles === 0) return;
        await sleep(20);
      }
    },
    stop: () => umountPenstock(place.path),
  };
}

function juicefs(program: string, dir: string, url: string): Contender {
  const place = { path: join(dir, 'juicefs'), cacheDir: join(dir, 'juicefs-cache') };
  return {
    label: 'JuiceFS',
    path: place.path,
    async cool() {
      await umountJuicefs(program, place.path).catch(() => undefined); // the first time it is not mounted
      rmSync(place.cacheDir, { recursive: true, force: true });
      await mountJuicefs(program, url, place);
    },
    stop: () => umountJuicefs(program, place.path),
  };
}

function mountedS3fs(program: string, dir: string, s3Port: number): Contender {
  const { place, mount, unmount } = mountBucket(dir, s3Port, 'files/', s3fs(program));
  return {
    label: 's3fs',
    path: place.path,
    async cool() {
      await unmount().catch(() => undefined); // the first time it is not mounted
      rmSync(place.cacheDir, { recursive: true, force: true });
      await mount();
    },
    stop: unmount,
  };
}

async function compare(contenders: readonly Contender[]): Promise<void> {
  const [disk] = contenders;
  console.log(
    `${'row'.padEnd(20)}${'mount'.padEnd(10)}${'cold'.padStart(10)}${'warm'.padStart(10)} ${'unit'.padEnd(9)}warm/disk`,
  );
  for (const row of rows()) {
    const cold = new Map<Contender, number>();
    const warm = new Map<Contender, number[]>(contenders.map((contender) => [contender, []]));
    for (const contender of contenders) {
      await contender.cool?.();
      const first = await rate(contender, row);
      if (contender.cool !== undefined && row.jobs[0]?.kind === 'read') cold.set(contender, first);
    }
    for (let round = 0; round < rounds; round++) {
      for (const contender of contenders) warm.get(contender)?.push(await rate(contender, row));
    }
    const plain = median((disk && warm.get(disk)) ?? []);
    for (const contender of contenders) {
      const own = median(warm.get(contender) ?? []);
      const first = cold.get(contender)?.toFixed(0) ?? '-';
      console.log(
        `${row.name.padEnd(20)}${contender.label.padEnd(10)}${first.padStart(10)}${own.toFixed(0).padStart(10)} ` +
          `${row.unit.padEnd(9)}${(own / plain).toFixed(2)}`,
      );
    }
  }
}

/** All nodes read all shards at once, cold. Returns bytes from the store for each byte of the files, and MiB/s of all together. */
async function many(
  dir: string,
  url: string,
  options: readonly string[],
): Promise<{ readonly fetched: number; readonly rate: number }> {
  const places = Array.from({ length: nodes }, (_, n) => ({
    path: join(dir, `node-${n}`),
    cacheDir: join(dir, `cache-${n}`),
  }));
  for (const place of places) await mountPenstock(url, place, options);
  try {
    const grouped = options.length > 0;
    for (const { path } of places) while (grouped && (await workerStats(path))['peers'] !== nodes - 1) await sleep(50);
    const jobs = places.map(({ path }) => ({
      kind: 'read' as const,
      parts: shards.map((name) => whole(join(path, name))),
    }));
    const { bytes, seconds } = await work('/', jobs);
    let fetched = 0;
    for (const { path } of places) fetched += (await workerStats(path))['fetchedBytes'] ?? 0;
    return { fetched: fetched / (bytes / nodes), rate: bytes / MIB / seconds };
  } finally {
    for (const { path, cacheDir } of places) {
      await umountPenstock(path);
      rmSync(cacheDir, { recursive: true, force: true });
    }
  }
}

async function bench(): Promise<void> {
  const dir = mkdtempSync(join(values.dir, 'penstock-bench-loader-'));
  const contenders: Contender[] = [];
  try {
    const source = join(dir, 'disk');
    mkdirSync(source);
    makeData(source);
    const [redisPort, s3Port] = [await startRedis(dir), await startS3(dir)];
    mkdirSync(join(dir, 's3', BUCKET, 'files'));
    contenders.push({ label: 'disk', path: source, stop: () => Promise.resolve() });
    const url = `redis://127.0.0.1:${redisPort}/2`;
    await formatPenstock(url, '', s3Port);
    const ours = penstock(dir, url);
    const program = process.env['JUICEFS'];
    const peerUrl = `redis://127.0.0.1:${redisPort}/1`;
    if (program !== undefined) await formatJuicefs(program, peerUrl, '', s3Port);
    const mounts = program === undefined ? [ours] : [juicefs(program, dir, peerUrl), ours];
    if (values.s3fs !== undefined) mounts.unshift(mountedS3fs(values.s3fs, dir, s3Port));
    for (const mount of mounts) {
      await mount.cool?.();
      contenders.push(mount);
      for (const name of ['samples', 'shards']) cpSync(join(source, name), join(mount.path, name), { recursive: true });
    }
    console.log(
      `${cpus().length} CPUs (${cpus()[0]?.model ?? 'unknown'}), Linux ${release()}, Node ${process.version}, load ${loadavg()[0]?.toFixed(1)}; ` +
        `${workers} workers, ${samples.length} samples of ${values['sample-size']}, ${shards.length} shards of ${values['shard-size']}, ` +
        `passthrough=${values.passthrough}, ${rounds} rounds`,
    );
    await compare(contenders);
    for (const options of [[], ['-o', 'cacheGroup=bench']]) {
      const { fetched, rate: all } = await many(dir, url, options);
      const what = `${nodes} nodes, cold, ${options.length === 0 ? 'each alone' : 'cache group'}`;
      console.log(
        `${what.padEnd(34)}${all.toFixed(0).padStart(6)} MiB/s, ${fetched.toFixed(2)} bytes from the store for each of the files`,
      );
    }
  } finally {
    dismiss();
    for (const { stop } of contenders) await stop().catch((error: unknown) => console.error(error));
    stopServers();
    rmSync(dir, { recursive: true, force: true, maxRetries: 3 });
  }
}

await bench();
