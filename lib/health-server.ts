/** What a program without an API of its own answers over HTTP: `/healthz`, `/readyz`, `/metrics`. */
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { describeError, PenstockError } from './errors.ts';

/** Probes and a scraper; more is a mistake. */
const CONNECTIONS_MAX = 64;
const REQUEST_TIMEOUT_MS = 10_000;
const PORT_MAX = 65_535;

export interface HealthAnswers {
  /** Why only another process could go on, or null. */
  notAlive(): string | null;
  /** Why it cannot do its work now, or null. */
  notReady(): string | null;
  readonly contentType: string;
  metrics(): Promise<string>;
}

export interface HealthServer {
  readonly url: string;
  close(): Promise<void>;
}

/** Listens on HOST:PORT, which `option` gave. Throws `usage`, and `unavailable` when the address cannot be used. */
export async function serveHealth(
  address: string,
  answers: HealthAnswers,
  option: '--listen' | '--metrics' = '--listen',
): Promise<HealthServer> {
  const match = /^(.*):(\d{1,5})$/.exec(address);
  if (match === null || Number(match[2]) > PORT_MAX) {
    throw new PenstockError('usage', `${option} ${address}: expected HOST:PORT, as 127.0.0.1:9101`);
  }
  const server = createServer({ requestTimeout: REQUEST_TIMEOUT_MS }, (request, response) => {
    const say = (why: string | null): void => {
      response.writeHead(why === null ? 200 : 503, { 'content-type': 'text/plain' }).end(`${why ?? 'ok'}\n`);
    };
    switch (request.url) {
      case '/healthz':
        say(answers.notAlive());
        return;
      case '/readyz':
        say(answers.notReady());
        return;
      case '/metrics':
        answers.metrics().then(
          (text) => response.setHeader('content-type', answers.contentType).end(text),
          (error: unknown) => response.writeHead(500).end(`${describeError(error)}\n`),
        );
        return;
      default:
        response.writeHead(404).end('there are /healthz, /readyz and /metrics\n');
    }
  });
  server.maxConnections = CONNECTIONS_MAX;
  const host = (match[1] ?? '').replace(/^\[|\]$/g, '');
  await new Promise<void>((done, reject) => {
    server.once('error', (error) =>
      reject(new PenstockError('unavailable', `cannot listen on ${address}: ${error.message}`, { cause: error })),
    );
    server.listen(Number(match[2]), host === '' ? undefined : host, done);
  });
  const { port } = server.address() as AddressInfo; // a TCP server's address is never a string
  return {
    url: `http://${host === '' || host.includes(':') ? '127.0.0.1' : host}:${port}`,
    async close() {
      const closed = new Promise<void>((done) => server.close(() => done()));
      server.closeAllConnections();
      await closed;
    },
  };
}
