/** One topic that the log does not take is the trouble of that topic alone. */
import { join } from 'node:path';
import { Kafka, logLevel } from 'kafkajs';
import { describe, expect, onTestFinished, test } from 'vitest';
import { systemClock } from '../../../lib/clock.ts';
import { PenstockError } from '../../../lib/errors.ts';
import { openFileLogAt } from '../../../lib/log/file/file-log.ts';
import type { Log } from '../../../lib/log/log.ts';
import { openLog } from '../../../lib/registry.ts';
import { FaultPlan } from '../../support/fault.ts';
import { faultyLog } from '../../support/log-faulty.ts';
import { KafkaBroker } from '../../support/kafka.ts';
import { missing } from '../../support/services.ts';
import { tempDir } from '../../support/temp.ts';
import { readingOf, spoolIn } from '../spool/support.ts';
import { delivered, flaws, outOfOrder } from './delivered.ts';
import { startUplink } from './start-uplink.ts';
import { HANG_MS } from '../../support/hang.ts';

const refuse = (what: string): Promise<never> => Promise.reject(new PenstockError('denied', `${what} is refused`));

/** Refuses to make `unmade`, never answers for `silent`, and refuses what is appended to `unwritable` and `leaderless`. */
function pickyLog(log: Log): { readonly picky: Log; readonly relent: () => void } {
  const relenting = Promise.withResolvers<undefined>();
  let isPicky = true;
  const picky: Log = {
    ...faultyLog(log, new FaultPlan()),
    ensureTopic: async (name, options) => {
      if (isPicky && name === 'unmade') await refuse(name);
      if (isPicky && name === 'silent') await relenting.promise;
      return log.ensureTopic(name, options);
    },
    producer: async () => {
      const producer = await log.producer();
      return {
        ...producer,
        append: async (topic, partition, batch) => {
          if (isPicky && topic === 'unwritable') await refuse(topic);
          if (isPicky && topic === 'leaderless') throw new PenstockError('unavailable', `${topic} has no leader`);
          return producer.append(topic, partition, batch);
        },
      };
    },
  };
  const relent = (): void => {
    isPicky = false;
    relenting.resolve(undefined);
  };
  return { picky, relent };
}

const TROUBLED = ['unmade', 'silent', 'unwritable', 'leaderless'];

test.each(['oldestFirst', 'liveFirst'] as const)(
  'topics that the log refuses, or does not answer for, hold up no other, are named, and come whole when it takes them (%s)',
  async (order) => {
    const directory = tempDir();
    const log = await openFileLogAt(join(directory, 'log'), { segmentBytes: 1 << 20, clock: systemClock });
    onTestFinished(() => log.close());
    const { picky, relent } = pickyLog(log);
    let spool = await spoolIn(join(directory, 'spool'));
    const count = new Map<string, number>();
    const append = async (topics: readonly string[], readings: number): Promise<void> => {
      for (const topic of topics) {
        // Alarms: under liveFirst, a backlog of a higher priority goes first.
        const priority = topic === 'good' ? 4 : 9;
        const batch = Array.from({ length: readings }, () => readingOf('.'.repeat(1000), topic, priority));
        await spool.append(batch);
        count.set(topic, (count.get(topic) ?? 0) + readings);
      }
    };
    // More of each than the uplink may hold in memory, of all but the good one in front of it; half of it is a backlog.
    await append([...TROUBLED, 'good'], 1000);
    await spool.close();
    spool = await spoolIn(join(directory, 'spool'));
    const uplink = await startUplink(picky, spool, directory, { order, bytesInMemoryMax: 1 << 20 });
    onTestFinished(() => uplink.close());
    for (let round = 0; round < 5; round += 1) {
      await append([...TROUBLED, 'good'], 300);
      await expect.poll(async () => (await delivered(log, 'good')).length).toBe(count.get('good'));
    }
    await expect
      .poll(() =>
        uplink
          .status()
          .heldUp.map(({ topic }) => topic)
          .sort(),
      )
      .toEqual(['leaderless', 'unmade', 'unwritable']);
    // What is in the log is told to the uplink a little later.
    await expect.poll(() => uplink.status()).toMatchObject({ linkProblem: null, lag: 10_000n });
    const { heldUp } = uplink.status();
    expect(heldUp).toContainEqual({ topic: 'unmade', problem: 'unmade is refused', isRefused: true, readings: 2500 });
    expect(heldUp).toContainEqual(expect.objectContaining({ topic: 'leaderless', isRefused: false, readings: 2500 }));
    relent();
    expect(await uplink.drain(HANG_MS)).toBe(true);
    expect(uplink.status()).toMatchObject({ heldUp: [], lastError: null });
    for (const topic of [...TROUBLED, 'good']) {
      const found = await delivered(log, topic);
      expect(found.map(({ seq }) => seq).sort((a, b) => a - b)).toEqual(
        Array.from({ length: count.get(topic) ?? 0 }, (_, index) => index + 1),
      );
      for (const replayed of ['0', '1']) {
        expect(outOfOrder(found.filter(({ headers }) => headers['replayed'] === replayed))).toEqual([]);
      }
    }
  },
);

test('what is left of refused topics alone does not hold up the end of the agent; a link that takes nothing is down', async () => {
  const directory = tempDir();
  const log = await openFileLogAt(join(directory, 'log'), { segmentBytes: 1 << 20, clock: systemClock });
  onTestFinished(() => log.close());
  const { picky } = pickyLog(log);
  const spool = await spoolIn(join(directory, 'spool'));
  const uplink = await startUplink(picky, spool, directory);
  await spool.append([readingOf('x', 'unmade')]);
  await expect.poll(() => uplink.status().linkProblem).toBe('unmade is refused');
  await spool.append([readingOf('x', 'good')]);
  await expect.poll(() => uplink.status().linkProblem).toBeNull();
  expect(await uplink.drain(1e9)).toBe(false);
  await spool.append([readingOf('x', 'silent')]);
  // Nobody answers, and it ends all the same.
  await uplink.close();
});

test('a question to the log that the end of the uplink breaks off is no problem of the log', async () => {
  const directory = tempDir();
  const log = await openFileLogAt(join(directory, 'log'), { segmentBytes: 1 << 20, clock: systemClock });
  onTestFinished(() => log.close());
  const { picky, relent } = pickyLog(log);
  const spool = await spoolIn(join(directory, 'spool'));
  const uplink = await startUplink(picky, spool, directory);
  await spool.append([readingOf('x', 'silent')]);
  await expect.poll(() => uplink.status().lag).toBe(1n);
  await uplink.close();
  // The answer comes when nobody waits for it any more.
  relent();
  await expect.poll(async () => (await log.topic('silent'))?.name).toBe('silent');
  expect(uplink.status()).toMatchObject({ lag: 1n, lastError: null, linkProblem: null, heldUp: [] });
});

describe.skipIf(missing('kafka'))('on Kafka', () => {
  test('a name that the broker forbids and a topic that refuses the time of records hold up no other; a time that is set right is taken', async () => {
    const broker = await KafkaBroker.start();
    onTestFinished(() => broker.close());
    const admin = new Kafka({ brokers: [broker.plain], logLevel: logLevel.NOTHING }).admin();
    await admin.connect();
    onTestFinished(() => admin.disconnect());
    const configEntries = [{ name: 'message.timestamp.before.max.ms', value: '0' }];
    // Kafka 4 takes times of producers up to an hour ahead, unless it is told otherwise.
    const hour = [{ name: 'message.timestamp.after.max.ms', value: '3600000' }];
    await admin.createTopics({
      topics: [
        { topic: 'strict', numPartitions: 1, configEntries },
        { topic: 'ahead', numPartitions: 1, configEntries: hour },
      ],
      waitForLeaders: true,
    });
    const log = await openLog(`kafka://${broker.plain}`);
    onTestFinished(() => log.close());
    const directory = tempDir();
    const spool = await spoolIn(join(directory, 'spool'));
    // A machine whose clock has the local time, until NTP sets it.
    let aheadMs = 8 * 3_600_000;
    const clock = { ...systemClock, nowMs: () => systemClock.nowMs() + aheadMs };
    const uplink = await startUplink(log, spool, directory, { bytesInMemoryMax: 1 << 20, clock });
    onTestFinished(() => uplink.close());
    for (let round = 1; round <= 5; round += 1) {
      for (const topic of ['..', 'strict', 'ahead', 'good']) {
        await spool.append(Array.from({ length: 500 }, () => readingOf('.'.repeat(1000), topic)));
      }
      await expect.poll(async () => (await delivered(log, 'good')).length).toBe(500 * round);
    }
    await expect
      .poll(() => uplink.status().heldUp.map(({ topic, isRefused }) => [topic, isRefused]))
      .toEqual([
        ['..', true],
        ['strict', true],
        ['ahead', true],
      ]);
    const problems = uplink.status().heldUp.map(({ problem }) => problem);
    expect(problems[0]).toContain('INVALID_TOPIC');
    expect(problems[1]).toContain('INVALID_TIMESTAMP');
    expect(problems[2]).toContain('INVALID_TIMESTAMP');
    aheadMs = 0;
    await expect.poll(async () => flaws(await delivered(log, 'ahead'), 2500)).toBe('');
    await expect.poll(() => uplink.status().heldUp.map(({ topic }) => topic)).toEqual(['..', 'strict']);
  });
});
