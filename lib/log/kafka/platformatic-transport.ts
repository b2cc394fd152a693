/**
 * The second transport, `client=platformatic`: connections of @platformatic/kafka, by its public exports alone.
 *
 * Failure and limits as in kafkajs-transport.ts. The library copies every request once, and re-authenticates by a timer of its own.
 */
import { Connection, Writer, type SASLMechanismValue } from '@platformatic/kafka';
import { isIP } from 'node:net';
import { PenstockError } from '../../errors.ts';
import type { HostPort } from '../../urls.ts';
import type { KafkaOptions, SaslOptions } from './kafka-url.ts';
import type { KafkaLimits } from './limits.ts';
import type { Api } from './request.ts';
import { CLIENT_ID, connectError, type Transport, type Wire } from './transport.ts';

/** Above every deadline of broker-link.ts, which has the say. */
const REQUEST_TIMEOUT_MS = 2 ** 31 - 1;
/** The bound is that of the callers; a lower one here would reorder nothing but hide what waits. */
const IN_FLIGHT_MAX = 10_000;

const MECHANISMS: Readonly<Record<SaslOptions['mechanism'], SASLMechanismValue>> = {
  plain: 'PLAIN',
  'scram-sha-256': 'SCRAM-SHA-256',
  'scram-sha-512': 'SCRAM-SHA-512',
};

export function openPlatformaticTransport(options: KafkaOptions, { connectMs }: KafkaLimits): Transport {
  return { connect: (address) => connect(options, connectMs, address) };
}

async function connect({ tls, sasl }: KafkaOptions, connectMs: number, { host, port }: HostPort): Promise<Wire> {
  const connection = new Connection(CLIENT_ID, {
    connectTimeout: connectMs,
    requestTimeout: REQUEST_TIMEOUT_MS,
    maxInflights: IN_FLIGHT_MAX,
    ...(tls && { tls: tls.ca === null ? {} : { ca: tls.ca }, tlsServerName: isIP(host) === 0 }),
    ...(sasl && { sasl: { mechanism: MECHANISMS[sasl.mechanism], username: sasl.user, password: sasl.password } }),
  });
  // An emitter without this listener throws; every error also reaches the call that it concerns.
  connection.on('error', () => undefined);
  try {
    await connection.connect(host, port);
  } catch (error) {
    // Undefined when it never got as far as a socket.
    (connection.socket as typeof connection.socket | undefined)?.destroy();
    throw connectError(error, { host, port });
  }
  return new PlatformaticWire(connection);
}

class PlatformaticWire implements Wire {
  readonly #connection: Connection;

  constructor(connection: Connection) {
    this.#connection = connection;
  }

  get isOpen(): boolean {
    return this.#connection.isConnected() && this.#connection.socket.writable;
  }

  renewal(): undefined {
    return undefined;
  }

  send(api: Api, body: readonly Uint8Array[]): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      this.#connection.send<Buffer>(
        api.key,
        api.version,
        () => {
          const writer = Writer.create();
          for (const part of body) writer.append(Buffer.from(part.buffer, part.byteOffset, part.byteLength));
          return writer;
        },
        (_correlationId, _key, _version, reader) => Buffer.from(reader.buffer.slice()),
        api.isFlexible,
        // The tagged fields of a response header are read where all transports meet.
        false,
        (error, answer) => {
          if (error) reject(error);
          else if (answer === undefined) reject(new PenstockError('unavailable', `${api.name}: no answer`));
          else resolve(answer);
        },
      );
    });
  }

  destroy(): void {
    this.#connection.socket.destroy();
  }
}
