/**
 * Ports of the loopback interface for servers that are told theirs. They lie below those that a kernel gives to whoever asks for any: between
 * the choice and the start of a slow server nobody else gets one by chance. Each worker of a run counts through numbers of its own, from
 * anywhere, because another run may be under way on the machine.
 */
import { once } from 'node:events';
import { createServer } from 'node:net';

const FIRST = 10_000;
const LAST = 31_999;
const WORKERS_MAX = 8;
const PORTS_EACH = Math.floor((LAST + 1 - FIRST) / WORKERS_MAX);

const worker = Number(process.env['VITEST_POOL_ID'] ?? 0) % WORKERS_MAX;
let index = Math.floor(Math.random() * PORTS_EACH);

export async function freePort(): Promise<number> {
  for (let tries = 0; tries < PORTS_EACH; tries++) {
    index = (index + 1) % PORTS_EACH;
    const port = FIRST + index * WORKERS_MAX + worker;
    if (await isFree(port)) return port;
  }
  throw new Error(`no port from ${FIRST} to ${LAST} is free`);
}

/** All different. */
export async function freePorts(count: number): Promise<number[]> {
  const ports: number[] = [];
  while (ports.length < count) ports.push(await freePort());
  return ports;
}

async function isFree(port: number): Promise<boolean> {
  const server = createServer().listen(port, '127.0.0.1');
  try {
    await once(server, 'listening');
  } catch {
    return false;
  }
  server.close();
  await once(server, 'close');
  return true;
}
