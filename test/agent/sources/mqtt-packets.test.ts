/** What only a broker that misbehaves shows: bytes in odd portions, repeats, silence, refusals. The broker here is a few lines. */
import { createServer, type AddressInfo, type Socket } from 'node:net';
import { once } from 'node:events';
import { join } from 'node:path';
import fc from 'fast-check';
import { generate, parser, type IPublishPacket, type Packet } from 'mqtt-packet';
import { expect, onTestFinished, test, vi } from 'vitest';
import { mqttSource } from '../../../agent/sources/mqtt/mqtt-source.ts';
import { isTooLarge, PacketCutter } from '../../../agent/sources/mqtt/packet-cutter.ts';
import type { Spool } from '../../../agent/spool/spool.ts';
import { PenstockError } from '../../../lib/errors.ts';
import { tempDir } from '../../support/temp.ts';
import { readAll, spoolIn } from '../spool/support.ts';
import { runSource, sourceConfig, type RunningSource } from './support.ts';
import { HANG_MS } from '../../support/hang.ts';

const WAIT = { timeout: HANG_MS, interval: 10 };
const V5 = { protocolVersion: 5 } as const;

function publish(id: number, qos: 0 | 1 | 2, n: number, dup = false): IPublishPacket {
  return { cmd: 'publish', topic: 'plant/a', payload: `{"n":${n}}`, qos, dup, retain: false, messageId: id };
}

test('packets come out whole, however the bytes are cut, and of one that is too large only its beginning', () => {
  const payload = fc.oneof({ weight: 4, arbitrary: fc.integer({ min: 0, max: 3000 }) }, { weight: 1, arbitrary: fc.constantFrom(1_048_000, 1_179_000, 1_300_000, 5_000_000) }); // prettier-ignore
  const packet = fc.record({ bytes: payload, qos: fc.constantFrom(0, 1, 2), topic: fc.constantFrom('a', 'plant/ü') });
  const property = fc.property(
    fc.array(packet, { minLength: 1, maxLength: 6 }),
    fc.integer({ min: 1, max: 70_000 }),
    (packets, portion) => {
      const sent = packets.map(({ bytes, qos, topic }, index): IPublishPacket => ({
        ...publish(index + 1, qos, 0),
        topic,
        payload: Buffer.alloc(bytes, index),
      }));
      const whole = Buffer.concat(sent.map((each) => generate(each, V5)));
      const cutter = new PacketCutter('5');
      const got: { topic: string; qos: number; messageId: number | undefined; bytes: number; first: unknown }[] = [];
      const take = ({ topic, qos, messageId, payload }: IPublishPacket, bytes: number): void =>
        void got.push({ topic, qos, messageId, bytes, first: payload[0] });
      const reader = parser(V5).on('packet', (each) =>
        take(each as IPublishPacket, (each as IPublishPacket).payload.length),
      );
      for (let at = 0; at < whole.length; at += portion) {
        for (const each of cutter.push(whole.subarray(at, at + portion))) {
          if (isTooLarge(each)) {
            expect(each.packet.payload.length).toBeLessThan(200_000);
            take(each.packet, each.payloadBytes);
          } else reader.parse(each);
        }
      }
      expect(got).toEqual(
        sent.map(({ topic, qos, messageId, payload }) => ({
          ...{ topic, qos, bytes: payload.length, first: payload[0] },
          messageId: qos === 0 ? undefined : messageId,
        })),
      );
    },
  );
  fc.assert(property, { numRuns: 30 });
});

interface FakeBroker {
  readonly port: number;
  /** What clients sent, the newest connection last. */
  readonly received: Packet[];
  readonly connections: Socket[];
  send(...packets: Packet[]): void;
}

/** Accepts, grants, and otherwise only notes; `answer` may answer otherwise. */
async function fakeBroker(
  answer: (packet: Packet, connection: number) => Packet | Buffer | null | undefined = () => undefined,
  wire: { readonly protocolVersion: 4 | 5 } = V5,
): Promise<FakeBroker> {
  const received: Packet[] = [];
  const connections: Socket[] = [];
  const server = createServer((socket) => {
    const index = connections.push(socket) - 1;
    socket.on('error', () => undefined);
    const reader = parser(wire).on('packet', (packet) => {
      received.push(packet);
      const given = answer(packet, index);
      const reply = given === undefined ? usual(packet, index > 0) : given;
      if (reply !== null) socket.write(Buffer.isBuffer(reply) ? reply : generate(reply, wire));
    });
    socket.on('data', (chunk: Buffer) => reader.parse(chunk));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  onTestFinished(() => {
    for (const socket of connections) socket.destroy();
    server.close();
  });
  const { port } = server.address() as AddressInfo; // a TCP server's address is never a string
  return {
    ...{ port, received, connections },
    send: (...packets) => void connections.at(-1)?.write(Buffer.concat(packets.map((packet) => generate(packet, V5)))),
  };
}

function usual(packet: Packet, sessionPresent: boolean): Packet | null {
  if (packet.cmd === 'connect') return { cmd: 'connack', reasonCode: 0, sessionPresent };
  if (packet.cmd === 'subscribe') {
    return { cmd: 'suback', messageId: packet.messageId ?? 0, granted: packet.subscriptions.map(({ qos }) => qos) };
  }
  if (packet.cmd === 'pingreq') return { cmd: 'pingresp' };
  return null;
}

async function follow(
  port: number,
  more: Record<string, unknown> = {},
  given?: { dir: string; spool: Spool },
): Promise<RunningSource & { spool: Spool }> {
  const dir = given?.dir ?? tempDir();
  const spool = given?.spool ?? (await spoolIn(join(dir, 'spool')));
  const config = sourceConfig({ type: 'mqtt', url: `mqtt://127.0.0.1:${port}`, topics: ['plant/#'], to: 't', ...more });
  return { ...runSource(mqttSource(config, 'a', dir, 100), spool, dir), spool };
}

function answersOf({ received }: FakeBroker): string[] {
  return received
    .filter(({ cmd }) => ['puback', 'pubrec', 'pubcomp'].includes(cmd))
    .map(({ cmd, messageId }) => `${cmd} ${messageId}`);
}

async function numbers(spool: Spool): Promise<number[]> {
  return (await readAll(spool)).map((entry) =>
    entry.kind !== 'reading' ? -1 : (JSON.parse(entry.value.toString()) as { n: number }).n,
  );
}

/** Nobody can know what it has heard. */
const withoutPingresp = (packet: Packet): null | undefined => (packet.cmd === 'pingreq' ? null : undefined);

async function reconnected(broker: FakeBroker, count: number): Promise<void> {
  broker.connections.at(-1)?.destroy();
  await vi.waitFor(() => expect(broker.received.filter(({ cmd }) => cmd === 'connect')).toHaveLength(count), WAIT);
}

test('repeats: QoS 2 until its PUBREL, with DUP or not; QoS 1 with DUP and the same payload; over connections', async () => {
  const broker = await fakeBroker(withoutPingresp);
  const { spool, output } = await follow(broker.port);
  await vi.waitFor(() => expect(broker.received.map(({ cmd }) => cmd)).toContain('subscribe'), WAIT);
  broker.send(publish(1, 2, 1), publish(2, 1, 2), publish(1, 2, 1, true), publish(3, 1, 3), publish(2, 1, 2, true));
  await vi.waitFor(() => expect(answersOf(broker)).toHaveLength(5), WAIT);
  broker.connections.at(-1)?.destroy();
  await vi.waitFor(() => expect(broker.connections).toHaveLength(2), WAIT);
  await vi.waitFor(() => expect(broker.received.filter(({ cmd }) => cmd === 'connect')).toHaveLength(2), WAIT);
  broker.received.length = 0;
  // Again after the connection; then the same packet ids for other messages, and one payload twice on purpose.
  broker.send(publish(1, 2, 1), publish(2, 1, 2, true), { cmd: 'pubrel', messageId: 1 });
  await vi.waitFor(() => expect(answersOf(broker)).toEqual(['pubrec 1', 'puback 2', 'pubcomp 1']), WAIT);
  broker.send(
    publish(1, 2, 4),
    publish(2, 1, 5, true),
    publish(3, 1, 3),
    { cmd: 'pubrel', messageId: 77 },
    publish(0, 0, 6),
  );
  await vi.waitFor(
    () => expect(answersOf(broker).slice(3)).toEqual(['pubrec 1', 'puback 2', 'puback 3', 'pubcomp 77']),
    WAIT,
  );
  await vi.waitFor(() => expect(spool.lastSeq('t')).toBe(7n), WAIT);
  // Against the protocol: a packet id of QoS 2 for another message before it was released.
  broker.send(publish(9, 2, 7), publish(9, 2, 8), publish(9, 2, 8, true), { cmd: 'pubrel', messageId: 9 });
  await vi.waitFor(
    () => expect(answersOf(broker).slice(7)).toEqual(['pubrec 9', 'pubrec 9', 'pubrec 9', 'pubcomp 9']),
    WAIT,
  );
  expect(await numbers(spool)).toEqual([1, 2, 3, 4, 5, 3, 6, 7, 8]);
  expect(output.counters.events).toEqual({ connection: 2, repeat: 5 });
});

test('QoS 1: behind a PUBACK that the broker has, an equal message under its packet id is a new one, DUP or not, whatever was cut', async () => {
  const broker = await fakeBroker();
  const { spool, output } = await follow(broker.port);
  await vi.waitFor(() => expect(broker.received.map(({ cmd }) => cmd)).toContain('subscribe'), WAIT);
  broker.send(publish(5, 1, 1));
  await vi.waitFor(() => expect(answersOf(broker)).toEqual(['puback 5']), WAIT);
  // The receipt goes from the disk too, so that a restart knows it as well.
  await vi.waitFor(() => expect([...output.receipts().keys()]).toEqual([]), WAIT);
  await reconnected(broker, 2);
  broker.send(publish(5, 1, 1, true));
  await vi.waitFor(() => expect(answersOf(broker)).toHaveLength(2), WAIT);
  expect(await numbers(spool)).toEqual([1, 1]);
  expect(output.counters.events['repeat']).toBeUndefined();
});

test('QoS 1: a PUBACK is in doubt no longer when new messages come on the next connection, behind what had to be repeated', async () => {
  const broker = await fakeBroker(withoutPingresp);
  const { spool, output } = await follow(broker.port);
  await vi.waitFor(() => expect(broker.received.map(({ cmd }) => cmd)).toContain('subscribe'), WAIT);
  broker.send(publish(5, 1, 1), publish(6, 1, 2));
  await vi.waitFor(() => expect(answersOf(broker)).toHaveLength(2), WAIT);
  // The broker has heard of 5 and not of 6.
  await reconnected(broker, 2);
  broker.send(publish(6, 1, 2, true), publish(7, 1, 3));
  await vi.waitFor(() => expect(answersOf(broker)).toHaveLength(4), WAIT);
  expect(output.counters.events['repeat']).toBe(1);
  // Of the new message under 5, the first sending was lost with the connection; 6 and 7 are in doubt still.
  await reconnected(broker, 3);
  broker.send(publish(6, 1, 2, true), publish(7, 1, 3, true), publish(5, 1, 1, true));
  await vi.waitFor(() => expect(answersOf(broker)).toHaveLength(7), WAIT);
  expect(await numbers(spool)).toEqual([1, 2, 3, 1]);
  expect(output.counters.events['repeat']).toBe(3);
});

test('receipts of QoS 1 are bounded by what the spool has room for, and at least as many as messages may be under way', async () => {
  const broker = await fakeBroker(withoutPingresp);
  const { spool, output } = await follow(broker.port, { receiveMaximum: 10 });
  await vi.waitFor(() => expect(broker.received.map(({ cmd }) => cmd)).toContain('subscribe'), WAIT);
  expect(broker.received[0]).toMatchObject({
    cmd: 'connect',
    clean: false,
    properties: { receiveMaximum: 10, sessionExpiryInterval: 604_800 },
  });
  for (let n = 1; n <= 250; n += 1) broker.send(publish(n, 1, n));
  broker.send(publish(260, 2, 251));
  await vi.waitFor(() => expect(answersOf(broker)).toHaveLength(251), WAIT);
  expect([...output.receipts().keys()]).toEqual([...Array.from({ length: 190 }, (_, n) => String(n + 61)), '260']);
  expect(await numbers(spool)).toEqual(Array.from({ length: 251 }, (_, n) => n + 1));
});

test('what the broker refuses, and how it ends a connection, is said in words', async () => {
  let granted = [0x87, 1];
  const broker = await fakeBroker((packet, connection) => {
    if (packet.cmd === 'connect' && connection === 1)
      return { cmd: 'connack', reasonCode: 0x84, sessionPresent: false };
    if (packet.cmd === 'connect' && connection === 2) return Buffer.from('HTTP/1.1 400 Bad Request\r\n\r\n');
    if (packet.cmd === 'subscribe') return { cmd: 'suback', messageId: packet.messageId ?? 0, granted };
    return undefined;
  });
  const { output } = await follow(broker.port, { topics: ['a/#', 'b'] });
  const problems: string[] = [];
  output.report = (problem) => {
    if (problem !== null && problem !== problems.at(-1)) problems.push(problem);
    output.counters.problem = problem;
  };
  await vi.waitFor(() => expect(output.counters.problem).toContain('the broker refused a/#: not authorised'), WAIT);
  expect(output.counters.problem).toContain('the broker grants QoS 1 instead of 2 for b');
  granted = [2, 2];
  broker.send({ cmd: 'disconnect', reasonCode: 0x8e });
  // What was refused or granted with less is asked for again.
  await vi.waitFor(() => expect(output.counters.problem).toBeNull(), WAIT);
  expect(problems.filter((problem) => !problem.includes('refused a/#'))).toEqual([
    'the broker ended the connection: another client connected with the same clientId: each agent needs its own',
    'the broker refused the connection: it does not speak MQTT 5: set `version: 3.1.1`',
    'what answers there speaks no MQTT: is it a broker?',
  ]);
  expect(broker.received.filter((packet) => packet.cmd === 'subscribe').map(({ subscriptions }) => subscriptions.map((each) => each.topic))).toEqual([['a/#', 'b'], ['a/#', 'b']]); // prettier-ignore
});

test('a lower QoS than was asked for is still said when the connection breaks while it is asked for again', async () => {
  const broker = await fakeBroker((packet, connection) => {
    if (packet.cmd !== 'subscribe') return undefined;
    if (connection === 1) return { cmd: 'disconnect', reasonCode: 0x8e };
    return { cmd: 'suback', messageId: packet.messageId ?? 0, granted: [1] };
  });
  const { output } = await follow(broker.port, { topics: ['b'] });
  const lowered = 'the broker grants QoS 1 instead of 2 for b';
  await vi.waitFor(() => expect(output.counters.problem).toBe(lowered), WAIT);
  broker.send({ cmd: 'disconnect', reasonCode: 0x8e });
  await vi.waitFor(() => expect(broker.received.filter(({ cmd }) => cmd === 'subscribe')).toHaveLength(3), WAIT);
  await vi.waitFor(() => expect(output.counters.problem).toBe(lowered), WAIT);
});

test('a broker that falls silent is left; an end of the agent is a DISCONNECT that keeps the session', async () => {
  let isSilent = true;
  const broker = await fakeBroker((packet) => (packet.cmd === 'pingreq' && isSilent ? null : undefined));
  const running = await follow(broker.port, { keepAlive: '1s' });
  const problems: (string | null)[] = [];
  running.output.report = (problem) => void problems.push(problem);
  await vi.waitFor(() => expect(problems.join(' ')).toMatch(/the broker was silent for \d+ s/), WAIT);
  isSilent = false;
  const count = broker.connections.length;
  await vi.waitFor(() => expect(broker.connections.length).toBeGreaterThan(count - 1), WAIT);
  await vi.waitFor(() => expect(problems.at(-1)).toBeNull(), WAIT);
  await running.stop();
  await vi.waitFor(() => expect(broker.received.at(-1)).toMatchObject({ cmd: 'disconnect', reasonCode: 0 }), WAIT);
});

test('a broker that keeps the session for less than it was asked for is a problem, as it drops messages in a longer outage', async () => {
  const properties = { sessionExpiryInterval: 60 };
  const broker = await fakeBroker((packet) =>
    packet.cmd === 'connect' ? { cmd: 'connack', reasonCode: 0, sessionPresent: false, properties } : undefined,
  );
  const { output } = await follow(broker.port, { sessionExpiry: '1h' });
  await vi.waitFor(() => expect(output.counters.problem).toContain('for 60 s instead of 3600 s'), WAIT);
  properties.sessionExpiryInterval = 3600;
  broker.connections.at(-1)?.destroy();
  await vi.waitFor(() => expect(output.counters.problem).toBeNull(), WAIT);
});

test('a broker that closes the connection between CONNACK and SUBSCRIBE is asked again, not waited for for ever', async () => {
  const broker = await fakeBroker((packet, connection) => {
    if (packet.cmd !== 'connect' || connection > 0) return undefined;
    // Before the agent has stored that there is a new session.
    broker.connections[connection]?.end(generate({ cmd: 'connack', reasonCode: 0, sessionPresent: false }, V5));
    return null;
  });
  const { output } = await follow(broker.port);
  await vi.waitFor(() => expect(broker.received.map(({ cmd }) => cmd)).toContain('subscribe'), WAIT);
  await vi.waitFor(() => expect(output.counters.problem).toBeNull(), WAIT);
});

test.each(['5', '3.1.1'] as const)(
  'MQTT %s: a session that the broker made new, whose CONNACK was lost on the way, is subscribed to again',
  async (version) => {
    const wire = { protocolVersion: version === '5' ? 5 : 4 } as const;
    const connack = (sessionPresent: boolean): Buffer =>
      generate({ cmd: 'connack', reasonCode: 0, returnCode: 0, sessionPresent }, wire);
    const broker = await fakeBroker((packet, connection) => {
      if (packet.cmd !== 'connect') return undefined;
      if (connection !== 1) return connack(connection > 1);
      // It has lost its sessions, and makes another one; the link breaks before the agent is told.
      broker.connections[connection]?.destroy();
      return null;
    }, wire);
    const { output } = await follow(broker.port, { version });
    const subscribes = (): number => broker.received.filter(({ cmd }) => cmd === 'subscribe').length;
    await vi.waitFor(() => expect([subscribes(), output.counters.problem]).toEqual([1, null]), WAIT);
    broker.connections[0]?.destroy();
    await vi.waitFor(() => expect(subscribes()).toBe(2), WAIT);
    expect(broker.connections).toHaveLength(3);
    // What is told in order is believed: 3.1.1 sends what is retained at each SUBSCRIBE.
    await vi.waitFor(() => expect(output.counters.problem).toBeNull(), WAIT);
    await reconnected(broker, 4);
    await vi.waitFor(() => expect(output.counters.events['connection']).toBe(3), WAIT);
    await vi.waitFor(() => expect(output.counters.problem).toBeNull(), WAIT);
    expect(subscribes()).toBe(version === '5' ? 3 : 2);
  },
);

test.each(['5', '3.1.1'] as const)(
  'MQTT %s: an agent that ended before it had stored that the session is new subscribes again',
  async (version) => {
    const wire = { protocolVersion: version === '5' ? 5 : 4 } as const;
    const broker = await fakeBroker(
      (packet, connection) =>
        packet.cmd === 'connect'
          ? generate({ cmd: 'connack', reasonCode: 0, returnCode: 0, sessionPresent: connection > 1 }, wire)
          : undefined,
      wire,
    );
    const dir = tempDir();
    const spool = await spoolIn(join(dir, 'spool'));
    const first = await follow(broker.port, { version }, { dir, spool });
    const subscribes = (): number => broker.received.filter(({ cmd }) => cmd === 'subscribe').length;
    await vi.waitFor(() => expect([subscribes(), first.output.counters.problem]).toEqual([1, null]), WAIT);
    // It ends at the moment at which the broker has told of its new session, and nothing of that reaches the disk.
    const append = spool.append.bind(spool);
    const isNone = (checkpoints: Parameters<Spool['append']>[1]): boolean =>
      checkpoints?.some(({ state }) => JSON.stringify(state).includes('"granted":[]')) === true;
    const ended = Promise.withResolvers();
    vi.spyOn(spool, 'append').mockImplementation((readings, checkpoints, receipts) => {
      if (!isNone(checkpoints)) return append(readings, checkpoints, receipts);
      ended.resolve(first.stop());
      return Promise.reject(new PenstockError('io', 'killed here'));
    });
    broker.connections[0]?.destroy();
    await ended.promise;
    vi.restoreAllMocks();
    expect(subscribes()).toBe(1);
    const second = await follow(broker.port, { version }, { dir, spool });
    await vi.waitFor(() => expect(subscribes()).toBe(2), WAIT);
    await vi.waitFor(() => expect(second.output.counters.problem).toBeNull(), WAIT);
  },
);

test('a new session, and a message in the same bytes that equals one of the old session: it is a new one', async () => {
  const connack = (sessionPresent: boolean): Packet => ({ cmd: 'connack', reasonCode: 0, sessionPresent });
  const broker = await fakeBroker((packet, connection) => {
    if (packet.cmd !== 'connect') return undefined;
    // As brokers do that subscribe for their clients.
    return Buffer.concat([connack(connection > 1), publish(1, 2, 1)].map((each) => generate(each, V5)));
  });
  const { spool, output } = await follow(broker.port);
  await vi.waitFor(() => expect(answersOf(broker)).toEqual(['pubrec 1']), WAIT);
  await reconnected(broker, 2);
  await vi.waitFor(() => expect(answersOf(broker)).toEqual(['pubrec 1', 'pubrec 1']), WAIT);
  expect(await numbers(spool)).toEqual([1, 1]);
  // And what came before the new session was stored is known as taken in it.
  await reconnected(broker, 3);
  await vi.waitFor(() => expect(answersOf(broker)).toHaveLength(3), WAIT);
  expect(await numbers(spool)).toEqual([1, 1]);
  expect(output.counters.events['repeat']).toBe(1);
});

test.each<[string, Buffer, string]>([
  ['a second CONNACK', generate({ cmd: 'connack', reasonCode: 0, sessionPresent: true }, V5), 'a second CONNACK'],
  ['a PUBREL that is cut off', Buffer.from([0x62, 1, 0]), 'PUBREL without a packet id'],
  ['a message of QoS 1 with packet id 0', generate(publish(0, 1, 1), V5), 'PUBLISH without a packet id'],
  [
    'a topic alias',
    generate({ ...publish(1, 1, 1), topic: '', properties: { topicAlias: 1 } }, V5),
    'PUBLISH without a topic, by an alias that it was not offered',
  ],
])('%s ends the connection with its reason, and nothing of it is taken or acknowledged', async (_, bytes, reason) => {
  const broker = await fakeBroker();
  const { spool, output } = await follow(broker.port);
  const problems: (string | null)[] = [];
  output.report = (problem) => void problems.push(problem);
  await vi.waitFor(() => expect(broker.received.map(({ cmd }) => cmd)).toContain('subscribe'), WAIT);
  broker.connections.at(-1)?.write(bytes);
  await vi.waitFor(() => expect(problems).toContain(`the broker sent ${reason}`), WAIT);
  // It connects again, and works.
  await vi.waitFor(() => expect(broker.connections).toHaveLength(2), WAIT);
  await vi.waitFor(() => expect(problems.at(-1)).toBeNull(), WAIT);
  expect(answersOf(broker)).toEqual([]);
  expect(await numbers(spool)).toEqual([]);
});

test('a broker that answers no PINGREQ and goes on sending gets a bounded number of them', async () => {
  const broker = await fakeBroker(withoutPingresp);
  await follow(broker.port);
  await vi.waitFor(() => expect(broker.received.map(({ cmd }) => cmd)).toContain('subscribe'), WAIT);
  // Each by itself, so that each is a group with a PINGREQ behind it.
  for (let n = 1; n <= 300; n += 1) {
    broker.send(publish(n, 1, n));
    await vi.waitFor(() => expect(answersOf(broker)).toHaveLength(n), { timeout: HANG_MS, interval: 1 });
  }
  expect(broker.received.filter(({ cmd }) => cmd === 'pingreq').length).toBeLessThanOrEqual(256);
});
