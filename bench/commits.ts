/**
 * Commits of several landers to one table, each as fast as it can: how many get through a second, how many attempts each takes, and how long
 * the unluckiest waits. Every lander has a session of its own; the data files exist in the manifests only.
 *
 *   node bench/commits.ts [landers=1,2,4,8] [seconds=5] [--local]      Redis and S3 (versitygw), or SQLite and a directory
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { openLake } from '../lib/lake/ports.ts';
import { moveOffsets, readOffsets } from '../lib/lake/offsets.ts';
import { parseConfig } from '../lib/config/load.ts';
import { pipelineSchema } from '../lib/config/pipeline.ts';
import { commitTable } from '../lib/table/commit.ts';
import { dataFileKey } from '../lib/table/keys.ts';
import { newSchema } from '../lib/table/schema.ts';
import { createTable, type LakeContext, loadTable } from '../lib/table/table.ts';
import { startRedis } from '../test/support/redis.ts';
import { startVersitygw } from '../test/support/versitygw.ts';

const DATASET = 'bench.commits';
const HOUR = 491_000;
const { values, positionals } = parseArgs({ allowPositionals: true, options: { local: { type: 'boolean' } } });
const landers = (positionals[0] ?? '1,2,4,8').split(',').map(Number);
const seconds = Number(positionals[1] ?? 5);

interface Landed {
  readonly attempts: number;
  readonly ms: number;
}

/** One partition's lander: a file and the partition's offset, commit after commit. */
async function land(lake: LakeContext, partition: number, untilMs: number): Promise<Landed[]> {
  const landed: Landed[] = [];
  while (performance.now() < untilMs) {
    const [from] = await readOffsets(lake.engine, lake.volume, DATASET, [partition]);
    if (from === undefined) throw new Error('no offset');
    const next = (from.landed?.next ?? 0) + 1;
    const location = lake.store.location(dataFileKey(DATASET, `${partition}-${next}.parquet`));
    const add = [
      { location, hour: HOUR, recordCount: 1n, bytes: 1000n, columnStats: new Map<number, never>(), sortOrderId: null },
    ];
    const own = moveOffsets(lake.volume, DATASET, [{ from, to: { topicId: 'bench', next, leaderEpoch: 0 } }]);
    const [startMs, attempts] = [performance.now(), { count: 0 }];
    await commitTable(lake, DATASET, async () => {
      attempts.count++;
      return { change: { operation: 'append', add, remove: [] }, extra: own };
    });
    landed.push({ attempts: attempts.count, ms: performance.now() - startMs });
  }
  return landed;
}

async function measure(store: string, meta: string, dir: string, count: number): Promise<object> {
  const config = parseConfig(
    `{log: 'file:./log', store: '${store}', meta: '${meta}', datasets: [{name: ${DATASET}, topic: bench}]}`,
    'bench',
    pipelineSchema,
  );
  const ports = await Promise.all(Array.from({ length: count }, () => openLake(config, dir, 'bench')));
  try {
    const lakes = ports.map(({ lake }) => lake);
    const [first] = lakes;
    if (first === undefined) throw new Error('no lander');
    const schema = newSchema([{ name: '_event_time', type: 'timestamptz', required: true }]);
    await createTable(first, DATASET, { schema });
    const startMs = performance.now();
    const all = await Promise.all(lakes.map((lake, partition) => land(lake, partition, startMs + 1000 * seconds)));
    const tookMs = performance.now() - startMs;
    const landed = all.flat();
    const table = await loadTable(first, DATASET);
    if (table?.metadata.snapshots.length !== landed.length) throw new Error('a commit was lost or made twice');
    const ms = landed.map((one) => one.ms).sort((a, b) => a - b);
    const share = all.map((one) => one.length);
    return {
      landers: count,
      commitsPerSecond: +((1000 * landed.length) / tookMs).toFixed(1),
      attemptsPerCommit: +(landed.reduce((sum, { attempts }) => sum + attempts, 0) / landed.length).toFixed(2),
      attemptsMax: Math.max(...landed.map(({ attempts }) => attempts)),
      medianMs: Math.round(ms[ms.length >> 1] ?? NaN),
      p99Ms: Math.round(ms[Math.floor(ms.length * 0.99)] ?? NaN),
      slowestMs: Math.round(ms.at(-1) ?? NaN),
      fewestAndMostOfALander: [Math.min(...share), Math.max(...share)],
    };
  } finally {
    await Promise.all(ports.map((one) => one.close()));
  }
}

const root = mkdtempSync(join(tmpdir(), 'penstock-bench-commits-'));
const redis = values.local === true ? undefined : await startRedis();
const s3 = values.local === true ? undefined : await startVersitygw();
try {
  console.log(
    JSON.stringify({ machine: `${cpus().length} x ${cpus()[0]?.model ?? '?'}`, node: process.version, seconds }),
  );
  for (const count of landers) {
    const dir = join(root, String(count));
    let [store, meta] = [`dir:${dir}/objects`, `sqlite:${dir}/meta.db`];
    if (redis !== undefined && s3 !== undefined) {
      s3.createBucket(`bench${count}`);
      [process.env['AWS_ACCESS_KEY_ID'], process.env['AWS_SECRET_ACCESS_KEY']] = [s3.accessKeyId, s3.secretAccessKey];
      store = `s3://bench${count}/lake?endpoint=${encodeURIComponent(s3.endpoint)}`;
      meta = `${redis.url()}?volume=bench${count}`;
    }
    console.log(JSON.stringify(await measure(store, meta, dir, count)));
  }
} finally {
  await redis?.stop();
  await s3?.stop();
  rmSync(root, { recursive: true, force: true });
}
