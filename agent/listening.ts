/** How the agent's servers take their address. */
import type { Server } from 'node:net';
import { PenstockError } from '../lib/errors.ts';
import { hostAndPort } from './config-parts.ts';

/** Resolves when the server listens on HOST:PORT. Throws `unavailable` when the address cannot be used. */
export async function listenOn(server: Server, address: string): Promise<void> {
  const { host, port } = hostAndPort(address);
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) =>
      reject(new PenstockError('unavailable', `cannot listen on ${address}: ${error.message}`, { cause: error })),
    );
    server.listen(port, host, resolve);
  });
}
