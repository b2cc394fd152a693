/**
 * Data rates of a mount beside those of the plain disk under its cache directory, and with JUICEFS=PATH beside JuiceFS, row by row in alternation, so that all
 * meet the same machine in the same minutes. Prints the median of each, the ratios, and the CPU seconds of the daemon per GB that programs moved.
 * usage: [JUICEFS=PATH] node bench/passthrough.ts [--mode off|read|full] [--writeback] [--size 512M] [--seconds 3] [--rounds 3] [--only TEXT] [--dir DIR] [--s3] [--redis]
 *        (--s3: both keep their objects in a versitygw of their own. JuiceFS syncs nothing in a directory as its store, we sync each object. --redis: both keep their metadata in one Redis that syncs nothing; else ours are in SQLite, which syncs each commit. Needs fio, root, /dev/fuse; DIR on a local disk, default the temporary directory; JuiceFS needs redis-server; --only: rows with this in their name)
 */
import { execFile } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { cpus, loadavg, release, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs, promisify } from 'node:util';
import { formatVolume, mountStats, mountVolume, umountVolume } from '../fs-gateway/main.ts';
import { median } from './median.ts';
import { cpuSecondsOf } from './memory-sampler.ts';
import {
  credentials,
  formatJuicefs,
  mountJuicefs,
  startRedis,
  startS3,
  stopServers,
  umountJuicefs,
} from './servers.ts';

const run = promisify(execFile);
const ROW_TIMEOUT_MS = 300_000;

interface Row {
  readonly name: string;
  readonly args: readonly string[];
  /** Into a file that is not there: a disk that writes over a file of its page cache needs no new memory. */
  readonly fresh?: boolean;
  /** The rate that counts: bytes, or operations. */
  readonly unit: 'MiB/s' | 'iops';
}

interface Measured {
  readonly rate: number;
  readonly bytes: number;
}

function rows(seconds: number): Row[] {
  const timed = ['--time_based', `--runtime=${seconds}`];
  return [
    { name: 'read 1M, warm', args: ['--rw=read', '--bs=1M', ...timed], unit: 'MiB/s' },
    { name: 'read 4K random, warm', args: ['--rw=randread', '--bs=4k', ...timed], unit: 'iops' },
    {
      name: 'read 4K random, 4 jobs',
      args: ['--rw=randread', '--bs=4k', '--numjobs=4', '--group_reporting', ...timed],
      unit: 'iops',
    },
    { name: 'write 1M + fsync', args: ['--rw=write', '--bs=1M', '--end_fsync=1'], unit: 'MiB/s', fresh: true },
    { name: 'write again + fsync', args: ['--rw=write', '--bs=1M', '--end_fsync=1'], unit: 'MiB/s' },
    { name: 'write 4K random, 64M', args: ['--rw=randwrite', '--bs=4k', '--filesize=64M', ...timed], unit: 'iops' },
  ];
}

/** Terse version 3: field 6 and 47 bytes in KiB, 7 and 48 KiB/s, 8 and 49 operations per second, of reads and writes. */
async function measure(dir: string, row: Row, size: string): Promise<Measured> {
  if (row.fresh === true) for (const name of readdirSync(dir)) if (name.startsWith('bench.')) rmSync(join(dir, name));
  const args = [
    '--output-format=terse',
    '--terse-version=3',
    `--directory=${dir}`,
    '--name=bench',
    '--invalidate=0', // fadvise(2) would empty the page cache of the disk's file, and not of a backing file
    `--size=${size}`,
    ...row.args,
  ];
  const { stdout } = await run('fio', args, { timeout: ROW_TIMEOUT_MS, maxBuffer: 2 ** 24 });
  const fields = stdout.trim().split('\n').at(-1)?.split(';').map(Number) ?? [];
  const sum = (a: number, b: number): number => (fields[a] ?? 0) + (fields[b] ?? 0);
  return { rate: row.unit === 'iops' ? sum(7, 48) : sum(6, 47) / 1024, bytes: sum(5, 46) * 1024 };
}

async function untilIdle(mountpoint: string): Promise<number> {
  while (true) {
    const stats = await mountStats(mountpoint);
    const worker = stats['worker'] as { readonly pid: number; readonly volume: Readonly<Record<string, number>> }; // the worker's own answer
    const { filling = 0, liveFiles = 0, stagedFiles = 0 } = worker.volume;
    if (filling + liveFiles + stagedFiles === 0) return worker.pid;
    await sleep(100);
  }
}

const { values } = parseArgs({
  options: {
    mode: { type: 'string', default: 'read' },
    writeback: { type: 'boolean', default: false },
    size: { type: 'string', default: '512M' },
    seconds: { type: 'string', default: '3' },
    rounds: { type: 'string', default: '3' },
    only: { type: 'string', default: '' },
    dir: { type: 'string', default: tmpdir() },
    s3: { type: 'boolean', default: false },
    redis: { type: 'boolean', default: false },
  },
});
const mode = (['off', 'read', 'full'] as const).find((known) => known === values.mode);
if (mode === undefined) throw new Error(`--mode ${values.mode}: expected off, read or full`);
const base = mkdtempSync(join(values.dir, 'penstock-bench-'));
const disk = join(base, 'disk');
const mountpoint = join(base, 'mnt');
mkdirSync(disk);
mkdirSync(mountpoint);
const juicefs = process.env['JUICEFS'];
const redisUrl = values.redis || juicefs !== undefined ? `redis://127.0.0.1:${await startRedis(base)}` : '';
const metaUrl = values.redis ? `${redisUrl}/2` : `sqlite:${join(base, 'meta.db')}`;
const s3Port = values.s3 ? await startS3(base) : undefined;
Object.assign(process.env, credentials);
const storeUrl =
  s3Port === undefined
    ? `dir:${join(base, 'objects')}`
    : `s3://penstock/volume?endpoint=http://127.0.0.1:${s3Port}&region=us-east-1`;
await formatVolume({ metaUrl, storeUrl });
const options = {
  metaUrl,
  mountpoint,
  cacheDir: join(base, 'cache'),
  cacheBytes: 20e9,
  background: true,
  passthrough: mode,
  writeback: values.writeback,
};
const { passthroughProblem } = await mountVolume(options);
if (passthroughProblem !== undefined) process.stdout.write(`no passthrough: ${passthroughProblem}\n`);
const peer = join(base, 'juicefs');
if (juicefs !== undefined) {
  const url = `${redisUrl}/1`;
  await formatJuicefs(juicefs, url, join(base, 'juicefs-objects'), s3Port);
  await mountJuicefs(juicefs, url, { path: peer, cacheDir: join(base, 'juicefs-cache') });
}
try {
  process.stdout.write(
    `${cpus().length} x ${cpus()[0]?.model ?? '?'}, Linux ${release()}, load ${loadavg()[0]?.toFixed(1)}; mode ${mode}` +
      `${values.writeback ? ', writeback' : ''}, ${values.s3 ? 'S3' : 'local store'}, ${values.redis ? 'Redis' : 'SQLite'}, ${values.size}, ${values.rounds} rounds of ${values.seconds} s\n`,
  );
  for (const row of rows(Number(values.seconds)).filter(({ name }) => name.includes(values.only))) {
    const rates = { disk: [] as number[], mount: [] as number[], peer: [] as number[] };
    let cpu = 0;
    let bytes = 0;
    for (let round = 0; round <= Number(values.rounds); round++) {
      const plain = await measure(disk, row, values.size);
      const pid = await untilIdle(mountpoint);
      const before = cpuSecondsOf(pid);
      const mounted = await measure(mountpoint, row, values.size);
      const after = cpuSecondsOf(pid);
      const theirs = juicefs === undefined ? NaN : (await measure(peer, row, values.size)).rate;
      if (round === 0) continue; // The files are laid out, the caches filled, the file made whole.
      cpu += after - before;
      bytes += mounted.bytes;
      rates.disk.push(plain.rate);
      rates.mount.push(mounted.rate);
      rates.peer.push(theirs);
    }
    const [plain, mounted, theirs] = [median(rates.disk), median(rates.mount), median(rates.peer)];
    process.stdout.write(
      `${row.name.padEnd(24)} disk ${plain.toFixed(0).padStart(9)} ${row.unit.padEnd(6)} mount ${mounted.toFixed(0).padStart(9)}` +
        `   mount/disk ${(mounted / plain).toFixed(2)}${juicefs === undefined ? '' : `   mount/JuiceFS ${(mounted / theirs).toFixed(2)}`}   daemon ${(cpu / (bytes / 1e9)).toFixed(3)} s/GB\n`,
    );
  }
} finally {
  await umountVolume(mountpoint, { force: true, lazy: true });
  if (juicefs !== undefined) await umountJuicefs(juicefs, peer);
  stopServers();
  rmSync(base, { recursive: true, force: true, maxRetries: 3 });
}
