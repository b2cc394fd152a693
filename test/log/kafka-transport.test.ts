/** The Kafka adapter against brokers that refuse, stay silent, or answer what no broker may. */
import { createServer, type AddressInfo } from 'node:net';
import fc from 'fast-check';
import RequestQueue from 'kafkajs/src/network/requestQueue/index.js';
import { describe, expect, onTestFinished, test } from 'vitest';
import { createTopicRequest, findCoordinatorRequest, offsetCommitRequest } from '../../lib/log/kafka/admin-requests.ts';
import { fetchRequest, listOffsetsRequest } from '../../lib/log/kafka/fetch-request.ts';
import { epochEndRequest } from '../../lib/log/kafka/leader-epoch-request.ts';
import { openKafkaLogWith } from '../../lib/log/kafka/kafka-log.ts';
import { parseKafkaUrl } from '../../lib/log/kafka/kafka-url.ts';
import { correctRequestQueue } from '../../lib/log/kafka/kafkajs-request-queue.ts';
import type { KafkaLimits } from '../../lib/log/kafka/limits.ts';
import { metadataRequest } from '../../lib/log/kafka/metadata-request.ts';
import { initProducerIdRequest, produceRequest } from '../../lib/log/kafka/produce-request.ts';
import * as api from '../../lib/log/kafka/request.ts';
import { WireReader, WireWriter } from '../../lib/log/kafka/wire.ts';
import { IN_FLIGHT_MAX, type Log } from '../../lib/log/log.ts';
import { systemClock } from '../../lib/clock.ts';
import { absoluteUrl, openLog } from '../../lib/registry.ts';
import {
  FakeKafka,
  apiVersions,
  epochEnded,
  fetched,
  TOPIC_ID,
  metadata,
  onePartition,
  produced,
  producerId,
} from '../support/kafka-fake.ts';
import { HANG_MS } from '../support/hang.ts';
import { textBatch } from '../support/log-batches.ts';
import { freePorts } from '../support/ports.ts';

const WHO = { producerId: 1n, producerEpoch: 0 };
/** For answers that come. */
const LIMITS: KafkaLimits = { connectMs: HANG_MS, requestMs: HANG_MS, callMs: HANG_MS, deliveryMs: HANG_MS };
/** Of the base sequence in the body of a produce request for t/0: 27 bytes in front of the batch, 53 in it. */
const SEQUENCE_AT = 80;
/** For answers that never come. */
const SHORT: KafkaLimits = { ...LIMITS, requestMs: 500, callMs: 100, deliveryMs: 500 };
/** The same, where others come before: a call for them is not over when this process stands still. */
const SILENT: KafkaLimits = { ...LIMITS, requestMs: 1000, callMs: 1000, deliveryMs: 1000 };
/** For calls that end in an outage. */
const MODERATE: KafkaLimits = { ...LIMITS, callMs: 1000 };

async function openFake(
  fake: Pick<FakeKafka, 'port'>,
  limits: KafkaLimits,
  { client = 'kafkajs', clock = systemClock } = {},
): Promise<Log> {
  const url = new URL(`kafka://127.0.0.1:${fake.port}?client=${client}`);
  const log = await openKafkaLogWith(parseKafkaUrl(url), limits, clock);
  onTestFinished(() => log.close());
  return log;
}

async function fakeProducer(fake: FakeKafka, limits = LIMITS, client = 'kafkajs') {
  fake.on(api.INIT_PRODUCER_ID.key, () => producerId(1n));
  const log = await openFake(fake, limits, { client });
  return { log, producer: await log.producer() };
}

describe('kafkajs', () => {
  function queue(): RequestQueue {
    const logger = { debug: () => undefined };
    const options = { requestTimeout: 1000, enforceRequestTimeout: false, maxInFlightRequests: null };
    const made = new RequestQueue({ ...options, clientId: 'test', broker: 'test', logger });
    onTestFinished(() => made.destroy());
    return made;
  }

  test('still has the two faults that kafkajs-request-queue.ts corrects', () => {
    const faulty = queue();
    faulty.checkPendingRequests();
    expect(faulty.throttleCheckTimeoutId, 'a timer although nothing is pending').not.toBeNull();
    faulty.maybeThrottle(HANG_MS);
    expect(faulty.throttledUntil, 'throttled by the wall clock').toBeGreaterThanOrEqual(Date.now());
  });

  test('corrected, keeps no timer and leaves throttling to us', () => {
    const pauses: number[] = [];
    const corrected = queue();
    correctRequestQueue(corrected, (ms) => pauses.push(ms));
    corrected.checkPendingRequests();
    corrected.maybeThrottle(1000);
    corrected.maybeThrottle(0);
    corrected.maybeThrottle(null);
    expect(corrected.throttleCheckTimeoutId).toBeNull();
    expect(corrected.canSendSocketRequestImmediately()).toBe(true);
    expect(pauses).toEqual([1000]);
  });
});

describe.each(['kafkajs', 'platformatic'])('over %s', (client) => {
  test('a broker that is not there is unavailable', async () => {
    const [port] = await freePorts(1);
    const log = await openKafkaLogWith(parseKafkaUrl(new URL(`kafka://127.0.0.1:${port}?client=${client}`)), MODERATE);
    await expect(log.topics()).rejects.toMatchObject({ code: 'unavailable', retryable: true });
    await log.close();
  });

  test.each([
    ['a negative length', Buffer.from('fffffffe00000000', 'hex')],
    ['a length of two gigabytes', Buffer.from('7fffffff00000000', 'hex')],
    ['the answer to a question that nobody asked', Buffer.from('0000000800ffffff00000000', 'hex')],
    ['HTTP', Buffer.from('HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n')],
    ['a frame without a correlation id', Buffer.from('00000000', 'hex')],
  ])('%s instead of an answer ends the connection, not the process', async (_, raw) => {
    const fake = await FakeKafka.start();
    fake.on(api.METADATA.key, () => ({ raw }));
    const log = await openFake(fake, SHORT, { client });
    const error = await log.topics().catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ code: expect.stringMatching(/^(unavailable|timeout)$/) as string });
  });

  test('a damaged answer is corrupt, and a closed connection unavailable', async () => {
    const fake = await FakeKafka.start();
    const log = await openFake(fake, MODERATE, { client });
    fake.on(api.METADATA.key, () => Buffer.from('00000000ffffff', 'hex'));
    await expect(log.topics()).rejects.toMatchObject({ code: 'corrupt', message: expect.stringContaining('Metadata') as string }); // prettier-ignore
    fake.on(api.METADATA.key, () => 'close');
    await expect(log.topics()).rejects.toMatchObject({ code: 'unavailable' });
  });

  test('a silent broker is a timeout, for a batch with all that are behind it', async () => {
    const fake = await FakeKafka.start();
    const { log, producer } = await fakeProducer(fake, SILENT, client);
    fake.on(api.PRODUCE.key, () => 'silence');
    const appends = [0, 1, 2].map((seq) => producer.append('t', 0, textBatch(['a'], WHO, seq)));
    for (const append of await Promise.allSettled(appends)) {
      expect(append).toMatchObject({ reason: { code: 'timeout', message: expect.stringContaining('t/0') as string } });
    }
    fake.on(api.FETCH.key, () => 'silence');
    const fetch = log.fetch({ topic: 't', partition: 0, offset: 0n, maxBytes: 1000, maxWaitMs: 10 });
    await expect(fetch).rejects.toMatchObject({ code: 'timeout' });
  });

  test('a pause that the broker asks for is kept before the next request', async () => {
    const fake = await FakeKafka.start();
    const { producer } = await fakeProducer(fake, LIMITS, client);
    let offset = 0n;
    fake.on(api.PRODUCE.key, () => produced(0, offset, offset++ === 0n ? 200 : 0));
    await producer.append('t', 0, textBatch(['a'], WHO, 0));
    await Promise.all([1, 2].map((seq) => producer.append('t', 0, textBatch(['b'], WHO, seq))));
    const [first, second] = fake.requests.filter(({ key }) => key === api.PRODUCE.key);
    expect((second?.atMs ?? 0) - (first?.atMs ?? 0)).toBeGreaterThan(150);
  });
});

test('a broker whose versions are too old is refused by name', async () => {
  const fake = await FakeKafka.start();
  fake.on(18, () => apiVersions([0, 5]));
  const log = await openFake(fake, LIMITS);
  await expect(log.topics()).rejects.toMatchObject({ code: 'unsupported', message: expect.stringContaining('3.7') as string }); // prettier-ignore
});

test.each([
  [2, 'corrupt'],
  [10, 'too-large'],
  [17, 'config'],
  [18, 'too-large'],
  [29, 'denied'],
  [32, 'unsupported'],
  [45, 'out-of-order'],
  [46, 'out-of-order'],
  [47, 'fenced'],
  [59, 'unknown-producer'],
  [76, 'unsupported'],
  [87, 'corrupt'],
  [90, 'fenced'],
  [9999, 'io'],
])('error %i of a produce request is %s, at once, for this batch alone', async (error, code) => {
  const fake = await FakeKafka.start();
  const { producer } = await fakeProducer(fake);
  let calls = 0;
  fake.on(api.PRODUCE.key, () => (calls++ === 0 ? produced(error, -1n) : produced(0, 5n)));
  const [refused, next] = await Promise.allSettled(
    [0, 1].map((seq) => producer.append('t', 0, textBatch(['a'], WHO, seq))),
  );
  expect(refused).toMatchObject({ status: 'rejected', reason: { code } });
  expect(next).toMatchObject({ status: 'fulfilled', value: { baseOffset: 5n } });
  expect(calls).toBe(2);
});

test.each([-1, 3, 5, 6, 7, 13, 19, 20, 56, 74, 75, 89])(
  'after error %i the same bytes are sent again',
  async (error) => {
    const fake = await FakeKafka.start();
    const { producer } = await fakeProducer(fake);
    let calls = 0;
    fake.on(api.PRODUCE.key, () => (calls++ === 0 ? produced(error, -1n) : produced(0, 7n)));
    expect(await producer.append('t', 0, textBatch(['a'], WHO, 0))).toMatchObject({ baseOffset: 7n, duplicate: false });
    const [first, second] = fake.requests.filter(({ key }) => key === api.PRODUCE.key);
    expect(second?.body).toEqual(first?.body);
  },
);

test.each(['close', Buffer.from('0000', 'hex')] as const)(
  'an answer to a batch that is lost or damaged (%s) is asked for again',
  async (flaw) => {
    const fake = await FakeKafka.start();
    const { producer } = await fakeProducer(fake);
    let calls = 0;
    fake.on(api.PRODUCE.key, () => (calls++ === 0 ? flaw : produced(0, 7n)));
    expect(await producer.append('t', 0, textBatch(['a'], WHO, 0))).toMatchObject({ baseOffset: 7n, duplicate: false });
  },
);

test('a window whose first batch is refused for now is sent again whole and in order', async () => {
  const fake = await FakeKafka.start();
  const { producer } = await fakeProducer(fake);
  const sequences: number[] = [];
  let stored = 0;
  fake.on(api.PRODUCE.key, (body) => {
    const sequence = body.readInt32BE(SEQUENCE_AT);
    sequences.push(sequence);
    if (sequences.length === 1) return produced(6, -1n);
    return sequence === stored ? produced(0, BigInt(stored++)) : produced(45, -1n);
  });
  const appends = Array.from({ length: 8 }, (_, seq) => producer.append('t', 0, textBatch(['a'], WHO, seq)));
  const results = await Promise.all(appends);
  expect(results.map(({ baseOffset }) => Number(baseOffset))).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
  expect(sequences).toEqual([0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 6, 7]);
});

test('batches of a backlog that the broker is slow to answer hold up none of the present', async () => {
  const fake = await FakeKafka.start();
  const { log, producer } = await fakeProducer(fake);
  const backlog = await log.producer({ isBacklog: true });
  fake.on(api.PRODUCE.key, (body) => (body.readInt32BE(SEQUENCE_AT) < 100 ? 'silence' : produced(0, 7n)));
  const held = Array.from({ length: 6 }, (_, seq) => backlog.append('t', 0, textBatch([`old${seq}`], WHO, seq)));
  for (const append of held) append.catch(() => undefined);
  await expect.poll(() => fake.requests.filter(({ key }) => key === api.PRODUCE.key)).toHaveLength(IN_FLIGHT_MAX);
  expect(await producer.append('t', 0, textBatch(['new'], WHO, 100))).toMatchObject({ baseOffset: 7n });
  const connections = fake.requests.filter(({ key }) => key === api.PRODUCE.key).map(({ connection }) => connection);
  expect(new Set(connections.slice(0, IN_FLIGHT_MAX)).size).toBe(1);
  expect(connections.at(-1)).not.toBe(connections[0]);
});

test('when the leader has moved, batches and fetches follow it, in order', async () => {
  const [old, next] = [await FakeKafka.start(), await FakeKafka.start()];
  const { log, producer } = await fakeProducer(old);
  let hasMoved = false;
  old.on(api.METADATA.key, () => (hasMoved ? metadata(next.port, 2) : metadata(old.port)));
  next.on(api.METADATA.key, () => metadata(next.port, 2));
  let offset = 0n;
  old.on(api.PRODUCE.key, () => (hasMoved ? produced(6, -1n) : produced(0, offset++)));
  next.on(api.PRODUCE.key, () => produced(0, offset++));
  old.on(api.FETCH.key, () => fetched(hasMoved ? 6 : 0, 1n));
  next.on(api.FETCH.key, () => fetched(0, 9n));
  const fetch = () => log.fetch({ topic: 't', partition: 0, offset: 0n, maxBytes: 1000, maxWaitMs: 10 });
  await producer.append('t', 0, textBatch(['a'], WHO, 0));
  expect((await fetch()).endOffset).toBe(1n);
  hasMoved = true;
  expect((await fetch()).endOffset).toBe(9n);
  const results = await Promise.all([1, 2, 3].map((seq) => producer.append('t', 0, textBatch(['a'], WHO, seq))));
  expect(results.map(({ baseOffset }) => baseOffset)).toEqual([1n, 2n, 3n]);
  const sequences = next.requests.filter(({ key }) => key === api.PRODUCE.key).map(({ body }) => body.readInt32BE(SEQUENCE_AT)); // prettier-ignore
  expect(sequences).toEqual([1, 2, 3]);
});

test('a fetch above the quota of its client has a pause for an answer, and is asked again', async () => {
  const fake = await FakeKafka.start();
  const log = await openFake(fake, LIMITS);
  const times: number[] = [];
  // KIP-219: no error, no topic, and the pause in front.
  const throttled = new WireWriter().int32(200).int16(0).int32(0).uvarint(1).noTaggedFields().finish();
  fake.on(api.FETCH.key, () => (times.push(performance.now()) === 1 ? throttled : fetched(0, 9n)));
  const { endOffset, batches } = await log.fetch({
    topic: 't',
    partition: 0,
    offset: 3n,
    maxBytes: 1000,
    maxWaitMs: 0,
  });
  expect([endOffset, batches]).toEqual([9n, []]);
  const [first = NaN, second = NaN] = times;
  expect(second - first).toBeGreaterThan(190);
});

test('where an epoch ends is asked of the leader, as of its epoch; what it does not know is no end', async () => {
  const fake = await FakeKafka.start();
  const log = await openFake(fake, LIMITS);
  const ends = [epochEnded(-1n, 74), epochEnded(80n), epochEnded(-1n)];
  fake.on(api.OFFSET_FOR_LEADER_EPOCH.key, () => ends.shift() ?? 'close');
  // The first leader is one no more (FENCED_LEADER_EPOCH): another look at the metadata, and again.
  expect(await log.epochEnd?.('t', 0, 3)).toBe(80n);
  expect(await log.epochEnd?.('t', 0, 9)).toBeNull();
  const asked = fake.requests
    .filter(({ key }) => key === api.OFFSET_FOR_LEADER_EPOCH.key)
    .map(({ body }) => body.subarray(-12));
  const of = (epoch: number): Buffer => new WireWriter().int32(0).int32(0).int32(epoch).finish();
  expect(asked).toEqual([of(3), of(3), of(9)]);
});

test('a cluster whose known brokers are gone is found again through the URL', async () => {
  const [bootstrap, member] = [await FakeKafka.start(), await FakeKafka.start()];
  bootstrap.on(api.METADATA.key, () => metadata(member.port, 2));
  const log = await openFake(bootstrap, LIMITS);
  expect(await log.topic('t')).toMatchObject({ name: 't', partitions: 1 });
  member.stop();
  bootstrap.on(api.METADATA.key, () => metadata(bootstrap.port));
  expect(await log.topics()).toHaveLength(1);
});

test('the hint of a group can be the first that a log is asked for', async () => {
  const fake = await FakeKafka.start();
  const coordinator = new WireWriter().int32(0).int16(0).string(null).int32(1).string('127.0.0.1').int32(fake.port);
  fake.on(api.FIND_COORDINATOR.key, () => coordinator.finish());
  fake.on(api.OFFSET_COMMIT.key, () => onePartition(true, (w) => w.int16(0)));
  const log = await openFake(fake, LIMITS);
  await log.commitHint('g', 't', new Map([[0, 5n]]));
  expect(fake.requests.at(-1)?.key).toBe(api.OFFSET_COMMIT.key);
});

test('an aborted fetch ends at once, even while nobody answers', async () => {
  const fake = await FakeKafka.start();
  fake.on(api.METADATA.key, () => 'silence');
  const log = await openFake(fake, LIMITS);
  const aborting = new AbortController();
  const request = { topic: 't', partition: 0, offset: 0n, maxBytes: 1000, maxWaitMs: 60_000 };
  const fetch = log.fetch({ ...request, signal: aborting.signal });
  aborting.abort();
  await expect(fetch).rejects.toMatchObject({ code: 'aborted' });
  await expect(log.fetch({ ...request, signal: aborting.signal })).rejects.toMatchObject({ code: 'aborted' });
});

test('what waits when the log is closed is told so', async () => {
  const fake = await FakeKafka.start();
  const { log, producer } = await fakeProducer(fake);
  fake.on(api.PRODUCE.key, () => 'silence');
  const append = producer.append('t', 0, textBatch(['a'], WHO, 0));
  const fetch = log.fetch({ topic: 't', partition: 0, offset: 0n, maxBytes: 1000, maxWaitMs: 60_000 });
  const outcomes = Promise.allSettled([append, fetch]);
  await log.close();
  expect(await outcomes).toMatchObject([{ reason: { code: 'closed' } }, { reason: { code: 'closed' } }]);
  await expect(producer.append('t', 0, textBatch(['a'], WHO, 1))).rejects.toMatchObject({ code: 'closed' });
});

test('no answer, however damaged, is anything but read or corrupt', () => {
  const answers = [
    { request: metadataRequest(null), good: metadata(9092) },
    { request: produceRequest('t', 0, new Uint8Array(1), 1), good: produced(87, 3n) },
    { request: initProducerIdRequest(), good: producerId(5n) },
    {
      request: listOffsetsRequest('t', 0, -1n, 'committed'),
      good: onePartition(true, (w) => w.int16(0).int64(0n).int64(9n).int32(0)),
    },
    { request: epochEndRequest('t', 0, 4, 3), good: epochEnded(9n) },
    { request: createTopicRequest('t', { partitions: 1, retentionMs: 1 }, 1), good: new WireWriter().int32(0).int32(1).string('t').int16(0).string(null).finish() }, // prettier-ignore
    { request: findCoordinatorRequest('g'), good: new WireWriter().int32(0).int16(0).string(null).int32(1).string('h').int32(9092).finish() }, // prettier-ignore
    { request: offsetCommitRequest('g', 't', new Map([[0, 1n]])), good: onePartition(true, (w) => w.int16(0)) },
    {
      request: fetchRequest({
        topicId: TOPIC_ID.toString('base64url'),
        ...{ partition: 0, leaderEpoch: 0, offset: 0n, maxBytes: 1, maxWaitMs: 1, isolation: 'committed' },
      }),
      good: fetched(0, 1n, Buffer.from('abc'), [{ producerId: 1n, firstOffset: 0n }]),
    },
  ];
  const read = (index: number, bytes: Buffer): unknown =>
    answers[index]?.request.decode(new WireReader(bytes, 'the answer'), () => undefined);
  for (const [index, { good }] of answers.entries()) {
    expect(() => read(index, good)).not.toThrow();
    for (let length = 0; length < good.length; length++) {
      expect(() => read(index, good.subarray(0, length))).toThrow(expect.objectContaining({ code: 'corrupt' }));
    }
    expect(() => read(index, Buffer.concat([good, Buffer.alloc(1)]))).toThrow(expect.objectContaining({ code: 'corrupt' })); // prettier-ignore
  }
  fc.assert(
    fc.property(
      fc.nat(answers.length - 1),
      fc.nat(200),
      fc.uint8Array({ minLength: 1, maxLength: 8 }),
      (index, at, junk) => {
        const damaged = Buffer.from(answers[index]?.good ?? '');
        damaged.set(junk.subarray(0, Math.max(0, damaged.length - (at % damaged.length))), at % damaged.length);
        try {
          read(index, damaged);
        } catch (error) {
          expect(error).toMatchObject({ code: 'corrupt' });
        }
      },
    ),
    { numRuns: 3000 },
  );
});

test.each([
  ['kafka://h:1?tsl=true', 'tsl'],
  ['kafka://h:1?tls=yes', 'tls=yes'],
  ['kafka://h:1?ca=/x', 'ca='],
  ['kafka://h:1?sasl=gssapi', 'gssapi'],
  ['kafka://h:1?sasl=plain&user=u', 'passwordFile'],
  ['kafka://h:1?user=u', 'sasl='],
  ['kafka://u:p@h:1', 'passwordFile'],
  ['kafka://h:1/topic', '/topic'],
  ['kafka://h:1?client=librdkafka', 'librdkafka'],
  ['kafka://h:99999,g', '99999'],
])('%s is refused, and the message says why', async (url, why) => {
  await expect(openLog(url)).rejects.toMatchObject({ code: 'config', message: expect.stringContaining(why) as string });
});

test('the files that the URL of a configuration names are from its folder', () => {
  expect(absoluteUrl('kafka://a:1,b:2?tls=true&ca=./ca.pem&passwordFile=/etc/pw&user=u', '/srv/x y')).toBe(
    'kafka://a:1,b:2?tls=true&ca=%2Fsrv%2Fx%20y%2Fca.pem&passwordFile=%2Fetc%2Fpw&user=u',
  );
});

test('in an outage, one call asks again and again, and those behind it once each', async () => {
  let connections = 0;
  const server = createServer((socket) => {
    connections += 1;
    socket.destroy();
  });
  onTestFinished(() => void server.close());
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  // A connection takes a fifth of the call, by this clock.
  const clock = { ...systemClock, monotonicMs: () => (connections * MODERATE.callMs) / 5 };
  const log = await openFake({ port: (server.address() as AddressInfo).port }, MODERATE, { clock });
  await expect(log.topics()).rejects.toMatchObject({ code: 'unavailable' });
  expect(connections).toBeGreaterThan(2);
  for (let call = 0; call < 2; call += 1) {
    connections = 0;
    await expect(log.topics()).rejects.toMatchObject({ code: 'unavailable' });
    expect(connections).toBe(1);
  }
});

test('opening a log does not need its brokers', async () => {
  const log = await openLog('kafka://127.0.0.1:1,127.0.0.1:2');
  expect(log.url).toBe('kafka://127.0.0.1:1,127.0.0.1:2');
  await log.close();
});
