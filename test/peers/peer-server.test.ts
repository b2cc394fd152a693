/** What a peer's server bears: more requests than it may serve, clients that read nothing, a store that takes its time. */
import { crc32c } from '@node-rs/crc32';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { open, writeFile } from 'node:fs/promises';
import { request } from 'node:http';
import type { ClientRequest, IncomingMessage } from 'node:http';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import type { BlockReader, LentMemory } from '../../fs-gateway/data/block-reader.ts';
import { ownPiece } from '../../fs-gateway/data/pieces.ts';
import { PeerServer } from '../../fs-gateway/peers/peer-server.ts';
import { piecePath } from '../../fs-gateway/peers/protocol.ts';
import { until } from '../support/mount-guard.ts';
import { tempDir } from '../support/temp.ts';

const VOLUME_ID = '0f0f0f0f-1111-4222-8333-444444444444';
const TOKEN = 'cd'.repeat(32);
const MIB = 2 ** 20;

async function serve(lend: BlockReader['lend'] | undefined): Promise<PeerServer> {
  const server = await PeerServer.open('127.0.0.1:0');
  onTestFinished(() => server.close());
  if (lend !== undefined) {
    server.serve({ volumeId: VOLUME_ID, token: TOKEN, reader: { lend }, metrics: () => 'metrics\n' });
  }
  return server;
}

function lent(data: Buffer, giveBack: () => void = () => undefined): LentMemory {
  return { data, giveBack };
}

function ask({ address }: PeerServer, objectId: number, bytes: number): ClientRequest {
  const piece = ownPiece(VOLUME_ID, { objectId, pieceOffset: 0, pieceBytes: bytes, storedBytes: bytes, crc: 1 });
  const asking = request(`http://${address}${piecePath(VOLUME_ID, piece)}`, {
    headers: { authorization: `Bearer ${TOKEN}` },
    agent: false,
  });
  asking.on('error', () => undefined); // Those that are cut off at the end.
  onTestFinished(() => void asking.destroy());
  asking.end();
  return asking;
}

async function answerOf(asking: ClientRequest): Promise<IncomingMessage> {
  const [response] = (await once(asking, 'response')) as [IncomingMessage]; // what the event carries
  return response;
}

async function bodyOf(asking: ClientRequest): Promise<Buffer> {
  const response = await answerOf(asking);
  expect(response.statusCode).toBe(200);
  return Buffer.concat((await response.toArray()) as Buffer[]);
}

test('a piece from a file is streamed as it is there, and the file is closed', async () => {
  const data = randomBytes(3 * MIB);
  const trailer = Buffer.alloc(4);
  trailer.writeUInt32LE(crc32c(data));
  const path = join(tempDir('piece'), 'piece');
  await writeFile(path, Buffer.concat([data, trailer]));
  const file = await open(path);
  const server = await serve(() => Promise.resolve(file));
  expect((await bodyOf(ask(server, 1, data.length))).equals(Buffer.concat([data, trailer]))).toBe(true);
  await until('the file is closed', () => file.fd === -1);
  await until('it is counted', () => server.servedBytes === data.length);
});

test('a file of another length than the piece is refused, and closed too', async () => {
  const path = join(tempDir('piece'), 'piece');
  await writeFile(path, randomBytes(100));
  const file = await open(path);
  expect((await answerOf(ask(await serve(() => Promise.resolve(file)), 1, 100))).statusCode).toBe(400);
  await until('the file is closed', () => file.fd === -1);
});

test('while the store is asked there are signs of life', async () => {
  const waiting = Promise.withResolvers<LentMemory>();
  const asking = ask(await serve(() => waiting.promise), 1, 5);
  const [information] = (await once(asking, 'information')) as [{ statusCode: number }]; // what the event carries
  expect(information.statusCode).toBe(102);
  const body = bodyOf(asking);
  waiting.resolve(lent(Buffer.from('bytes')));
  expect((await body).subarray(0, 5).toString()).toBe('bytes');
});

test('more than 128 requests at a time are refused, and served again when there is room', async () => {
  const waiting = Promise.withResolvers<LentMemory>();
  let lending = 0;
  const all = Promise.withResolvers<undefined>();
  const server = await serve(() => {
    if (++lending === 128) all.resolve(undefined);
    return waiting.promise;
  });
  const asked = Array.from({ length: 128 }, (_, n) => ask(server, n, 5));
  await all.promise;
  expect((await answerOf(ask(server, 200, 5))).statusCode).toBe(503);
  const bodies = Promise.all(asked.map(bodyOf));
  waiting.resolve(lent(Buffer.from('bytes')));
  expect(new Set((await bodies).map((body) => body.subarray(0, 5).toString()))).toEqual(new Set(['bytes']));
  expect((await bodyOf(ask(server, 200, 5))).length).toBe(9);
});

test('clients that read nothing hold 128 MiB of different blocks at most, however many hold the same', async () => {
  const blocks = new Map<number, Buffer>();
  let onLoan = 0;
  const server = await serve(({ objectId }) => {
    const id = objectId ?? 0;
    const block = blocks.get(id) ?? Buffer.alloc(16 * MIB, id);
    blocks.set(id, block);
    onLoan++;
    return Promise.resolve(lent(block, () => onLoan--));
  });
  const held: IncomingMessage[] = [];
  for (let n = 0; n < 8; n++) {
    // The same block twice: it is in memory once. (Their answers begin, and nobody reads on.)
    for (let i = 0; i < 2; i++) held.push((await answerOf(ask(server, n, 16 * MIB))).pause());
  }
  expect(held.map(({ statusCode }) => statusCode)).toEqual(Array(16).fill(200));
  expect((await answerOf(ask(server, 8, 16 * MIB))).statusCode).toBe(503);
  for (const response of held) response.destroy();
  let status = 503;
  while (status === 503) status = (await answerOf(ask(server, 8, 16 * MIB))).statusCode ?? 0;
  expect(status).toBe(200);
  await server.close();
  await until('all memory is given back', () => onLoan === 0);
});

test('before the volume is open it is alive and not ready', async () => {
  const { address } = await serve(undefined);
  const status = async (path: string): Promise<number> => (await fetch(`http://${address}${path}`)).status;
  expect(await Promise.all(['/healthz', '/readyz', '/metrics', `/v1/${VOLUME_ID}/piece`].map(status))).toEqual([
    200, 503, 503, 503,
  ]);
});
