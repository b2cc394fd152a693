/** Kafka's own calls on a real broker, with and without a login. */
import { lookup } from 'node:dns';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { openLog } from '../../lib/registry.ts';
import { kafkaVendor } from '../../lib/log/kafka/kafka-vendor.ts';
import { parsePortUrl } from '../../lib/urls.ts';
import { KAFKA_PASSWORD, KAFKA_USER, KafkaBroker } from '../support/kafka.ts';
import { missing } from '../support/services.ts';
import { HANG_MS } from '../support/hang.ts';

describe.skipIf(missing('kafka'))('calls of Kafka', () => {
  let broker: KafkaBroker;
  beforeAll(async () => {
    broker = await KafkaBroker.start({ secure: true });
    const log = await openLog(`kafka://${broker.plain}`);
    await log.ensureTopic('vibration', { partitions: 2, retentionMs: 3_600_000 });
    await log.close();
  });
  afterAll(() => broker.close());

  const options = (
    credentials: Readonly<Record<string, string>> = {},
    checkHost = (_host: string): void => undefined,
  ) => ({
    credentials,
    checkHost,
    lookup,
    bytesMax: 1_000_000,
  });
  const urlOf = (text: string): URL => parsePortUrl(text) ?? new URL('none:');
  const call = (name: string, parameters: object = {}): Promise<unknown> =>
    kafkaVendor.call(urlOf(`kafka://${broker.plain}`), name, parameters, options(), AbortSignal.timeout(HANG_MS));

  test('topics, settings and groups are told, and settings changed', async () => {
    const warnings: string[] = [];
    const note = ({ name }: Error): number => warnings.push(name);
    process.on('warning', note);
    onTestFinished(() => void process.off('warning', note));
    expect(await call('ListTopics')).toContain('vibration');
    expect(await call('DescribeTopics', { topics: ['vibration'] })).toMatchObject({
      topics: [{ name: 'vibration', partitions: [{ leader: 1 }, { leader: 1 }] }],
    });
    // A topic that was just made may have no leader yet.
    await expect
      .poll(() => call('ListOffsets', { topic: 'vibration' }).catch(() => []))
      .toContainEqual(expect.objectContaining({ partition: 1, high: '0' }));
    await call('AlterTopicConfig', { topic: 'vibration', settings: { 'retention.ms': '7200000' } });
    expect(JSON.stringify(await call('DescribeConfigs', { name: 'vibration' }))).toContain('"configValue":"7200000"');
    expect(await call('ListGroups')).toEqual({ groups: [] });
    await expect(call('ListOffsets', {})).rejects.toMatchObject({ code: 'usage' });
    await expect(call('DeleteTopics')).rejects.toMatchObject({ code: 'usage' });
    await expect(call('ListOffsets', { topic: 'none' })).rejects.toThrow(/topic/i);
    expect(warnings).toEqual([]);
  });

  test('a login is taken, a wrong one is denied, and no host is reached that may not be', async () => {
    const url = urlOf(`kafka://${broker.sasl}?sasl=scram-sha-512`);
    const probe = (given: ReturnType<typeof options>): Promise<void> =>
      kafkaVendor.probe(url, given, AbortSignal.timeout(HANG_MS));
    await probe(options({ user: KAFKA_USER, password: KAFKA_PASSWORD }));
    await expect(probe(options({ user: KAFKA_USER, password: 'wrong' }))).rejects.toMatchObject({ code: 'denied' });
    const seen: string[] = [];
    const refuse = (host: string): void => {
      seen.push(host);
      throw new Error(`not ${host}`);
    };
    await expect(probe(options({ user: KAFKA_USER, password: KAFKA_PASSWORD }, refuse))).rejects.toThrow(
      'not 127.0.0.1',
    );
    expect(seen).toContain('127.0.0.1');
    expect(kafkaVendor.hosts(urlOf('kafka://a:1,b:2?sasl=plain'))).toEqual(['a', 'b']);
  });
});
