/**
 * Syslog messages of RFC 5424 and RFC 3164 over UDP, TCP or TLS.
 *
 * Invariants: messages of one connection, or of one UDP sender as the network brings them, keep their order.
 * Failure: syslog has no acknowledgement. What was received and is not synced yet is lost by kill -9 (milliseconds of it); at a SIGTERM it is
 * still stored, as far as the spool has room. A full spool stops the reading of connections; datagrams that find no room are counted and shown as a problem.
 * Limits: those of the delivery queue; `maxConnections`; a connection without a message for IDLE_MS is closed.
 */
import { createSocket, type Socket as UdpSocket } from 'node:dgram';
import { createServer, type Server, type Socket } from 'node:net';
import { PenstockError } from '../../../lib/errors.ts';
import { hostAndPort, serverTlsFiles } from '../../config-parts.ts';
import { endOfConnections } from '../../listening.ts';
import type { Rejected } from '../../quarantine.ts';
import { isSurelyFine, refusal, type NewReading } from '../../spool/frame.ts';
import { DeliveryQueue } from '../delivery-queue.ts';
import { readingOf } from '../reading-parser.ts';
import type { Source, SourceOutput } from '../source.ts';
import type { SyslogSourceConfig } from './config.ts';
import { FramingError, SyslogFramer, tooLong, type Framed } from './framing.ts';
import { parseSyslog } from './message.ts';

// See lib/log/kafka/kafkajs-transport.ts.
const { createServer: createTlsServer } = process.getBuiltinModule('node:tls');

/** A burst of some 10,000 messages while a sync is under way; the kernel may grant less. */
const RECEIVE_BUFFER_BYTES = 4 * 1024 * 1024;
const IDLE_MS = 24 * 3600_000;
/** What follows a message with a false length is on its way: its sender wrote them at once. */
const HELD_MS = 1000;
/** How long after the last lost datagram the problem is shown. */
const LOSS_STANDS_MS = 60_000;

interface Received {
  readonly bytes: Buffer;
  readonly sender: string;
  readonly arrivalMs: number;
  /** Why it is no message, where that is known already. */
  readonly reason: string | null;
}

export function syslogSource(config: SyslogSourceConfig, baseDir: string): Source {
  const name = `syslog:${config.transport}:${config.listen}`;
  return { name, run: (output, signal) => new SyslogReceiver(config, baseDir, output).run(signal) };
}

class SyslogReceiver {
  readonly #config: SyslogSourceConfig;
  readonly #baseDir: string;
  readonly #output: SourceOutput;
  readonly #queue: DeliveryQueue<Received>;
  /** With what gives out the message that each holds back. */
  readonly #connections = new Map<Socket, () => void>();
  readonly #ended = Promise.withResolvers<undefined>();
  #lossTimer: NodeJS.Timeout | undefined;

  constructor(config: SyslogSourceConfig, baseDir: string, output: SourceOutput) {
    this.#config = config;
    this.#baseDir = baseDir;
    this.#output = output;
    this.#queue = new DeliveryQueue({
      deliver: (batch) => this.#deliver(batch),
      onRoom: () => {
        for (const socket of this.#connections.keys()) socket.resume();
      },
      onFailure: (error) => this.#ended.reject(error),
    });
  }

  async run(signal: AbortSignal): Promise<void> {
    const stop = (): void => this.#ended.resolve(undefined);
    signal.addEventListener('abort', stop, { once: true });
    if (signal.aborted) stop();
    const close = this.#config.transport === 'udp' ? await this.#listenUdp() : await this.#listenTcp();
    this.#output.report(null);
    try {
      await this.#ended.promise;
    } finally {
      signal.removeEventListener('abort', stop);
      clearTimeout(this.#lossTimer);
      await close();
      await this.#queue.idle();
    }
  }

  async #listenUdp(): Promise<() => Promise<void>> {
    const { listen, maxMessageBytes } = this.#config;
    const { host, port } = hostAndPort(listen);
    const type = host.includes(':') ? 'udp6' : 'udp4';
    const socket: UdpSocket = createSocket({ type, recvBufferSize: RECEIVE_BUFFER_BYTES });
    socket.on('message', (bytes, { address }) => {
      if (this.#queue.isFull) this.#lose();
      else this.#take(bytes, address, bytes.length > maxMessageBytes ? tooLong(maxMessageBytes) : null);
    });
    await this.#opened(socket, () => socket.bind(port, host));
    return () => new Promise((resolve) => socket.close(resolve));
  }

  async #listenTcp(): Promise<() => Promise<void>> {
    const { listen, tls, maxConnections } = this.#config;
    const accept = (socket: Socket): void => this.#accept(socket);
    const server: Server =
      tls === undefined ? createServer(accept) : createTlsServer(await serverTlsFiles(this.#baseDir, tls), accept);
    server.maxConnections = maxConnections;
    server.on('drop', () => {
      this.#output.count('connection_dropped');
      this.#output.report(
        `all ${maxConnections} connections (maxConnections) are taken, some perhaps by senders that are silent: who else connects is closed at once`,
      );
    });
    // Also one that has not ended its handshake has a place.
    server.on('connection', (socket) => {
      socket.once('close', () => {
        if (server.listening) this.#output.report(null);
      });
    });
    server.on('tlsClientError', () => this.#output.count('tls_refused'));
    const endConnections = endOfConnections(server);
    const { host, port } = hostAndPort(listen);
    await this.#opened(server, () => server.listen(port, host));
    return async () => {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      // Over TLS, the server is closed before its sockets say that they are.
      for (const release of this.#connections.values()) release();
      endConnections();
      await closed;
    };
  }

  /** Throws `unavailable` when the address cannot be used; a later error ends the source. */
  async #opened(server: Server | UdpSocket, open: () => void): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      server.once('listening', resolve);
      server.once('error', (error: Error) => {
        const message = `cannot listen on ${this.#config.listen}: ${error.message}`;
        const failure = new PenstockError('unavailable', message, { cause: error });
        reject(failure);
        this.#ended.reject(failure);
      });
      // Where opening failed, nobody waits for the end.
      this.#ended.promise.catch(() => undefined);
      open();
    });
  }

  #accept(socket: Socket): void {
    const sender = socket.remoteAddress ?? 'unknown';
    const framer = new SyslogFramer(this.#config.maxMessageBytes);
    this.#output.count('connection');
    socket.setTimeout(IDLE_MS, () => socket.destroy());
    socket.on('error', () => undefined);
    const receive = (framed: Iterable<Framed>): void => {
      for (const { bytes, fault } of framed) this.#take(bytes, sender, fault);
    };
    let heldTimer: NodeJS.Timeout | undefined;
    const release = (): void => {
      clearTimeout(heldTimer);
      receive(framer.release());
    };
    const hold = (): void => {
      // Where it is not read on, what follows may be here all the same.
      heldTimer = setTimeout(() => (socket.isPaused() ? hold() : release()), HELD_MS);
    };
    this.#connections.set(socket, release);
    socket.on('close', () => {
      release();
      this.#connections.delete(socket);
    });
    socket.on('end', () => receive(framer.finish()));
    socket.on('data', (chunk: Buffer) => {
      clearTimeout(heldTimer);
      try {
        receive(framer.push(chunk));
        if (framer.isHolding) hold();
      } catch (error) {
        if (!(error instanceof FramingError)) throw error;
        this.#output.count('framing_broken');
        this.#takePieces(error.bytes, sender, `${error.message}: the connection is closed`);
        socket.destroy();
      }
      if (this.#queue.isFull) for (const each of this.#connections.keys()) each.pause();
    });
  }

  /** The quarantine keeps a part of an item that is larger than any message may be. */
  #takePieces(bytes: Buffer, sender: string, reason: string): void {
    const { maxMessageBytes } = this.#config;
    for (let at = 0; at < bytes.length; at += maxMessageBytes) {
      this.#take(bytes.subarray(at, at + maxMessageBytes), sender, reason);
    }
  }

  #take(bytes: Buffer, sender: string, reason: string | null): void {
    this.#queue.push({ bytes, sender, arrivalMs: this.#output.clock.nowMs(), reason }, bytes.length);
  }

  #lose(): void {
    this.#output.count('datagram_lost');
    this.#output.report('datagrams are lost: the spool takes no more (syslog over TCP would wait)');
    clearTimeout(this.#lossTimer);
    this.#lossTimer = setTimeout(() => this.#output.report(null), LOSS_STANDS_MS);
  }

  async #deliver(batch: readonly Received[]): Promise<void> {
    const readings: NewReading[] = [];
    const rejected: Rejected[] = [];
    const { to: topic, priority, sensor } = this.#config;
    const mapping = { input: 'message', topic, priority, key: { field: sensor }, eventTime: 'ts' };
    for (const { bytes, sender, arrivalMs, reason } of batch) {
      const fields = reason === null ? parseSyslog(bytes, sender, arrivalMs) : { reason };
      const reading =
        'reason' in fields ? fields : readingOf(JSON.stringify(fields), fields, mapping, arrivalMs * 1000);
      const why = 'reason' in reading ? reading.reason : isSurelyFine(reading) ? null : refusal(reading);
      if (why !== null) rejected.push({ reason: why, position: sender, input: bytes });
      else if (!('reason' in reading)) readings.push(reading);
    }
    await this.#output.keep(readings, rejected);
  }
}
