/**
 * The lander's rows per CPU-second: from RecordBatch v2 in a `file:` log, or with `--kafka` in a real broker that is started for it, to
 * committed zstd Parquet in a `dir:` store, or with `--s3` on an S3 server that is started for it, everything included (fetching, checksums, decoding, JSON, checks by record, DuckDB,
 * fingerprints, table commit).
 *
 *   node bench/lander.ts [rows=1000000] [compression=zstd|none] [--kafka] [--s3]
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { runLander } from '../compactor/lander/lander.ts';
import { datasetStats } from '../compactor/main.ts';
import { openLake, openPipelineLog } from '../lib/lake/ports.ts';
import { parseConfig } from '../lib/config/load.ts';
import { pipelineSchema } from '../lib/config/pipeline.ts';
import { KafkaBroker } from '../test/support/kafka.ts';
import { fillLog } from './readings.ts';
import { startS3Store } from './s3-server.ts';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { kafka: { type: 'boolean' }, s3: { type: 'boolean' } },
});
const rows = Number(positionals[0] ?? 1_000_000);
const compression = positionals[1] === 'none' ? 'none' : 'zstd';
const broker = values.kafka === true ? await KafkaBroker.start() : undefined;
const s3 = values.s3 === true ? await startS3Store() : undefined;
const dir = mkdtempSync(join(tmpdir(), 'penstock-bench-lander-'));
try {
  const config = parseConfig(
    `{log: '${broker === undefined ? `file:${dir}/log` : `kafka://${broker.plain}`}', store: '${s3?.url ?? `dir:${dir}/objects`}', meta: 'sqlite:${dir}/meta.db',` +
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
      log: broker === undefined ? 'file' : 'kafka',
      store: s3 === undefined ? 'dir' : 's3',
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
  await broker?.close();
  await s3?.stop();
  rmSync(dir, { recursive: true, force: true });
}
