/**
 * The compactor's CPU-seconds per GB of Parquet input, with sort and de-duplication, checks and commit included; and what DuckDB's own
 * best single query for the same work takes on the same files in the same run.
 *
 *   node bench/compactor.ts [rows=2000000] [rowsPerCommit=20000] [repeats=0.01] [hours=1]
 *   node bench/compactor.ts 50000000 50000 0.01 10      the big one: 10,000 files of 5,000 rows in ten hours, some minutes
 *
 * A commit of the lander takes 4 MB of values or more (14,000 of these rows); with several hours each commit writes a file of every one.
 */
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { runCompactor } from '../compactor/compact/compactor.ts';
import { runLander } from '../compactor/lander/lander.ts';
import { openLake, openPipelineLog } from '../lib/lake/ports.ts';
import { compactionCosts } from '../compactor/cost/cost.ts';
import { parseConfig } from '../lib/config/load.ts';
import { pipelineSchema } from '../lib/config/pipeline.ts';
import { sqlText } from '../lib/sql/duckdb.ts';
import { SqlWorker } from '../lib/sql/sql-worker-client.ts';
import { loadTable } from '../lib/table/table.ts';
import { fillLog } from './readings.ts';

const rows = Number(process.argv[2] ?? 2_000_000);
const rowsPerCommit = Number(process.argv[3] ?? 20_000);
const repeats = Number(process.argv[4] ?? 0.01);
const hours = Number(process.argv[5] ?? 1);
/** What the lander counts for a reading of the benchmark. */
const STAGED_BYTES_PER_ROW = 273;
const MEMORY_BYTES = 1_000_000_000;
const dir = mkdtempSync(join(tmpdir(), 'penstock-bench-compactor-'));
const signal = new AbortController().signal;
try {
  const config = parseConfig(
    `{log: 'file:${dir}/log', store: 'dir:${dir}/objects', meta: 'sqlite:${dir}/meta.db',` +
      ` datasets: [{name: bench, topic: bench, eventTime: ts, sort: [sensor, ts]}], topics: {partitions: 1},` +
      ` lander: {commitEvery: 1h, fileBytes: ${Math.round((rowsPerCommit * STAGED_BYTES_PER_ROW) / 2)}},` +
      ` compactor: {memoryBytes: ${MEMORY_BYTES}}}`,
    'bench',
    pipelineSchema,
  );
  const log = await openPipelineLog(config, dir);
  const ports = await openLake(config, dir, 'bench');
  await fillLog(log, 'bench', { rows, partitions: 1, compression: 'zstd', hours, interleaved: true, repeats });
  await runLander({ config, lake: ports.lake, log, once: true, signal, scratchRoot: join(dir, 'scratch') });
  const table = await loadTable(ports.lake, 'bench');
  const paths: string[] = [];
  let bytes = 0;
  if (table !== null) {
    for await (const file of table.liveFiles()) {
      paths.push(ports.lake.store.localPath(ports.lake.store.keyOf(file.location) ?? '') ?? '');
      bytes += Number(file.bytes);
    }
  }
  const peer = await bestQuery(paths);

  const startMs = performance.now();
  let workerRss = 0;
  const timer = setInterval(() => (workerRss = Math.max(workerRss, largestChildRss())), 100);
  const { summary, problems } = await runCompactor({
    config,
    lake: ports.lake,
    ignoreLag: true,
    signal,
    scratchRoot: join(dir, 'scratch'),
  });
  clearInterval(timer);
  const seconds = (performance.now() - startMs) / 1000;
  const cost = await compactionCosts(ports.lake, 'bench', { fromMs: 0, toMs: Infinity });
  console.log(
    JSON.stringify({
      machine: `${cpus().length} x ${cpus()[0]?.model ?? '?'}, node ${process.version}`,
      ...summary,
      problems,
      inputMB: +(bytes / 1e6).toFixed(1),
      outputMB: +(cost.bytesWritten / 1e6).toFixed(1),
      seconds: +seconds.toFixed(2),
      cpuSeconds: +cost.cpuSeconds.toFixed(2),
      cpuSecondsPerGB: +((cost.cpuSeconds / bytes) * 1e9).toFixed(1),
      rowsPerCpuSecond: Math.round(summary.in / cost.cpuSeconds),
      workerRssMB: Math.round(workerRss / 1e6),
      duckdbBestQueryCpuSeconds: +peer.toFixed(2),
      toBestQuery: +(cost.cpuSeconds / peer).toFixed(2),
    }),
  );
  await ports.close();
  await log.close();
} finally {
  rmSync(dir, { recursive: true, force: true });
}

/** CPU seconds of one statement that sorts and de-duplicates, as one would write it by hand. */
async function bestQuery(paths: readonly string[]): Promise<number> {
  const spill = join(dir, 'peer');
  mkdirSync(spill);
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
  return used;
}

/** The largest resident set among the children of this process, bytes (Linux; 0 elsewhere). */
function largestChildRss(): number {
  try {
    const children = readFileSync(`/proc/self/task/${process.pid}/children`, 'utf8').trim().split(' ');
    const sizes = children.map((pid) => {
      const match = /VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'));
      return Number(match?.[1] ?? 0) * 1024;
    });
    return Math.max(0, ...sizes);
  } catch {
    return 0;
  }
}
