/** More connections than the server takes: those above it are told so, and the others served. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { connect as connectTls } from 'node:tls';
import { expect, onTestFinished, test } from 'vitest';
import { makeCertificates } from '../support/certificates.ts';
import { HANG_MS } from '../support/hang.ts';
import { tempDir } from '../support/temp.ts';
import { originOf } from '../../control/connection-bound.ts';
import { openTestPipeline } from '../compactor/pipeline.ts';
import { Control, startControl } from './control.ts';

const MAX = 10;
/** Nine tenths of them. */
const ADDRESS_MAX = 9;
/** That are told why, at a time. */
const REFUSING = 256;
const OTHER = '127.0.0.2';
const BIN = join(import.meta.dirname, '../../bin/penstock');

async function served(rest = ''): Promise<Control> {
  const { config, dir } = await openTestPipeline('', `serve: { maxConnections: ${MAX}${rest} }`);
  return startControl(config, dir);
}

const portOf = (control: Control): number => Number(new URL(control.url).port);

async function open(control: Control, localAddress = '127.0.0.1'): Promise<Socket> {
  const socket = connect({ port: portOf(control), host: '127.0.0.1', localAddress });
  onTestFinished(() => void socket.destroy());
  socket.on('error', () => undefined);
  await once(socket, 'connect');
  return socket;
}

/** What is answered until the connection is closed. */
async function asked(socket: Socket, path: string): Promise<string> {
  let answer = '';
  socket.on('data', (chunk) => (answer += chunk.toString()));
  socket.write(`GET ${path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n`);
  await once(socket, 'close');
  return answer;
}

const REFUSAL =
  /^HTTP\/1\.1 503 .*retry-after: 3.*application\/problem\+json.*at most 10 \(serve\.maxConnections\), 9 of one address/s;

test('one address leaves room for others, and above the bound a connection is told why and closed', async () => {
  const control = await served();
  const [first, ...held] = await Promise.all(Array.from({ length: ADDRESS_MAX }, () => open(control)));
  expect(await asked(await open(control), '/v1/overview')).toMatch(REFUSAL);
  const other = await open(control, OTHER);
  expect(await asked(await open(control, OTHER), '/v1/overview')).toMatch(REFUSAL);
  // A full server is no reason to restart it.
  expect(await asked(await open(control, OTHER), '/healthz')).toMatch(/^HTTP\/1\.1 200 /);
  // Who says nothing is closed, too.
  await once(await open(control), 'close');

  // Those that were there are served, and the place of one that goes is free for the next.
  const metrics = await asked(other, '/metrics');
  expect(metrics).toContain('penstock_control_connections 10');
  expect(metrics).toContain('penstock_control_connections_refused_total 4');
  if (first !== undefined) expect(await asked(first, '/v1/runs')).toMatch(/^HTTP\/1\.1 200 /);
  await expect.poll(async () => asked(await open(control), '/v1/runs')).toMatch(/^HTTP\/1\.1 200 /);
  expect(held.every((socket) => !socket.destroyed)).toBe(true);
});

test('one address that is refused again and again leaves room for others to be served, and for the probe', async () => {
  const control = await served();
  await Promise.all(Array.from({ length: MAX + REFUSING }, () => open(control)));
  const other = await open(control, OTHER);
  expect(await asked(await open(control, OTHER), '/healthz')).toMatch(/^HTTP\/1\.1 200 /);
  expect(await asked(other, '/v1/runs')).toMatch(/^HTTP\/1\.1 200 /);
});

test('over TLS, too', async () => {
  const { server, ca } = makeCertificates(tempDir('connection-bound'));
  const control = await served(`, tls: { cert: ${server.cert}, key: ${server.key} }`);
  await Promise.all(Array.from({ length: ADDRESS_MAX }, () => open(control)));
  const secure = connectTls({ socket: await open(control), host: '127.0.0.1', ca: readFileSync(ca) });
  secure.on('error', () => undefined);
  await once(secure, 'secureConnect');
  expect(await asked(secure, '/v1/overview')).toMatch(REFUSAL);
});

test('a process that may have fewer files open bounds its connections by that: its ports and its probe are left some', async () => {
  const dir = tempDir('connection-bound');
  const file = join(dir, 'pipeline.yaml');
  const ports = ['log', 'objects', 'meta.db'].map((name) => join(dir, name));
  writeFileSync(
    file,
    `{ log: 'file:${ports[0] ?? ''}', store: 'dir:${ports[1] ?? ''}', meta: 'sqlite:${ports[2] ?? ''}', datasets: [{ name: unit, topic: unit }] }`,
  );
  const serve = ['-c', 'ulimit -n 600; exec "$0" "$@"', BIN, 'serve', '-c', file, '--port', '0'];
  const child = spawn('sh', serve, { stdio: ['ignore', 'ignore', 'ignore', 'ipc'] });
  onTestFinished(() => void child.kill('SIGKILL'));
  const [{ url }] = (await once(child, 'message', { signal: AbortSignal.timeout(HANG_MS) })) as [{ url: string }];
  const control = new Control({ url, loopbackOnly: true }, async () => undefined);
  await Promise.all(Array.from({ length: 700 }, () => open(control)));
  const metrics = await asked(await open(control, OTHER), '/metrics');
  expect(metrics).toContain('penstock_control_connections_max 88');
  const others = await Promise.all(Array.from({ length: 8 }, () => open(control, OTHER)));
  expect(await asked(await open(control, OTHER), '/healthz')).toMatch(/^HTTP\/1\.1 200 /);
  expect(others.every((socket) => !socket.destroyed)).toBe(true);
});

test.each([
  ['192.0.2.7', '192.0.2.7'],
  ['::ffff:192.0.2.7', '192.0.2.7'],
  ['2001:db8:1:2:a:b:c:d', '2001:db8:1:2'],
  ['2001:db8:1:2::9', '2001:db8:1:2'],
  ['2001:db8::9', '2001:db8:0:0'],
  ['fe80::1%eth0', 'fe80:0:0:0'],
  ['::1', '0:0:0:0'],
])('connections of %s count to %s: a host has a whole /64 of IPv6, and an IPv4 address one', (address, origin) => {
  expect(originOf(address)).toBe(origin);
});
