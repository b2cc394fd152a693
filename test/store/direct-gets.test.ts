/** GETs straight into memory: each answer is its own, also where the connection was used before, and nothing is written later. */
import { once } from 'node:events';
import { createServer } from 'node:net';
import type { AddressInfo, Socket } from 'node:net';
import { setImmediate as turn } from 'node:timers/promises';
import { expect, onTestFinished, test } from 'vitest';
import { DirectGets } from '../../lib/store/s3/direct-gets.ts';
import type { DirectAnswer, DirectOutcome } from '../../lib/store/s3/direct-gets.ts';

const BYTES = 40_000;

interface Server {
  readonly port: number;
  readonly connections: Socket[];
}

/** `answer` gets the path of each request and how many came before it. */
async function serve(answer: (socket: Socket, path: string, number: number) => void): Promise<Server> {
  const connections: Socket[] = [];
  let number = 0;
  const server = createServer((socket) => {
    connections.push(socket.setNoDelay(true));
    socket.on('error', () => undefined);
    let head = '';
    socket.on('data', (chunk) => {
      head += chunk.toString('latin1');
      if (!head.endsWith('\r\n\r\n')) return;
      const path = head.split(' ')[1] ?? '';
      head = '';
      answer(socket, path, number++);
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  onTestFinished(() => {
    for (const socket of connections) socket.destroy();
    server.close();
  });
  return { port: (server.address() as AddressInfo).port, connections }; // it listens on TCP
}

function open(): DirectGets {
  const gets = new DirectGets({ connectionsMax: 1, connectTimeoutMs: 5000, silenceMs: 5000 });
  onTestFinished(() => gets.destroy());
  return gets;
}

function requestOf(port: number, path: string): Parameters<DirectGets['get']>[0] {
  return { protocol: 'http:', hostname: '127.0.0.1', port, path, headers: { host: 'store' } };
}

function plain(outcome: DirectOutcome): DirectAnswer | null {
  return outcome === 'refused' ? null : outcome;
}

function headOf(path: string, bytes: number): string {
  return `HTTP/1.1 200 OK\r\nContent-Length: ${bytes}\r\nETag: ${path}\r\n\r\n`;
}

const HEAD_BYTES = headOf('/a', BYTES).length;

const contentOf = (path: string, bytes: number): Buffer => Buffer.alloc(bytes, path.slice(1));

/** Each part arrives on its own. */
async function sendParts(socket: Socket, whole: Buffer, ends: readonly number[]): Promise<void> {
  let from = 0;
  for (const end of [...ends, whole.length]) {
    const part = whole.subarray(from, end);
    from = end;
    socket.write(part);
    // The other end reads between two turns.
    for (let turns = 0; turns < 2; turns++) await turn();
  }
}

test.each([
  ['in one piece', 1000, [[]]],
  ['larger than a head may be', BYTES, [[]]],
  ['with a head that is cut', 1000, [[10, 50]]],
  ['with a head that comes alone', BYTES, [[HEAD_BYTES]]],
  ['with a head that comes alone at times', BYTES, [[HEAD_BYTES], []]],
])('an answer on a connection that was used before is not the one before: %s', async (_, bytes, cuts) => {
  const { port, connections } = await serve((socket, path, number) => {
    const whole = Buffer.concat([Buffer.from(headOf(path, bytes)), contentOf(path, bytes)]);
    void sendParts(socket, whole, cuts[number % cuts.length] ?? []);
  });
  const gets = open();
  for (const path of ['/a', '/b', '/c']) {
    const target = Buffer.alloc(bytes);
    const answer = plain(await gets.get(requestOf(port, path), target, undefined));
    expect(answer?.headers['etag']).toBe(path);
    expect(target.equals(contentOf(path, bytes))).toBe(true);
  }
  expect(connections).toHaveLength(1);
});

test('what comes behind an answer ends the connection, and is not taken for the next one', async () => {
  const { port, connections } = await serve((socket, path) => {
    socket.write(headOf(path, BYTES));
    socket.write(Buffer.concat([contentOf(path, BYTES), Buffer.from(headOf('/x', BYTES))]));
  });
  const gets = open();
  const target = Buffer.alloc(BYTES);
  expect(plain(await gets.get(requestOf(port, '/a'), target, undefined))?.headers['etag']).toBe('/a');
  expect(target.equals(contentOf('/a', BYTES))).toBe(true);
  await expect.poll(() => connections[0]?.closed).toBe(true);
  // Nobody knows what they are: the ordinary client asks, or a new connection does.
  const next = plain(await gets.get(requestOf(port, '/b'), target, undefined));
  expect(next?.headers['etag']).toBe('/b');
  expect(connections).toHaveLength(2);
});

test.each([
  ['HTTP/1.1 206 Partial Content', null],
  ['HTTP/1.1 100 Continue', null],
  ['HTTP/1.0 200 OK', null],
  ['HTTP/1.1 503 Slow Down', null],
  ['HTTP/1.1 403 Forbidden', 'refused'],
])('any other answer is left to the ordinary client: %s', async (status, outcome) => {
  const { port } = await serve((socket) => {
    socket.write(`${status}\r\nContent-Length: 10\r\n\r\n0123456789`);
  });
  const target = Buffer.alloc(10);
  expect(await open().get(requestOf(port, '/a'), target, undefined)).toBe(outcome);
  expect(target.every((byte) => byte === 0)).toBe(true);
});

test('an answer that is cut is an error that is tried again; nothing is written after it', async () => {
  const { port } = await serve((socket, path, number) => {
    socket.write(headOf(path, BYTES));
    if (number === 0) socket.end(contentOf(path, 100));
    else socket.write(contentOf(path, BYTES));
  });
  const gets = open();
  const target = Buffer.alloc(BYTES);
  await expect(gets.get(requestOf(port, '/a'), target, undefined)).rejects.toMatchObject({ code: 'ECONNRESET' });
  target.fill(0);
  const other = Buffer.alloc(BYTES);
  expect(plain(await gets.get(requestOf(port, '/b'), other, undefined))?.statusCode).toBe(200);
  expect(target.every((byte) => byte === 0)).toBe(true);
});

test('nothing is written to the memory of a request that was aborted', async () => {
  const { port, connections } = await serve((socket, path) => {
    socket.write(headOf(path, BYTES));
    socket.write(contentOf(path, BYTES / 2));
  });
  const stop = new AbortController();
  const target = Buffer.alloc(BYTES);
  const getting = open().get(requestOf(port, '/a'), target, stop.signal);
  await expect.poll(() => target[0]).toBe('a'.charCodeAt(0));
  stop.abort();
  target.fill(0);
  connections[0]?.write(contentOf('/a', BYTES / 2));
  await expect(getting).rejects.toMatchObject({ name: 'AbortError' });
  await expect.poll(() => connections[0]?.closed).toBe(true);
  expect(target.every((byte) => byte === 0)).toBe(true);
});
