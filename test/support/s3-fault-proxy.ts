/** An HTTP proxy in front of an S3 server that fails chosen requests in the ways networks and servers do. */
import { createServer, request } from 'node:http';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { once } from 'node:events';

export type ProxyFault =
  | 'pass'
  /** An answer with this status instead of the server's; the request never reaches it. */
  | { readonly status: number; readonly code?: string; readonly headers?: Readonly<Record<string, string>> }
  /** The connection is cut before the server sees the request. */
  | 'cutBefore'
  /** The server handles the request; the connection is cut instead of the answer. */
  | 'cutAfter'
  /** The answer's headers and half of its body, then the connection is cut. */
  | 'cutBody'
  /** No answer until the client gives up. */
  | 'silence';

export interface FaultProxy {
  readonly endpoint: string;
  /** `METHOD /path?query` of all requests so far. */
  readonly requests: string[];
  /** Decides on every request; by default all pass. */
  decide: (method: string, path: string, nth: number) => ProxyFault;
  stop(): Promise<void>;
}

export async function startFaultProxy(target: string): Promise<FaultProxy> {
  const { hostname, port } = new URL(target);
  const requests: string[] = [];
  const server = createServer((incoming, answer) => {
    const [method, path] = [incoming.method ?? '', incoming.url ?? ''];
    const fault = proxy.decide(method, path, requests.length);
    requests.push(`${method} ${path}`);
    answer.on('error', () => undefined);
    void handle(incoming, answer, fault, { hostname, port }).catch(() => answer.destroy());
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  const ownPort = typeof address === 'object' && address !== null ? address.port : 0;
  const proxy: FaultProxy = {
    endpoint: `http://127.0.0.1:${ownPort}`,
    requests,
    decide: () => 'pass',
    stop: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
  return proxy;
}

async function handle(
  incoming: IncomingMessage,
  answer: ServerResponse,
  fault: ProxyFault,
  target: { hostname: string; port: string },
): Promise<void> {
  if (fault === 'cutBefore') return void answer.destroy();
  if (fault === 'silence') return;
  const body = Buffer.concat((await incoming.toArray()) as Buffer[]);
  if (typeof fault === 'object') {
    answer.writeHead(fault.status, { 'content-type': 'application/xml', 'retry-after': '0', ...fault.headers });
    answer.end(
      `<?xml version="1.0"?><Error><Code>${fault.code ?? 'SlowDown'}</Code><Message>injected</Message></Error>`,
    );
    return;
  }
  // The Host header goes on as it came: it is signed.
  const outgoing = request({ ...target, method: incoming.method, path: incoming.url, headers: incoming.headers });
  outgoing.end(body);
  const [response] = (await once(outgoing, 'response')) as [IncomingMessage];
  const content = Buffer.concat((await response.toArray()) as Buffer[]);
  if (fault === 'cutAfter') return void answer.destroy();
  answer.writeHead(response.statusCode ?? 500, response.headers);
  if (fault === 'cutBody') {
    answer.write(content.subarray(0, content.length / 2), () => answer.destroy());
    return;
  }
  answer.end(content);
}
