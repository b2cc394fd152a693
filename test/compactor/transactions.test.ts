/** Transactions of Kafka, on a real broker: what was committed lands, once; what was aborted never; what is open waits. */
import { randomUUID } from 'node:crypto';
import { Kafka, logLevel, type Producer, type Transaction } from 'kafkajs';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { OpenTransactions } from '../../compactor/lander/open-transactions.ts';
import { datasetStats } from '../../compactor/main.ts';
import type { Log } from '../../lib/log/log.ts';
import { FaultPlan } from '../support/fault.ts';
import { KafkaBroker } from '../support/kafka.ts';
import { faultyLog } from '../support/log-faulty.ts';
import { until } from '../support/mount-guard.ts';
import { missing } from '../support/services.ts';
import {
  DATASET,
  HOUR_MS,
  landOnce,
  openPipelineOf,
  pipelineYaml,
  readRows,
  type TestPipeline,
  TOPIC,
} from './pipeline.ts';

const OPTIONS = { partitions: 1, retentionMs: 86_400_000 };

describe.skipIf(missing('kafka'))('on a broker', () => {
  let broker: KafkaBroker;
  beforeAll(async () => {
    broker = await KafkaBroker.start();
  });
  afterAll(() => broker.close());

  function openPipeline(client: string): Promise<TestPipeline> {
    const log = `log: kafka://${broker.plain}?client=${client}`;
    return openPipelineOf((dir) => pipelineYaml(dir, ', dedup: none', '', 1).replace(/^log: .*$/m, log), OPTIONS);
  }

  async function producer(isTransactional = true): Promise<Producer> {
    const kafka = new Kafka({ brokers: [broker.plain], logLevel: logLevel.NOTHING });
    const identity = { transactionalId: `tx-${randomUUID()}`, idempotent: true, maxInFlightRequests: 1 };
    const made = kafka.producer(isTransactional ? identity : {});
    await made.connect();
    onTestFinished(() => made.disconnect());
    return made;
  }

  /** One batch. */
  async function send(to: Pick<Transaction, 'send'>, ...names: readonly string[]): Promise<void> {
    const messages = names.map((name) => ({ key: 'k', value: JSON.stringify({ ts: HOUR_MS, name }) }));
    await to.send({ topic: TOPIC, messages });
  }

  /** A broker writes the markers of a transaction after it has answered to its end. */
  async function allEnded({ log }: TestPipeline): Promise<bigint> {
    let end = 0n;
    await until('the markers', async () => {
      end = (await log.offsets(TOPIC, 0)).end;
      return (await log.offsets(TOPIC, 0, 'committed')).end === end;
    });
    return end;
  }

  const namesIn = async ({ lake }: TestPipeline): Promise<string[]> =>
    (await readRows(lake, DATASET, ['name']))
      .map(({ name }) => Buffer.from(name as Uint8Array).toString()) // what the reader makes of text
      .sort();

  async function land(pipeline: TestPipeline, log: Log = pipeline.log) {
    const told: string[] = [];
    const onStatus = (status: { kind: string; message?: string }): void => {
      if (status.kind === 'problem') told.push(status.message ?? '');
    };
    const { problems, summary } = await landOnce({ ...pipeline, log }, { onStatus });
    expect(problems).toEqual([]);
    return { told, summary };
  }

  test.each(['kafkajs', 'platformatic'])(
    'over %s: what was committed lands once, what was aborted never, and what is open or behind it when that has ended',
    async (client) => {
      const pipeline = await openPipeline(client);
      const [one, two, plain] = [await producer(), await producer(), await producer(false)];

      const first = await one.transaction();
      await send(first, 'a1', 'a2');
      const failed = await two.transaction();
      await send(failed, 'aborted 1', 'aborted 2');
      await send(plain, 'b1');
      await send(first, 'a3');
      await first.commit();
      await send(failed, 'aborted 3');
      await failed.abort();
      // The producer writes again what it gave up.
      const again = await two.transaction();
      await send(again, 'c1', 'c2', 'c3');
      await again.commit();
      const openAt = await allEnded(pipeline);
      const open = await one.transaction();
      await send(open, 'open');
      await send(plain, 'behind');

      const { end: logEnd } = await pipeline.log.offsets(TOPIC, 0);
      expect(await pipeline.log.offsets(TOPIC, 0, 'committed')).toMatchObject({ earliest: 0n, end: openAt });
      const before = ['a1', 'a2', 'a3', 'b1', 'c1', 'c2', 'c3'];
      const landed = await land(pipeline);
      expect(await namesIn(pipeline)).toEqual(before);
      expect(landed.told).toEqual([
        `${TOPIC}/0: a transaction that is open at offset ${openAt} holds back offsets ${openAt} to ${logEnd - 1n}: they land when it has ended`,
      ]);
      expect(landed.summary).toMatchObject({ records: before.length, lost: 0 });
      expect((await land(pipeline)).summary.records).toBe(0);

      await open.abort();
      await allEnded(pipeline);
      expect((await land(pipeline)).told).toEqual([]);
      expect(await namesIn(pipeline)).toEqual([...before, 'behind'].sort());
      expect(await datasetStats(pipeline.lake, DATASET)).toMatchObject({ landed: before.length + 1, lost: 0 });

      // Others see what is stored, whatever became of it.
      const stored = await pipeline.log.fetch({ topic: TOPIC, partition: 0, offset: 2n, maxBytes: 1, maxWaitMs: 0 });
      expect(stored.batches.toString()).toContain('aborted 1');
    },
  );

  test('an answer that begins within an aborted transaction leaves out what is left of it', async () => {
    const pipeline = await openPipeline('kafkajs');
    const [one, two] = [await producer(), await producer()];
    const [failed, kept] = [await one.transaction(), await two.transaction()];
    const expected: string[] = [];
    for (let n = 0; n < 5; n++) {
      await send(failed, `aborted ${n}`, `aborted too ${n}`);
      await send(kept, `kept ${n}`);
      expected.push(`kept ${n}`);
    }
    await failed.abort();
    await kept.commit();
    // The last is nothing but an aborted transaction.
    const last = await one.transaction();
    await send(last, 'aborted at last');
    await last.abort();
    const end = await allEnded(pipeline);
    const log: Log = {
      ...faultyLog(pipeline.log, new FaultPlan()),
      // One batch an answer.
      fetch: (request) => pipeline.log.fetch({ ...request, maxBytes: 1 }),
    };
    await land(pipeline, log);
    expect(await namesIn(pipeline)).toEqual(expected);
    // All offsets have been passed: there is nothing left to read.
    expect((await land(pipeline)).summary).toMatchObject({ records: 0 });
    const within = { topic: TOPIC, partition: 0, offset: 1n, maxBytes: 1 << 20, maxWaitMs: 0 } as const;
    expect(await pipeline.log.fetch({ ...within, isolation: 'committed' })).toMatchObject({
      nextOffset: end,
      endOffset: end,
      lastStableOffset: end,
    });
  });
});

test('a transaction that holds a partition back for a minute is named, once', () => {
  let nowMs = 0;
  const open = new OpenTransactions({ nowMs: () => 0, monotonicMs: () => nowMs });
  const look = (lastStable: number, end: number, next = lastStable): readonly string[] => {
    const landed = { partition: 3, landed: null, version: null };
    const cursor = {
      partition: 3,
      from: landed,
      start: 0,
      lost: 0,
      wasCut: false,
      leaderEpoch: 0,
      target: Infinity,
      stopped: undefined,
    };
    return open.look('t', [{ ...cursor, next, lastStable, end }]);
  };
  expect(look(5, 9)).toEqual([]);
  nowMs += 59_999;
  expect(look(5, 9)).toEqual([]);
  nowMs += 1;
  expect(look(5, 12)).toEqual([
    't/3: a transaction that is open at offset 5 holds back offsets 5 to 11: they land when it has ended',
  ]);
  nowMs += 600_000;
  expect(look(5, 12)).toEqual([]);
  // The next one has its own minute, and what is still being read is not held back.
  for (const [lastStable, end, next] of [
    [12, 14],
    [14, 20, 13],
    [14, 20],
    [20, 20],
    [20, 21],
  ] as const) {
    expect(look(lastStable, end, next)).toEqual([]);
    nowMs += 59_000;
  }
});
