/**
 * The default transport: connections of kafkajs 2.2.4, which brings ApiVersions, SASL (PLAIN, SCRAM) with its session lifetimes, and the
 * matching of answers to requests.
 *
 * Invariants: kafkajs writes nothing to the console and keeps no timer on an idle connection. What cannot be a frame of the protocol
 * breaks the connection before kafkajs sees it (it would read a negative length).
 * Failure: whatever ends the socket rejects every request in flight, once; a connection is never used again after that.
 * Limits: FRAME_BYTES_MAX an answer; `connectMs` until it is authenticated.
 */
import Broker from 'kafkajs/src/broker/index.js';
import type Connection from 'kafkajs/src/network/connection.js';
import ConnectionPool, { type Logger } from 'kafkajs/src/network/connectionPool.js';
import net from 'node:net';
import { PenstockError } from '../../errors.ts';
import { serverNameOf, type HostPort } from '../../urls.ts';
import type { KafkaOptions } from './kafka-url.ts';
import { correctRequestQueue } from './kafkajs-request-queue.ts';
import type { KafkaLimits } from './limits.ts';
import { OUR_APIS, type Api } from './request.ts';
import { CLIENT_ID, connectError, type Transport, type Wire } from './transport.ts';

// An import of node:tls reads every export of it, and one of them decodes all the root certificates: several MB.
const tls = process.getBuiltinModule('node:tls');

const KEEP_ALIVE_MS = 60_000;
/** A fetch is asked for with megabytes; one batch may be larger, by the topic's own max.message.bytes. */
const FRAME_BYTES_MAX = 256 << 20;
/** How long before its end a session is renewed: far above a round trip, and above the second that brokers want between renewals. */
const RENEWAL_MS = 1500;
const HEADER_BYTES = 14;

const silent: Logger = {
  namespace: () => silent,
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
};

export function openKafkajsTransport(options: KafkaOptions, { connectMs }: KafkaLimits): Transport {
  return { connect: (address, throttle) => connect(options, connectMs, address, throttle) };
}

async function connect(
  options: KafkaOptions,
  connectMs: number,
  address: HostPort,
  throttle: (ms: number) => void,
): Promise<Wire> {
  const sockets: net.Socket[] = [];
  // kafkajs waits for ever for a socket that is closed without an error, and for one that it destroyed itself.
  const broken = Promise.withResolvers<never>();
  const pool = new ConnectionPool({
    ...address,
    clientId: CLIENT_ID,
    logger: silent,
    socketFactory: ({ onConnect }) => {
      const socket = openSocket(options, address, onConnect);
      let cause = new Error('the connection was closed');
      socket.once('error', (error) => (cause = error));
      socket.once('close', () => broken.reject(cause));
      sockets.push(socket);
      return socket;
    },
    connectionTimeout: connectMs,
    requestTimeout: connectMs,
    reauthenticationThreshold: RENEWAL_MS,
    // It counts by the wall clock; broker-link.ts has deadlines of its own.
    enforceRequestTimeout: false,
    sasl: options.sasl && {
      mechanism: options.sasl.mechanism,
      username: options.sasl.user,
      password: options.sasl.password,
    },
  });
  const broker = new Broker({ connectionPool: pool, logger: silent });
  pool.map((connection) => {
    correctRequestQueue(connection.requestQueue, throttle);
    guardFrames(connection, () => sockets.at(-1));
  });
  const timer = setTimeout(() => {
    const late = `cannot connect to Kafka at ${address.host}:${address.port} within ${connectMs} ms`;
    broken.reject(new PenstockError('timeout', late));
  }, connectMs);
  try {
    await Promise.race([broker.connect(), broken.promise]);
    checkVersions(broker.versions ?? {}, address);
    const connection = await pool.getConnection(0);
    const socket = sockets.at(-1);
    if (socket === undefined || sockets.length > 1) throw new Error('kafkajs opened more than one socket');
    return new KafkajsWire(connection, socket);
  } catch (error) {
    for (const socket of sockets) socket.destroy();
    throw connectError(error, address);
  } finally {
    clearTimeout(timer);
  }
}

function openSocket(options: KafkaOptions, { host, port }: HostPort, onConnect: () => void): net.Socket {
  const trust = options.tls?.ca == null ? {} : { ca: options.tls.ca };
  const socket = options.tls
    ? tls.connect({ host, port, ...serverNameOf(host), ...trust }, onConnect)
    : net.connect({ host, port }, onConnect);
  socket.setNoDelay(true);
  socket.setKeepAlive(true, KEEP_ALIVE_MS);
  return socket;
}

function checkVersions(
  versions: Readonly<Record<number, { readonly minVersion: number; readonly maxVersion: number } | undefined>>,
  { host, port }: HostPort,
): void {
  for (const { name, key, version } of OUR_APIS) {
    const range = versions[key];
    if (range === undefined || version < range.minVersion || version > range.maxVersion) {
      const offered = range === undefined ? 'none' : `${range.minVersion} to ${range.maxVersion}`;
      throw new PenstockError(
        'unsupported',
        `the broker at ${host}:${port} takes ${name} in versions ${offered}, not ${version}: Penstock needs Kafka 3.7 or newer`,
      );
    }
  }
}

/** Follows the lengths of the frames. kafkajs trusts them. */
function guardFrames(connection: Connection, socket: () => net.Socket | undefined): void {
  const processData = connection.processData.bind(connection);
  const lengthBytes = Buffer.alloc(4);
  let lengthEnd = 0;
  let rest = 0;
  connection.processData = (data) => {
    for (let at = 0; at < data.length;) {
      if (rest > 0) {
        const step = Math.min(rest, data.length - at);
        rest -= step;
        at += step;
        continue;
      }
      lengthBytes[lengthEnd++] = data[at++] ?? 0;
      if (lengthEnd < 4) continue;
      lengthEnd = 0;
      rest = lengthBytes.readInt32BE(0);
      if (rest < 4 || rest > FRAME_BYTES_MAX) {
        socket()?.destroy(new PenstockError('unavailable', `an answer of ${rest} bytes: this is not a Kafka broker`));
        return;
      }
    }
    try {
      processData(data);
    } catch (error) {
      socket()?.destroy(error instanceof Error ? error : new Error(String(error)));
    }
  };
}

class KafkajsWire implements Wire {
  readonly #connection: Connection;
  readonly #socket: net.Socket;

  constructor(connection: Connection, socket: net.Socket) {
    this.#connection = connection;
    this.#socket = socket;
    // kafkajs listens to `end` and `error`; a socket that is destroyed has neither.
    socket.once('close', () => connection.rejectRequests(new Error('the connection was closed')));
  }

  get isOpen(): boolean {
    return this.#connection.isConnected() && this.#socket.writable;
  }

  renewal(): Promise<void> | undefined {
    const connection = this.#connection;
    return connection.sasl === null || connection.isAuthenticated() ? undefined : connection.authenticate();
  }

  send(api: Api, body: readonly Uint8Array[]): Promise<Buffer> {
    if (!this.isOpen) return Promise.reject(new Error('the connection is closed'));
    const correlationId = this.#connection.nextCorrelationId();
    const header = requestHeader(api, correlationId, body);
    return new Promise<Buffer>((resolve, reject) => {
      this.#connection.requestQueue.push({
        entry: {
          apiKey: api.key,
          apiName: api.name,
          apiVersion: api.version,
          correlationId,
          resolve: ({ payload }) => resolve(payload),
          reject,
        },
        expectResponse: true,
        sendRequest: () => {
          this.#socket.cork();
          this.#socket.write(header);
          for (const part of body) this.#socket.write(part);
          this.#socket.uncork();
        },
      });
    });
  }

  destroy(): void {
    this.#socket.destroy();
  }
}

/** length INT32 | key INT16 | version INT16 | correlationId INT32 | clientId STRING | flexible: no tagged fields */
function requestHeader(api: Api, correlationId: number, body: readonly Uint8Array[]): Buffer {
  const header = Buffer.alloc(HEADER_BYTES + CLIENT_ID.length + (api.isFlexible ? 1 : 0));
  const bodyBytes = body.reduce((sum, part) => sum + part.length, 0);
  header.writeInt32BE(header.length - 4 + bodyBytes, 0);
  header.writeInt16BE(api.key, 4);
  header.writeInt16BE(api.version, 6);
  header.writeInt32BE(correlationId, 8);
  header.writeInt16BE(CLIENT_ID.length, 12);
  header.write(CLIENT_ID, HEADER_BYTES, 'latin1');
  return header;
}
