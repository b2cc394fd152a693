/**
 * Logs that their brokers cut below what has landed, as an unclean election or a lost disk does, and wrote anew: nothing of what is there then
 * is skipped, whether the log is still shorter than what had landed or has grown past it.
 */
import { readdirSync, readFileSync, rmSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { datasetStats } from '../../compactor/main.ts';
import { readOffsets } from '../../lib/lake/offsets.ts';
import type { Log } from '../../lib/log/log.ts';
import { batchBytes } from '../../lib/log/record-batch.ts';
import { FaultPlan } from '../support/fault.ts';
import { KafkaBroker } from '../support/kafka.ts';
import { faultyLog } from '../support/log-faulty.ts';
import { missing } from '../support/services.ts';
import {
  DATASET,
  foreignRecord,
  HOUR_MS,
  landOnce,
  openTestPipeline,
  openPipelineOf,
  pipelineYaml,
  readRows,
  TestProducer,
  type TestPipeline,
  TOPIC,
} from './pipeline.ts';

const OPTIONS = { partitions: 1, retentionMs: 86_400_000 };

const names = (life: string, count: number): string[] => Array.from({ length: count }, (_, n) => `${life} ${n}`);

/** A batch each. */
async function append(log: Log, values: readonly string[]): Promise<void> {
  const producer = new TestProducer(log);
  for (const name of values) await producer.append(0, [foreignRecord({ ts: HOUR_MS, name })]);
}

const landedNames = async ({ lake }: TestPipeline): Promise<string[]> =>
  (await readRows(lake, DATASET, ['name']))
    .map(({ name }) => Buffer.from(name as Uint8Array).toString()) // what the reader makes of text
    .sort();

const cutAt = (offset: number, read: number): unknown =>
  expect.stringMatching(
    new RegExp(
      `^${TOPIC}/0: the log was cut at offset ${offset}, below offset ${read} that was read in leader epoch \\d+: `,
    ),
  );

describe.skipIf(missing('kafka'))('on a broker', () => {
  let broker: KafkaBroker;
  beforeAll(async () => {
    broker = await KafkaBroker.start();
  });
  afterAll(() => broker.close());

  const openPipeline = (): Promise<TestPipeline> => openPipelineOf(yamlOf, OPTIONS);
  const yamlOf = (dir: string): string =>
    pipelineYaml(dir, ', dedup: none', '', 1).replace(/^log: .*$/m, `log: kafka://${broker.plain}`);

  /** The broker finds a disk that has the first `kept` batches only; the topic and its id are the cluster's, and stay. */
  async function cutLog(kept: number): Promise<void> {
    await broker.kill();
    const folder = join(broker.dir, 'data', `${TOPIC}-0`);
    if (kept === 0) rmSync(folder, { recursive: true });
    else {
      const segment = join(folder, '00000000000000000000.log');
      const bytes = readFileSync(segment);
      let at = 0;
      for (let n = 0; n < kept; n++) at += batchBytes(bytes, at);
      truncateSync(segment, at);
      const derived = readdirSync(folder).filter((name) => /index$|snapshot$/.test(name));
      for (const name of derived) rmSync(join(folder, name));
    }
    await broker.start();
  }

  test('after an unclean election what was written anew lands, though the log has grown past what had landed', async () => {
    const pipeline = await openPipeline();
    const { id } = (await pipeline.log.topic(TOPIC)) ?? {};
    await append(pipeline.log, names('before', 10));
    expect((await landOnce(pipeline)).summary.records).toBe(10);
    await cutLog(4);
    expect((await pipeline.log.topic(TOPIC))?.id).toBe(id);
    await append(pipeline.log, names('after', 15));

    const { problems, summary } = await landOnce(pipeline);
    expect(problems).toEqual([cutAt(4, 9)]);
    expect(summary).toMatchObject({ records: 15, rows: 15 });
    expect(await landedNames(pipeline)).toEqual([...names('before', 10), ...names('after', 15)].sort());
    // It is told once, and what follows is nothing special.
    await append(pipeline.log, names('later', 2));
    expect(await landOnce(pipeline)).toMatchObject({ problems: [], summary: { records: 2 } });
  });

  test('a lost disk is told of once, though nothing is there yet, and what comes then lands', async () => {
    const pipeline = await openPipeline();
    await append(pipeline.log, names('before', 10));
    await landOnce(pipeline);
    await cutLog(0);
    expect(await landOnce(pipeline)).toMatchObject({ problems: [cutAt(0, 9)], summary: { records: 0 } });
    expect(await landOnce(pipeline)).toMatchObject({ problems: [], summary: { records: 0 } });
    await append(pipeline.log, names('after', 3));
    expect(await landOnce(pipeline)).toMatchObject({ problems: [], summary: { records: 3 } });
    // A restart that forgets nothing is no cut.
    await broker.kill();
    await broker.start();
    await append(pipeline.log, names('later', 2));
    expect(await landOnce(pipeline)).toMatchObject({ problems: [], summary: { records: 2 } });
    expect(await datasetStats(pipeline.lake, DATASET)).toMatchObject({ landed: 15, lost: 0 });
  });
});

test('under a lander that has staged what is gone, that lands as it was read, and then what was written anew', async () => {
  const [pipeline, anew] = [
    await openTestPipeline(', dedup: none', 'lander: { commitEvery: 1h }', 1),
    await openTestPipeline('', '', 1),
  ];
  await append(pipeline.log, names('before', 10));
  // The new leader had the first four.
  await append(anew.log, [...names('before', 4), ...names('after', 15)]);
  const stop = new AbortController();
  let leader = { log: pipeline.log, epoch: 3 };
  const log: Log = {
    ...faultyLog(pipeline.log, new FaultPlan()),
    offsets: (topic, partition) => leader.log.offsets(topic, partition),
    fetch: async ({ topicId: _, ...request }) => {
      if (request.offset === 10n) leader = { log: anew.log, epoch: 5 };
      // All is read: what is staged lands before it ends.
      if (request.offset === 19n) stop.abort();
      // One batch an answer.
      return { ...(await leader.log.fetch({ ...request, maxBytes: 1 })), leaderEpoch: leader.epoch };
    },
    epochEnd: async (topic, partition, epoch) =>
      epoch < leader.epoch ? 4n : (await leader.log.offsets(topic, partition)).end,
  };
  const told: string[] = [];
  const { problems } = await landOnce(
    { ...pipeline, log },
    {
      once: false,
      signal: stop.signal,
      onStatus: (status) => status.kind === 'problem' && told.push(status.message),
    },
  );
  expect(told).toEqual(problems);
  expect(problems).toEqual([cutAt(4, 9)]);
  await landOnce({ ...pipeline, log });
  expect(await landedNames(pipeline)).toEqual([...names('before', 10), ...names('after', 15)].sort());
  const { lake } = pipeline;
  const [stored] = await readOffsets(lake.engine, lake.volume, DATASET, [0]);
  expect(stored?.landed).toMatchObject({ next: 19, leaderEpoch: 5 });
});
