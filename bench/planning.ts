/**
 * Planning a compaction from the manifests of a table with very many small files: seconds, and the memory of the process that plans.
 * `node bench/planning.ts [files] [hours]`; the files exist in the manifests only.
 */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { cpus } from 'node:os';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { planGroups } from '../compactor/compact/plan.ts';
import { limitsOf } from '../compactor/compact/selection.ts';
import { parseConfig } from '../lib/config/load.ts';
import { pipelineSchema } from '../lib/config/pipeline.ts';
import { openLake } from '../lib/lake/ports.ts';
import { commitTable } from '../lib/table/commit.ts';
import type { ColumnStats, DataFile } from '../lib/table/data-file.ts';
import { newSchema } from '../lib/table/schema.ts';
import { createTable, loadTable } from '../lib/table/table.ts';

const DATASET = 'plant.vibration';
const HOUR = 491_000;
/** What a lander commits at once, so that there are as many manifests as there would be. */
const FILES_A_COMMIT = 200;

const [files = 100_000, hours = 1] = process.argv.slice(2, 4).map(Number);
const planIn = process.argv[4];

const config = (dir: string) =>
  parseConfig(
    [
      `log: file:${join(dir, 'log')}`,
      `store: dir:${join(dir, 'objects')}`,
      `meta: sqlite:${join(dir, 'meta.db')}`,
      `datasets: [{ name: ${DATASET}, topic: vibration, sort: [sensor] }]`,
    ].join('\n'),
    'bench.yaml',
    pipelineSchema,
  );

const schema = newSchema([
  { name: '_agent', type: 'string' },
  { name: '_incarnation', type: 'string' },
  { name: '_seq', type: 'long' },
  { name: '_offset', type: 'long' },
  { name: '_log_partition', type: 'int' },
  { name: '_event_time', type: 'timestamptz', required: true },
  { name: '_arrival_time', type: 'timestamptz' },
  { name: '_replayed', type: 'boolean' },
  { name: 'sensor', type: 'string' },
  { name: 'ts', type: 'long' },
  { name: 'rms', type: 'double' },
  { name: 'peak', type: 'double' },
]);

function dataFile(n: number): DataFile {
  const bound = Buffer.alloc(8);
  bound.writeBigInt64LE(BigInt(n));
  const stats: ColumnStats = {
    bytes: 10_000n,
    valueCount: 5000n,
    nullCount: 0n,
    nanCount: null,
    lower: bound,
    upper: bound,
  };
  const hour = HOUR + (n % hours);
  const id = n.toString(16).padStart(16, '0');
  return {
    location: `file:///bench/plant.vibration/data/dt=2026-01-05/hour=08/2026-01-05T08-topic-p0-2-o${n}-${n + 5000}-${id}-00000000.parquet`,
    hour,
    recordCount: 5000n,
    bytes: 400_000n,
    columnStats: new Map(schema.fields.map(({ id: column }) => [column, stats])),
    sortOrderId: null,
  };
}

async function build(dir: string): Promise<void> {
  const ports = await openLake(config(dir), dir, 'bench');
  await createTable(ports.lake, DATASET, { schema, sortFields: [{ name: 'sensor' }] });
  for (let at = 0; at < files; at += FILES_A_COMMIT) {
    const add = Array.from({ length: Math.min(FILES_A_COMMIT, files - at) }, (_, k) => dataFile(at + k));
    await commitTable(ports.lake, DATASET, () =>
      Promise.resolve({ change: { operation: 'append', add, remove: [] }, extra: {} }),
    );
  }
  await ports.close();
}

async function plan(dir: string): Promise<void> {
  const ports = await openLake(config(dir), dir, 'bench');
  const before = process.memoryUsage.rss();
  const started = performance.now();
  const cpu = process.cpuUsage();
  const table = await loadTable(ports.lake, DATASET);
  if (table === null) throw new Error('no table');
  const pipeline = config(dir);
  const dataset = pipeline.datasets.find(({ name }) => name === DATASET);
  if (dataset === undefined) throw new Error('no dataset');
  const groups = await planGroups(table, {
    dataset,
    limits: limitsOf(pipeline, dataset),
    endedBeforeMs: Infinity,
  });
  const seconds = (performance.now() - started) / 1000;
  const used = process.cpuUsage(cpu);
  const planned = groups.reduce((sum, group) => sum + group.files.length, 0);
  console.log(
    `${planned} files in ${groups.length} groups: ${seconds.toFixed(2)} s, ${((used.user + used.system) / 1e6).toFixed(2)} CPU s, ` +
      `RSS ${Math.round(before / 1e6)} MB before, peak ${Math.round(process.resourceUsage().maxRSS / 1000)} MB`,
  );
  await ports.close();
}

if (planIn !== undefined) {
  await plan(planIn);
} else {
  const dir = mkdtempSync(join(tmpdir(), 'penstock-bench-'));
  try {
    console.log(
      `planning ${files} files in ${hours} hours on ${cpus().length} x ${cpus()[0]?.model ?? '?'}, Node ${process.version}`,
    );
    const started = performance.now();
    await build(dir);
    console.log(
      `the table was made by ${Math.ceil(files / FILES_A_COMMIT)} commits in ${((performance.now() - started) / 1000).toFixed(1)} s`,
    );
    const child = fork(import.meta.filename, [String(files), String(hours), dir], { execArgv: [] });
    await once(child, 'exit');
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}
