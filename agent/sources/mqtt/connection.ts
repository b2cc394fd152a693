/**
 * One network connection to a broker: CONNECT, keep-alive, packets in and out. It knows no sessions and stores nothing.
 *
 * Failure: whatever ends the connection (also a broker that is silent for longer than the keep-alive time) settles `closed` with the reason;
 * the caller makes another one.
 * Limits: CONNECT_TIMEOUT_MS until the broker accepts, ANSWER_TIMEOUT_MS for an answer to a request, both not counted while paused; PINGS_MAX.
 */
import { connect as connectTcp, type Socket } from 'node:net';
import {
  generate,
  parser,
  type IConnackPacket,
  type IConnectPacket,
  type IPublishPacket,
  type ISubscribePacket,
  type IUnsubscribePacket,
  type Packet,
} from 'mqtt-packet';
import type { Clock } from '../../../lib/clock.ts';
import { describeError, PenstockError, systemCode } from '../../../lib/errors.ts';
import { isTooLarge, PacketCutter } from './packet-cutter.ts';
import { reasonCodeText, returnCodeText } from './reasons.ts';

// See lib/log/kafka/kafkajs-transport.ts.
const { connect: connectTls } = process.getBuiltinModule('node:tls');

const CONNECT_TIMEOUT_MS = 20_000;
const ANSWER_TIMEOUT_MS = 20_000;
/** Unanswered: more than a slow link has under way. A broker that answers none may go on sending, and each would stay in memory. */
const PINGS_MAX = 256;
/** The type of the packet that a broker sends first. */
const CONNACK = 2;

export interface ConnectionOptions {
  readonly host: string;
  readonly port: number;
  readonly version: '5' | '3.1.1';
  /** PEM; null for a connection without TLS. */
  readonly tls: { readonly ca?: Buffer; readonly cert?: Buffer; readonly key?: Buffer } | null;
  readonly connect: Omit<IConnectPacket, 'cmd' | 'protocolId' | 'protocolVersion'>;
  readonly keepAliveMs: number;
  readonly clock: Clock;
  /** `payloadBytes`: of the whole message, where `payload` is only its beginning. */
  readonly onPublish: (packet: IPublishPacket, payloadBytes: number, connection: Connection) => void;
  readonly onRelease: (packetId: number, connection: Connection) => void;
  /** Before CONNECT is sent: from here on the broker may have made a session. */
  readonly onGreet: () => void;
  /** Before anything that the broker sent behind its CONNACK. */
  readonly onAccept: (connack: IConnackPacket) => void;
  /** Gives up opening; an open connection is ended by `end`. */
  readonly signal: AbortSignal;
}

type Answer = Extract<Packet, { cmd: 'suback' | 'unsuback' }>;

interface Pending {
  readonly resolve: (answer: Answer) => void;
  readonly reject: (error: Error) => void;
}

export class Connection {
  /** Resolves when it ended, with the reason; null when we ended it. */
  readonly closed: Promise<Error | null>;
  readonly #options: ConnectionOptions;
  readonly #socket: Socket;
  readonly #cutter: PacketCutter;
  readonly #parser: ReturnType<typeof parser>;
  readonly #pending = new Map<number, Pending>();
  /** What waits for the answers to PINGREQ, which come in their order. */
  readonly #pings: (() => void)[] = [];
  readonly #accepted = Promise.withResolvers<IConnackPacket>();
  #nextPacketId = 1;
  #reason: Error | null = null;
  #isAnswered = false;
  #isPaused = false;
  #heardMs: number;
  #pingTimer: NodeJS.Timeout | undefined;

  private constructor(options: ConnectionOptions) {
    const { host, port, version, tls, clock } = options;
    this.#options = options;
    this.#cutter = new PacketCutter(version);
    this.#parser = parser({ protocolVersion: version === '5' ? 5 : 4 });
    this.#parser.on('packet', (packet) => this.#take(packet));
    this.#parser.on('error', (error) =>
      this.end(new PenstockError('corrupt', `the broker sent no MQTT: ${String(error)}`)),
    );
    this.#heardMs = clock.monotonicMs();
    this.#socket =
      tls === null ? connectTcp(port, host) : connectTls({ host, port, servername: serverName(host), ...tls });
    this.#socket.setNoDelay(true);
    this.#socket.once(tls === null ? 'connect' : 'secureConnect', () => this.#greet());
    this.#socket.on('data', (chunk: Buffer) => this.#receive(chunk));
    const { promise, resolve } = Promise.withResolvers<Error | null>();
    this.closed = promise;
    this.#socket.once('error', (error) => (this.#reason ??= connectionError(error)));
    this.#socket.once('close', () => {
      clearInterval(this.#pingTimer);
      const reason = this.#endedReason();
      this.#accepted.reject(reason);
      for (const { reject } of this.#pending.values()) reject(reason);
      resolve(this.#reason);
    });
    this.#socket.once(
      'end',
      () => (this.#reason ??= new PenstockError('unavailable', 'the broker closed the connection')),
    );
  }

  /** Resolves when the broker accepted. Throws `unavailable`, `denied`, `timeout`, `corrupt`, `aborted`. */
  static async open(options: ConnectionOptions): Promise<{ connection: Connection; connack: IConnackPacket }> {
    const connection = new Connection(options);
    const timer = setTimeout(
      () =>
        connection.end(new PenstockError('timeout', `the broker did not accept within ${CONNECT_TIMEOUT_MS / 1000} s`)),
      CONNECT_TIMEOUT_MS,
    );
    const { signal } = options;
    const giveUp = (): void => connection.end(new PenstockError('aborted', 'stopped while connecting to the broker'));
    signal.addEventListener('abort', giveUp, { once: true });
    if (signal.aborted) giveUp();
    try {
      const connack = await connection.#accepted.promise;
      return { connection, connack };
    } finally {
      signal.removeEventListener('abort', giveUp);
      clearTimeout(timer);
    }
  }

  /** SUBSCRIBE or UNSUBSCRIBE, and its answer. Throws the reason why the connection ended, also where it had before. */
  async request(make: (messageId: number) => ISubscribePacket | IUnsubscribePacket): Promise<Answer> {
    // Nobody would be told of its end again.
    if (this.#socket.destroyed) throw this.#endedReason();
    const messageId = this.#nextPacketId++;
    const packet = make(messageId);
    const { promise, resolve, reject } = Promise.withResolvers<Answer>();
    this.#pending.set(messageId, { resolve, reject });
    const timer = setInterval(() => {
      if (!this.#isPaused)
        this.end(new PenstockError('timeout', `the broker did not answer ${packet.cmd.toUpperCase()}`));
    }, ANSWER_TIMEOUT_MS);
    try {
      this.#send(packet);
      return await promise;
    } finally {
      clearInterval(timer);
      this.#pending.delete(messageId);
    }
  }

  /** Whole packets that the caller has laid out. */
  write(bytes: Buffer): void {
    if (this.#socket.writable) this.#socket.write(bytes);
  }

  /**
   * `onAnswer`: the broker has read all that was written before. Never called when the connection ends first, or where the broker has left
   * too many unanswered.
   */
  ping(onAnswer: () => void): void {
    if (!this.#socket.writable || this.#pings.length >= PINGS_MAX) return;
    this.#pings.push(onAnswer);
    this.#send({ cmd: 'pingreq' });
  }

  /** Nothing more is read until `resume`; the broker has to wait. */
  pause(): void {
    this.#isPaused = true;
    this.#socket.pause();
  }

  resume(): void {
    if (!this.#isPaused) return;
    this.#isPaused = false;
    this.#heardMs = this.#options.clock.monotonicMs();
    this.#socket.resume();
  }

  /** Without a reason: in order, by DISCONNECT. */
  end(reason: Error | null): void {
    this.#reason ??= reason;
    if (reason !== null || !this.#socket.writable) this.#socket.destroy();
    else {
      this.#send({ cmd: 'disconnect', reasonCode: 0 });
      this.#socket.end(() => this.#socket.destroy());
    }
  }

  /** What we ended without a reason rejects what still waits, too. */
  #endedReason(): Error {
    return this.#reason ?? new PenstockError('unavailable', 'the broker closed the connection');
  }

  #send(packet: Packet): void {
    this.write(generate(packet, { protocolVersion: this.#options.version === '5' ? 5 : 4 }));
  }

  #greet(): void {
    this.#options.onGreet();
    this.#send({
      cmd: 'connect',
      protocolId: 'MQTT',
      protocolVersion: this.#options.version === '5' ? 5 : 4,
      ...this.#options.connect,
    });
  }

  #receive(chunk: Buffer): void {
    this.#heardMs = this.#options.clock.monotonicMs();
    if (!this.#isAnswered && chunk.readUInt8(0) >> 4 !== CONNACK) {
      this.end(new PenstockError('corrupt', 'what answers there speaks no MQTT: is it a broker?'));
      return;
    }
    this.#isAnswered = true;
    try {
      for (const packet of this.#cutter.push(chunk)) {
        if (isTooLarge(packet)) this.#options.onPublish(packet.packet, packet.payloadBytes, this);
        else this.#parser.parse(packet);
      }
    } catch (error) {
      this.end(error instanceof Error ? error : new Error(String(error)));
    }
  }

  #take(packet: Packet): void {
    switch (packet.cmd) {
      case 'publish':
        if (packet.qos > 0 && !isPacketId(packet.messageId)) this.#endMalformed('PUBLISH without a packet id');
        // On the next connection it has to name the topic again.
        else if (packet.topic === '')
          this.#endMalformed('PUBLISH without a topic, by an alias that it was not offered');
        else this.#options.onPublish(packet, packet.payload.length, this);
        return;
      case 'pubrel':
        if (isPacketId(packet.messageId)) this.#options.onRelease(packet.messageId, this);
        else this.#endMalformed('PUBREL without a packet id');
        return;
      case 'connack':
        this.#welcome(packet);
        return;
      case 'suback':
      case 'unsuback':
        this.#pending.get(packet.messageId ?? 0)?.resolve(packet);
        return;
      case 'disconnect': {
        const { reasonCode = 0, properties } = packet;
        const more = properties?.reasonString === undefined ? '' : ` (${properties.reasonString})`;
        const text = `the broker ended the connection: ${reasonCodeText(reasonCode)}${more}`;
        this.end(new PenstockError('unavailable', text));
        return;
      }
      case 'pingresp':
        this.#pings.shift()?.();
        return;
      default:
        this.#endMalformed(`${packet.cmd.toUpperCase()}, which is not for clients`);
    }
  }

  #endMalformed(what: string): void {
    this.end(new PenstockError('corrupt', `the broker sent ${what}`));
  }

  #welcome(packet: IConnackPacket): void {
    if (this.#pingTimer !== undefined) {
      this.#endMalformed('a second CONNACK');
      return;
    }
    const code = packet.reasonCode ?? packet.returnCode ?? 0;
    if (code !== 0) {
      const text = this.#options.version === '5' ? reasonCodeText(code) : returnCodeText(code);
      const more = packet.properties?.reasonString === undefined ? '' : ` (${packet.properties.reasonString})`;
      this.end(new PenstockError('denied', `the broker refused the connection: ${text}${more}`));
      return;
    }
    const keepAliveMs = (packet.properties?.serverKeepAlive ?? 0) * 1000 || this.#options.keepAliveMs;
    this.#pingTimer = setInterval(() => this.#keepAlive(keepAliveMs), keepAliveMs / 2);
    this.#options.onAccept(packet);
    this.#accepted.resolve(packet);
  }

  #keepAlive(keepAliveMs: number): void {
    const silentMs = this.#options.clock.monotonicMs() - this.#heardMs;
    if (!this.#isPaused && silentMs > 1.5 * keepAliveMs) {
      this.end(new PenstockError('timeout', `the broker was silent for ${Math.round(silentMs / 1000)} s`));
    } else {
      this.ping(() => {
        // Heard from, which is all it is for.
      });
    }
  }
}

/** The parser takes what is cut off for -1. */
function isPacketId(id: number | undefined): id is number {
  return id !== undefined && id > 0;
}

/** TLS names hosts, not addresses. */
function serverName(host: string): string {
  return /^[\d.]+$|:/.test(host) ? '' : host;
}

function connectionError(error: Error): PenstockError {
  switch (systemCode(error)) {
    case 'CERT_HAS_EXPIRED':
      return new PenstockError('denied', "the broker's certificate has expired: it must be renewed", { cause: error });
    case 'CERT_NOT_YET_VALID':
      return new PenstockError('denied', "the broker's certificate is not valid yet: is this machine's clock right?", { cause: error }); // prettier-ignore
    case 'ERR_TLS_CERT_ALTNAME_INVALID':
      return new PenstockError('denied', `the broker's certificate is for another host: ${error.message}`);
    case 'SELF_SIGNED_CERT_IN_CHAIN':
    case 'DEPTH_ZERO_SELF_SIGNED_CERT':
    case 'UNABLE_TO_VERIFY_LEAF_SIGNATURE':
    case 'UNABLE_TO_GET_ISSUER_CERT_LOCALLY':
      return new PenstockError('denied', `no known authority signed the broker's certificate: set tls.ca`, {
        cause: error,
      });
    default:
      return new PenstockError('unavailable', describeError(error), { cause: error });
  }
}
