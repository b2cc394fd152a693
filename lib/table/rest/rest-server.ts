/**
 * The Iceberg REST catalog on a socket: `restHandler` for a server that exists, `openRestServer` for one of its own with /healthz,
 * /readyz and /metrics.
 *
 * Failure: while the server drains, /readyz answers 503, requests under way end, and no connection is kept. A request that is cut off
 * before its commit changes nothing; one that is cut off behind it is committed.
 * Limits: BODY_BYTES_MAX a body (a commit is its updates, not the files it adds), REQUEST_TIMEOUT_MS to receive one,
 * CONNECTIONS_MAX connections, DRAIN_MS to drain.
 */
import { createHash, timingSafeEqual } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { describeError, PenstockError } from '../../errors.ts';
import { stringifyJson } from '../json.ts';
import { tablesBucket } from '../keys.ts';
import type { LakeContext } from '../table.ts';
import { answer } from './rest-routes.ts';
import { RestError, toRestError } from './rest-error.ts';

const BODY_BYTES_MAX = 16 << 20;
const REQUEST_TIMEOUT_MS = 60_000;
const CONNECTIONS_MAX = 1000;
const DRAIN_MS = 10_000;

export interface RestHandlerOptions {
  /** What requests must carry as `Authorization: Bearer`; null: the caller has checked them, or nobody does. */
  readonly token: string | null;
  /** The route and status of every answer. */
  readonly onAnswer?: (route: string, status: number, error: unknown) => void;
}

export type RestHandler = (request: IncomingMessage, response: ServerResponse) => Promise<void>;

/** Serves paths below `/v1/`. Never rejects. */
export function restHandler(lake: LakeContext, options: RestHandlerOptions): RestHandler {
  const { token, onAnswer } = options;
  return async (request, response) => {
    let route = 'other';
    try {
      if (token !== null) authorize(request, token);
      const body = await readBody(request);
      const { method = 'GET', url = '/' } = request;
      const result = await answer(lake, { method, url, body });
      route = result.route;
      send(response, result.status, result.body);
      onAnswer?.(route, result.status, null);
    } catch (error) {
      const failure = toRestError(error);
      // What is left of a body that was refused must not be read as the next request.
      if (!request.complete) response.setHeader('connection', 'close');
      send(response, failure.status, request.method === 'HEAD' ? undefined : failure.body);
      onAnswer?.(route, failure.status, error);
    }
  };
}

/** Hashes have one length, so that neither length nor content shows in the time. */
function authorize(request: IncomingMessage, token: string): void {
  const digest = (text: string): Buffer => createHash('sha256').update(text).digest();
  const given = /^Bearer (.+)$/i.exec(request.headers.authorization ?? '')?.[1] ?? '';
  if (!timingSafeEqual(digest(given), digest(token))) {
    throw new RestError('NotAuthorizedException', 'expected the token of this catalog as Authorization: Bearer');
  }
}

async function readBody(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > BODY_BYTES_MAX) {
      throw new RestError('PayloadTooLargeException', `the body has more than ${BODY_BYTES_MAX} bytes`);
    }
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
}

function send(response: ServerResponse, status: number, body: unknown): void {
  if (body === undefined) {
    response.writeHead(status).end();
    return;
  }
  const text = stringifyJson(body);
  response
    .writeHead(status, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) })
    .end(text);
}

export interface RestServer {
  /** As `http://127.0.0.1:8181`. */
  readonly url: string;
  /** Ends in order; see DRAIN_MS. */
  close(): Promise<void>;
}

export interface RestServerOptions {
  readonly host: string;
  /** 0: any free one. */
  readonly port: number;
  readonly token: string | null;
  /** What nobody foresaw, and what the store or the engine could not do. */
  readonly onProblem: (message: string) => void;
}

/** Throws `unavailable` when the address cannot be used. */
export async function openRestServer(lake: LakeContext, options: RestServerOptions): Promise<RestServer> {
  const counts = new Map<string, number>();
  let isDraining = false;
  const handle = restHandler(lake, {
    token: options.token,
    onAnswer: (route, status, error) => {
      const labels = `route="${route}",status="${status}"`;
      counts.set(labels, (counts.get(labels) ?? 0) + 1);
      if (status >= 500) options.onProblem(`${route}: ${describeError(error)}`);
    },
  });
  const server = createServer({ requestTimeout: REQUEST_TIMEOUT_MS }, (request, response) => {
    const text = (status: number, body: string): void => {
      response.writeHead(status, { 'content-type': 'text/plain; version=0.0.4; charset=utf-8' }).end(body);
    };
    switch (request.url) {
      case '/healthz':
        text(200, 'ok\n');
        break;
      case '/readyz':
        void whyNotReady(lake, isDraining).then((why) => text(why === null ? 200 : 503, `${why ?? 'ready'}\n`));
        break;
      case '/metrics':
        text(200, metricsText(counts));
        break;
      default:
        if (isDraining) response.setHeader('connection', 'close');
        void handle(request, response);
    }
  });
  server.maxConnections = CONNECTIONS_MAX;
  const url = await listen(server, options);
  return {
    url,
    close: async () => {
      isDraining = true;
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      server.closeIdleConnections();
      const late = setTimeout(() => server.closeAllConnections(), DRAIN_MS);
      await closed;
      clearTimeout(late);
    },
  };
}

async function listen(server: Server, { host, port }: RestServerOptions): Promise<string> {
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) =>
      reject(new PenstockError('unavailable', `cannot listen on ${host}:${port}: ${error.message}`, { cause: error })),
    );
    server.listen(port, host, resolve);
  });
  const bound = server.address() as AddressInfo; // a TCP server that listens has one
  return `http://${host.includes(':') ? `[${host}]` : host}:${bound.port}`;
}

async function whyNotReady(lake: LakeContext, isDraining: boolean): Promise<string | null> {
  if (isDraining) return 'draining';
  if (lake.engine.lost.aborted) return describeError(lake.engine.lost.reason);
  try {
    await lake.engine.count(tablesBucket(lake.volume));
    return null;
  } catch (error) {
    return describeError(error);
  }
}

function metricsText(counts: ReadonlyMap<string, number>): string {
  const name = 'penstock_catalog_requests_total';
  const lines = [...counts].sort().map(([labels, count]) => `${name}{${labels}} ${count}`);
  return [`# HELP ${name} Answered requests.`, `# TYPE ${name} counter`, ...lines, ''].join('\n');
}
