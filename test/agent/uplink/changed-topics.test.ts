/** Topics that change under a running uplink: made anew with other partitions, or with partitions added. */
import { join } from 'node:path';
import { expect, test } from 'vitest';
import type { SpoolEntry } from '../../../agent/spool/spool-reader.ts';
import { SendIntents } from '../../../agent/uplink/send-intents.ts';
import { PenstockError } from '../../../lib/errors.ts';
import type { Log, LogProducer } from '../../../lib/log/log.ts';
import { FaultPlan } from '../../support/fault.ts';
import { HANG_MS } from '../../support/hang.ts';
import { faultyLog } from '../../support/log-faulty.ts';
import { tempDir } from '../../support/temp.ts';
import { delivered, flaws } from './delivered.ts';
import { GeneratedSpool } from './generated-spool.ts';
import { closing, openLog, startUplink } from './start-uplink.ts';

test('a topic that is made anew with fewer partitions under a running uplink is served on', async () => {
  const directory = tempDir();
  const log = await openLog(directory);
  const spool = new GeneratedSpool('t', join(directory, 'acknowledged'), 50);
  const uplink = closing(await startUplink(log, spool, directory));
  expect(await uplink.drain(HANG_MS)).toBe(true);
  await log.deleteTopic('t');
  await log.ensureTopic('t', { partitions: 1, retentionMs: 3_600_000 });
  spool.grow(1000);
  expect(await uplink.drain(HANG_MS)).toBe(true);
  spool.grow(1000);
  expect(await uplink.drain(HANG_MS)).toBe(true);
  const found = await delivered(log, 't');
  expect(
    flaws(
      found.map((one) => ({ ...one, seq: one.seq - 50 })),
      2000,
    ),
  ).toBe('');
});

test('a batch that comes late, behind the answer that there is no such partition, is there once, also where partitions were added', async () => {
  const directory = tempDir();
  const log = await openLog(directory);
  // One that has four partitions, of which the agent found three at its start.
  await log.ensureTopic('t', { partitions: 4, retentionMs: 3_600_000 });
  let partitions = 3;
  let late: (() => Promise<unknown>) | undefined;
  const growing: Log = {
    ...faultyLog(log, new FaultPlan()),
    ensureTopic: async (name, options) => ({ ...(await log.ensureTopic(name, options)), partitions }),
    producer: async () => {
      const producer = await log.producer();
      return {
        ...producer,
        append: async (...batch) => {
          if (partitions === 3) {
            partitions = 4;
            late = () => producer.append(...batch);
            throw new PenstockError('not-found', 'UNKNOWN_TOPIC_OR_PARTITION of a broker that is about to lead');
          }
          return producer.append(...batch);
        },
      };
    },
  };
  const spool = new GeneratedSpool('t', join(directory, 'acknowledged'), 200);
  const uplink = closing(await startUplink(growing, spool, directory));
  expect(await uplink.drain(HANG_MS)).toBe(true);
  expect(await late?.()).toBeDefined();
  expect(flaws(await delivered(log, 't'), 200)).toBe('');
});

test.each([
  ['and whole', 'unavailable', 200],
  ['and cut anew, as the log does not know its producer any more', 'unknown-producer', 201],
] as const)(
  'partitions that are found added at a start: what had no answer goes where it was sent, once, %s',
  async (_, second, readings) => {
    const directory = tempDir();
    const log = await openLog(directory);
    // One that has four partitions, of which the agent found three at its first start.
    await log.ensureTopic('t', { partitions: 4, retentionMs: 3_600_000 });
    const late: (() => Promise<unknown>)[] = [];
    const withoutAnswers: Log = {
      ...faultyLog(log, new FaultPlan()),
      ensureTopic: async (name, options) => ({ ...(await log.ensureTopic(name, options)), partitions: 3 }),
      producer: async () => {
        const producer = await log.producer();
        const append: LogProducer['append'] = (...batch) => {
          late.push(() => producer.append(...batch));
          return Promise.reject(new PenstockError('unavailable', 'the link is cut'));
        };
        return { ...producer, append };
      },
    };
    const spool = new GeneratedSpool('t', join(directory, 'acknowledged'), readings);
    const first = await startUplink(withoutAnswers, spool, directory);
    await expect.poll(() => late.length, { timeout: HANG_MS }).toBeGreaterThanOrEqual(3);
    await first.close();
    const refused = new Set<number>();
    const grown: Log = {
      ...faultyLog(log, new FaultPlan()),
      producer: async () => {
        const producer = await log.producer();
        const append: LogProducer['append'] = (topic, partition, bytes) => {
          if (second === 'unavailable' || refused.has(partition)) return producer.append(topic, partition, bytes);
          refused.add(partition);
          return Promise.reject(new PenstockError(second, 'UNKNOWN_PRODUCER_ID'));
        };
        return { ...producer, append };
      },
    };
    const uplink = closing(await startUplink(grown, spool, directory));
    expect(await uplink.drain(HANG_MS)).toBe(true);
    if (second === 'unavailable') for (const arrive of late) await arrive().catch(() => undefined);
    spool.grow(200);
    expect(await uplink.drain(HANG_MS)).toBe(true);
    const found = await delivered(log, 't');
    expect(found.map(({ seq }) => seq).toSorted((a, b) => a - b)).toEqual(
      Array.from({ length: readings + 200 }, (_, index) => index + 1),
    );
  },
);

test('a topic is made anew while what of it is too old is recorded: the step that waited for that goes on with nothing', async () => {
  const directory = tempDir();
  const log = await openLog(directory);
  let producers = 0;
  const counting: Log = {
    ...faultyLog(log, new FaultPlan()),
    producer: () => log.producer().finally(() => (producers += 1)),
  };
  // One fills a batch, which goes out at once; one is too old; another fills a batch.
  const large = { value: Buffer.alloc(600_000, '1') };
  const old = { arrivalUs: (Date.now() - 7_200_000) * 1000 };
  const special = new Map<bigint, Partial<SpoolEntry>>([
    [51n, large],
    [52n, old],
    [53n, large],
  ]);
  const spool = new GeneratedSpool('t', join(directory, 'acknowledged'), 50, special);
  const recorded = Promise.withResolvers<unknown>();
  spool.recordGap = async () => {
    await recorded.promise;
  };
  const uplink = closing(await startUplink(counting, spool, directory, { maxAgeMs: { t: 3_600_000 } }));
  expect(await uplink.drain(HANG_MS)).toBe(true);
  await log.deleteTopic('t');
  await log.ensureTopic('t', { partitions: 1, retentionMs: 3_600_000 });
  spool.grow(50);
  await expect.poll(() => producers).toBe(4);
  recorded.resolve(undefined);
  expect(await uplink.drain(HANG_MS)).toBe(true);
  await uplink.close();
  const found = await delivered(log, 't');
  const ofNew = found.map((one) => ({ ...one, seq: one.seq - 50 }));
  expect(flaws(ofNew, 50, [2])).toBe('');
  const intents = await SendIntents.open(join(directory, 'intents'), () => 0n);
  await intents.close();
  expect(intents.unresolved()).toEqual([]);
});
