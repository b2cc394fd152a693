/** What `land --once` makes of a log that is away, and of one that is just back. */
import { expect, onTestFinished, test } from 'vitest';
import type { LandStatus } from '../../compactor/lander/lander.ts';
import { systemClock } from '../../lib/clock.ts';
import { PenstockError } from '../../lib/errors.ts';
import { openKafkaLogWith } from '../../lib/log/kafka/kafka-log.ts';
import { parseKafkaUrl } from '../../lib/log/kafka/kafka-url.ts';
import type { Log } from '../../lib/log/log.ts';
import { FaultPlan } from '../support/fault.ts';
import { faultyLog } from '../support/log-faulty.ts';
import { freePort } from '../support/ports.ts';
import {
  DATASET,
  expectAccounts,
  foreignRecord,
  HOUR_MS,
  landOnce,
  openTestPipeline,
  TestProducer,
  TOPIC,
} from './pipeline.ts';

const reading = (n: number) => foreignRecord({ ts: HOUR_MS, n });

test('it gives up when no broker can be reached for a minute, and says where it looked and that nothing is lost', async () => {
  const pipeline = await openTestPipeline();
  const address = `127.0.0.1:${await freePort()}`;
  const limits = { connectMs: 1000, requestMs: 1000, callMs: 100, deliveryMs: 100 };
  const log = await openKafkaLogWith(parseKafkaUrl(new URL(`kafka://${address}`)), limits);
  onTestFinished(() => log.close());
  const told: string[] = [];
  // The minute passes with the second of the rounds that fail.
  const clock = { ...systemClock, monotonicMs: () => performance.now() + (told.length < 2 ? 0 : 60_000) };
  const landing = landOnce(
    { ...pipeline, log },
    {
      lake: { ...pipeline.lake, clock },
      onStatus: (status) => status.kind === 'problem' && told.push(status.message),
    },
  );
  await expect(landing).rejects.toMatchObject({
    code: 'unavailable',
    message: expect.stringMatching(
      new RegExp(
        `^dataset ${DATASET}: given up, .* kafka://${address} for (?:[6-9]|1\\d)\\d s: cannot connect .*Nothing is lost`,
      ),
    ) as string,
  });
  expect(told).toHaveLength(2);
});

test('two rounds that fail are not enough to give up, however long they took; three are', async () => {
  for (const failures of [2, 3]) {
    const pipeline = await openTestPipeline('', '', 1);
    await new TestProducer(pipeline.log).append(0, [reading(0)]);
    let failed = 0;
    const clock = { ...systemClock, monotonicMs: () => performance.now() + failed * 70_000 };
    const log: Log = {
      ...faultyLog(pipeline.log, new FaultPlan()),
      topic: (name) => {
        if (failed === failures) return pipeline.log.topic(name);
        failed++;
        return Promise.reject(new PenstockError('unavailable', 'the put timed out'));
      },
    };
    const landing = landOnce({ ...pipeline, log }, { lake: { ...pipeline.lake, clock } });
    if (failures === 3) await expect(landing).rejects.toThrow('given up');
    else expect((await landing).problems).toEqual([]);
    await expectAccounts(pipeline.lake, { landed: failures === 3 ? 0 : 1 });
  }
});

test('a broker that has just been started, and does not know its topics for a moment, is no deleted topic', async () => {
  const pipeline = await openTestPipeline('', '', 1);
  await new TestProducer(pipeline.log).append(0, [reading(0)]);
  // With it the first round ends.
  const plan = new FaultPlan({ call: 0, operation: 'fetch', moment: 'before' });
  let looks = 0;
  const log: Log = {
    ...faultyLog(pipeline.log, plan),
    topic: (name) => (plan.fired > 0 && looks++ < 2 ? Promise.resolve(null) : pipeline.log.topic(name)),
  };
  const { problems } = await landOnce({ ...pipeline, log });
  expect(looks).toBeGreaterThan(2);
  expect(problems).toEqual([]);
  await expectAccounts(pipeline.lake, { landed: 1, lost: 0 });
});

test('a topic that is not there, because nothing was sent yet or its name is misspelt, is made, and said to have been', async () => {
  const pipeline = await openTestPipeline('', '', 1);
  await pipeline.log.deleteTopic(TOPIC);
  const told: string[] = [];
  const onStatus = (status: LandStatus): unknown => status.kind === 'problem' && told.push(status.message);
  for (let run = 0; run < 2; run++) expect((await landOnce(pipeline, { onStatus })).problems).toEqual([]);
  expect(told).toEqual([
    expect.stringMatching(`^topic ${TOPIC} was not there, and there is nothing to land in it yet`),
  ]);
});

test('a log that does not take the offsets that are shown to it is named once, not with each commit', async () => {
  const pipeline = await openTestPipeline('', 'lander: { fileBytes: 1MB }', 1);
  const text = 'x'.repeat(900_000);
  const producer = new TestProducer(pipeline.log);
  for (let n = 0; n < 10; n++) await producer.append(0, [foreignRecord({ ts: HOUR_MS, n, text })]);
  const hints: unknown[] = [];
  const log: Log = {
    ...faultyLog(pipeline.log, new FaultPlan()),
    commitHint: (...hint) => {
      hints.push(hint);
      return Promise.reject(new PenstockError('denied', 'the group is not yours'));
    },
  };
  const told: string[] = [];
  const onStatus = (status: LandStatus): unknown => status.kind === 'problem' && told.push(status.message);
  expect((await landOnce({ ...pipeline, log }, { onStatus })).summary).toMatchObject({ rows: 10 });
  expect(hints.length).toBeGreaterThan(1);
  expect(told).toEqual([expect.stringContaining('the group is not yours')]);
});
