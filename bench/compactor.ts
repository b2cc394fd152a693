/**
 * `penstock compact` as it is run: CPU-seconds per GB of Parquet input, with sort and de-duplication, checks and commit included, and the
 * memory of its processes; and what DuckDB's own best single query for the same work takes on the same files.
 *
 *   node bench/compactor.ts [rows=2000000] [rowsPerCommit=20000] [repeats=0.01] [hours=1] [--dir DIR | --s3] [--no-peer]
 *   node bench/compactor.ts 50000000 28000 0.01 10      the big one: 11,330 files of 4,500 rows in ten hours, some minutes
 *
 * A commit of the lander takes 4 MB of values or more (14,000 of these rows); with several hours each commit writes a file of every one.
 * `--s3`: the store is an S3 server that is started for it; the peer reads the same objects as local files, without the requests.
 * `--dir`: what was landed stays in that directory, and the next run takes it from there.
 */
import { fork, spawn } from 'node:child_process';
import { once } from 'node:events';
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { cpus, tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { text } from 'node:stream/consumers';
import { parseArgs } from 'node:util';
import { runLander } from '../compactor/lander/lander.ts';
import { loadConfig } from '../lib/config/load.ts';
import { pipelineSchema } from '../lib/config/pipeline.ts';
import { openLake, openPipelineLog } from '../lib/lake/ports.ts';
import { sqlText } from '../lib/sql/duckdb.ts';
import { SqlWorker } from '../lib/sql/sql-worker-client.ts';
import { loadTable } from '../lib/table/table.ts';
import { endedChildrenCpuSeconds, sampleMemory } from './memory-sampler.ts';
import { fillLog } from './readings.ts';
import { startS3Store } from './s3-server.ts';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  allowNegative: true,
  options: {
    dir: { type: 'string' },
    s3: { type: 'boolean', default: false },
    peer: { type: 'boolean', default: true },
    /** Of the child process that lands. */
    land: { type: 'boolean', default: false },
  },
});
const [rows = 2_000_000, rowsPerCommit = 20_000, repeats = 0.01, hours = 1] = positionals.map(Number);
/** What the lander counts for a reading of the benchmark. */
const STAGED_BYTES_PER_ROW = 273;
const MEMORY_BYTES = 1_000_000_000;
const PENSTOCK = join(import.meta.dirname, '..', 'bin', 'penstock');

const dir = values.dir === undefined ? mkdtempSync(join(tmpdir(), 'penstock-bench-compactor-')) : resolve(values.dir);
const configPath = join(dir, 'pipeline.yaml');
const metaPath = join(dir, 'meta.db');
const landedMetaPath = join(dir, 'meta-landed.db');

if (values.land) {
  await landAll();
} else {
  const s3 = values.s3 ? await startS3Store() : undefined;
  try {
    if (!existsSync(landedMetaPath)) await landInChild(s3?.url ?? 'dir:./objects');
    copyFileSync(landedMetaPath, metaPath);
    const { paths, bytes } = await landedFiles(s3?.folder);
    const compacted = await compactInChild();
    const peer = values.peer ? await bestQuery(paths) : undefined;
    console.log(
      JSON.stringify({
        machine: `${cpus().length} x ${cpus()[0]?.model ?? '?'}, node ${process.version}`,
        store: s3 === undefined ? 'dir' : 's3',
        ...compacted.summary,
        inputMB: +(bytes / 1e6).toFixed(1),
        seconds: +compacted.seconds.toFixed(2),
        cpuSeconds: +compacted.cpuSeconds.toFixed(2),
        cpuSecondsPerGB: +((compacted.cpuSeconds / bytes) * 1e9).toFixed(1),
        rowsPerCpuSecond: Math.round(compacted.summary.in / compacted.cpuSeconds),
        peakMB: Object.fromEntries(
          Object.entries(compacted.memory.each).map(([program, peak]) => [program, Math.round(peak / 1e6)]),
        ),
        togetherPeakMB: Math.round(compacted.memory.together / 1e6),
        ...(peer !== undefined && {
          duckdbBestQueryCpuSeconds: +peer.toFixed(2),
          toBestQuery: +(compacted.cpuSeconds / peer).toFixed(2),
        }),
      }),
    );
  } finally {
    await s3?.stop();
    if (values.dir === undefined) rmSync(dir, { recursive: true, force: true });
  }
}

/** In a process of its own, which has nothing to do with the compactor's memory. */
async function landInChild(store: string): Promise<void> {
  mkdirSync(dir, { recursive: true });
  const datasets = '[{name: bench, topic: bench, eventTime: ts, sort: [sensor, ts]}]';
  const fileBytes = Math.round((rowsPerCommit * STAGED_BYTES_PER_ROW) / 2);
  writeFileSync(
    configPath,
    `{log: 'file:./log', store: '${store}', meta: 'sqlite:./meta.db', datasets: ${datasets}, topics: {partitions: 1},` +
      ` lander: {commitEvery: 1h, fileBytes: ${fileBytes}}, compactor: {memoryBytes: ${MEMORY_BYTES}}}`,
  );
  const numbers = [rows, rowsPerCommit, repeats, hours].map(String);
  const child = fork(import.meta.filename, [...numbers, '--dir', dir, '--land'], { execArgv: [] });
  await once(child, 'exit');
  if (child.exitCode !== 0) throw new Error('landing failed');
  rmSync(join(dir, 'log'), { recursive: true });
  copyFileSync(metaPath, landedMetaPath);
}

async function landAll(): Promise<void> {
  const { config, baseDir } = await loadConfig(configPath, pipelineSchema);
  const log = await openPipelineLog(config, baseDir);
  const ports = await openLake(config, baseDir, 'bench');
  await fillLog(log, 'bench', { rows, partitions: 1, compression: 'zstd', hours, interleaved: true, repeats });
  const signal = new AbortController().signal;
  await runLander({ config, lake: ports.lake, log, once: true, signal, scratchRoot: join(dir, 'scratch') });
  await ports.close();
  await log.close();
}

async function landedFiles(folder?: string): Promise<{ readonly paths: readonly string[]; readonly bytes: number }> {
  const { config, baseDir } = await loadConfig(configPath, pipelineSchema);
  const ports = await openLake(config, baseDir, 'bench');
  const { lake } = ports;
  const table = await loadTable(lake, 'bench');
  const paths: string[] = [];
  let bytes = 0;
  if (table !== null) {
    for await (const file of table.liveFiles()) {
      const key = lake.store.keyOf(file.location) ?? '';
      paths.push(folder === undefined ? (lake.store.localPath(key) ?? '') : join(folder, key));
      bytes += Number(file.bytes);
    }
  }
  await ports.close();
  return { paths, bytes };
}

async function compactInChild() {
  const cpuBefore = endedChildrenCpuSeconds();
  const startMs = performance.now();
  const child = spawn(PENSTOCK, ['compact', '-c', configPath, '--ignore-lag', '--json'], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, TMPDIR: dir },
  });
  const memory = sampleMemory(child.pid ?? 0);
  const [output] = await Promise.all([text(child.stdout), once(child, 'exit')]);
  if (child.exitCode !== 0) throw new Error(`penstock compact ended with status ${child.exitCode ?? 'none'}`);
  return {
    summary: JSON.parse(output) as { readonly in: number }, // what `penstock compact --json` prints (docs/CLI.md)
    seconds: (performance.now() - startMs) / 1000,
    cpuSeconds: endedChildrenCpuSeconds() - cpuBefore,
    memory: memory.stop(),
  };
}

/** CPU seconds of one statement that sorts and de-duplicates, as one would write it by hand. */
async function bestQuery(paths: readonly string[]): Promise<number> {
  const spill = join(dir, 'peer');
  mkdirSync(spill, { recursive: true });
  const worker = await SqlWorker.start({
    memoryBytes: MEMORY_BYTES * 0.8,
    threads: 1,
    scratchDir: spill,
    scratchBytes: 100e9,
  });
  const before = worker.cpuSeconds;
  const list = paths.map(sqlText).join(', ');
  await worker.run(
    `COPY (SELECT * FROM read_parquet([${list}], union_by_name = true) ` +
      'QUALIFY row_number() OVER (PARTITION BY _agent, _incarnation, _seq ORDER BY _log_partition, _offset) = 1 ' +
      `ORDER BY sensor, ts, _log_partition, _offset) TO ${sqlText(join(spill, 'out.parquet'))} ` +
      '(FORMAT parquet, COMPRESSION zstd)',
  );
  const used = worker.cpuSeconds - before;
  await worker.close();
  rmSync(spill, { recursive: true });
  return used;
}
