/** Clients that send or read a byte at a time: they hold up nobody, and are cut. */
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { expect, onTestFinished, test } from 'vitest';
import { openTestPipeline } from '../compactor/pipeline.ts';
import { makeCertificates } from '../support/certificates.ts';
import { tempDir } from '../support/temp.ts';
import { landedPipeline, startControl, type Control } from './control.ts';

const BYTE_MS = 20;
/** The others on the server have it, too: longer than this process stands still. */
const REQUEST_MS = 2000;
const LONG = { requestMs: 3_600_000, answerMs: 3_600_000 };

async function served(bounds: Partial<typeof LONG>): Promise<Control> {
  const { pipeline } = await landedPipeline({ compacted: false });
  return startControl(pipeline.config, pipeline.dir, undefined, { clientBounds: { ...LONG, ...bounds } });
}

async function connected(control: Control): Promise<{ readonly socket: Socket; readonly closed: Promise<unknown> }> {
  const socket = connect(Number(new URL(control.url).port), '127.0.0.1');
  onTestFinished(() => void socket.destroy());
  // A cut may come as a reset, which is one, too.
  socket.on('error', () => undefined);
  const closed = new Promise((resolve) => socket.once('close', resolve));
  await once(socket, 'connect');
  return { socket, closed };
}

/** Until the connection is gone, or the test. */
function eachByte(socket: Socket, act: () => void): void {
  const timer = setInterval(act, BYTE_MS);
  socket.once('close', () => clearInterval(timer));
  onTestFinished(() => clearInterval(timer));
}

const HEAD =
  'POST /v1/sql HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\r\n';

test.for([
  ['nothing', '', ''],
  ['its head', '', `GET /v1/overview HTTP/1.1\r\nhost: 127.0.0.1\r\nx: ${'x'.repeat(100_000)}`],
  ['its body', HEAD, ' '.repeat(100_000)],
] as const)(
  'who sends %s a byte at a time is told so and cut, while others are answered',
  async ([what, first, rest]) => {
    const control = await served({ requestMs: REQUEST_MS });
    // The first answers take longest: what they need is loaded.
    for (const path of ['/v1/overview', '/v1/runs']) await control.get(path);
    const begunMs = performance.now();
    const { socket, closed } = await connected(control);
    let answer = '';
    socket.on('data', (chunk) => (answer += chunk.toString()));
    socket.write(first);
    let sent = 0;
    eachByte(socket, () => socket.write(rest.slice(sent, ++sent)));
    await control.get('/v1/overview');
    await control.get('/v1/runs');
    // A machine that takes longer for these has cut it by right.
    if (performance.now() - begunMs < REQUEST_MS) expect(socket.destroyed, what).toBe(false);
    await closed;
    expect(answer).toMatch(/^HTTP\/1\.1 408 .*application\/problem\+json.*"status":408/s);
    await control.get('/v1/overview');
  },
);

test('who begins no TLS handshake is cut as soon as who begins no request', async () => {
  const { server } = makeCertificates(tempDir('slow-clients'));
  const { config, dir } = await openTestPipeline('', `serve: { tls: { cert: ${server.cert}, key: ${server.key} } }`);
  const control = await startControl(config, dir, undefined, { clientBounds: { ...LONG, requestMs: 1000 } });
  await (
    await connected(control)
  ).closed;
});

test('who reads its answer a byte at a time is cut, while others are answered', async () => {
  const control = await served({ answerMs: 1000 });
  const { text } = await control.request('GET', '/openapi.json');
  const { socket, closed } = await connected(control);
  // More than the kernel takes for both ends: the next one waits until the one before is with it.
  const requests = Math.ceil(64e6 / text.length);
  socket.write('GET /openapi.json HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n'.repeat(requests));
  socket.pause();
  let read = 0;
  eachByte(socket, () => {
    read += (socket.read(1) as Buffer | null)?.length ?? 0; // what a socket without an encoding reads
    // Who never writes is not told by its kernel that the connection is gone.
    socket.write('\r\n');
  });
  await control.get('/v1/overview');
  await closed;
  expect(read).toBeLessThan(text.length);
  await control.get('/v1/overview');
});

test('what is no HTTP, or has too long a head, is told so as a problem, too', async () => {
  const control = await served({});
  for (const [sent, status] of [
    ['hello\r\n\r\n', 400],
    [`GET / HTTP/1.1\r\nx: ${'x'.repeat(20_000)}\r\n\r\n`, 431],
  ] as const) {
    const { socket, closed } = await connected(control);
    let answer = '';
    socket.on('data', (chunk) => (answer += chunk.toString()));
    socket.write(sent);
    await closed;
    expect(answer).toContain('application/problem+json');
    expect(answer).toContain(`"status":${status}`);
  }
});

test('who reads slowly does not hold up the end of the server', async () => {
  const control = await served({});
  const { socket, closed } = await connected(control);
  socket.write(HEAD);
  socket.resume();
  await control.get('/v1/overview');
  await control.stop();
  await closed;
});
