/**
 * Kafka's administrative calls on the cluster of a URL, for `POST /v1/connections/{name}/call`.
 *
 * Invariants: brokers name each other, so every socket is checked by `checkHost` before it is opened, and by `lookup` what
 * its name resolves to. Limits: WIRE_BYTES_MAX from all brokers together. Records are neither read nor written here.
 */
import kafkajs, { type Admin, type SASLOptions } from 'kafkajs';
import RequestQueue from 'kafkajs/src/network/requestQueue/index.js';
import net from 'node:net';
import tls from 'node:tls';
import { z } from 'zod';
import { describeError, PenstockError } from '../../errors.ts';
import { serverNameOf } from '../../urls.ts';
import { type VendorCall, vendorOf } from '../../vendor.ts';
import { parseKafkaUrl, type SaslOptions } from './kafka-url.ts';
import { correctRequestQueue } from './kafkajs-request-queue.ts';
import { CLIENT_ID } from './transport.ts';

// A CommonJS module, whose names Node does not see.
const { ConfigResourceTypes, Kafka, logLevel } = kafkajs;

// An admin hands out no connection, so its queues are corrected by their class. A broker that throttles does not read meanwhile, so that a
// pause needs nothing of a single call.
correctRequestQueue(RequestQueue.prototype, () => undefined);

const CONNECT_MS = 5000;
const REQUEST_MS = 8000;
/** The names of 2,000 topics come with their partitions. A broker that says that gigabytes follow would have them kept. */
const WIRE_BYTES_MAX = 32_000_000;

const topic = z.string().min(1).max(249);
const group = z.string().min(1).max(249);

function call<T extends z.ZodType<Readonly<Record<string, unknown>>>>(
  changes: boolean,
  summary: string,
  parameters: T,
  run: (admin: Admin, parameters: z.output<T>) => Promise<unknown>,
): VendorCall<Admin> {
  return { summary, changes, parameters, run: (admin, given) => run(admin, parameters.parse(given)) };
}

export const kafkaVendor = vendorOf<Admin>({
  credentials: ['user', 'password'],
  calls: {
    DescribeCluster: call(false, 'Brokers and the controller', z.strictObject({}), (admin) => admin.describeCluster()),
    ListTopics: call(false, 'Names of the topics', z.strictObject({}), (admin) => admin.listTopics()),
    DescribeTopics: call(
      false,
      'Partitions, leaders and replicas',
      z.strictObject({ topics: z.array(topic).min(1).max(100) }),
      (admin, given) => admin.fetchTopicMetadata(given),
    ),
    ListOffsets: call(false, 'First and next offset by partition', z.strictObject({ topic }), (admin, given) =>
      admin.fetchTopicOffsets(given.topic),
    ),
    DescribeConfigs: call(
      false,
      'Settings of a topic or a broker',
      z.strictObject({ type: z.enum(['topic', 'broker']).default('topic'), name: z.string().min(1).max(249) }),
      (admin, { type, name }) =>
        admin.describeConfigs({
          includeSynonyms: false,
          resources: [{ type: type === 'topic' ? ConfigResourceTypes.TOPIC : ConfigResourceTypes.BROKER, name }],
        }),
    ),
    ListGroups: call(false, 'Consumer groups', z.strictObject({}), (admin) => admin.listGroups()),
    DescribeGroups: call(
      false,
      'State and members of consumer groups',
      z.strictObject({ groups: z.array(group).min(1).max(100) }),
      (admin, { groups }) => admin.describeGroups(groups),
    ),
    FetchOffsets: call(
      false,
      'How far a consumer group is',
      z.strictObject({ group, topics: z.array(topic).max(100).optional() }),
      (admin, { group: groupId, topics }) =>
        admin.fetchOffsets({ groupId, ...(topics === undefined ? {} : { topics }) }),
    ),
    AlterTopicConfig: call(
      true,
      'Set settings of a topic; those that are not named go back to their defaults',
      z.strictObject({ topic, settings: z.record(z.string().max(249), z.string().max(1000)) }),
      (admin, { topic: name, settings }) =>
        admin.alterConfigs({
          validateOnly: false,
          resources: [
            {
              type: ConfigResourceTypes.TOPIC,
              name,
              configEntries: Object.entries(settings).map(([entry, value]) => ({ name: entry, value })),
            },
          ],
        }),
    ),
    CreatePartitions: call(
      true,
      'Give a topic more partitions',
      z.strictObject({ topic, count: z.int().min(1).max(10_000) }),
      (admin, given) => admin.createPartitions({ topicPartitions: [given] }),
    ),
    DeleteGroups: call(
      true,
      'Delete consumer groups without members',
      z.strictObject({ groups: z.array(group).min(1).max(100) }),
      (admin, { groups }) => admin.deleteGroups(groups),
    ),
  },
  hosts: (url) => {
    refuseFiles(url);
    return parseKafkaUrl(withoutSasl(url)).bootstrap.map(({ host }) => host);
  },
  probe: (admin) => admin.describeCluster(),
  open: async (url, { credentials, checkHost, lookup }, signal, use) => {
    refuseFiles(url);
    const { user, password } = credentials;
    const login = user === undefined || password === undefined ? undefined : { user, password };
    const options = parseKafkaUrl(url, login);
    const sockets = new Set<net.Socket>();
    let refused: unknown;
    let received = 0;
    const kafka = new Kafka({
      clientId: CLIENT_ID,
      brokers: options.bootstrap.map(({ host, port }) => `${host}:${port}`),
      ssl: options.tls !== null,
      logLevel: logLevel.NOTHING,
      connectionTimeout: CONNECT_MS,
      requestTimeout: REQUEST_MS,
      retry: { retries: 1, initialRetryTime: 100 },
      ...(options.sasl === null ? {} : { sasl: saslOf(options.sasl) }),
      socketFactory: ({ host, port, ssl, onConnect }) => {
        const socket = new net.Socket();
        try {
          checkHost(host);
          // kafkajs hands on the options that it was given: here, whether there are any.
          const connected = (ssl as unknown)
            ? tls.connect({ host, port, lookup, ...serverNameOf(host) }, onConnect)
            : net.connect({ host, port, lookup }, onConnect);
          connected.on('error', (error) => {
            if (error instanceof PenstockError) refused = error;
          });
          connected.on('data', (chunk: Buffer) => {
            received += chunk.length;
            if (received <= WIRE_BYTES_MAX) return;
            connected.destroy(new PenstockError('too-large', `more than ${WIRE_BYTES_MAX} bytes of answers`));
          });
          sockets.add(connected);
          return connected;
        } catch (error) {
          refused = error;
          return socket.destroy(error instanceof Error ? error : new Error(String(error)));
        }
      },
    });
    const admin = kafka.admin();
    const aborted = Promise.withResolvers<never>();
    const abort = (): void => aborted.reject(new PenstockError('timeout', `${options.url} took too long`));
    signal.addEventListener('abort', abort, { once: true });
    try {
      const work = admin.connect().then(() => use(admin));
      return await Promise.race([work, aborted.promise]);
    } catch (error) {
      throw toError(refused ?? error, options.url);
    } finally {
      signal.removeEventListener('abort', abort);
      for (const socket of sockets) socket.destroy();
      // Of what is closed already; its end changes nothing.
      void admin.disconnect().catch(() => undefined);
    }
  },
});

function refuseFiles(url: URL): void {
  for (const name of ['ca', 'passwordFile', 'user']) {
    if (!url.searchParams.has(name)) continue;
    const instead =
      name === 'ca' ? 'a connection may not name files of the server' : 'user and password are credentials';
    throw new PenstockError('config', `${name}: ${instead}`);
  }
}

/** The URL as it is checked before there are credentials. */
function withoutSasl(url: URL): URL {
  const copy = new URL(url);
  copy.searchParams.delete('sasl');
  return copy;
}

function saslOf({ mechanism, user: username, password }: SaslOptions): SASLOptions {
  // One mechanism at a time has its own type in kafkajs; their fields are the same.
  return { mechanism, username, password };
}

function toError(error: unknown, url: string): PenstockError {
  if (error instanceof PenstockError) return error;
  const text = describeError(error);
  const name = error instanceof Error ? error.name : '';
  const code = /SASL|Authenticat|Authoriz/i.test(`${name} ${text}`)
    ? 'denied'
    : name === 'KafkaJSProtocolError'
      ? 'usage'
      : 'unavailable';
  return new PenstockError(code, `${url}: ${text}`, { cause: error });
}
