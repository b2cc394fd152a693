/**
 * How many connections are open at a time, so that those who only connect take neither the memory nor the descriptors of the server.
 *
 * Invariants: never more than `max` are served, and of one address (of IPv6: one /64, which is what a single host is given) ADDRESS_SHARE of that, so that nobody shuts out all
 * others. What is above it is answered 503 at its first
 * request, without a look at who asks, and closed; but `/healthz` is answered, for a full server is no reason to restart it.
 * Limits: `max`, or less where the process may not have so many files open; REFUSING_MAX connections that are being refused, REFUSED_MS each, and of one address ADDRESS_SHARE of
 * these, too; what is above that is closed at once.
 */
import { readFileSync } from 'node:fs';
import { isIPv4, type Socket } from 'node:net';
import type { App } from './context.ts';
import type { ControlMetrics } from './metrics.ts';
import { sendProblem } from './problem.ts';

const ADDRESS_SHARE = 0.9;
const REFUSING_MAX = 256;
/** It is about one round trip and a handshake. */
const REFUSED_MS = 2000;
/** Of this process beside connections: those to the ports, files, and what a query opens. It has 30 when it is idle. */
const OTHER_DESCRIPTORS = 256;
/** The least that `serve.maxConnections` takes. */
const SERVED_MIN = 10;

export function boundConnections(app: App, configured: number, metrics: ControlMetrics): void {
  const max = Math.min(configured, Math.max(SERVED_MIN, openFilesMax() - REFUSING_MAX - OTHER_DESCRIPTORS));
  const why = max < configured ? 'by the limit of open files of the process: ulimit -n' : 'serve.maxConnections';
  const served = new Places(max);
  const refusing = new Places(REFUSING_MAX);
  /** By both ends' names: over TLS requests have another socket than this one. */
  const refused = new Set<string>();

  metrics.connectionsMax(max);
  app.server.on('connection', (socket: Socket) => {
    if (served.take(socket)) {
      metrics.connections(served.taken);
      socket.once('close', () => metrics.connections(served.taken));
      return;
    }
    metrics.connectionRefused();
    if (refusing.take(socket)) refuse(socket);
    else socket.destroy();
  });

  function refuse(socket: Socket): void {
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
      `too many connections are open: at most ${max} (${why}), ${served.addressMax} of one address (of IPv6: one /64)`,
    );
  });
}

/** For so many connections, until they are closed. */
class Places {
  readonly addressMax: number;
  readonly #max: number;
  readonly #byAddress = new Map<string, number>();
  #taken = 0;

  constructor(max: number) {
    this.#max = max;
    this.addressMax = Math.ceil(max * ADDRESS_SHARE);
  }

  get taken(): number {
    return this.#taken;
  }

  /** false: there is none left, or none for this address. */
  take(socket: Socket): boolean {
    const address = originOf(socket.remoteAddress ?? '');
    const own = this.#byAddress.get(address) ?? 0;
    if (this.#taken >= this.#max || own >= this.addressMax) return false;
    this.#taken++;
    this.#byAddress.set(address, own + 1);
    socket.once('close', () => {
      this.#taken--;
      const left = (this.#byAddress.get(address) ?? 1) - 1;
      if (left > 0) this.#byAddress.set(address, left);
      else this.#byAddress.delete(address);
    });
    return true;
  }
}

/** Whose an address is: an IPv4 one, also as IPv6 writes it (RFC 4291, 2.5.5.2), stands for itself, an IPv6 one for its /64 (RFC 6177). */
export function originOf(address: string): string {
  const [plain = ''] = address.split('%');
  const mapped = plain.replace(/^::ffff:/i, '');
  if (isIPv4(mapped)) return mapped;
  const [head = '', tail] = plain.split('::');
  const groups = head === '' ? [] : head.split(':');
  if (tail !== undefined) {
    const behind = tail === '' ? [] : tail.split(':');
    while (groups.length + behind.length < 8) groups.push('0');
    groups.push(...behind);
  }
  return groups.slice(0, 4).join(':');
}

const nameOf = ({ remoteAddress = '', remotePort = 0 }: Socket): string => `${remoteAddress} ${remotePort}`;

/** Node has raised the soft limit to the hard one. Elsewhere than on Linux it is not known. */
function openFilesMax(): number {
  let limits = '';
  try {
    limits = readFileSync('/proc/self/limits', 'utf8');
  } catch {
    return Infinity;
  }
  return Number(/^Max open files +(\d+)/m.exec(limits)?.[1] ?? Infinity);
}
