/**
 * How many connections are open at a time, so that those who only connect take neither the memory nor the descriptors of the server.
 *
 * Invariants: never more than `max` are served, and of one address ADDRESS_SHARE of that, so that nobody shuts out all others. What is above it is answered 503 at its first
 * request, without a look at who asks, and closed; but `/healthz` is answered, for a full server is no reason to restart it.
 * Limits: REFUSING_MAX connections that are being refused, REFUSED_MS each; what is above that the kernel is told to close.
 */
import type { Socket } from 'node:net';
import type { App } from './context.ts';
import type { ControlMetrics } from './metrics.ts';
import { sendProblem } from './problem.ts';

const ADDRESS_SHARE = 0.9;
const REFUSING_MAX = 256;
/** It is about one round trip and a handshake. */
const REFUSED_MS = 2000;

export function boundConnections(app: App, max: number, metrics: ControlMetrics): void {
  const served = new Map<string, number>();
  const addressMax = Math.ceil(max * ADDRESS_SHARE);
  /** By both ends' names: over TLS requests have another socket than this one. */
  const refused = new Set<string>();
  let open = 0;

  app.server.maxConnections = max + REFUSING_MAX;
  app.server.on('drop', () => metrics.connectionRefused());
  app.server.on('connection', (socket: Socket) => {
    const { remoteAddress: address = '' } = socket;
    const own = served.get(address) ?? 0;
    if (open >= max || own >= addressMax) {
      refuse(socket);
      return;
    }
    open++;
    served.set(address, own + 1);
    metrics.connections(open);
    socket.once('close', () => {
      metrics.connections(--open);
      const left = (served.get(address) ?? 1) - 1;
      if (left > 0) served.set(address, left);
      else served.delete(address);
    });
  });

  function refuse(socket: Socket): void {
    metrics.connectionRefused();
    const name = nameOf(socket);
    refused.add(name);
    const timer = setTimeout(() => socket.destroy(), REFUSED_MS).unref();
    socket.once('close', () => {
      clearTimeout(timer);
      refused.delete(name);
    });
  }

  app.addHook('onRequest', async (request, reply) => {
    if (!refused.has(nameOf(request.raw.socket))) return;
    void reply.header('connection', 'close');
    if (request.routeOptions.url === '/healthz') return;
    void reply.header('retry-after', '3');
    return sendProblem(
      reply,
      503,
      'unavailable',
      `too many connections are open: at most ${max} (serve.maxConnections), ${addressMax} of one address`,
    );
  });
}

const nameOf = ({ remoteAddress = '', remotePort = 0 }: Socket): string => `${remoteAddress} ${remotePort}`;
