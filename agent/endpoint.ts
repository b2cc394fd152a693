/** `/healthz`, `/readyz` and `/metrics` of a running agent. */
import { createServer, type Server } from 'node:http';
import { describeError, PenstockError } from '../lib/errors.ts';

export interface EndpointHandlers {
  /** Why the agent cannot take readings, or null. */
  readonly notReady: () => string | null;
  readonly metrics: () => Promise<string>;
}

/** Whoever scrapes needs a few connections; more is a mistake or an attack on a small machine. */
const CONNECTIONS_MAX = 64;
const REQUEST_TIMEOUT_MS = 10_000;

/** Listens on HOST:PORT. Throws `unavailable` when the address cannot be used. */
export async function openEndpoint(listen: string, handlers: EndpointHandlers): Promise<Server> {
  const server = createServer({ requestTimeout: REQUEST_TIMEOUT_MS }, (request, response) => {
    const answer = (status: number, type: string, body: string): void => {
      response.writeHead(status, { 'content-type': type }).end(request.method === 'HEAD' ? '' : body);
    };
    const path = (request.url ?? '').split('?', 1)[0];
    if (request.method !== 'GET' && request.method !== 'HEAD') answer(405, 'text/plain', 'only GET\n');
    else if (path === '/healthz') answer(200, 'text/plain', 'ok\n');
    else if (path === '/readyz') {
      const why = handlers.notReady();
      answer(why === null ? 200 : 503, 'text/plain', `${why ?? 'ready'}\n`);
    } else if (path === '/metrics') {
      handlers.metrics().then(
        (text) => answer(200, 'text/plain; version=0.0.4; charset=utf-8', text),
        (error: unknown) => answer(500, 'text/plain', `${describeError(error)}\n`),
      );
    } else answer(404, 'text/plain', 'there are /healthz, /readyz and /metrics\n');
  });
  server.maxConnections = CONNECTIONS_MAX;
  const separator = listen.lastIndexOf(':');
  const host = listen.slice(0, separator).replace(/^\[(.*)\]$/, '$1');
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) =>
      reject(new PenstockError('unavailable', `cannot listen on ${listen}: ${error.message}`, { cause: error })),
    );
    server.listen(Number(listen.slice(separator + 1)), host, resolve);
  });
  return server;
}

export async function closeEndpoint(server: Server): Promise<void> {
  const closed = new Promise<void>((resolve) => server.close(() => resolve()));
  server.closeAllConnections();
  await closed;
}
