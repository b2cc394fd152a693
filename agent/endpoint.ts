/**
 * What a running agent answers over HTTP: `/healthz`, `/readyz`, `/metrics`, `/status` (for `penstock agent top`) and `/tap` (for `penstock
 * agent tap`).
 *
 * Invariants: readings are shown to this machine only: `/tap` refuses every other address, whatever the agent listens on.
 */
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import { describeError } from '../lib/errors.ts';
import { listenOn } from './listening.ts';
import type { Taps } from './tap.ts';

export interface EndpointHandlers {
  /** Why the agent cannot take readings, or null. */
  readonly notReady: () => string | null;
  /** What is wrong although it can: lines for a person. */
  readonly remarks: () => readonly string[];
  readonly metrics: () => Promise<string>;
  readonly status: () => unknown;
  readonly taps: Taps;
}

// An import of node:http reads every export of it, and one of them loads undici: several MB.
const { createServer } = process.getBuiltinModule('node:http');

/** Whoever scrapes needs a few connections; more is a mistake or an attack on a small machine. */
const CONNECTIONS_MAX = 64;
const REQUEST_TIMEOUT_MS = 10_000;
const LOOPBACK = /^(?:::1|(?:::ffff:)?127\.\d+\.\d+\.\d+)$/;

/** Listens on HOST:PORT. Throws `unavailable` when the address cannot be used. */
export async function openEndpoint(listen: string, handlers: EndpointHandlers): Promise<Server> {
  const server = createServer({ requestTimeout: REQUEST_TIMEOUT_MS }, (request, response) => {
    respond(handlers, request, response);
  });
  server.maxConnections = CONNECTIONS_MAX;
  await listenOn(server, listen);
  return server;
}

export async function closeEndpoint(server: Server): Promise<void> {
  const closed = new Promise<void>((resolve) => server.close(() => resolve()));
  server.closeAllConnections();
  await closed;
}

function respond(handlers: EndpointHandlers, request: IncomingMessage, response: ServerResponse): void {
  const answer = (status: number, type: string, body: string): void => {
    response.writeHead(status, { 'content-type': type }).end(request.method === 'HEAD' ? '' : body);
  };
  const url = new URL(request.url ?? '/', 'http://agent');
  if (request.method !== 'GET' && request.method !== 'HEAD') {
    answer(405, 'text/plain', 'only GET\n');
    return;
  }
  switch (url.pathname) {
    case '/healthz':
      answer(200, 'text/plain', 'ok\n');
      return;
    case '/readyz': {
      const why = handlers.notReady();
      answer(why === null ? 200 : 503, 'text/plain', [why ?? 'ready', ...handlers.remarks(), ''].join('\n'));
      return;
    }
    case '/metrics':
      handlers.metrics().then(
        (text) => answer(200, 'text/plain; version=0.0.4; charset=utf-8', text),
        (error: unknown) => answer(500, 'text/plain', `${describeError(error)}\n`),
      );
      return;
    case '/status':
      answer(200, 'application/json', `${JSON.stringify(handlers.status())}\n`);
      return;
    case '/tap':
      tap(handlers.taps, url.searchParams, request, response);
      return;
    default:
      answer(404, 'text/plain', 'there are /healthz, /readyz, /metrics, /status and /tap\n');
  }
}

function tap(taps: Taps, query: URLSearchParams, request: IncomingMessage, response: ServerResponse): void {
  const refuse = (status: number, why: string): void => {
    response.writeHead(status, { 'content-type': 'text/plain' }).end(`${why}\n`);
  };
  const stage = query.get('stage') ?? 'out';
  if (!LOOPBACK.test(request.socket.remoteAddress ?? '')) refuse(403, 'readings are shown to this machine only');
  else if (stage !== 'in' && stage !== 'out') refuse(400, 'stage: expected in or out');
  else if (request.method === 'HEAD') refuse(200, '');
  else {
    try {
      const close = taps.open(stage, query.get('topic'), response);
      response.once('close', close);
      response.writeHead(200, { 'content-type': 'application/x-ndjson' }).flushHeaders();
    } catch (error) {
      refuse(503, describeError(error));
    }
  }
}
