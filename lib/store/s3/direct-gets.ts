/**
 * The thin path for bulk data: GETs whose length is known, from kept connections straight into the caller's buffer. The ordinary client makes
 * a buffer per 64 KiB, joins them, and its garbage has V8 look through the whole heap again and again: that was a third of the CPU of a cold
 * read. The request comes signed, from the SDK or from signed-gets.ts; and only a plain, whole answer is taken here. With any other (an error, a redirect,
 * another length, a chunked body) the answer is null, or `refused` where that is the caller's own fault (4xx): the ordinary client asks again, and says what is wrong.
 *
 * Invariants: nothing is written to the target after the promise has settled. A connection is used again only when its answer ended where it
 * said. Failure: a cut or silent connection rejects with ECONNRESET or ETIMEDOUT, which the SDK tries again; on a connection that was idle it
 * is null.
 * Limits: CONNECTIONS_MAX of the constructor, then null; an answer's head is at most HEAD_BYTES_MAX; idle connections live for IDLE_MS.
 */
import { connect as connectTcp } from 'node:net';
import type { Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { serverNameOf } from '../../urls.ts';

const HEAD_BYTES_MAX = 16_384;
/** A read of a socket takes at most so much at once, so that others of the event loop have their turn. */
const READ_BYTES_MAX = 2 ** 20;
const IDLE_MS = 10_000;
const HEAD_END = Buffer.from('\r\n\r\n');
const REFUSED = /^HTTP\/1\.[01] 4\d\d(?: |\r|$)/;

/** Of a signed request what is needed here. */
export interface DirectRequest {
  readonly protocol: string;
  readonly hostname: string;
  readonly port?: number;
  readonly path: string;
  readonly query?: Readonly<Record<string, unknown>>;
  readonly headers: Readonly<Record<string, string>>;
}

export interface DirectAnswer {
  readonly statusCode: number;
  readonly headers: Record<string, string>;
}

/** Null and `refused`: ask another way. */
export type DirectOutcome = DirectAnswer | 'refused' | null;

export interface DirectLimits {
  readonly connectionsMax: number;
  readonly connectTimeoutMs: number;
  /** No byte for this long: the connection is dead. */
  readonly silenceMs: number;
}

export class DirectGets {
  readonly #limits: DirectLimits;
  readonly #open = new Set<Connection>();

  constructor(limits: DirectLimits) {
    this.#limits = limits;
  }

  /** Resolves when `target` is full, or it has to be asked for another way. Rejects like the SDK's own handler. */
  async get(request: DirectRequest, target: Buffer, signal: AbortSignal | undefined): Promise<DirectOutcome> {
    const head = headOf(request);
    const connection = head === null || target.length === 0 ? null : this.#connection(request);
    if (head === null || connection === null) return null;
    const abort = (): void => connection.end(Object.assign(new Error('Request aborted'), { name: 'AbortError' }));
    signal?.addEventListener('abort', abort, { once: true });
    if (signal?.aborted === true) abort();
    try {
      return await connection.exchange(head, target, request.headers['range'] !== undefined);
    } finally {
      signal?.removeEventListener('abort', abort);
    }
  }

  #connection({ protocol, hostname, port }: DirectRequest): Connection | null {
    const secure = protocol === 'https:';
    const origin = { secure, hostname, port: port ?? (secure ? 443 : 80) };
    for (const connection of this.#open) if (connection.isIdleFor(origin)) return connection;
    if (this.#open.size >= this.#limits.connectionsMax) return null;
    const connection = new Connection(origin, this.#limits, () => this.#open.delete(connection));
    this.#open.add(connection);
    return connection;
  }

  destroy(): void {
    for (const connection of this.#open) connection.end(new Error('the store is closed'));
  }
}

interface Origin {
  readonly secure: boolean;
  readonly hostname: string;
  readonly port: number;
}

interface Exchange {
  readonly target: Buffer;
  readonly ranged: boolean;
  /** The head of the answer, once it is whole. */
  answer: DirectAnswer | undefined;
  filled: number;
  readonly settled: PromiseWithResolvers<DirectOutcome>;
}

class Connection {
  readonly #origin: Origin;
  readonly #limits: DirectLimits;
  readonly #socket: Socket;
  readonly #head = Buffer.allocUnsafeSlow(HEAD_BYTES_MAX);
  #headBytes = 0;
  #exchange: Exchange | undefined;
  #used = false;
  #ended = false;

  constructor(origin: Origin, limits: DirectLimits, onEnd: () => void) {
    this.#origin = origin;
    this.#limits = limits;
    const { hostname, port, secure } = origin;
    // An address in brackets is how a URL writes an IPv6 one.
    const host = hostname.replace(/^\[(.*)\]$/, '$1');
    const onread = {
      buffer: () => this.#space(),
      callback: (bytes: number) => {
        this.#received(bytes);
        return true;
      },
    };
    const options = { host, port, onread, ...serverNameOf(host) };
    this.#socket = secure ? connectTls(options) : connectTcp(options);
    this.#socket.setNoDelay(true);
    this.#socket.setTimeout(limits.connectTimeoutMs);
    this.#socket.once(secure ? 'secureConnect' : 'connect', () => this.#socket.setTimeout(limits.silenceMs));
    this.#socket.on('timeout', () => this.end(Object.assign(new Error('no answer'), { code: 'ETIMEDOUT' })));
    this.#socket.on('error', (error) => this.end(error));
    this.#socket.on('close', () => {
      this.end(Object.assign(new Error('the connection was closed'), { code: 'ECONNRESET' }));
      onEnd();
    });
  }

  isIdleFor({ secure, hostname, port }: Origin): boolean {
    const own = this.#origin;
    const same = own.hostname === hostname && own.port === port && own.secure === secure;
    return same && this.#exchange === undefined && !this.#ended;
  }

  exchange(head: string, target: Buffer, ranged: boolean): Promise<DirectOutcome> {
    const settled = Promise.withResolvers<DirectOutcome>();
    this.#exchange = { target, ranged, answer: undefined, filled: 0, settled };
    if (this.#used) this.#socket.setTimeout(this.#limits.silenceMs);
    this.#socket.ref();
    this.#socket.write(head, 'latin1');
    return settled.promise;
  }

  /** Ends it; what waits for its answer is rejected, or null where the server had closed it while it was idle. */
  end(error: Error): void {
    this.#ended = true;
    this.#socket.destroy();
    const exchange = this.#exchange;
    this.#exchange = undefined;
    const wasIdle = this.#used && this.#headBytes === 0 && 'code' in error && error.code !== 'ETIMEDOUT';
    if (wasIdle) exchange?.settled.resolve(null);
    else exchange?.settled.reject(error);
  }

  /** Where the next bytes go. */
  #space(): Buffer {
    const exchange = this.#exchange;
    if (exchange?.answer === undefined) return this.#head.subarray(Math.min(this.#headBytes, HEAD_BYTES_MAX - 1));
    const { target, filled } = exchange;
    return target.subarray(filled, Math.min(target.length, filled + READ_BYTES_MAX));
  }

  #received(bytes: number): void {
    const exchange = this.#exchange;
    if (exchange === undefined) {
      this.end(new Error('bytes that were not asked for'));
    } else if (exchange.answer === undefined) {
      this.#headBytes += bytes;
      this.#readHead(exchange);
    } else {
      exchange.filled += bytes;
      this.#finish(exchange, exchange.answer);
    }
  }

  #readHead(exchange: Exchange): void {
    const { target, ranged } = exchange;
    const end = this.#head.subarray(0, this.#headBytes).indexOf(HEAD_END);
    if (end < 0 && this.#headBytes < HEAD_BYTES_MAX - 1) return;
    const head = end < 0 ? '' : this.#head.toString('latin1', 0, end);
    const answer = parseHead(head, ranged ? 206 : 200, target.length);
    const body = this.#head.subarray(end + HEAD_END.length, this.#headBytes);
    if (answer === null || body.length > target.length) {
      this.#settle(exchange, REFUSED.test(head) ? 'refused' : null);
      this.end(new Error('left to the ordinary client'));
      return;
    }
    exchange.answer = answer;
    exchange.filled = body.copy(target);
    this.#finish(exchange, answer);
  }

  #finish(exchange: Exchange, answer: DirectAnswer): void {
    if (exchange.filled < exchange.target.length) return;
    this.#settle(exchange, answer);
    if (answer.headers['connection']?.toLowerCase() === 'close') this.end(new Error('closed by the server'));
  }

  #settle({ settled }: Exchange, answer: DirectOutcome): void {
    this.#exchange = undefined;
    // Not when the next exchange begins: where its first bytes go is asked as soon as the last ones of this are here.
    this.#headBytes = 0;
    this.#used = true;
    this.#socket.setTimeout(IDLE_MS);
    this.#socket.unref();
    settled.resolve(answer);
  }
}

/** The request as it is sent; null where it has something that this path does not know. */
function headOf({ path, query, headers }: DirectRequest): string | null {
  const pairs: string[] = [];
  for (const [name, value] of Object.entries(query ?? {})) {
    if (typeof value !== 'string') return null;
    pairs.push(`${encodeURIComponent(name)}=${encodeURIComponent(value)}`);
  }
  const target = pairs.length === 0 ? path : `${path}?${pairs.join('&')}`;
  const lines = [`GET ${target} HTTP/1.1`, ...Object.entries(headers).map(([name, value]) => `${name}: ${value}`)];
  // Neither line ends nor what is not ASCII can be in a value.
  if (lines.some((line) => /[^\t\x20-\x7e]/.test(line)) || / .* .* /.test(`${target} `)) return null;
  return `${lines.join('\r\n')}\r\n\r\n`;
}

/** The answer's head if it announces exactly what is wanted. */
function parseHead(text: string, status: number, bytes: number): DirectAnswer | null {
  const [first = '', ...lines] = text.split('\r\n');
  if (!first.startsWith(`HTTP/1.1 ${status}`)) return null;
  const headers: Record<string, string> = {};
  for (const line of lines) {
    const colon = line.indexOf(':');
    if (colon <= 0) return null;
    headers[line.slice(0, colon).toLowerCase()] = line.slice(colon + 1).trim();
  }
  if (headers['content-length'] !== String(bytes) || headers['transfer-encoding'] !== undefined) return null;
  return { statusCode: status, headers };
}
