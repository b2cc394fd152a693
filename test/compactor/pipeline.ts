/** A whole pipeline on the embedded adapters in a temporary directory, and an oracle that knows every record it produced. */
import { join } from 'node:path';
import { compressors } from 'hyparquet-compressors';
import { parquetReadObjects } from 'hyparquet';
import { expect, onTestFinished } from 'vitest';
import { runCompactor, type CompactorOptions, type CompactResult } from '../../compactor/compact/compactor.ts';
import { runLander, type LanderOptions, type LandResult } from '../../compactor/lander/lander.ts';
import { type DatasetStats, datasetStats } from '../../compactor/main.ts';
import { openLake, openPipelineLog } from '../../lib/lake/ports.ts';
import { parseConfig } from '../../lib/config/load.ts';
import { pipelineSchema, type PipelineConfig } from '../../lib/config/pipeline.ts';
import type { Log, TopicOptions } from '../../lib/log/log.ts';
import { type LakeContext, loadTable } from '../../lib/table/table.ts';
import { encodeBatch, type TestRecord } from '../support/log-batches.ts';
import { tempDir } from '../support/temp.ts';

export const DATASET = 'plant.vibration';
export const TOPIC = 'vibration';
/** 2026-01-31T07:00:00Z */
export const HOUR_MS = Date.UTC(2026, 0, 31, 7);

/**
 * A session of these tests outlives any standstill of the machine: one of 144 s was seen, and fenced landers that were to share the work. It is
 * renewed at a third of that, from which a compactor takes the engine's time (lib/meta/engine-time.ts), in a test that takes minutes, too.
 */
export const LASTING = { leaseMs: 450_000 };

export interface TestPipeline {
  readonly dir: string;
  readonly yaml: string;
  readonly config: PipelineConfig;
  readonly log: Log;
  readonly lake: LakeContext;
}

export function pipelineYaml(dir: string, dataset = '', rest = '', partitions = 2): string {
  return [
    `log: file:${join(dir, 'log')}`,
    `store: dir:${join(dir, 'objects')}`,
    `meta: sqlite:${join(dir, 'meta.db')}`,
    `datasets:`,
    `  - { name: ${DATASET}, topic: ${TOPIC}, eventTime: ts, sort: [sensor, ts]${dataset} }`,
    `topics: { partitions: ${partitions}, retention: 7d }`,
    rest,
  ].join('\n');
}

export function openTestPipeline(dataset = '', rest = '', partitions = 2): Promise<TestPipeline> {
  return openPipelineOf((dir) => pipelineYaml(dir, dataset, rest, partitions), {
    partitions,
    retentionMs: 7 * 86_400_000,
  });
}

/** One of another configuration, with a new topic. */
export async function openPipelineOf(yamlOf: (dir: string) => string, topic: TopicOptions): Promise<TestPipeline> {
  const dir = tempDir('pipeline');
  const yaml = yamlOf(dir);
  const config = parseConfig(yaml, 'pipeline.yaml', pipelineSchema);
  const log = await openPipelineLog(config, dir);
  const ports = await openLake(config, dir, 'test', LASTING);
  onTestFinished(async () => {
    await ports.close();
    await log.close();
  });
  // A broker has that of the test before.
  if ((await log.topic(TOPIC)) !== null) await log.deleteTopic(TOPIC);
  await log.ensureTopic(TOPIC, topic);
  return { dir, yaml, config, log, lake: ports.lake };
}

/** The same when so many hours have passed, for the metadata engine, too: a clock that is alone ahead ends no grace. */
export function hoursLater<T extends { readonly lake: LakeContext }>(pipeline: T, hours: number): T {
  const { engine, clock } = pipeline.lake;
  const laterMs = hours * 3_600_000;
  const sessions: typeof engine.sessions = async () =>
    (await engine.sessions()).map((session) => ({ ...session, renewedMs: session.renewedMs + laterMs }));
  const laterEngine = new Proxy(engine, {
    get: (target, name) => {
      if (name === 'sessions') return sessions;
      const value: unknown = Reflect.get(target, name);
      return typeof value === 'function' ? (value.bind(target) as unknown) : value;
    },
  });
  const later = { ...clock, nowMs: () => clock.nowMs() + laterMs };
  return { ...pipeline, lake: { ...pipeline.lake, engine: laterEngine, clock: later } };
}

/** The same with `sort` changed in its configuration. */
export function sortedBy(pipeline: TestPipeline, ...sort: readonly string[]): TestPipeline {
  const { config } = pipeline;
  return {
    ...pipeline,
    config: { ...config, datasets: config.datasets.map((dataset) => ({ ...dataset, sort: [...sort] })) },
  };
}

export function landOnce(pipeline: TestPipeline, changed: Partial<LanderOptions> = {}): Promise<LandResult> {
  return runLander({
    config: pipeline.config,
    lake: pipeline.lake,
    log: pipeline.log,
    once: true,
    signal: new AbortController().signal,
    scratchRoot: join(pipeline.dir, 'scratch'),
    ...changed,
  });
}

export interface Reading {
  readonly agent?: string;
  readonly seq: number;
  /** The whole value. */
  readonly value: unknown;
}

/** A record as the agent sends it; `value` as text stays as it is. */
export function recordOf({ agent = 'edge-1', seq, value }: Reading): TestRecord {
  const header = (name: string, text: string): readonly [string, Buffer] => [name, Buffer.from(text)];
  return {
    timestampMs: HOUR_MS,
    key: Buffer.from('s'),
    value: Buffer.from(typeof value === 'string' ? value : JSON.stringify(value)),
    headers: [
      header('agent', agent),
      header('incarnation', `inc-of-${agent}-0123456789abcdef`),
      header('seq', String(seq)),
      header('event', String(HOUR_MS * 1000)),
      header('arrival', String(HOUR_MS * 1000 + 5)),
    ],
  };
}

export function foreignRecord(value: unknown): TestRecord {
  const text = typeof value === 'string' ? value : JSON.stringify(value);
  return { timestampMs: HOUR_MS, key: null, value: Buffer.from(text), headers: [] };
}

export class TestProducer {
  readonly #log: Log;
  #producer: Awaited<ReturnType<Log['producer']>> | undefined;
  readonly #sequences = new Map<string, number>();

  constructor(log: Log) {
    this.#log = log;
  }

  async append(partition: number, records: readonly TestRecord[], topic = TOPIC): Promise<void> {
    this.#producer ??= await this.#log.producer();
    const { producerId, producerEpoch } = this.#producer;
    for (let at = 0; at < records.length; at += 1000) {
      const part = records.slice(at, at + 1000);
      const key = `${topic}/${partition}`;
      const baseSequence = this.#sequences.get(key) ?? 0;
      this.#sequences.set(key, baseSequence + part.length);
      await this.#producer.append(topic, partition, encodeBatch(part, { producerId, producerEpoch, baseSequence }));
    }
  }
}

export type LakeRow = Readonly<Record<string, unknown>>;

/** Every row of the table's current snapshot, by a Parquet reader that is not the one that wrote it. */
export async function readRows(lake: LakeContext, name = DATASET, columns?: string[]): Promise<LakeRow[]> {
  const table = await loadTable(lake, name);
  if (table === null) return [];
  const rows: LakeRow[] = [];
  for await (const file of table.liveFiles()) {
    for (const row of await readParquet(lake, lake.store.keyOf(file.location) ?? '', columns)) rows.push(row);
  }
  return rows;
}

export async function readParquet(lake: LakeContext, key: string, columns?: string[]): Promise<LakeRow[]> {
  const bytes = await lake.store.get(key);
  const file = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
  // A Buffer of its own is no shared one.
  return parquetReadObjects({ file: file as ArrayBuffer, compressors, utf8: false, ...(columns && { columns }) });
}

export async function liveFiles(lake: LakeContext, name = DATASET): Promise<string[]> {
  const table = await loadTable(lake, name);
  const found: string[] = [];
  if (table !== null) for await (const file of table.liveFiles()) found.push(file.location);
  return found;
}

export function compactAll(pipeline: TestPipeline, changed: Partial<CompactorOptions> = {}): Promise<CompactResult> {
  return runCompactor({
    config: pipeline.config,
    lake: pipeline.lake,
    ignoreLag: true,
    signal: new AbortController().signal,
    scratchRoot: join(pipeline.dir, 'scratch'),
    ...changed,
  });
}

/** landed = live rows + duplicates + quarantined + removed, and the rows are really there. */
export async function expectAccounts(lake: LakeContext, expected: Partial<DatasetStats>): Promise<void> {
  const stats = await datasetStats(lake, DATASET);
  expect(stats).toMatchObject(expected);
  expect(stats.landed).toBe(stats.liveRows + stats.duplicates + stats.quarantined + stats.removed);
  expect(await readRows(lake)).toHaveLength(stats.liveRows);
}
