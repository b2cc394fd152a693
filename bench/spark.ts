/**
 * The same small files of the lander, compacted with sort by `penstock compact` (which also leaves repeats out) and by Spark's
 * `rewrite_data_files` (sort strategy, through `penstock catalog`), one after the other on the same bytes: CPU seconds, largest
 * resident set and time of the whole process trees.
 *
 *   node bin/install.mjs --spark
 *   node bench/spark.ts [rows=5000000] [rowsPerCommit=50000] [repeats=0.01] [hours=10]     1,000 files of 5,000 rows
 *
 * Both write Parquet with zstd of level 3 and the target size of the table's compactor, sorted by the table's own order. Spark has two
 * threads and 2 GB of heap; its start and a first query are counted apart, those of `penstock compact` are always in.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { cpus, loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { runLander } from '../compactor/lander/lander.ts';
import { loadConfig } from '../lib/config/load.ts';
import { pipelineSchema } from '../lib/config/pipeline.ts';
import { openLake, openPipelineLog } from '../lib/lake/ports.ts';
import { loadTable } from '../lib/table/table.ts';
import { SparkSession } from '../test/spark/session.ts';
import { descendants } from '../test/support/processes.ts';
import { fillLog } from './readings.ts';

const [rows = 5_000_000, rowsPerCommit = 50_000, repeats = 0.01, hours = 10] = process.argv.slice(2).map(Number);
/** What the lander counts for a reading of the benchmark. */
const STAGED_BYTES_PER_ROW = 273;
const TARGET_BYTES = 512_000_000;
const SAMPLE_MS = 100;
const CLOCK_TICKS = 100;
const PAGE_BYTES = 4096;
const penstock = fileURLToPath(new URL('../bin/penstock.ts', import.meta.url));
const dir = mkdtempSync(join(tmpdir(), 'penstock-bench-spark-'));
const lakeDir = join(dir, 'lake');
const yaml = join(lakeDir, 'pipeline.yaml');

interface Cost {
  readonly seconds: number;
  readonly cpuSeconds: number;
  readonly rssMB: number;
}

interface Files {
  readonly files: number;
  readonly rows: number;
  readonly MB: number;
}

function statOf(pid: number | 'self'): readonly number[] {
  try {
    return readFileSync(`/proc/${pid}/stat`, 'utf8')
      .replace(/^.*\) /s, '')
      .split(' ')
      .map(Number);
  } catch {
    // It has ended.
    return [];
  }
}

const sumOf = (stat: readonly number[], ...fields: readonly number[]): number =>
  fields.reduce((sum, field) => sum + (stat[field] ?? 0), 0);

/** User and system time of a living tree, and of those in it that ended. */
function treeCpuSeconds(pid: number): number {
  const tree = [pid, ...descendants(pid).map((entry) => entry.pid)];
  return tree.reduce((sum, member) => sum + sumOf(statOf(member), 11, 12, 13, 14), 0) / CLOCK_TICKS;
}

/** Of what this process waited for. */
const endedCpuSeconds = (): number => sumOf(statOf('self'), 13, 14) / CLOCK_TICKS;

/** Keeps the largest sum of the resident sets in a tree until `stop`, which answers it in MB. */
function watchMemory(pid: number): { readonly stop: () => number } {
  let bytes = 0;
  const timer = setInterval(() => {
    const tree = [pid, ...descendants(pid).map((entry) => entry.pid)];
    bytes = Math.max(bytes, tree.reduce((sum, member) => sum + sumOf(statOf(member), 21), 0) * PAGE_BYTES);
  }, SAMPLE_MS);
  return {
    stop: () => {
      clearInterval(timer);
      return Math.round(bytes / 1e6);
    },
  };
}

const round = (value: number): number => Number(value.toFixed(2));

async function land(): Promise<Files> {
  const { config, baseDir } = await loadConfig(yaml, pipelineSchema);
  const log = await openPipelineLog(config, baseDir);
  const ports = await openLake(config, baseDir, 'bench');
  await fillLog(log, 'bench', { rows, partitions: 1, compression: 'zstd', hours, interleaved: true, repeats });
  const scratchRoot = join(dir, 'scratch');
  await runLander({ config, lake: ports.lake, log, once: true, signal: new AbortController().signal, scratchRoot });
  await ports.close();
  await log.close();
  return filesOf();
}

async function filesOf(): Promise<Files> {
  const { config, baseDir } = await loadConfig(yaml, pipelineSchema);
  const ports = await openLake(config, baseDir, 'bench');
  let [files, count, bytes] = [0, 0, 0];
  const table = await loadTable(ports.lake, 'bench');
  if (table !== null) {
    for await (const file of table.liveFiles()) {
      files++;
      count += Number(file.recordCount);
      bytes += Number(file.bytes);
    }
  }
  await ports.close();
  return { files, rows: count, MB: round(bytes / 1e6) };
}

async function compactOurs(): Promise<Cost> {
  const [startMs, cpuBefore] = [performance.now(), endedCpuSeconds()];
  const child = spawn(process.execPath, [penstock, 'compact', '-c', yaml, '--ignore-lag', '--json'], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let errors = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => (errors = (errors + text).slice(-4000)));
  const memory = watchMemory(child.pid ?? 0);
  const [status] = (await once(child, 'close')) as [number | null]; // by the event's definition
  const rssMB = memory.stop();
  if (status !== 0) throw new Error(`penstock compact ended with ${String(status)}: ${errors}`);
  const seconds = (performance.now() - startMs) / 1000;
  return { seconds: round(seconds), cpuSeconds: round(endedCpuSeconds() - cpuBefore), rssMB };
}

/** `start`: until a first query is answered. */
async function compactBySpark(): Promise<{
  readonly start: Cost;
  readonly rewrite: Cost;
  readonly catalogCpu: number;
}> {
  const catalog = spawn(process.execPath, [penstock, 'catalog', '-c', yaml, '--port', '0'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const [url] = (await once(createInterface(catalog.stdout), 'line')) as [string]; // by the event's definition
  const sparkDir = join(dir, 'spark');
  mkdirSync(sparkDir);
  const spark = new SparkSession(url, sparkDir, { 'spark.driver.memory': '2g' });
  try {
    const measure = async (statement: string): Promise<Cost> => {
      const [startMs, cpuBefore] = [performance.now(), treeCpuSeconds(spark.pid)];
      const memory = watchMemory(spark.pid);
      await spark.sql(statement);
      const seconds = (performance.now() - startMs) / 1000;
      const cpuSeconds = round(treeCpuSeconds(spark.pid) - cpuBefore);
      return { seconds: round(seconds), cpuSeconds, rssMB: memory.stop() };
    };
    const start = await measure('SELECT count(*) FROM penstock.default.bench');
    await spark.sql(
      "ALTER TABLE penstock.default.bench SET TBLPROPERTIES ('write.parquet.compression-codec' = 'zstd', 'write.parquet.compression-level' = '3')",
    );
    const rewrite = await measure(
      "CALL penstock.system.rewrite_data_files(table => 'default.bench', strategy => 'sort', " +
        `options => map('target-file-size-bytes', '${TARGET_BYTES}'))`,
    );
    return { start, rewrite, catalogCpu: round(treeCpuSeconds(catalog.pid ?? 0)) };
  } finally {
    await spark.close();
    const exited = once(catalog, 'exit');
    catalog.kill();
    await exited;
  }
}

try {
  mkdirSync(lakeDir);
  writeFileSync(
    yaml,
    `{log: 'file:${lakeDir}/log', store: 'dir:${lakeDir}/objects', meta: 'sqlite:${lakeDir}/meta.db',` +
      ` datasets: [{name: bench, topic: bench, eventTime: ts, sort: [sensor, ts]}], topics: {partitions: 1},` +
      ` lander: {commitEvery: 1h, fileBytes: ${Math.round((rowsPerCommit * STAGED_BYTES_PER_ROW) / 2)}},` +
      ` compactor: {targetBytes: ${TARGET_BYTES}}}`,
  );
  const machine = `${cpus().length} x ${cpus()[0]?.model ?? '?'}, node ${process.version}`;
  const input = await land();
  // At the same place again for Spark: the table's metadata name their files by whole paths.
  const saved = join(dir, 'saved');
  cpSync(lakeDir, saved, { recursive: true, preserveTimestamps: true });
  const load = loadavg().map(round);
  const ours = await compactOurs();
  const oursFiles = await filesOf();
  rmSync(lakeDir, { recursive: true });
  renameSync(saved, lakeDir);
  const { start, rewrite, catalogCpu } = await compactBySpark();
  const result = {
    ...{ machine, load, input },
    penstock: { ...ours, ...oursFiles },
    spark: { ...rewrite, ...(await filesOf()), start, catalogCpuSeconds: catalogCpu },
    sparkToPenstock: {
      cpu: round(rewrite.cpuSeconds / ours.cpuSeconds),
      cpuWithStart: round((rewrite.cpuSeconds + start.cpuSeconds) / ours.cpuSeconds),
      memory: round(rewrite.rssMB / ours.rssMB),
      time: round(rewrite.seconds / ours.seconds),
    },
  };
  console.log(JSON.stringify(result, null, 2));
} finally {
  rmSync(dir, { recursive: true, force: true });
}
