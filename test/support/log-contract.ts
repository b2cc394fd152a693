/**
 * What every adapter of the Log port promises, as tests. `open` gives a log of an empty place; the suite closes it. Names of topics are
 * random, so that a shared broker will do.
 */
import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { decodeRecords } from '../../lib/log/batch-reader.ts';
import { BATCH_BYTES_MAX, type Log, type LogProducer, type TopicInfo } from '../../lib/log/log.ts';
import { encodeBatch, readValues, textBatch } from './log-batches.ts';

const OPTIONS = { partitions: 2, retentionMs: 3_600_000 };

export function describeLogContract(adapter: string, open: () => Promise<Log>): void {
  describe(`${adapter} as a Log`, () => {
    let log: Log;
    beforeAll(async () => {
      log = await open();
    });
    afterAll(() => log.close());

    async function topicAndProducer(): Promise<{ topic: TopicInfo; producer: LogProducer }> {
      return { topic: await log.ensureTopic(`t-${randomUUID()}`, OPTIONS), producer: await log.producer() };
    }

    test('a topic is made once, listed, and has another id when it is deleted and made anew', async () => {
      const name = `t-${randomUUID()}`;
      expect(await log.topic(name)).toBeNull();
      const [first, same] = await Promise.all([log.ensureTopic(name, OPTIONS), log.ensureTopic(name, OPTIONS)]);
      expect(same).toEqual(first);
      expect(first).toMatchObject({ name, partitions: 2 });
      expect((await log.topics()).filter((topic) => topic.name === name)).toEqual([first]);
      const producer = await log.producer();
      await producer.append(name, 0, textBatch(['old'], producer, 0));
      await log.deleteTopic(name);
      expect(await log.topic(name)).toBeNull();
      const again = await log.ensureTopic(name, OPTIONS);
      expect(again.id).not.toBe(first.id);
      expect(await log.offsets(name, 0)).toMatchObject({ earliest: 0n, end: 0n });
    });

    test('who asks for a topic by its id gets nothing of another one that has its name', async () => {
      const { topic, producer } = await topicAndProducer();
      await producer.append(topic.name, 0, textBatch(['old'], producer, 0));
      const fetch = (topicId: string) =>
        log.fetch({ topic: topic.name, topicId, partition: 0, offset: 0n, maxBytes: 1 << 20, maxWaitMs: 0 });
      expect((await fetch(topic.id)).nextOffset).toBe(1n);
      await log.deleteTopic(topic.name);
      await expect(fetch(topic.id)).rejects.toMatchObject({ code: 'not-found' });
      const anew = await log.ensureTopic(topic.name, OPTIONS);
      await (await log.producer()).append(topic.name, 0, textBatch(['new', 'newer'], producer, 0));
      await expect(fetch(topic.id)).rejects.toMatchObject({ code: 'not-found' });
      expect((await fetch(anew.id)).nextOffset).toBe(2n);
    });

    test('what is appended is read back with offsets in order, per partition', async () => {
      const { topic, producer } = await topicAndProducer();
      const results = await Promise.all([
        producer.append(topic.name, 0, textBatch(['a', 'b'], producer, 0)),
        producer.append(topic.name, 0, textBatch(['c'], producer, 2)),
        producer.append(topic.name, 1, textBatch(['x'], producer, 0)),
      ]);
      expect(results.map((result) => result.baseOffset)).toEqual([0n, 2n, 0n]);
      expect(await readValues(log, topic.name, 0)).toEqual(['a', 'b', 'c']);
      expect(await readValues(log, topic.name, 1)).toEqual(['x']);
      expect(await readValues(log, topic.name, 0, 2n)).toEqual(['c']);
    });

    test('keys, headers and compressed batches come back as they were sent', async () => {
      const { topic, producer } = await topicAndProducer();
      const record = { timestampMs: Date.now(), key: Buffer.from('k'), value: Buffer.from('v'.repeat(1000)) };
      const headers = [
        ['seq', Buffer.from('1')],
        ['nil', null],
      ] as const;
      const identity = { ...producer, baseSequence: 0 };
      await producer.append(topic.name, 0, encodeBatch([{ ...record, headers }], identity, 'zstd'));
      const { batches, nextOffset, endOffset } = await fetchFrom(topic.name, 0n);
      expect([nextOffset, endOffset]).toEqual([1n, 1n]);
      expect(batches.flatMap((batch) => decodeRecords(batch, 'test'))).toMatchObject([
        { offset: 0n, key: record.key, value: record.value, headers },
      ]);
    });

    test('a batch sent again within the last five has its first offset and is not stored twice', async () => {
      const { topic, producer } = await topicAndProducer();
      const batches = ['a', 'b', 'c', 'd', 'e', 'f'].map((value, i) => textBatch([value], producer, i));
      for (const batch of batches) await producer.append(topic.name, 0, batch);
      for (const [i, batch] of batches.slice(1).entries()) {
        const again = await producer.append(topic.name, 0, batch);
        expect(again).toMatchObject({ baseOffset: BigInt(i + 1), duplicate: true });
      }
      await expect(producer.append(topic.name, 0, batches[0] ?? Buffer.alloc(0))).rejects.toMatchObject({
        code: 'out-of-order',
      });
      expect(await readValues(log, topic.name, 0)).toEqual(['a', 'b', 'c', 'd', 'e', 'f']);
    });

    test('a hole in the sequence is refused, and the sequence goes on afterwards', async () => {
      const { topic, producer } = await topicAndProducer();
      await producer.append(topic.name, 0, textBatch(['a'], producer, 0));
      await expect(producer.append(topic.name, 0, textBatch(['c'], producer, 2))).rejects.toMatchObject({
        code: 'out-of-order',
      });
      expect(await producer.append(topic.name, 0, textBatch(['b'], producer, 1))).toMatchObject({
        baseOffset: 1n,
        duplicate: false,
      });
      expect(await readValues(log, topic.name, 0)).toEqual(['a', 'b']);
    });

    test('other bytes under a stored sequence are answered with the old offset and not stored', async () => {
      const { topic, producer } = await topicAndProducer();
      await producer.append(topic.name, 0, textBatch(['first'], producer, 0));
      expect(await producer.append(topic.name, 0, textBatch(['other'], producer, 0))).toMatchObject({
        baseOffset: 0n,
        duplicate: true,
      });
      expect(await readValues(log, topic.name, 0)).toEqual(['first']);
    });

    test('five batches in flight take effect in the order of the calls', async () => {
      const { topic, producer } = await topicAndProducer();
      const appended: Promise<{ baseOffset: bigint }>[] = [];
      for (let i = 0; i < 5; i++) appended.push(producer.append(topic.name, 0, textBatch([`${i}`], producer, i)));
      expect((await Promise.all(appended)).map((result) => result.baseOffset)).toEqual([0n, 1n, 2n, 3n, 4n]);
    });

    test('two producers have different ids and do not disturb each other', async () => {
      const { topic, producer } = await topicAndProducer();
      const other = await log.producer();
      expect(other.producerId).not.toBe(producer.producerId);
      for (let i = 0; i < 3; i++) {
        await producer.append(topic.name, 0, textBatch([`p${i}`], producer, i));
        await other.append(topic.name, 0, textBatch([`q${i}`], other, i));
      }
      expect(await readValues(log, topic.name, 0)).toEqual(['p0', 'q0', 'p1', 'q1', 'p2', 'q2']);
    });

    test('a waiting fetch is answered when something is appended, and ends empty when nothing is', async () => {
      const { topic, producer } = await topicAndProducer();
      const waiting = log.fetch({ topic: topic.name, partition: 0, offset: 0n, maxBytes: 1 << 20, maxWaitMs: 30_000 });
      await producer.append(topic.name, 0, textBatch(['a'], producer, 0));
      expect((await waiting).nextOffset).toBe(1n);
      const empty = await log.fetch({ topic: topic.name, partition: 0, offset: 1n, maxBytes: 1 << 20, maxWaitMs: 20 });
      expect(empty).toMatchObject({ batches: [], nextOffset: 1n, endOffset: 1n });
    });

    test('a fetch can be aborted', async () => {
      const { topic } = await topicAndProducer();
      const controller = new AbortController();
      const request = { topic: topic.name, partition: 0, offset: 0n, maxBytes: 1 << 20, maxWaitMs: 30_000 };
      const waiting = log.fetch({ ...request, signal: controller.signal });
      controller.abort();
      await expect(waiting).rejects.toMatchObject({ code: 'aborted' });
    });

    test('a fetch is bounded by its bytes, and the first batch comes whole', async () => {
      const { topic, producer } = await topicAndProducer();
      for (let i = 0; i < 3; i++) await producer.append(topic.name, 0, textBatch(['x'.repeat(5000)], producer, i));
      const small = await fetchFrom(topic.name, 0n, 100);
      expect(small).toMatchObject({ nextOffset: 1n, endOffset: 3n });
      const two = await fetchFrom(topic.name, 0n, 11_000);
      expect(two.nextOffset).toBeGreaterThanOrEqual(1n);
      expect(two.nextOffset).toBeLessThanOrEqual(2n);
    });

    test('what cannot be is refused by name', async () => {
      const { topic, producer } = await topicAndProducer();
      const missing = `missing-${randomUUID()}`;
      await expect(producer.append(missing, 0, textBatch(['a'], producer, 0))).rejects.toMatchObject({
        code: 'not-found',
      });
      await expect(fetchFrom(missing, 0n)).rejects.toMatchObject({ code: 'not-found' });
      await expect(fetchFrom(topic.name, 7n)).rejects.toMatchObject({ code: 'not-found' });
      await expect(log.offsets(topic.name, 2)).rejects.toMatchObject({ code: 'not-found' });
      const large = Buffer.alloc(BATCH_BYTES_MAX + 1);
      await expect(producer.append(topic.name, 0, large)).rejects.toMatchObject({ code: 'too-large' });
      const damaged = textBatch(['a'], producer, 0);
      damaged[damaged.length - 1] = 0x7f;
      await expect(producer.append(topic.name, 0, damaged)).rejects.toMatchObject({ code: 'corrupt' });
      expect(await readValues(log, topic.name, 0)).toEqual([]);
    });

    test('a hint is taken', async () => {
      const { topic } = await topicAndProducer();
      await expect(log.commitHint('lander/a b', topic.name, new Map([[1, 42n]]))).resolves.toBeUndefined();
    });

    function fetchFrom(topic: string, offset: bigint, maxBytes = 1 << 20): ReturnType<Log['fetch']> {
      return log.fetch({ topic, partition: 0, offset, maxBytes, maxWaitMs: 0 });
    }
  });
}
