import { execFileSync } from 'node:child_process';
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { connect as connectMqtt, type IClientOptions, type MqttClient } from 'mqtt';
import { describe, expect, onTestFinished, test, vi } from 'vitest';
import { mqttSource } from '../../../agent/sources/mqtt/mqtt-source.ts';
import type { Spool } from '../../../agent/spool/spool.ts';
import { AgentProcess, flawsOf, numberedIn } from '../../support/agent-process.ts';
import { makeCertificates } from '../../support/certificates.ts';
import { Mosquitto } from '../../support/mosquitto.ts';
import { missing } from '../../support/services.ts';
import { tempDir } from '../../support/temp.ts';
import { readAll, spoolIn } from '../spool/support.ts';
import { quarantinedIn, runSource, sourceConfig, type RunningSource } from './support.ts';
import { HANG_MS } from '../../support/hang.ts';

/** Where Debian and Homebrew put the plugin that can refuse subscriptions. */
const dynamicSecurity = [
  ...['x86_64', 'aarch64'].map((machine) => `/usr/lib/${machine}-linux-gnu`),
  ...['/opt/homebrew/lib', '/usr/local/lib'],
]
  .map((folder) => `${folder}/mosquitto_dynamic_security.so`)
  .find((path) => existsSync(path));

const WAIT = { timeout: HANG_MS, interval: 20 };

async function broker(...lines: string[]): Promise<Mosquitto> {
  const server = await Mosquitto.start(...lines);
  onTestFinished(() => server.stop());
  return server;
}

async function publisher(server: Mosquitto, options: IClientOptions = {}): Promise<MqttClient> {
  const client = connectMqtt(server.url(), { reconnectPeriod: 50, ...options });
  onTestFinished(() => void client.end(true));
  client.on('error', () => undefined);
  await new Promise((resolve) => client.once('connect', resolve));
  return client;
}

function follow(
  server: Mosquitto,
  spool: Spool,
  dir: string,
  more: Record<string, unknown> = {},
  receiptsMax = 10_000,
): RunningSource {
  const config = sourceConfig({ type: 'mqtt', url: server.url(), topics: ['plant/#'], to: 't', ...more });
  return runSource(mqttSource(config, 'a', dir, receiptsMax), spool, dir);
}

/** Until the source is subscribed to these topics, and no others. */
async function isUp({ output }: RunningSource, topics = ['plant/#']): Promise<void> {
  await vi.waitFor(() => {
    expect(output.counters.events['connection']).toBeGreaterThan(0);
    expect(output.checkpoint(output.counters.name)).toMatchObject({ granted: topics.map((topic) => `${topic}@2`) });
    expect(output.counters.problem).toBeNull();
  }, WAIT);
}

async function stored(spool: Spool, count: number): Promise<[key: string | undefined, value: string][]> {
  await vi.waitFor(() => expect(spool.lastSeq('t')).toBeGreaterThanOrEqual(BigInt(count)), WAIT);
  return (await readAll(spool)).map((entry) => {
    if (entry.kind !== 'reading') throw new Error('a gap');
    return [entry.key?.toString(), entry.value.toString()];
  });
}

describe.skipIf(missing('mosquitto'))('on Mosquitto', () => {
  test.each(['5', '3.1.1'])(
    'MQTT %s: messages of every QoS become readings in order, with topic or field as sensor',
    async (version) => {
      const server = await broker();
      const dir = tempDir();
      const spool = await spoolIn(join(dir, 'spool'));
      const running = follow(server, spool, dir, { version });
      await isUp(running);
      const client = await publisher(server);
      for (let n = 0; n < 300; n += 1)
        client.publish(`plant/${n % 3}`, `{"n":${n},"id":"s"}`, { qos: (n % 3) as 0 | 1 | 2 });
      await client.publishAsync('plant/x', '5', { qos: 2 });
      await client.publishAsync('plant/x', '[1.50]', { qos: 1 });
      await client.publishAsync('elsewhere', '{}', { qos: 1 });
      const readings = await stored(spool, 302);
      for (const qos of [0, 1, 2]) {
        const ofQos = readings
          .filter(([key]) => key === `plant/${qos}`)
          .map(([, value]) => JSON.parse(value) as { n: number });
        expect(ofQos.map(({ n }) => n)).toEqual(Array.from({ length: 100 }, (_, index) => index * 3 + qos));
      }
      expect(readings.slice(-2)).toEqual([
        ['plant/x', '{"value":5}'],
        ['plant/x', '{"value":[1.50]}'],
      ]);
      // Every packet id of QoS 2 was released.
      await vi.waitFor(
        () => expect([...running.output.receipts().values()].filter((content) => content.startsWith('2'))).toEqual([]),
        WAIT,
      );
    },
  );

  test('what is no reading is quarantined with its topic and reason, and acknowledged', async () => {
    const server = await broker();
    const dir = tempDir();
    const spool = await spoolIn(join(dir, 'spool'));
    const running = follow(server, spool, dir);
    await isUp(running);
    const client = await publisher(server);
    const bad: [string | Buffer, string][] = [
      ['{"n":', 'the payload is not JSON: '],
      ['', 'the payload is not JSON: '],
      [Buffer.from([0x22, 0xff, 0x22]), 'the payload is not UTF-8'],
      [Buffer.alloc(10_000_000, 'x'), 'the payload has 10000000 bytes, more than can be carried'],
      [`"${'x'.repeat(1_048_000)}"`, 'bytes, at most 1048000 can be carried'],
    ];
    for (const [payload] of bad) {
      for (const qos of [1, 2] as const) await client.publishAsync('plant/bad', payload, { qos });
    }
    await client.publishAsync('plant/good', `"${'y'.repeat(1_000_000)}"`, { qos: 2 });
    const [reading] = await stored(spool, 1);
    expect([reading?.[0], reading?.[1].length]).toEqual(['plant/good', 1_000_012]);
    const items = quarantinedIn(dir);
    expect(items.map(({ position }) => position)).toEqual(items.map(() => 'plant/bad'));
    expect(items.map(({ reason }) => reason)).toEqual(
      bad.flatMap(([, reason]) => [reason, reason]).map((reason) => expect.stringContaining(reason) as string),
    );
    expect(running.output.counters).toMatchObject({ readings: 1, quarantined: 10, problem: null });
    // Acknowledged: a new connection gets none of it again.
    await running.stop();
    const again = follow(server, spool, dir);
    await isUp(again);
    await client.publishAsync('plant/good', '2', { qos: 2 });
    await stored(spool, 2);
    expect(again.output.counters).toMatchObject({ readings: 1, quarantined: 0 });
  });

  test('raw payloads become a number or a text', async () => {
    const server = await broker();
    const dir = tempDir();
    const spool = await spoolIn(join(dir, 'spool'));
    await isUp(follow(server, spool, dir, { payload: 'raw', version: '3.1.1' }));
    const client = await publisher(server);
    for (const payload of ['21.50', 'on', '', '{"a":1}', Buffer.from([0xff])]) {
      await client.publishAsync('plant/r', payload, { qos: 2 });
    }
    expect((await stored(spool, 4)).map(([, value]) => value)).toEqual([
      '{"value":21.50}',
      '{"value":"on"}',
      '{"value":""}',
      '{"value":"{\\"a\\":1}"}',
    ]);
    await vi.waitFor(() => expect(quarantinedIn(dir)).toHaveLength(1), WAIT);
  });

  test.each(['5', '3.1.1'])(
    'MQTT %s: what was retained comes once, and topics that are no longer configured are ended',
    async (version) => {
      const server = await broker();
      const dir = tempDir();
      const spool = await spoolIn(join(dir, 'spool'));
      const client = await publisher(server);
      await client.publishAsync('plant/kept', '{"n":1}', { qos: 1, retain: true });
      for (let round = 0; round < 3; round += 1) {
        const running = follow(server, spool, dir, { version });
        await isUp(running);
        await client.publishAsync('plant/live', `${round}`, { qos: 2 });
        await stored(spool, 2 + round);
        await running.stop();
      }
      const topics = ['other/#', 'plant/nothing/+'];
      await isUp(follow(server, spool, dir, { version, topics, retained: 'skip' }), topics);
      await client.publishAsync('plant/live', '9', { qos: 2 });
      await client.publishAsync('other/x', '10', { qos: 2 });
      expect((await stored(spool, 5)).map(([, value]) => value)).toEqual([
        '{"n":1}',
        '{"value":0}',
        '{"value":1}',
        '{"value":2}',
        '{"value":10}',
      ]);
    },
  );

  test.skipIf(dynamicSecurity === undefined).each(['5', '3.1.1'])(
    'MQTT %s: a filter that is refused and a QoS that is lowered are told of, over connections and restarts, and the others go on',
    async (version) => {
      const dir = tempDir();
      const acls = [{ acltype: 'subscribePattern', topic: 'secret/#', priority: 10, allow: false }];
      const rights = {
        defaultACLAccess: { publishClientSend: true, publishClientReceive: true, subscribe: true, unsubscribe: true },
        ...{ roles: [{ rolename: 'all', acls }], groups: [{ groupname: 'all', roles: [{ rolename: 'all' }] }] },
        anonymousGroup: 'all',
      };
      writeFileSync(join(dir, 'rights.json'), JSON.stringify(rights));
      const plugin = [`plugin ${dynamicSecurity}`, `plugin_opt_config_file ${join(dir, 'rights.json')}`];
      const server = await broker('max_qos 1', ...plugin);
      const spool = await spoolIn(join(dir, 'spool'));
      const topics = ['secret/#', 'plant/#', 'other/+'];
      const seen = async ({ output }: RunningSource): Promise<void> => {
        await vi.waitFor(() => {
          expect(output.counters.problem).toMatch(
            /^the broker refused secret\/#: .*(?:0x80|not authorised|unspecified)/,
          );
          expect(output.counters.problem).toContain('; the broker grants QoS 1 instead of 2 for plant/#; ');
          expect(output.counters.problem).toMatch(/ for other\/\+$/);
        }, WAIT);
      };
      const first = follow(server, spool, dir, { version, topics });
      await seen(first);
      const client = await publisher(server);
      await client.publishAsync('plant/a', '1', { qos: 1 });
      await client.publishAsync('secret/a', '2', { qos: 1 });
      await client.publishAsync('other/a', '3', { qos: 1 });
      expect((await stored(spool, 2)).map(([, value]) => value)).toEqual(['{"value":1}', '{"value":3}']);
      const { problem } = first.output.counters;
      await server.kill('SIGTERM');
      await vi.waitFor(() => expect(first.output.counters.problem).not.toBe(problem), WAIT);
      await server.start();
      await vi.waitFor(() => expect(first.output.counters.problem).toBe(problem), WAIT);
      expect(first.said.filter((line) => line.includes('the broker refused secret/#'))).toHaveLength(1);
      await first.stop();
      await seen(follow(server, spool, dir, { version, topics }));
    },
  );

  test('filters that no message matches are named, until one comes', async () => {
    const server = await broker();
    const dir = tempDir();
    const spool = await spoolIn(join(dir, 'spool'));
    let aheadMs = 0;
    const clock = { nowMs: () => Date.now(), monotonicMs: () => performance.now() + aheadMs };
    const topics = ['plannt/#', 'plant/#', '+/state', 'plant/+/x', '$share/agents/none/#'];
    const config = sourceConfig({ type: 'mqtt', url: server.url(), topics, to: 't', keepAlive: '18h' });
    const running = runSource(mqttSource(config, 'a', dir, 10_000), spool, dir, clock);
    await isUp(running, topics);
    const client = await publisher(server);
    await client.publishAsync('plant/a', '1', { qos: 2 });
    await stored(spool, 1);
    expect(running.output.counters.remark).toBeNull();
    aheadMs = 600_000;
    const remark = (names: string): string =>
      `no message has matched ${names} since the start: is the filter right, and may this client read it?`;
    await vi.waitFor(() => expect(running.output.counters.remark).toBe(remark('plannt/#, +/state, plant/+/x')), WAIT);
    await client.publishAsync('line/state', '1', { qos: 2 });
    await vi.waitFor(() => expect(running.output.counters.remark).toBe(remark('plannt/#, plant/+/x')), WAIT);
    expect(running.said.filter((line) => line.includes('no message has matched'))).toHaveLength(1);
    expect(running.output.counters.problem).toBeNull();
    await client.publishAsync('plannt', '1', { qos: 2 });
    await client.publishAsync('plant/a/x', '1', { qos: 2 });
    await vi.waitFor(() => expect(running.output.counters.remark).toBeNull(), WAIT);
  });

  test('a full spool holds the broker back, and nothing is lost', async () => {
    const server = await broker();
    const dir = tempDir();
    const spool = await spoolIn(join(dir, 'spool'), { maxBytes: 1_048_576 });
    const running = follow(server, spool, dir, {}, 64);
    await isUp(running);
    const client = await publisher(server);
    const text = 'x'.repeat(5000);
    // Mosquitto 2.0 loses messages of QoS 2 of a publisher that has more than max_inflight_messages under way.
    for (let n = 0; n < 1000; n += 50) {
      const some = Array.from({ length: 50 }, (_, index) =>
        client.publishAsync('plant/a', `{"n":${n + index},"text":"${text}"}`, { qos: index % 2 === 0 ? 1 : 2 }),
      );
      await Promise.all(some);
    }
    const numbers: number[] = [];
    let wasHeldUp = false;
    for (let after = 0n; numbers.length < 1000;) {
      await vi.waitFor(() => {
        expect(spool.lastSeq('t')).toBeGreaterThan(after);
        expect(running.output.counters.isHeldUp || spool.lastSeq('t') === 1000n).toBe(true);
      }, WAIT);
      wasHeldUp ||= running.output.counters.isHeldUp;
      for (const entry of await spool.read('t', after, 1e7)) {
        if (entry.kind !== 'reading') throw new Error('a gap');
        numbers.push((JSON.parse(entry.value.toString()) as { n: number }).n);
        after = entry.seq;
      }
      spool.acknowledge('t', after);
    }
    expect(wasHeldUp).toBe(true);
    // In order for each quality of service; between the two, MQTT promises none.
    for (const rest of [0, 1]) {
      const ofQos = numbers.filter((n) => n % 2 === rest);
      expect(ofQos).toEqual(Array.from({ length: 500 }, (_, index) => 2 * index + rest));
    }
  });

  test('agents with one shared subscription have each message once between them', async () => {
    const server = await broker();
    const client = await publisher(server);
    const shares = await Promise.all(
      ['one', 'two'].map(async (clientId) => {
        const dir = tempDir();
        const spool = await spoolIn(join(dir, 'spool'));
        const topics = ['$share/agents/plant/#'];
        await isUp(follow(server, spool, dir, { topics, clientId }), topics);
        return spool;
      }),
    );
    for (let n = 0; n < 200; n += 1) await client.publishAsync('plant/a', `{"n":${n}}`, { qos: 2 });
    await vi.waitFor(() => expect(shares.reduce((sum, spool) => sum + Number(spool.lastSeq('t')), 0)).toBe(200), WAIT);
    const all = (await Promise.all(shares.map((spool) => stored(spool, 0)))).flat();
    expect(new Set(all.map(([, value]) => value)).size).toBe(200);
    expect(shares.every((spool) => spool.lastSeq('t') > 0n)).toBe(true);
  });

  test('TLS, certificates of the client, users: what is wrong is said in words, what is right works', async () => {
    const dir = tempDir();
    const { ca, server: own, client, expired } = makeCertificates(dir);
    const passwords = join(dir, 'passwords');
    execFileSync('mosquitto_passwd', ['-b', '-c', passwords, 'edge', 'secret'], { stdio: 'ignore' });
    const secured = (certificate: typeof own): string[] => [
      ...[`cafile ${ca}`, `certfile ${certificate.cert}`, `keyfile ${certificate.key}`, 'require_certificate true'],
      ...['allow_anonymous false', `password_file ${passwords}`],
    ];
    writeFileSync(join(dir, 'right'), 'secret\n');
    writeFileSync(join(dir, 'wrong'), 'secret2\n');
    const server = await broker(...secured(own));
    const late = await broker(...secured(expired));
    const tls = { ca, cert: client.cert, key: client.key };
    const right = { url: server.url('mqtts'), tls, user: 'edge', passwordFile: './right' };
    const wrong: [Record<string, unknown>, string][] = [
      [{ ...right, url: late.url('mqtts') }, "the broker's certificate has expired"],
      [{ ...right, tls: { cert: client.cert, key: client.key } }, 'set tls.ca'],
      [{ ...right, tls: { ca } }, ''],
      [{ ...right, passwordFile: './wrong' }, 'the broker refused the connection: '],
      [{ ...right, passwordFile: './none' }, 'passwordFile: cannot read ./none'],
      [{ ...right, user: undefined, passwordFile: undefined, version: '3.1.1' }, 'it may want a user and password'],
      [{ ...right, url: server.url('mqtt'), tls: undefined }, 'ECONNRESET'],
    ];
    const problems = wrong.map(async ([more, text], index) => {
      const own = join(dir, String(index));
      const running = follow(server, await spoolIn(join(own, 'spool')), dir, more);
      await vi.waitFor(() => expect(running.output.counters.problem).toContain(text), WAIT);
      await running.stop();
    });
    await Promise.all(problems);
    const spool = await spoolIn(join(dir, 'spool'));
    await isUp(follow(server, spool, dir, right));
  });

  test('a broker that lost its sessions gives its packet ids anew: no new message is taken for an old one', async () => {
    const server = await broker('persistent_client_expiration 1h');
    const dir = tempDir();
    const spool = await spoolIn(join(dir, 'spool'));
    const running = follow(server, spool, dir);
    await isUp(running);
    const first = await publisher(server);
    for (let n = 0; n < 5; n += 1) await first.publishAsync('plant/a', `{"n":${n}}`, { qos: (1 + (n % 2)) as 1 | 2 });
    await stored(spool, 5);
    // Killed before it saved anything.
    await server.kill('SIGKILL');
    await server.start();
    await vi.waitFor(() => expect(running.output.counters.events['connection']).toBe(2), WAIT);
    await isUp(running);
    const second = await publisher(server);
    for (let n = 0; n < 5; n += 1) await second.publishAsync('plant/a', `{"n":${n}}`, { qos: (1 + (n % 2)) as 1 | 2 });
    expect(await stored(spool, 10)).toHaveLength(10);
    expect(running.output.counters.events['repeat']).toBeUndefined();
  });

  test.each(['5', '3.1.1'])(
    'MQTT %s: under kill -9 of the agent and restarts of the broker, each message the broker took is in the log once',
    async (version) => {
      const server = await broker('autosave_on_changes false');
      const dir = tempDir();
      const agent = new AgentProcess(
        dir,
        `agent: { id: edge-1, dataDir: ./agent }
log: file:./log
uplink: { order: oldestFirst }
sources: [{ type: mqtt, url: ${server.url()}, version: '${version}', topics: ['plant/#'], to: machine, sensor: id }]
`,
      );
      agent.start();
      await vi.waitFor(() => expect(server.isSubscribed('penstock-edge-1')).toBe(true), WAIT);
      const acknowledged = new Set<number>();
      let isPublishing = true;
      /** Keeps some messages under way, each with a number of its own. */
      const publish = async (id: number, qos: 1 | 2): Promise<void> => {
        const client = await publisher(server, { clientId: `publisher-${id}`, clean: false });
        const underWay = new Set<Promise<void>>();
        for (let n = id * 1e6; isPublishing; n += 1) {
          const sent = client.publishAsync(`plant/${id}`, `{"n":${n},"id":"s${id}"}`, { qos }).then(() => {
            acknowledged.add(n);
            underWay.delete(sent);
          });
          underWay.add(sent);
          if (underWay.size > 20) await Promise.race(underWay);
          else await delay(1);
        }
        await Promise.all(underWay);
        await client.endAsync();
      };
      await vi.waitFor(() => expect(agent.output).not.toBe(''), WAIT);
      const publishers = [publish(1, 2), publish(2, 2), publish(3, 1)];
      const progress = async (count: number): Promise<void> => {
        const before = acknowledged.size;
        await vi.waitFor(() => expect(acknowledged.size).toBeGreaterThan(before + count), WAIT);
      };
      for (let round = 0; round < 6; round += 1) {
        await progress(100 + 83 * round);
        await agent.end(round === 3 ? 'SIGTERM' : 'SIGKILL');
        if (round % 2 === 1) {
          await server.kill('SIGTERM');
          await server.start();
        }
        agent.start();
      }
      await progress(100);
      await server.kill('SIGTERM');
      await server.start();
      await progress(100);
      isPublishing = false;
      await Promise.all(publishers);
      await vi.waitFor(() => {
        const accepted = Number(agent.output.trim().split('\n').at(-1));
        expect(accepted).toBeGreaterThanOrEqual(acknowledged.size);
      }, WAIT);
      expect(await agent.end('SIGTERM')).toBe(0);
      const records = await numberedIn(`file:${join(dir, 'log')}`, 'machine');
      expect(flawsOf(records, acknowledged)).toEqual([]);
      expect(records).toHaveLength(acknowledged.size);
    },
  );
});
