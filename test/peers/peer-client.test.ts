/** What a peer can do wrong: the piece then comes from elsewhere (null), and the peer is not asked for a while. */
import { crc32, crc32c } from '@node-rs/crc32';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { RequestListener } from 'node:http';
import { createServer as createTcpServer } from 'node:net';
import type { AddressInfo, Server } from 'node:net';
import { expect, onTestFinished, test } from 'vitest';
import { externalPiece, ownPiece } from '../../fs-gateway/data/pieces.ts';
import type { Piece } from '../../fs-gateway/data/pieces.ts';
import { PeerClient } from '../../fs-gateway/peers/peer-client.ts';
import type { PeerLimits } from '../../fs-gateway/peers/peer-client.ts';
import { PeerDirectory } from '../../fs-gateway/peers/peer-directory.ts';
import { HANG_MS } from '../support/hang.ts';
import { freePort } from '../support/ports.ts';
import { inTurns } from '../support/turns.ts';

const VOLUME_ID = '0f0f0f0f-1111-4222-8333-444444444444';
const TOKEN = 'ab'.repeat(32);
const DATA = randomBytes(300_000);
const PIECE = ownPiece(VOLUME_ID, {
  objectId: 7,
  pieceOffset: 0,
  pieceBytes: DATA.length,
  storedBytes: 1000,
  crc: crc32c(DATA),
});

function answer(data: Buffer, crc = crc32c(data)): Buffer {
  const trailer = Buffer.alloc(4);
  trailer.writeUInt32LE(crc);
  return Buffer.concat([data, trailer]);
}

async function addressOf(server: Server): Promise<string> {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  onTestFinished(async () => {
    if ('closeAllConnections' in server) (server as ReturnType<typeof createServer>).closeAllConnections(); // an HTTP server
    if (server.listening) await new Promise((done) => server.close(done));
  });
  return `127.0.0.1:${(server.address() as AddressInfo).port}`; // a TCP server's address is never a string
}

interface Harness {
  readonly client: PeerClient;
  readonly reports: string[];
  readonly pass: (ms: number) => void;
}

/** For those that are slow, `inTurns`; others must not be taken for slow because this process stands still. */
const SHORT: PeerLimits = { silenceMs: 300, deadlineMs: 900 };
const LONG: PeerLimits = { silenceMs: HANG_MS, deadlineMs: HANG_MS };

/** A client of a group in which everything is kept by the member at `address`. */
async function clientOf(address: string, limits = LONG): Promise<Harness> {
  const directory = new PeerDirectory({
    volume: 'lake',
    group: 'train',
    mountId: 'self',
    host: 'here',
    serves: false,
    sessions: () =>
      Promise.resolve([
        {
          ...{ id: 5, kind: 'mount', host: 'here', pid: 1, startedMs: 0, renewedMs: 0, live: true },
          detail: { volume: 'lake', cacheGroup: 'train', mountId: 'other', peer: address },
        },
      ]),
  });
  await directory.refresh();
  let nowMs = 0;
  const reports: string[] = [];
  const client = new PeerClient({
    directory,
    volumeId: VOLUME_ID,
    token: TOKEN,
    clock: { nowMs: () => nowMs, monotonicMs: () => nowMs },
    limits,
    report: (message) => reports.push(message),
  });
  onTestFinished(() => {
    directory.close();
    client.close();
  });
  return { client, reports, pass: (ms) => void (nowMs += ms) };
}

const http = (listener: RequestListener): Promise<string> => addressOf(createServer(listener));

test('a piece comes whole, with the token, over one connection after another', async () => {
  const seen: string[] = [];
  const connections = new Set<number | undefined>();
  const address = await http((request, response) => {
    seen.push(`${request.method} ${request.url} ${request.headers.authorization}`);
    connections.add(request.socket.remotePort);
    const body = answer(DATA);
    response.writeHead(200, { 'content-length': body.length });
    // In three parts, one of which splits the checksum.
    response.write(body.subarray(0, 1000));
    response.write(body.subarray(1000, body.length - 2), () => response.end(body.subarray(body.length - 2)));
  });
  const { client } = await clientOf(address);
  for (let i = 0; i < 3; i++) expect((await client.fetch(PIECE))?.equals(DATA)).toBe(true);
  expect(new Set(seen)).toEqual(
    new Set([
      `GET /v1/${VOLUME_ID}/piece?object=7&offset=0&stored=1000&bytes=300000&crc=${crc32c(DATA)} Bearer ${TOKEN}`,
    ]),
  );
  expect(connections.size).toBe(1);
  expect(client.fetchedBytes).toBe(3 * DATA.length);
});

const flipped = Buffer.from(DATA);
flipped[99_999] = (flipped[99_999] ?? 0) ^ 1;
const send =
  (body: Buffer, status = 200): RequestListener =>
  (_request, response) =>
    void response.writeHead(status, { 'content-length': body.length }).end(body);
const external = externalPiece({ key: 'tables/a/b/data/x.parquet', objectBytes: DATA.length }, 0);

test.each<[what: string, listener: RequestListener, problem: string, asideMs: number, piece: Piece]>([
  ['other bytes with their own checksum', send(answer(flipped)), 'lied', 600_000, PIECE],
  ['other bytes with the right checksum', send(answer(flipped, crc32c(DATA))), 'lied', 600_000, PIECE],
  ['damage on the way, of an object of the lake', send(answer(flipped, crc32(DATA))), 'lied', 600_000, external],
  ['too few bytes', send(answer(DATA.subarray(1))), 'lied', 600_000, PIECE],
  ['too many bytes', send(Buffer.concat([answer(DATA), DATA])), 'lied', 600_000, PIECE],
  ['no length', (_, response) => void response.writeHead(200).end(answer(DATA)), 'lied', 600_000, PIECE],
  [
    'half an answer',
    (_, response) =>
      void response
        .writeHead(200, { 'content-length': 300_004 })
        .write(DATA.subarray(0, 1000), () => response.destroy()),
    'gone',
    10_000,
    PIECE,
  ],
  ['no answer', () => undefined, 'slow', 30_000, PIECE],
  [
    'half an answer and then nothing',
    (_, response) => void response.writeHead(200, { 'content-length': 300_004 }).write(DATA.subarray(0, 1000)),
    'slow',
    30_000,
    PIECE,
  ],
  [
    'signs of life and no end',
    (_, response) => void setInterval(() => response.writeProcessing(), 50).unref(),
    'slow',
    30_000,
    PIECE,
  ],
  ['too many requests', send(Buffer.from('busy'), 503), 'busy', 500, PIECE],
  ['another token', send(Buffer.from('no'), 401), 'refused', 60_000, PIECE],
  ['another program', send(Buffer.from('<html>'), 404), 'refused', 60_000, PIECE],
])('%s', async (_what, listener, problem, asideMs, piece) => {
  let requests = 0;
  const address = await http((request, response) => {
    requests++;
    listener(request, response);
  });
  const { client, reports, pass } = await clientOf(address, problem === 'slow' ? SHORT : LONG);
  const fetch = (): Promise<Buffer | null> => inTurns(() => client.fetch(piece));
  expect(await fetch()).toBeNull();
  expect(client.problems).toMatchObject({ [problem]: 1 });
  expect(Object.values(client.problems).reduce((a, b) => a + b)).toBe(1);
  expect(reports.length).toBe(problem === 'busy' ? 0 : 1);
  // It is aside, and asked again when that is over.
  pass(asideMs - 1);
  expect(await fetch()).toBeNull();
  expect([requests, client.asideCount]).toEqual([1, 1]);
  pass(1);
  expect(client.asideCount).toBe(0);
  await fetch();
  expect(requests).toBe(2);
});

test('a peer that answered while this process stood still is not slow', async () => {
  const data = DATA.subarray(0, 1000);
  const limits = { silenceMs: 100, deadlineMs: 150 };
  const address = await http((_, response) => {
    const standStill = (): void => void Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 500);
    // When this is called, the kernel has the answer: it can be read, and both limits are over.
    response.writeHead(200, { 'content-length': data.length + 4 }).end(answer(data), standStill);
  });
  const { client } = await clientOf(address, limits);
  const piece = { objectId: 7, pieceOffset: 0, pieceBytes: data.length, storedBytes: 1000, crc: crc32c(data) };
  expect((await client.fetch(ownPiece(VOLUME_ID, piece)))?.equals(data)).toBe(true);
  expect([client.problems.slow, client.asideCount]).toEqual([0, 0]);
});

test('a store that does not give a piece to the peer is not the fault of the peer', async () => {
  const { client, reports } = await clientOf(await http(send(Buffer.from('no'), 502)));
  expect(await client.fetch(PIECE)).toBeNull();
  expect([client.problems.failed, client.asideCount, reports.length]).toEqual([1, 0, 0]);
});

test('a peer that is gone, and one that is no HTTP server', async () => {
  const gone = await clientOf(`127.0.0.1:${await freePort()}`);
  expect(await gone.client.fetch(PIECE)).toBeNull();
  expect(gone.client.problems.gone).toBe(1);
  expect(gone.reports[0]).toMatch(/^peer 127\.0\.0\.1:\d+: .*ECONNREFUSED.*; it is not asked for 10 s, the store is$/);
  const server = createTcpServer((socket) => {
    // Who hears that it is no HTTP hangs up.
    socket.on('error', () => undefined);
    socket.resume().end('220 ready\r\n');
  });
  const noise = await clientOf(await addressOf(server));
  expect(await noise.client.fetch(PIECE)).toBeNull();
  expect(noise.client.problems.gone).toBe(1);
});

test('a connection that the peer closed while it was idle puts nobody aside', async () => {
  const serve = send(answer(DATA));
  let requests = 0;
  const server = createServer((request, response) => {
    // The second is cut instead of answered, as by a server whose idle time was over in the moment in which it came.
    if (++requests === 2) request.socket.resetAndDestroy();
    else serve(request, response);
  });
  server.keepAliveTimeout = 60_000;
  const { client } = await clientOf(await addressOf(server));
  expect((await client.fetch(PIECE))?.equals(DATA)).toBe(true);
  expect(await client.fetch(PIECE)).toBeNull();
  expect((await client.fetch(PIECE))?.equals(DATA)).toBe(true);
  expect([requests, client.problems.failed, client.asideCount]).toEqual([3, 1, 0]);
});

test('one that keeps a piece itself asks nobody', async () => {
  const directory = new PeerDirectory({
    ...{ volume: 'lake', group: 'train', mountId: 'self', host: 'here', serves: true },
    sessions: () => Promise.resolve([]),
  });
  await directory.refresh();
  const client = new PeerClient({
    ...{ directory, volumeId: VOLUME_ID, token: TOKEN, limits: LONG },
    clock: { nowMs: () => 0, monotonicMs: () => 0 },
    report: () => undefined,
  });
  expect(client.keeps(PIECE)).toBe(true);
  expect(await client.fetch(PIECE)).toBeNull();
  directory.close();
  client.close();
});
