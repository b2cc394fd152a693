/** The Kafka adapter against a real broker, through both transports. */
import { randomBytes, randomUUID } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ConfigResourceTypes, Kafka, logLevel, type Admin } from 'kafkajs';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { decodeRecords } from '../../lib/log/batch-reader.ts';
import { openKafkaLogWith } from '../../lib/log/kafka/kafka-log.ts';
import { parseKafkaUrl } from '../../lib/log/kafka/kafka-url.ts';
import type { Log, LogProducer } from '../../lib/log/log.ts';
import { COMPRESSION, readBatchHeader } from '../../lib/log/record-batch.ts';
import { openLog } from '../../lib/registry.ts';
import { KAFKA_PASSWORD, KAFKA_USER, KafkaBroker } from '../support/kafka.ts';
import { encodeBatch, readValues, textBatch } from '../support/log-batches.ts';
import { describeLogContract } from '../support/log-contract.ts';
import { missing } from '../support/services.ts';

const OPTIONS = { partitions: 1, retentionMs: 3_600_000 };
const TWO_HOURS_MS = 7_200_000;

describe.skipIf(missing('kafka'))('kafka:', () => {
  let broker: KafkaBroker;
  beforeAll(async () => {
    broker = await KafkaBroker.start({ secure: true });
  });
  afterAll(() => broker.close());

  async function open(url: string): Promise<Log> {
    const log = await openLog(url);
    onTestFinished(() => log.close());
    return log;
  }

  async function topicAndProducer(): Promise<{ log: Log; topic: string; producer: LogProducer }> {
    const log = await open(`kafka://${broker.plain}`);
    const { name } = await log.ensureTopic(`t-${randomUUID()}`, OPTIONS);
    return { log, topic: name, producer: await log.producer() };
  }

  /** The same broker as another client sees it. */
  async function admin(): Promise<Admin> {
    const made = new Kafka({ brokers: [broker.plain], logLevel: logLevel.NOTHING }).admin();
    await made.connect();
    onTestFinished(() => made.disconnect());
    return made;
  }

  describeLogContract('kafka: over kafkajs', () => openLog(`kafka://${broker.plain}`));
  describeLogContract('kafka: over @platformatic/kafka', () => openLog(`kafka://${broker.plain}?client=platformatic`));

  describe('what the broker makes of a producer', () => {
    test('a sequence that begins anywhere is taken from a producer it does not know', async () => {
      const { topic, producer } = await topicAndProducer();
      expect(await producer.append(topic, 0, textBatch(['x'], producer, 500))).toMatchObject({ baseOffset: 0n });
    });

    test('live-first order is refused, and so is the sequence behind a hole', async () => {
      const { log, topic, producer } = await topicAndProducer();
      for (let seq = 0; seq < 8; seq++) await producer.append(topic, 0, textBatch([`v${seq}`], producer, seq));
      for (const seq of [20, 9]) {
        await expect(producer.append(topic, 0, textBatch(['late'], producer, seq))).rejects.toMatchObject({
          code: 'out-of-order',
        });
      }
      expect((await readValues(log, topic, 0)).length).toBe(8);
    });

    test('an older epoch of a producer is fenced', async () => {
      const { topic, producer } = await topicAndProducer();
      await producer.append(topic, 0, textBatch(['a'], { producerId: producer.producerId, producerEpoch: 3 }, 0));
      const old = textBatch(['b'], { producerId: producer.producerId, producerEpoch: 2 }, 1);
      await expect(producer.append(topic, 0, old)).rejects.toMatchObject({ code: 'fenced' });
    });

    test('bytes that are two batches are refused before they are sent', async () => {
      const { topic, producer } = await topicAndProducer();
      const two = Buffer.concat([textBatch(['a'], producer, 0), textBatch(['b'], producer, 1)]);
      await expect(producer.append(topic, 0, two)).rejects.toMatchObject({ code: 'corrupt' });
    });

    test('a clock that is two hours ahead is no matter in a topic of ours, and named in a topic of others', async () => {
      const { log, topic, producer } = await topicAndProducer();
      const ahead = { timestampMs: Date.now() + TWO_HOURS_MS, key: null, value: Buffer.from('v'), headers: [] };
      const batch = encodeBatch([ahead], { ...producer, baseSequence: 0 });
      await producer.append(topic, 0, batch);
      const { batches } = await log.fetch({ topic, partition: 0, offset: 0n, maxBytes: 1000, maxWaitMs: 0 });
      const [record] = batches.flatMap((bytes) => decodeRecords(bytes, topic));
      expect(record?.timestampMs).toBeLessThanOrEqual(Date.now());
      const foreign = `t-${randomUUID()}`;
      // What Kafka 4 has as its default, and 3.7 has not.
      const configEntries = [
        { name: 'message.timestamp.type', value: 'CreateTime' },
        { name: 'message.timestamp.after.max.ms', value: '3600000' },
      ];
      await (await admin()).createTopics({ topics: [{ topic: foreign, configEntries }], waitForLeaders: true });
      await expect(producer.append(foreign, 0, batch)).rejects.toMatchObject({
        code: 'unsupported',
        message: expect.stringMatching(/INVALID_TIMESTAMP.*record 0/) as string,
      });
    });

    test('a topic that allows less than a batch says so', async () => {
      const { producer } = await topicAndProducer();
      const small = `t-${randomUUID()}`;
      const configEntries = [{ name: 'max.message.bytes', value: '1000' }];
      await (await admin()).createTopics({ topics: [{ topic: small, configEntries }], waitForLeaders: true });
      const batch = textBatch(['x'.repeat(2000)], producer, 0);
      await expect(producer.append(small, 0, batch)).rejects.toMatchObject({ code: 'too-large' });
    });

    test.each(['gzip', 'lz4', 'snappy', 'zstd'] as const)(
      'what it compresses as %s, because its topic says so, is read',
      async (codec) => {
        const { log, producer } = await topicAndProducer();
        const compressed = `t-${randomUUID()}`;
        const configEntries = [{ name: 'compression.type', value: codec }];
        await (await admin()).createTopics({ topics: [{ topic: compressed, configEntries }], waitForLeaders: true });
        // Long repeats, what cannot be compressed, what repeats at all distances, and nothing.
        const readings = Array.from(
          { length: 2000 },
          (_, n) => `{"sensor":"s-${n % 7}","n":${n},"rms":${Math.sin(n)}}`,
        );
        const values = ['x'.repeat(300_000), randomBytes(90_000).toString('base64'), ...readings, '', 'x'];
        await producer.append(compressed, 0, textBatch(values, producer, 0));
        await producer.append(compressed, 0, textBatch(['alone'], producer, values.length));
        expect(await readValues(log, compressed, 0)).toEqual([...values, 'alone']);
        const { batches } = await log.fetch({
          topic: compressed,
          partition: 0,
          offset: 0n,
          maxBytes: 1 << 20,
          maxWaitMs: 0,
        });
        expect(batches.map((batch) => readBatchHeader(batch, 0, compressed).compression)).toContain(COMPRESSION[codec]);
      },
    );

    test('in a topic that another client made anew, an append is new although its offset is small', async () => {
      const { topic, producer } = await topicAndProducer();
      for (let seq = 0; seq < 3; seq++) await producer.append(topic, 0, textBatch(['old'], producer, seq));
      const other = await admin();
      await other.deleteTopics({ topics: [topic] });
      await other.createTopics({ topics: [{ topic }], waitForLeaders: true });
      expect(await producer.append(topic, 0, textBatch(['new'], producer, 3))).toMatchObject({
        baseOffset: 0n,
        duplicate: false,
      });
    });
  });

  test('what is appended is what another client consumes, and the hint is where its group stands', async () => {
    const { log, topic, producer } = await topicAndProducer();
    const headers = [['seq', Buffer.from('7')]] as const;
    const record = { timestampMs: 1, key: Buffer.from('k'), value: Buffer.from('vé'), headers };
    await producer.append(topic, 0, encodeBatch([record, record], { ...producer, baseSequence: 0 }));
    const group = `g-${randomUUID()}`;
    await log.commitHint(group, topic, new Map([[0, 1n]]));
    const consumer = new Kafka({ brokers: [broker.plain], logLevel: logLevel.NOTHING }).consumer({ groupId: group });
    await consumer.connect();
    onTestFinished(() => consumer.disconnect());
    await consumer.subscribe({ topic });
    const message = await new Promise<unknown>((resolve) => {
      void consumer.run({ eachMessage: async (payload) => resolve(payload.message) });
    });
    expect(message).toMatchObject({
      offset: '1',
      key: record.key,
      value: record.value,
      headers: { seq: Buffer.from('7') },
    });
  });

  test('a topic of ours has the retention that was asked for and LogAppendTime', async () => {
    const { topic } = await topicAndProducer();
    const described = await (
      await admin()
    ).describeConfigs({ includeSynonyms: false, resources: [{ type: ConfigResourceTypes.TOPIC, name: topic }] });
    const entries = described.resources[0]?.configEntries ?? [];
    const value = (name: string): string | undefined => entries.find((entry) => entry.configName === name)?.configValue;
    expect([value('retention.ms'), value('message.timestamp.type')]).toEqual(['3600000', 'LogAppendTime']);
  });

  test('a name that Kafka does not allow is a matter of configuration', async () => {
    const log = await open(`kafka://${broker.plain}`);
    await expect(log.ensureTopic('a/b', OPTIONS)).rejects.toMatchObject({ code: 'config' });
    await expect(log.ensureTopic('zero', { ...OPTIONS, partitions: 0 })).rejects.toMatchObject({ code: 'config' });
  });

  describe.each(['kafkajs', 'platformatic'])('security over %s', (client) => {
    function url(address: string, sasl: string, password = KAFKA_PASSWORD, more = ''): string {
      const file = join(broker.dir, `password-${randomUUID()}`);
      writeFileSync(file, `${password}\n`);
      return `kafka://${address}?sasl=${sasl}&user=${KAFKA_USER}&passwordFile=${file}&client=${client}${more}`;
    }
    const tls = (): string => `&tls=true&ca=${broker.caFile}`;

    test.each(['scram-sha-512', 'scram-sha-256', 'plain'])('%s over TLS', async (mechanism) => {
      const log = await open(url(broker.tls, mechanism, KAFKA_PASSWORD, tls()));
      const { name } = await log.ensureTopic(`t-${randomUUID()}`, OPTIONS);
      const producer = await log.producer();
      await producer.append(name, 0, textBatch(['secret'], producer, 0));
      expect(await readValues(log, name, 0)).toEqual(['secret']);
    });

    test('a wrong password is denied, and named as such', async () => {
      for (const mechanism of ['scram-sha-512', 'plain']) {
        const log = await open(url(broker.tls, mechanism, 'wrong', tls()));
        await expect(log.topics()).rejects.toMatchObject({
          code: 'denied',
          message: expect.stringMatching(/authenticat/i) as string,
        });
      }
    });

    test('a certificate of nobody we trust is denied', async () => {
      const log = await open(url(broker.tls, 'plain', KAFKA_PASSWORD, '&tls=true'));
      await expect(log.topics()).rejects.toMatchObject({ code: 'denied', message: expect.stringContaining('TLS') as string }); // prettier-ignore
    });

    test('TLS to a port without it, and the reverse, are errors within the bounds', async () => {
      for (const address of [`${broker.plain}?tls=true`, `${broker.tls}?tls=false`]) {
        const options = parseKafkaUrl(new URL(`kafka://${address}&client=${client}`));
        const log = await openKafkaLogWith(options, { connectMs: 500, requestMs: 500, callMs: 500, deliveryMs: 500 });
        onTestFinished(() => log.close());
        await expect(log.topics()).rejects.toMatchObject({
          code: expect.stringMatching(/denied|unavailable|timeout/) as string,
        });
      }
    });

    test('a session is renewed under appends in flight, and their order stays', async () => {
      const log = await open(url(broker.sasl, 'plain'));
      const { name } = await log.ensureTopic(`t-${randomUUID()}`, OPTIONS);
      const producer = await log.producer();
      const expected: string[] = [];
      const endMs = performance.now() + 2700;
      for (let seq = 0; performance.now() < endMs;) {
        const values = [0, 1, 2, 3, 4].map((n) => `${seq + n}`);
        await Promise.all(values.map((value) => producer.append(name, 0, textBatch([value], producer, seq++))));
        expected.push(...values);
      }
      expect(await readValues(log, name, 0)).toEqual(expected);
    });
  });
});
