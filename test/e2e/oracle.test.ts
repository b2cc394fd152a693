/**
 * The oracle on Kafka, Redis and S3: known records, a lander and two compactors at once, each killed -9 at its first, second, third ...
 * write of every kind, before it takes effect or after it did, while a reader checks every snapshot that it can see every 100 ms. In the
 * end the rows are those of the oracle, and the store holds no object that nothing refers to.
 */
import { readdirSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { runErase } from '../../compactor/erase/erase.ts';
import { runReplay } from '../../compactor/quarantine/replay.ts';
import { showQuarantine } from '../../compactor/quarantine/show.ts';
import { parseConfig } from '../../lib/config/load.ts';
import { pipelineSchema } from '../../lib/config/pipeline.ts';
import { quarantineBucket } from '../../lib/lake/quarantine.ts';
import { openLake, openPipelineLog } from '../../lib/lake/ports.ts';
import { readManifest } from '../../lib/table/manifest.ts';
import { manifestsOf } from '../../lib/table/live-files.ts';
import { loadTable } from '../../lib/table/table.ts';
import { checkSnapshot, countRepeats, knownRecord, type KnownFiles } from '../compactor/known-records.ts';
import { runKilledAt } from '../compactor/kill-points.ts';
import {
  compactAll,
  DATASET,
  expectAccounts,
  landOnce,
  readRows,
  TestProducer,
  TOPIC,
  type TestPipeline,
} from '../compactor/pipeline.ts';
import type { FaultMoment } from '../support/fault.ts';
import { KafkaBroker } from '../support/kafka.ts';
import { startRedis, type RedisServer } from '../support/redis.ts';
import { missing } from '../support/services.ts';
import { tempDir } from '../support/temp.ts';
import { startVersitygw, type S3Server } from '../support/versitygw.ts';
import { LONG_MS } from '../support/hang.ts';

const READ_EVERY_MS = 100;
const RECORDS_A_ROUND = 60;
const HOUR_MS = 3_600_000;
/** Kills of a kind; a run that has fewer writes ends them. How many it has depends on what the killed ones left. */
const CALLS_MAX = 15;

let broker: KafkaBroker;
let redis: RedisServer;
let s3: S3Server;

/** Looks at the table every 100 ms until `stop`; what it finds wrong is thrown there. */
class Reader {
  samples = 0;
  readonly #known: KnownFiles = new Map();
  readonly #stop = new AbortController();
  readonly #loop: Promise<void>;
  #error: Error | undefined;

  constructor(pipeline: TestPipeline) {
    this.#loop = this.#run(pipeline).catch((error: unknown) => {
      this.#error = error instanceof Error ? error : new Error(String(error));
    });
  }

  async #run(pipeline: TestPipeline): Promise<void> {
    let rows = 0;
    while (!this.#stop.signal.aborted) {
      const now = await checkSnapshot(pipeline, this.#known);
      // Only repeats leave: a snapshot never has fewer readings than one in twenty less.
      expect(now).toBeGreaterThanOrEqual(rows * 0.9);
      rows = now;
      this.samples++;
      await delay(READ_EVERY_MS, undefined, { signal: this.#stop.signal }).catch(() => undefined);
    }
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await this.#loop;
    if (this.#error !== undefined) throw this.#error;
  }
}

async function open(): Promise<{ readonly pipeline: TestPipeline; readonly close: () => Promise<void> }> {
  const dir = tempDir('oracle');
  const yaml = [
    `log: kafka://${broker.plain}`,
    `store: s3://lake/oracle?endpoint=${encodeURIComponent(s3.endpoint)}&region=us-east-1`,
    `meta: ${redis.url()}`,
    `datasets: [{ name: ${DATASET}, topic: ${TOPIC}, eventTime: ts, sort: [sensor, ts] }]`,
    'topics: { partitions: 2, retention: 7d }',
    'compactor: { keepReplaced: 0s }',
  ].join('\n');
  writeFileSync(join(dir, 'pipeline.yaml'), yaml);
  const config = parseConfig(yaml, 'pipeline.yaml', pipelineSchema);
  const log = await openPipelineLog(config, dir);
  await log.ensureTopic(TOPIC, { partitions: 2, retentionMs: 7 * 24 * HOUR_MS });
  const ports = await openLake(config, dir, 'test');
  return {
    pipeline: { dir, yaml, config, log, lake: ports.lake },
    close: async () => {
      await ports.close();
      await log.close();
    },
  };
}

describe.skipIf(missing('kafka', 'redis-server', 'versitygw'))('killed at every write', () => {
  beforeAll(async () => {
    [broker, redis, s3] = await Promise.all([KafkaBroker.start(), startRedis(), startVersitygw()]);
    s3.createBucket('lake');
    vi.stubEnv('AWS_ACCESS_KEY_ID', s3.accessKeyId);
    vi.stubEnv('AWS_SECRET_ACCESS_KEY', s3.secretAccessKey);
  }, 120_000);
  afterAll(async () => {
    vi.unstubAllEnvs();
    await Promise.all([broker.close(), redis.stop(), s3.stop()]);
  });

  test('no reader sees a gap or a double, and in the end the rows are the oracle’s', { timeout: LONG_MS }, async () => {
    const { pipeline, close } = await open();
    try {
      const producer = new TestProducer(pipeline.log);
      let produced = 0;
      const produce = async (): Promise<void> => {
        for (const partition of [0, 1]) {
          const records = Array.from({ length: RECORDS_A_ROUND }, (_, n) => knownRecord(partition, produced + n));
          await producer.append(partition, records);
        }
        produced += RECORDS_A_ROUND;
      };
      await produce();
      await landOnce(pipeline);
      const reader = new Reader(pipeline);
      let kills = 0;
      for (const [operation, moments] of [
        // The lander is killed at the first moment, one compactor at each.
        ['commit', ['after', 'before']],
        ['put', ['before', 'after']],
        ['putFile', ['before', 'after']],
      ] as const) {
        for (let call = 0; call < CALLS_MAX; call++) {
          await produce();
          const run = (role: 'land' | 'compact', moment: FaultMoment): Promise<boolean> =>
            runKilledAt(pipeline.dir, role, { operation, call, moment });
          const [first, second] = moments;
          const killed = await Promise.all([run('land', first), run('compact', second), run('compact', first)]);
          kills += killed.filter(Boolean).length;
          if (!killed.includes(true)) break;
        }
      }
      await landOnce(pipeline);
      expect((await compactAll(pipeline)).problems).toEqual([]);
      await reader.stop();
      expect(kills).toBeGreaterThan(20);
      expect(reader.samples).toBeGreaterThan(20);

      const bad = Math.floor(produced / 50);
      const repeats = countRepeats(produced);
      await expectAccounts(pipeline.lake, {
        landed: 2 * produced,
        quarantined: 2 * bad,
        duplicates: 2 * repeats,
        liveRows: 2 * (produced - bad - repeats),
        smallFiles: 0,
      });
      await expectNoOrphans(pipeline);
      await expectTools(pipeline, { bad: 2 * bad, rows: 2 * (produced - bad - repeats) });
    } finally {
      await close();
    }
  });
});

/** What works on a lake that is there, on these services: dead letters that still fit nowhere, and an erasure of one sensor. */
async function expectTools(
  pipeline: TestPipeline,
  expected: { readonly bad: number; readonly rows: number },
): Promise<void> {
  const { config, lake } = pipeline;
  const shared = { config, lake, signal: new AbortController().signal, scratchRoot: join(pipeline.dir, 'scratch') };
  const letters = await showQuarantine(config, lake, {
    dataset: DATASET,
    limit: 100_000,
    scratchRoot: shared.scratchRoot,
  });
  expect(new Set(letters.map(({ partition, offset }) => `${partition}:${offset}`)).size).toBe(expected.bad);
  expect((await runReplay(shared)).summary).toMatchObject({ rows: 0, quarantined: expected.bad });
  const matching = (await readRows(lake)).filter((row) => row['sensor'] === 's-1').length;
  expect(matching).toBeGreaterThan(0);
  const { summary, problems } = await runErase({ ...shared, dataset: DATASET, where: "sensor = 's-1'" });
  expect(problems).toEqual([]);
  expect(summary).toMatchObject({ rows: matching, files: 3, objects: 3 });
  await expectAccounts(lake, { removed: matching, liveRows: expected.rows - matching, liveFiles: 3 });
  expect((await readRows(lake)).some((row) => row['sensor'] === 's-1')).toBe(false);
}

/** The grace for orphans is an hour: all objects become older than that, and a run of the compactor removes what nothing refers to. */
async function expectNoOrphans(pipeline: TestPipeline): Promise<void> {
  const old = new Date(Date.now() - 3 * HOUR_MS);
  for (const entry of readdirSync(s3.folder, { recursive: true, withFileTypes: true })) {
    if (entry.isFile()) utimesSync(join(entry.parentPath, entry.name), old, old);
  }
  const { lake } = pipeline;
  const count = async (): Promise<Set<string>> => {
    const keys = new Set<string>();
    for await (const { key } of lake.store.list('')) keys.add(key);
    return keys;
  };
  const before = await count();
  expect((await compactAll(pipeline)).problems).toEqual([]);
  const after = await count();
  expect(after.size).toBeLessThan(before.size);
  const referred = new Set<string>();
  const refer = (location: string): void => void referred.add(lake.store.keyOf(location) ?? '');
  const table = await loadTable(lake, DATASET);
  if (table === null) throw new Error('no table');
  refer(table.metadataLocation);
  for (const line of table.metadata['metadata-log']) refer(line['metadata-file']);
  for (const snapshot of table.metadata.snapshots) {
    refer(snapshot['manifest-list']);
    for (const manifest of await manifestsOf(lake.store, snapshot)) {
      refer(manifest.location);
      const bytes = await lake.store.get(lake.store.keyOf(manifest.location) ?? '');
      for (const { file } of readManifest(bytes, manifest)) refer(file.location);
    }
  }
  const letters = await lake.engine.scan(quarantineBucket(lake.volume, DATASET), '', 1000);
  for (const [key] of letters.entries) referred.add(key);
  expect([...after].filter((key) => !referred.has(key))).toEqual([]);
}
