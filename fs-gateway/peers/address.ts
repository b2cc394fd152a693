/** Where a mount listens for its peers, and what it tells them. */
import { networkInterfaces } from 'node:os';
import { createServer } from 'node:net';
import type { AddressInfo, Server } from 'node:net';
import { PenstockError } from '../../lib/errors.ts';
import { hostsOfUrl, parsePortUrl } from '../../lib/urls.ts';
import type { HostPort } from '../../lib/urls.ts';

/** Any free port, for mounts of the same machine. */
export const DEFAULT_LISTEN = '127.0.0.1:0';

/** `HOST:PORT`, an IPv6 address in brackets; port 0 is any that is free. Throws `usage`. */
export function parseListen(text: string): HostPort {
  const url = /^(\[[0-9a-f:.]+\]|[\w.-]+):\d{1,5}$/i.test(text) ? parsePortUrl(`tcp://${text}`) : null;
  const address = url === null ? undefined : hostsOfUrl(url, 0)[0];
  if (address !== undefined) return address;
  throw new PenstockError('usage', `peerListen=${text}: expected HOST:PORT, as 10.0.0.7:9310 or 0.0.0.0:0`);
}

/** Resolves when it listens. Throws `unavailable`. */
export async function listen(server: Server, { host, port }: HostPort): Promise<number> {
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) =>
      reject(
        new PenstockError('unavailable', `cannot listen on ${joined({ host, port })} for peers: ${error.message}`, {
          cause: error,
        }),
      ),
    );
    server.listen(port, host, resolve);
  });
  return (server.address() as AddressInfo).port; // a TCP server's address is never a string
}

/** Throws `usage`, and `config` when a mount could not listen there: asked before it starts, so that the caller reads the reason. */
export async function assertListen(text: string): Promise<void> {
  const server = createServer();
  try {
    await listen(server, parseListen(text));
  } catch (error) {
    if (!(error instanceof PenstockError) || error.code !== 'unavailable') throw error;
    throw new PenstockError('config', `peerListen=${text}: ${error.message}`, { cause: error });
  }
  await new Promise((resolve) => server.close(resolve));
}

/** What peers connect to. One that listens everywhere is reached at the machine's first address that is not its own loopback. */
export function announced({ host, port }: HostPort): string {
  if (host !== '0.0.0.0' && host !== '::') return joined({ host, port });
  const addresses = Object.values(networkInterfaces())
    .flatMap((list) => list ?? [])
    .filter(({ internal, address }) => !internal && !address.startsWith('fe80:'));
  const best = addresses.find(({ family }) => family === 'IPv4') ?? (host === '::' ? addresses[0] : undefined);
  return joined({ host: best?.address ?? '127.0.0.1', port });
}

function joined({ host, port }: HostPort): string {
  return `${host.includes(':') ? `[${host}]` : host}:${port}`;
}

/** Only mounts of the same machine can reach it. */
export function isLoopback(address: string): boolean {
  return /^(127\.|localhost:|\[::1\]:|\[::ffff:127\.)/i.test(address);
}
