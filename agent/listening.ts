/** How the agent's servers take their address, and let go of who is connected. */
import type { Server, Socket } from 'node:net';
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

/** Returns what ends the connections of a server, also those that have not ended a TLS handshake: Node lists these nowhere, and `close` waits for them. */
export function endOfConnections(server: Server): () => void {
  const open = new Set<Socket>();
  server.on('connection', (socket) => {
    open.add(socket);
    socket.once('close', () => open.delete(socket));
  });
  return () => {
    for (const socket of open) socket.destroy();
  };
}
