/**
 * Carries TCP connections from one address to another: `relay-child.ts FROM TO PORT...`. In a namespace that stands for a node it makes the
 * services of the hub appear at the same loopback ports, so that every URL means the same everywhere.
 */
import { createConnection, createServer } from 'node:net';

const [from = '', to = '', ...ports] = process.argv.slice(2);
let waiting = ports.length;
for (const port of ports.map(Number)) {
  createServer({ allowHalfOpen: true }, (socket) => {
    const target = createConnection({ host: to, port, allowHalfOpen: true });
    socket.pipe(target).pipe(socket);
    const end = (): void => {
      socket.destroy();
      target.destroy();
    };
    socket.on('error', end);
    target.on('error', end);
  }).listen(port, from, () => {
    if (--waiting === 0) process.stdout.write('ready\n');
  });
}
