/** What is left of appends when the broker is killed under them, and what an expired producer costs. */
import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { isCode } from '../../lib/errors.ts';
import { openKafkaLogWith } from '../../lib/log/kafka/kafka-log.ts';
import { parseKafkaUrl } from '../../lib/log/kafka/kafka-url.ts';
import { DEFAULT_LIMITS } from '../../lib/log/kafka/limits.ts';
import { IN_FLIGHT_MAX, type Log, type LogProducer } from '../../lib/log/log.ts';
import { KafkaBroker } from '../support/kafka.ts';
import { readValues, textBatch } from '../support/log-batches.ts';
import { missing } from '../support/services.ts';
import { HANG_MS } from '../support/hang.ts';

const OPTIONS = { partitions: 1, retentionMs: 3_600_000 };

/** Resends what was given up, under its identity, as the uplink does. */
async function appendUntilStored(producer: LogProducer, topic: string, value: string, seq: number): Promise<void> {
  const batch = textBatch([value], producer, seq);
  const endMs = performance.now() + HANG_MS;
  while (true) {
    try {
      await producer.append(topic, 0, batch);
      return;
    } catch (error) {
      // Out of order: the batch in front was given up, and is on its way again.
      if (performance.now() > endMs || !isCode(error, 'unavailable', 'timeout', 'out-of-order')) throw error;
    }
  }
}

describe.skipIf(missing('kafka'))('when the broker fails', () => {
  let broker: KafkaBroker;
  beforeAll(async () => {
    broker = await KafkaBroker.start();
  });
  afterAll(() => broker.close());

  async function prepare(
    client: string,
    limits = DEFAULT_LIMITS,
  ): Promise<{ log: Log; topic: string; producer: LogProducer }> {
    const options = parseKafkaUrl(new URL(`kafka://${broker.plain}?client=${client}`));
    const log = await openKafkaLogWith(options, limits);
    onTestFinished(() => log.close());
    const { name } = await log.ensureTopic(`t-${randomUUID()}`, OPTIONS);
    return { log, topic: name, producer: await log.producer() };
  }

  test.each(['kafkajs', 'platformatic'])(
    'killed and started again in the middle of appends, it has exactly what was sent, in order (%s)',
    async (client) => {
      const { log, topic, producer } = await prepare(client);
      const values: string[] = [];
      const lanes = new Set<Promise<void>>();
      const outage = { isOver: false, end: Promise.resolve() };
      // Goes on until batches have been sent before, during and after the outage.
      for (let after = 0; after < 200;) {
        const seq = values.length;
        values.push(`v${seq}`);
        const lane = appendUntilStored(producer, topic, `v${seq}`, seq).finally(() => lanes.delete(lane));
        lanes.add(lane);
        if (seq === 200) {
          outage.end = broker
            .kill()
            .then(() => broker.start())
            .then(() => void (outage.isOver = true));
        }
        if (lanes.size === IN_FLIGHT_MAX) await Promise.race(lanes);
        if (outage.isOver) after++;
      }
      await Promise.all([...lanes, outage.end]);
      expect(await readValues(log, topic, 0)).toEqual(values);
    },
  );

  test('an outage ends every call within its bounds, and the same log works when the broker is back', async () => {
    const short = { connectMs: 2000, requestMs: 5000, callMs: 5000, deliveryMs: 5000 };
    const { log, topic, producer } = await prepare('kafkajs', short);
    await appendUntilStored(producer, topic, 'a', 0);
    await broker.stop();
    const request = { topic, partition: 0, offset: 0n, maxBytes: 1 << 20, maxWaitMs: 0 };
    for (const outcome of await Promise.allSettled([
      log.topics(),
      log.offsets(topic, 0),
      log.fetch(request),
      producer.append(topic, 0, textBatch(['b'], producer, 1)),
    ])) {
      expect(outcome).toMatchObject({ status: 'rejected', reason: { retryable: true } });
    }
    // From here on the broker forgets a producer that was silent for three seconds.
    broker.configure({ 'producer.id.expiration.ms': '3000', 'producer.id.expiration.check.interval.ms': '100' });
    await broker.start();
    await appendUntilStored(producer, topic, 'b', 1);
    expect(await readValues(log, topic, 0)).toEqual(['a', 'b']);
  });

  test('a producer that expired is not recognised: a repeat is stored again, which is why the uplink reads back first', async () => {
    const { log, topic, producer } = await prepare('kafkajs');
    await producer.append(topic, 0, textBatch(['a'], producer, 0));
    const repeat = textBatch(['a'], producer, 0);
    const endMs = performance.now() + HANG_MS;
    let last = await producer.append(topic, 0, repeat);
    expect(last).toMatchObject({ baseOffset: 0n, duplicate: true });
    while (last.duplicate && performance.now() < endMs) last = await producer.append(topic, 0, repeat);
    expect(last).toMatchObject({ baseOffset: 1n, duplicate: false });
    expect(await readValues(log, topic, 0)).toEqual(['a', 'a']);
  });
});
