/**
 * Readings that programs post: NDJSON, a JSON object or an array of them. `200 { "accepted": N }` means that all of them are on the disk.
 *
 * Invariants: a request is taken whole or not at all; whatever is answered but 200 left nothing in the spool.
 * Failure: a request whose answer got lost is repeated with its `Idempotency-Key` and gets the first answer (idempotency.ts). Without a key
 * the client cannot know, and a repeat is accepted again.
 * Limits: BODIES_IN_MEMORY bodies of `maxBodyBytes`; a request waits WAIT_FOR_MEMORY_MS for its share; `maxConnections`, and `timeout` for a
 * whole request, so that slow clients hold a place for a bounded time.
 */
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { Duplex } from 'node:stream';
import { describeError, isCode, systemCode } from '../../../lib/errors.ts';
import { serverTlsFiles } from '../../config-parts.ts';
import { endOfConnections, listenOn } from '../../listening.ts';
import type { Source, SourceOutput } from '../source.ts';
import { announcedBytes, readBody } from './body.ts';
import { BodyBudget } from './body-budget.ts';
import type { HttpSourceConfig } from './config.ts';
import { idempotencyKey, IdempotencyKeys, type Accepted } from './idempotency.ts';
import { bodyFormat, readingsIn } from './readings.ts';
import { Refusal } from './refusal.ts';
import { BearerToken, tokenInFile } from './token.ts';

// See agent/endpoint.ts.
const { createServer } = process.getBuiltinModule('node:http');

const BODIES_IN_MEMORY = 4;
const WAIT_FOR_MEMORY_MS = 5000;
const HEADERS_TIMEOUT_MS = 10_000;
const HEADER_BYTES_MAX = 16 * 1024;
/** How often the timeouts are looked at. */
const CHECK_TIMEOUTS_MS = 500;
/** What a full spool's uplink may have freed by then. */
const RETRY_AFTER_SECONDS = 5;
/** A client that is still sending must be able to read why it was refused: its bytes are taken for so long. */
const LINGER_MS = 2000;
/** Open requests end within that time of a stop. */
const CLOSE_MS = 5000;
export const IDEMPOTENCY_KEYS_DEFAULT = 10_000;

/** `receiptsMax`: the receipts that the spool has room for. */
export function httpSource(config: HttpSourceConfig, baseDir: string, receiptsMax: number): Source {
  const name = `http:${config.listen}${config.path}`;
  return {
    name,
    run: async (output, signal) => {
      const keysMax = config.idempotencyKeys ?? Math.min(IDEMPOTENCY_KEYS_DEFAULT, receiptsMax);
      const ingest = new HttpIngest(name, config, baseDir, output, keysMax);
      await ingest.run(signal);
    },
  };
}

interface Listening {
  readonly server: Server;
  readonly endConnections: () => void;
}

class HttpIngest {
  readonly #config: HttpSourceConfig;
  readonly #baseDir: string;
  readonly #output: SourceOutput;
  readonly #budget: BodyBudget;
  readonly #keys: IdempotencyKeys;
  readonly #token: BearerToken | undefined;
  /** Sockets on which an answer is being written: an error of the parser must not write into it. */
  readonly #answering = new WeakSet<Duplex>();

  constructor(name: string, config: HttpSourceConfig, baseDir: string, output: SourceOutput, keysMax: number) {
    const { token, tokenFile } = config;
    this.#config = config;
    this.#baseDir = baseDir;
    this.#output = output;
    this.#budget = new BodyBudget(BODIES_IN_MEMORY * config.maxBodyBytes);
    this.#keys = new IdempotencyKeys(name, keysMax, () => output.receipts());
    if (token !== undefined) this.#token = new BearerToken(() => Promise.resolve(token), output.clock);
    if (tokenFile !== undefined) this.#token = new BearerToken(() => tokenInFile(baseDir, tokenFile), output.clock);
  }

  async run(signal: AbortSignal): Promise<void> {
    await this.#token?.read();
    const listening = await this.#listen();
    this.#output.report(null);
    try {
      await new Promise<void>((resolve, reject) => {
        listening.server.once('error', reject);
        if (signal.aborted) resolve();
        else signal.addEventListener('abort', () => resolve(), { once: true });
      });
    } finally {
      await close(listening);
    }
  }

  async #listen(): Promise<Listening> {
    const { listen, tls, timeout, maxConnections } = this.#config;
    const options = {
      headersTimeout: Math.min(HEADERS_TIMEOUT_MS, timeout),
      requestTimeout: timeout,
      connectionsCheckingInterval: CHECK_TIMEOUTS_MS,
      maxHeaderSize: HEADER_BYTES_MAX,
    };
    const server: Server =
      tls === undefined
        ? createServer(options)
        : createTlsServer({ ...options, ...(await serverTlsFiles(this.#baseDir, tls)) });
    server.maxConnections = maxConnections;
    // A client may end its side behind the request, and waits for its answer all the same. Node has no option for it, only this field.
    Object.assign(server, { httpAllowHalfOpen: true });
    // TLS below it has an option, by which a probe that ends before the handshake would stay open.
    server.on('secureConnection', (socket: Duplex) => (socket.allowHalfOpen = true));
    server.on('request', (request: IncomingMessage, response: ServerResponse) => void this.#handle(request, response));
    server.on('checkContinue', (request: IncomingMessage, response: ServerResponse) => {
      void this.#handle(request, response);
    });
    server.on('clientError', (error: Error, socket: Duplex) => this.#refuseBytes(error, socket));
    server.on('drop', () => this.#output.count('connection_dropped'));
    const endConnections = endOfConnections(server);
    await listenOn(server, listen);
    return { server, endConnections };
  }

  /** Never rejects. */
  async #handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    // Both are told of a client that went away; nobody is left to answer then.
    request.on('error', () => undefined);
    response.on('error', () => undefined);
    try {
      const { accepted, isRepeat } = await this.#accept(request, response);
      this.#output.count(isRepeat ? 'repeat' : 'request');
      this.#answer(response, 200, { accepted }, isRepeat ? { 'idempotency-replayed': 'true' } : {});
    } catch (error) {
      if (request.destroyed && !request.complete) {
        this.#output.count('request_broken_off');
        return;
      }
      const refusal = error instanceof Refusal ? error : refusalFor(error);
      this.#output.count(`refused_${refusal.status}`);
      const { status, message, line, headers } = refusal;
      this.#answer(response, status, { error: message, ...(line === undefined ? {} : { line }) }, headers, request);
    }
  }

  async #accept(request: IncomingMessage, response: ServerResponse): Promise<Accepted> {
    await this.#authorise(request);
    const format = bodyFormat(request.headers['content-type']);
    const key = idempotencyKey(request.headersDistinct['idempotency-key']);
    const bytes = announcedBytes(request, this.#config.maxBodyBytes);
    if (!(await this.#budget.reserve(bytes, WAIT_FOR_MEMORY_MS))) {
      throw unavailable(503, 'too many requests are being received');
    }
    try {
      if (request.headers.expect !== undefined) response.writeContinue();
      const body = await readBody(request, this.#config.maxBodyBytes);
      const { to: topic, priority, sensor, eventTime } = this.#config;
      const mapping = {
        ...{ input: format === 'json' ? 'element' : 'line', topic, priority, eventTime },
        key: sensor === undefined ? null : { field: sensor },
      };
      const accept = async (receiptsFor: Parameters<Parameters<IdempotencyKeys['once']>[2]>[0]): Promise<number> => {
        const readings = await readingsIn(body, format, mapping, this.#output.clock.nowMs() * 1000);
        await this.#output.offer(readings, receiptsFor(readings.length));
        return readings.length;
      };
      if (key !== undefined) return await this.#keys.once(key, body, accept);
      return { accepted: await accept(() => []), isRepeat: false };
    } finally {
      this.#budget.release(bytes);
    }
  }

  async #authorise(request: IncomingMessage): Promise<void> {
    const path = (request.url ?? '').split('?', 1)[0];
    if (path !== this.#config.path) throw new Refusal(404, `no such path: readings go to ${this.#config.path}`);
    if (request.method !== 'POST') {
      throw new Refusal(405, 'readings are sent by POST', { headers: { allow: 'POST' } });
    }
    if (this.#token !== undefined && !(await this.#token.opens(request.headers.authorization))) {
      const headers = { 'www-authenticate': 'Bearer' };
      throw new Refusal(401, 'expected Authorization: Bearer with the token of this source', { headers });
    }
  }

  /** With `request`, its rest is taken for a moment before the connection ends. */
  #answer(
    response: ServerResponse,
    status: number,
    content: Readonly<Record<string, unknown>>,
    headers: Readonly<Record<string, string>>,
    request?: IncomingMessage,
  ): void {
    const { socket } = response;
    if (socket !== null) {
      this.#answering.add(socket);
      response.once('close', () => this.#answering.delete(socket));
    }
    const body = Buffer.from(`${JSON.stringify(content)}\n`);
    const isUnread = request !== undefined && !request.complete;
    response.writeHead(status, {
      'content-type': 'application/json',
      'content-length': body.length,
      ...headers,
      ...(isUnread ? { connection: 'close' } : {}),
    });
    // Who asked whether to send the body is told not to, and sends none.
    if (!isUnread || request.headers.expect !== undefined) {
      response.end(body);
      return;
    }
    response.write(body);
    request.resume();
    const timer = setTimeout(() => response.end(), LINGER_MS);
    request.once('close', () => {
      clearTimeout(timer);
      response.end();
    });
  }

  /** What is no HTTP, or did not come in time. */
  #refuseBytes(error: Error, socket: Duplex): void {
    const code = systemCode(error);
    if (code === 'ECONNRESET' || !socket.writable) {
      socket.destroy();
      return;
    }
    const [status, reason] =
      code === 'ERR_HTTP_REQUEST_TIMEOUT'
        ? [408, 'Request Timeout']
        : code === 'HPE_HEADER_OVERFLOW'
          ? [431, 'Request Header Fields Too Large']
          : [400, 'Bad Request'];
    this.#output.count(`refused_${status}`);
    if (this.#answering.has(socket)) socket.destroy();
    else
      socket.end(`HTTP/1.1 ${status} ${reason}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`, () =>
        socket.destroy(),
      );
  }
}

function unavailable(status: 429 | 503, message: string, cause?: unknown): Refusal {
  return new Refusal(status, message, { headers: { 'retry-after': String(RETRY_AFTER_SECONDS) }, cause });
}

function refusalFor(error: unknown): Refusal {
  if (isCode(error, 'full')) return unavailable(429, error.message, error);
  if (isCode(error, 'aborted', 'closed')) return unavailable(503, 'the agent is stopping', error);
  if (isCode(error, 'io', 'unavailable')) return unavailable(503, describeError(error), error);
  return new Refusal(500, describeError(error), { cause: error });
}

/** No new connections; open requests get their answer. */
async function close({ server, endConnections }: Listening): Promise<void> {
  const closed = new Promise<void>((resolve) => server.close(() => resolve()));
  server.closeIdleConnections();
  const timer = setTimeout(endConnections, CLOSE_MS);
  await closed;
  clearTimeout(timer);
}
