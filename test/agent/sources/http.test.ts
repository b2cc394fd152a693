import { readFileSync, writeFileSync } from 'node:fs';
import { request as requestByTls } from 'node:https';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { connect as connectTls } from 'node:tls';
import { gzipSync } from 'node:zlib';
import fc from 'fast-check';
import { describe, expect, onTestFinished, test, vi } from 'vitest';
import { BodyBudget } from '../../../agent/sources/http/body-budget.ts';
import { httpSource } from '../../../agent/sources/http/http-source.ts';
import { splitArray } from '../../../agent/sources/http/json-array.ts';
import { openSpool, type Spool } from '../../../agent/spool/spool.ts';
import { AgentProcess, flawsOf, numberedIn } from '../../support/agent-process.ts';
import { makeCertificates } from '../../support/certificates.ts';
import { tempDir } from '../../support/temp.ts';
import { readAll, spoolIn } from '../spool/support.ts';
import { runSource, sourceConfig, type RunningSource } from './support.ts';
import { HANG_MS } from '../../support/hang.ts';
import { freePorts } from '../../support/ports.ts';

interface Ingest extends RunningSource {
  readonly url: string;
  readonly port: number;
  readonly spool: Spool;
}

async function ingest(more: Record<string, unknown> = {}, given?: { dir: string; spool: Spool }): Promise<Ingest> {
  const { dir, spool } = given ?? (await inTemp());
  const [port = 0] = await freePorts(1);
  const config = sourceConfig({ type: 'http', listen: `127.0.0.1:${port}`, path: '/ingest', to: 't', ...more });
  const running = runSource(httpSource(config, dir, 1000), spool, dir);
  await vi.waitFor(() => once(connect(port, '127.0.0.1')), { timeout: HANG_MS, interval: 10 });
  return { ...running, url: `http://127.0.0.1:${port}/ingest`, port, spool };
}

async function inTemp(maxBytes = 1e9): Promise<{ dir: string; spool: Spool }> {
  const dir = tempDir();
  return { dir, spool: await spoolIn(join(dir, 'spool'), { maxBytes }) };
}

function once(socket: Socket): Promise<void> {
  return new Promise((resolve, reject) => {
    socket.once('connect', () => {
      socket.destroy();
      resolve();
    });
    socket.once('error', reject);
  });
}

/** A request as it stands on the wire, whose client then ends its side; resolves to the whole answer. */
async function sendRaw(port: number, headers: string, body: string, announced = body.length): Promise<string> {
  return answerOn(connect({ port, host: '127.0.0.1', allowHalfOpen: true }), headers, body, announced);
}

async function answerOn(socket: Socket, headers: string, body: string, announced = body.length): Promise<string> {
  onTestFinished(() => void socket.destroy());
  let text = '';
  socket.on('data', (chunk: Buffer) => (text += chunk.toString()));
  socket.on('error', () => undefined);
  const head = `POST /ingest HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-ndjson\r\n${headers}`;
  socket.end(`${head}content-length: ${announced}\r\n\r\n${body}`);
  await new Promise((resolve) => socket.once('end', resolve));
  return text;
}

interface Answer {
  readonly status: number;
  readonly body: { accepted?: number; error?: string; line?: number };
  readonly headers: Headers;
}

async function post(url: string, body: string | Buffer, headers: Record<string, string> = {}): Promise<Answer> {
  const response = await fetch(url, {
    method: 'POST',
    body,
    headers: { 'content-type': 'application/x-ndjson', ...headers },
    signal: AbortSignal.timeout(HANG_MS),
  });
  const { status } = response;
  return { status, body: (await response.json()) as Answer['body'], headers: response.headers };
}

async function stored(spool: Spool): Promise<{ key: string | undefined; value: string }[]> {
  return (await readAll(spool)).map((entry) => {
    if (entry.kind !== 'reading') throw new Error('a gap');
    return { key: entry.key?.toString(), value: entry.value.toString() };
  });
}

test('NDJSON, an object, an array and gzip are accepted, as they were written', async () => {
  const { url, spool, output } = await ingest({ sensor: 'id' });
  const big = '{"id":"a", "n":12345678901234567890.10}';
  expect((await post(url, `${big}\n\n  \r\n{"id":7}\r\n5`)).body).toEqual({ accepted: 3 });
  const json = { 'content-type': 'application/json; charset=UTF-8' };
  expect((await post(url, '\n{"id":"o"}\n', json)).body).toEqual({ accepted: 1 });
  const array = `\n[ ${big} , {"id":"]\\\\\\"","x":[1,{"y":"}"}]},\n"text"]`;
  const zipped = { ...json, 'content-encoding': 'gzip' };
  expect((await post(url, gzipSync(array), zipped)).body).toEqual({ accepted: 3 });
  expect((await post(url, '[]', json)).body).toEqual({ accepted: 0 });
  expect((await post(url, '')).body).toEqual({ accepted: 0 });
  expect(await stored(spool)).toEqual([
    { key: 'a', value: big },
    { key: '7', value: '{"id":7}' },
    { key: undefined, value: '{"value":5}' },
    { key: 'o', value: '\n{"id":"o"}\n' },
    { key: 'a', value: expect.stringContaining(big) as string },
    { key: ']\\"', value: '{"id":"]\\\\\\"","x":[1,{"y":"}"}]}' },
    { key: undefined, value: '{"value":"text"}' },
  ]);
  expect(output.counters).toMatchObject({ readings: 7, events: { request: 5 } });
});

test('what is refused is named with its line, and nothing of it is taken', async () => {
  const { url, spool, output } = await ingest({ maxBodyBytes: 4096, token: 'secret' });
  const authorization = 'Bearer secret';
  const json = { authorization, 'content-type': 'application/json' };
  const zip = { authorization, 'content-encoding': 'gzip' };
  const cases: [string | Buffer, Record<string, string>, number, string, number?][] = [
    ['{"n":1}\n{"n":2}\n{"n":\n{"n":4}', { authorization }, 400, 'the line is not JSON: ', 3],
    [Buffer.from('{"n":1}\n\n"\xff"', 'latin1'), { authorization }, 400, 'the line is not UTF-8', 3],
    ['[{"n":1},\n{"n":2},\n\n{n:3}]', json, 400, 'the element is not JSON: ', 4],
    ['[{"n":1},]', json, 400, 'the element is not JSON: ', 1],
    ['[{"n":1}', json, 400, 'the array does not end, or something follows it', 1],
    ['[{"n":1}]\n[', json, 400, 'the array does not end, or something follows it', 1],
    ['["', json, 400, 'the array does not end', 1],
    ['', json, 400, 'the element is not JSON', 1],
    ['{"n":1}\n'.repeat(1000), { authorization }, 413, 'more than maxBodyBytes (4096 bytes)'],
    [gzipSync('{"n":1}\n'.repeat(1_000_000)), zip, 413, 'more than maxBodyBytes (4096 bytes)'],
    ['{"n":1}', zip, 400, 'the body is not gzip: '],
    [gzipSync('{"n":1}').subarray(0, 20), zip, 400, 'the body is not gzip: '],
    ['{"n":1}', { authorization, 'content-encoding': 'br' }, 415, "Content-Encoding 'br' is not supported"],
    ['{"n":1}', { authorization, 'content-type': 'text/csv' }, 415, "Content-Type 'text/csv' is not supported"],
    ['{"n":1}', { ...json, 'content-type': 'application/json; charset=latin1' }, 415, "charset 'latin1'"],
    ['{"n":1}', {}, 401, 'expected Authorization: Bearer'],
    ['{"n":1}', { authorization: 'Bearer secret2' }, 401, 'expected Authorization: Bearer'],
    ['{"n":1}', { authorization, 'idempotency-key': 'k'.repeat(256) }, 400, 'Idempotency-Key: expected'],
  ];
  for (const [body, headers, status, error, line] of cases) {
    const answer = await post(url, body, headers);
    expect({ body: body.toString().slice(0, 30), status: answer.status, ...answer.body }).toEqual({
      body: body.toString().slice(0, 30),
      status,
      error: expect.stringContaining(error) as string,
      ...(line === undefined ? {} : { line }),
    });
  }
  expect(await post(url.replace('/ingest', '/else'), '{}', { authorization })).toMatchObject({ status: 404 });
  const got = await fetch(url, { signal: AbortSignal.timeout(HANG_MS) });
  expect([got.status, got.headers.get('allow')]).toEqual([405, 'POST']);
  expect(spool.lastSeq('t')).toBe(0n);
  expect(output.counters).toMatchObject({ readings: 0, quarantined: 0 });
  expect(output.counters.events).toEqual({
    refused_400: 11,
    refused_401: 2,
    refused_404: 1,
    refused_405: 1,
    refused_413: 2,
    refused_415: 3,
  });
  expect((await post(url, '{"n":1}', { authorization })).body).toEqual({ accepted: 1 });
});

test('a body of many tiny or deeply nested values is refused or taken, and never takes the agent down', async () => {
  const { url, spool } = await ingest();
  expect((await post(url, '1\n'.repeat(200_000))).body.error).toContain('more than 100000 readings');
  const commas = `[${'1,'.repeat(500_000)}1]`;
  expect((await post(url, commas, { 'content-type': 'application/json' })).body.error).toContain('more than 100000');
  const deep = '['.repeat(300_000) + ']'.repeat(300_000);
  expect(await post(url, deep)).toMatchObject({ status: 200 });
  expect((await post(url, `{"a":${'x'.repeat(1_100_000)}`)).status).toBe(400);
  expect((await post(url, JSON.stringify({ a: 'x'.repeat(1_100_000) }))).body.error).toContain('can be carried');
  expect(await stored(spool)).toEqual([{ key: undefined, value: `{"value":${deep}}` }]);
});

test('the elements of any array are found where JSON has them', () => {
  fc.assert(
    fc.property(fc.array(fc.json(), { minLength: 0 }), fc.constantFrom('', ' ', '\n', '\t\r\n'), (values, blank) => {
      const text = `${blank}[${values.map((value) => `${blank}${value}${blank}`).join(',')}]${blank}`;
      const elements = splitArray(Buffer.from(text), 1e6);
      if ('brokenAtLine' in elements) throw new Error('not an array');
      expect(elements.map(({ bytes }) => JSON.parse(bytes.toString()) as unknown)).toEqual(JSON.parse(text));
    }),
    { numRuns: 300 },
  );
});

test('a full spool refuses with 429 and Retry-After, and takes the same request again once there is room', async () => {
  const { url, spool, output } = await ingest({}, await inTemp(1_048_576));
  const body = `${'{"n":"'.padEnd(1000, 'x')}"}\n`.repeat(50);
  let requests = 0;
  let answer = await post(url, body, { 'idempotency-key': String(requests) });
  for (; answer.status === 200; requests += 1) {
    answer = await post(url, body, { 'idempotency-key': String(requests + 1) });
  }
  expect(answer).toMatchObject({ status: 429, body: { error: expect.stringContaining('is full') as string } });
  expect(Number(answer.headers.get('retry-after'))).toBeGreaterThan(0);
  expect(output.counters.isHeldUp).toBe(true);
  expect(spool.lastSeq('t')).toBe(BigInt(50 * requests));
  spool.acknowledge('t', spool.lastSeq('t'));
  await vi.waitFor(async () => {
    expect((await post(url, body, { 'idempotency-key': String(requests) })).status).toBe(200);
  }, HANG_MS);
  expect(spool.lastSeq('t')).toBe(BigInt(50 * (requests + 1)));
});

test('slow clients are answered 408 and hold up nobody; connections are bounded', async () => {
  const { url, port, output } = await ingest({ timeout: '1s', maxConnections: 8 });
  const head = 'POST /ingest HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-ndjson\r\n';
  const beginnings = [
    '',
    'POST /ing',
    head,
    `${head}content-length: 100\r\n\r\n{"n":`,
    `${head}transfer-encoding: chunked\r\n\r\n5\r\n{"n`,
  ];
  const answers = beginnings.map(async (beginning) => {
    const socket = connect(port, '127.0.0.1');
    onTestFinished(() => void socket.destroy());
    let text = '';
    socket.on('data', (chunk: Buffer) => (text += chunk.toString()));
    socket.on('error', () => undefined);
    socket.write(beginning);
    const timer = setInterval(() => socket.write(beginning.includes('\r\n\r\n') ? '1' : 'x'), 200);
    await new Promise((resolve) => socket.once('close', resolve));
    clearInterval(timer);
    return text.split('\r\n', 1)[0];
  });
  expect((await post(url, '{"n":1}', { connection: 'close' })).status).toBe(200);
  const ended = await Promise.all(answers);
  expect(ended.slice(1)).toEqual(
    Array.from({ length: 4 }, () => expect.stringMatching(/^HTTP\/1.1 (408|400)/) as string),
  );
  const idle = Array.from({ length: 12 }, () => connect(port, '127.0.0.1').on('error', () => undefined));
  onTestFinished(() => idle.forEach((socket) => socket.destroy()));
  await vi.waitFor(() => expect(output.counters.events['connection_dropped']).toBe(4), HANG_MS);
});

test('a client that ends its side behind the request gets its answer; one that ends it within the request is told, and nothing is taken', async () => {
  const { port, spool } = await ingest();
  expect(await sendRaw(port, '', '{"n":1}')).toMatch(/^HTTP\/1.1 200[^]*{"accepted":1}\n$/);
  expect(await sendRaw(port, '', '{"n":2}', 70)).toMatch(/^HTTP\/1.1 400/);
  expect((await stored(spool)).map(({ value }) => value)).toEqual(['{"n":1}']);
});

test('bodies share a bounded memory: who finds none waits in order, and gives up after its time', async () => {
  const budget = new BodyBudget(100);
  expect(await budget.reserve(60, 10_000)).toBe(true);
  const order: string[] = [];
  const large = budget.reserve(80, 10_000).then((got) => order.push(`large ${got}`));
  const small = budget.reserve(10, 10_000).then((got) => order.push(`small ${got}`));
  expect(await budget.reserve(50, 10)).toBe(false);
  expect(order).toEqual([]);
  budget.release(60);
  await Promise.all([large, small]);
  expect(order).toEqual(['large true', 'small true']);
  budget.release(90);
  expect(await budget.reserve(100, 0)).toBe(true);
});

describe('Idempotency-Key', () => {
  const key = (text: string): Record<string, string> => ({ 'idempotency-key': text });

  test('a repeat gets the first answer, also when it comes meanwhile or after a restart, and another body is refused', async () => {
    const { dir, spool } = await inTemp();
    const first = await ingest({}, { dir, spool });
    const body = '{"n":1}\n{"n":2}\n';
    const answers = await Promise.all(Array.from({ length: 5 }, () => post(first.url, body, key('k1'))));
    expect(answers.map((answer) => answer.body.accepted)).toEqual([2, 2, 2, 2, 2]);
    expect(answers.filter(({ headers }) => headers.get('idempotency-replayed') === null)).toHaveLength(1);
    expect(await post(first.url, '{"n":3}', key('k1'))).toMatchObject({ status: 422 });
    expect(await post(first.url, 'bad', key('k2'))).toMatchObject({ status: 400 });
    // A proxy that sets it twice; joined it would be a key that nobody repeats.
    const twice = await sendRaw(first.port, 'idempotency-key: k2\r\nidempotency-key: k2\r\n', '{"n":3}');
    expect(twice).toMatch(/^HTTP\/1.1 400[^]*expected one key/);
    expect((await post(first.url, '{"n":3}', key('k2'))).body).toEqual({ accepted: 1 });
    await first.stop();
    await spool.close();
    const again = await openSpool({ dir: join(dir, 'spool'), agent: 'a', maxBytes: 1e9, whenFull: 'reject' });
    onTestFinished(() => again.close());
    // On the same port: the address is the source's name.
    const config = sourceConfig({ type: 'http', listen: `127.0.0.1:${first.port}`, path: '/ingest', to: 't' });
    runSource(httpSource(config, dir, 1000), again, dir);
    await vi.waitFor(
      async () =>
        expect((await post(first.url, gzipSync(body), { ...key('k1'), 'content-encoding': 'GZip' })).body).toEqual({
          accepted: 2,
        }),
      HANG_MS,
    );
    expect(await post(first.url, '{"n":4}', key('k2'))).toMatchObject({ status: 422 });
    expect(again.lastSeq('t')).toBe(3n);
  });

  test('the newest keys are remembered, as many as configured', async () => {
    const { url, spool } = await ingest({ idempotencyKeys: 3 });
    for (const name of ['a', 'b', 'c', 'd']) await post(url, '{}', key(name));
    expect(spool.receipts(`http:${new URL(url).host}/ingest`).size).toBe(3);
    expect((await post(url, '{}', key('b'))).headers.get('idempotency-replayed')).toBe('true');
    expect((await post(url, '{}', key('a'))).headers.get('idempotency-replayed')).toBeNull();
    expect(spool.lastSeq('t')).toBe(5n);
  });

  test('under kill -9, again and again, each acknowledged request is in the log exactly once, in order per sensor', async () => {
    const dir = tempDir();
    const [port = 0] = await freePorts(1);
    const agent = new AgentProcess(
      dir,
      `agent: { id: edge-1, dataDir: ./agent }
log: file:./log
uplink: { order: oldestFirst }
sources: [{ type: http, listen: "127.0.0.1:${port}", path: /ingest, to: machine, sensor: id }]
`,
    );
    const acknowledged: number[] = [];
    const stopping = new AbortController();
    /** One client: its next request is sent when the one before was answered, and repeated until then. */
    const client = async (id: number): Promise<void> => {
      for (let request = 0; !stopping.signal.aborted; request += 1) {
        const numbers = Array.from({ length: 1 + (request % 7) }, (_, index) => id * 1e6 + request * 10 + index);
        const body = numbers.map((n) => `{"n":${n},"id":"s${id}"}\n`).join('');
        for (;;) {
          const answer = await post(`http://127.0.0.1:${port}/ingest`, body, key(`${id}-${request}`)).catch(() => null);
          if (answer === null) await delay(10);
          else {
            expect(answer).toMatchObject({ status: 200, body: { accepted: numbers.length } });
            break;
          }
        }
        acknowledged.push(...numbers);
      }
    };
    agent.start();
    const clients = Array.from({ length: 8 }, (_, id) => client(id));
    for (let round = 0; round < 6; round += 1) {
      const before = acknowledged.length;
      await vi.waitFor(() => expect(acknowledged.length).toBeGreaterThan(before + 100 + round * 37), HANG_MS);
      await agent.end('SIGKILL');
      agent.start();
    }
    const before = acknowledged.length;
    await vi.waitFor(() => expect(acknowledged.length).toBeGreaterThan(before + 100), HANG_MS);
    stopping.abort();
    await Promise.all(clients);
    expect(await agent.end('SIGTERM')).toBe(0);
    const records = await numberedIn(`file:${join(dir, 'log')}`, 'machine');
    expect(flawsOf(records, acknowledged)).toEqual([]);
    expect(records).toHaveLength(acknowledged.length);
  });
});

test('the token of a file may change while the agent runs; a missing file is a problem with its name', async () => {
  const { dir, spool } = await inTemp();
  writeFileSync(join(dir, 'token'), 'one\n');
  const { url } = await ingest({ tokenFile: './token' }, { dir, spool });
  expect((await post(url, '{}', { authorization: 'Bearer one' })).status).toBe(200);
  writeFileSync(join(dir, 'token'), 'two\n');
  await vi.waitFor(async () => expect((await post(url, '{}', { authorization: 'Bearer two' })).status).toBe(200), {
    timeout: HANG_MS,
    interval: 200,
  });
  expect((await post(url, '{}', { authorization: 'Bearer one' })).status).toBe(401);
  const config = sourceConfig({ type: 'http', listen: '127.0.0.1:1', to: 't', tokenFile: './none' });
  const output = { clock: { nowMs: Date.now, monotonicMs: () => performance.now() } };
  await expect(httpSource(config, dir, 1).run(output as never, AbortSignal.timeout(HANG_MS))).rejects.toMatchObject({
    code: 'config',
    message: expect.stringContaining('tokenFile: cannot read ./none') as string,
  });
});

test('over TLS, with a certificate of the client where one is asked for', async () => {
  const { dir, spool } = await inTemp();
  const { ca, server, client } = makeCertificates(dir);
  const { port } = await ingest({ tls: { ...server, clientCa: ca } }, { dir, spool });
  const send = (certificate: object): Promise<number | undefined> =>
    new Promise((resolve, reject) => {
      const headers = { 'content-type': 'application/json' };
      const options = { host: '127.0.0.1', port, path: '/ingest', method: 'POST', headers, ca: readFileSync(ca) };
      requestByTls({ ...options, ...certificate, agent: false }, (response) => {
        response.resume();
        resolve(response.statusCode);
      })
        .once('error', reject)
        .end('{"n":1}');
    });
  const certificate = { cert: readFileSync(client.cert), key: readFileSync(client.key) };
  expect(await send(certificate)).toBe(200);
  await expect(send({})).rejects.toThrow(/certificate required|ECONNRESET|socket hang up/);
  expect(spool.lastSeq('t')).toBe(1n);
  // A client may end its side behind the request here as well.
  const options = { host: '127.0.0.1', port, ca: readFileSync(ca), ...certificate, allowHalfOpen: true };
  expect(await answerOn(connectTls(options), '', '{"n":2}')).toMatch(/^HTTP\/1.1 200[^]*{"accepted":1}\n$/);
});

test('over TLS: who connects and never shakes hands does not hold up the end of the source', async () => {
  const { dir, spool } = await inTemp();
  const { server } = makeCertificates(dir);
  const running = await ingest({ tls: server }, { dir, spool });
  const silent = connect(running.port, '127.0.0.1');
  const closed = new Promise((resolve) => silent.once('close', resolve));
  await new Promise((resolve) => silent.once('connect', resolve));
  // Node ends a handshake after two minutes.
  expect(await Promise.race([running.stop(), delay(HANG_MS / 2, 'hangs', { ref: false })])).toBeUndefined();
  await closed;
});
