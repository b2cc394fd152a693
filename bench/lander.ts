/**
 * The lander's rows per CPU-second: from RecordBatch v2 in a `file:` log to committed zstd Parquet in a `dir:` store, everything
 * included (checksums, decoding, JSON, checks by record, DuckDB, fingerprints, table commit).
 *
 *   node bench/lander.ts [rows=1000000] [compression=zstd|none]
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { runLander } from '../compactor/lander/lander.ts';
import { datasetStats } from '../compactor/main.ts';
import { openLake, openPipelineLog } from '../lib/lake/ports.ts';
import { parseConfig } from '../lib/config/load.ts';
import { pipelineSchema } from '../lib/config/pipeline.ts';
import { fillLog } from './readings.ts';

const rows = Number(process.argv[2] ?? 1_000_000);
const compression = process.argv[3] === 'none' ? 'none' : 'zstd';
const dir = mkdtempSync(join(tmpdir(), 'penstock-bench-lander-'));
try {
  const config = parseConfig(
    `{log: 'file:${dir}/log', store: 'dir:${dir}/objects', meta: 'sqlite:${dir}/meta.db',` +
      ` datasets: [{name: bench, topic: bench, eventTime: ts, sort: [sensor, ts]}], topics: {partitions: 3}}`,
    'bench',
    pipelineSchema,
  );
  const log = await openPipelineLog(config, dir);
  const valueBytes = await fillLog(log, 'bench', { rows, partitions: 3, compression, hours: 1 });
  const ports = await openLake(config, dir, 'bench');
  const start = process.cpuUsage();
  const startMs = performance.now();
  const { summary, problems } = await runLander({
    config,
    lake: ports.lake,
    log,
    once: true,
    signal: new AbortController().signal,
    scratchRoot: join(dir, 'scratch'),
  });
  const cpu = process.cpuUsage(start);
  const cpuSeconds = (cpu.user + cpu.system) / 1e6;
  const seconds = (performance.now() - startMs) / 1000;
  const stats = await datasetStats(ports.lake, 'bench');
  console.log(
    JSON.stringify({
      machine: `${cpus().length} x ${cpus()[0]?.model ?? '?'}, node ${process.version}`,
      rows: summary.rows,
      quarantined: summary.quarantined,
      problems,
      compression,
      valueBytes: Math.round(valueBytes / rows),
      files: summary.files,
      parquetMB: +(stats.liveBytes / 1e6).toFixed(1),
      seconds: +seconds.toFixed(2),
      cpuSeconds: +cpuSeconds.toFixed(2),
      rowsPerCpuSecond: Math.round(rows / cpuSeconds),
      maxRssMB: Math.round(process.resourceUsage().maxRSS / 1000),
    }),
  );
  await ports.close();
  await log.close();
} finally {
  rmSync(dir, { recursive: true, force: true });
}
