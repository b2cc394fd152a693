/**
 * Serves pieces to the mounts of the same cache group: those that the node's cache has, and others fetched from the store for whoever asks
 * first. Also `/healthz`, `/readyz` and `/metrics`, which need no token.
 *
 * Invariants: reads only; what is served is immutable, so it cannot be out of date. Nothing but pieces of this volume's blocks and of the
 * lake's objects, to who has the volume's token. Never asks another peer.
 * Limits: CONNECTIONS_MAX; REQUESTS_MAX pieces at a time, and LENT_BYTES_MAX of them in memory (from the disk they are streamed): more is
 * 503, and the peer asks the store. A peer that does not take its answer is cut off after ANSWER_MS.
 */
import { createServer } from 'node:http';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { FileHandle } from 'node:fs/promises';
import { pipeline } from 'node:stream/promises';
import { isCode, PenstockError } from '../../lib/errors.ts';
import type { BlockReader } from '../data/block-reader.ts';
import { bytesWithTrailer, trailerOf } from '../data/piece-trailer.ts';
import type { Piece } from '../data/pieces.ts';
import { announced, listen, parseListen } from './address.ts';
import { isAuthorized, parsePiecePath } from './protocol.ts';

const CONNECTIONS_MAX = 1024;
const REQUESTS_MAX = 128;
/** Sixteen blocks of the default size. */
const LENT_BYTES_MAX = 128 * 2 ** 20;
/** A client gives up before (peer-client.ts). */
const ANSWER_MS = 15_000;
/** A sign of life while the store is asked; a third of what a client waits for one. */
const ALIVE_MS = 1000;
/** Longer than clients keep an idle connection, so that they close it first. */
const KEEP_ALIVE_MS = 60_000;
const HEADERS_MS = 5000;

/** What is served, once the volume is open. */
export interface Serving {
  readonly volumeId: string;
  readonly token: string;
  readonly reader: Pick<BlockReader, 'lend'>;
  /** The Prometheus text of `/metrics`. */
  metrics(): string;
}

export class PeerServer {
  /** HOST:PORT for peers. */
  readonly address: string;
  readonly #server: Server;
  #serving: Serving | undefined;
  #requests = 0;
  /** Pieces that are being sent from memory, and to how many. */
  readonly #lent = new Map<Buffer, number>();
  #lentBytes = 0;
  servedBytes = 0;

  private constructor(server: Server, address: string) {
    this.#server = server;
    this.address = address;
    server.on('request', (request: IncomingMessage, response: ServerResponse) => void this.#answer(request, response));
  }

  /** Throws `usage`, `unavailable`. */
  static async open(address: string): Promise<PeerServer> {
    const server = createServer({ keepAliveTimeout: KEEP_ALIVE_MS, headersTimeout: HEADERS_MS });
    server.maxConnections = CONNECTIONS_MAX;
    const { host, port } = parseListen(address);
    return new PeerServer(server, announced({ host, port: await listen(server, { host, port }) }));
  }

  serve(serving: Serving): void {
    this.#serving = serving;
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const refuse = (status: number, text: string): void => {
      response.writeHead(status, { 'content-type': 'text/plain' }).end(`${text}\n`);
    };
    const serving = this.#serving;
    if (request.method !== 'GET') refuse(405, 'only GET');
    else if (request.url === '/healthz') refuse(200, 'ok');
    else if (serving === undefined) refuse(503, 'the volume is not open yet');
    else if (request.url === '/readyz') refuse(200, 'ready');
    else if (request.url === '/metrics') refuse(200, serving.metrics());
    else if (!isAuthorized(request.headers.authorization, serving.token)) refuse(401, 'not the token of this volume');
    else if (this.#requests >= REQUESTS_MAX) refuse(503, 'busy');
    else {
      this.#requests++;
      try {
        const piece = parsePiecePath(serving.volumeId, request.url ?? '');
        if (piece === null) refuse(404, 'there is /v1/VOLUME-ID/piece');
        else await this.#lend(serving, piece, response);
      } catch (error) {
        if (response.headersSent) response.destroy();
        else refuse(...refusal(error));
      } finally {
        this.#requests--;
      }
    }
  }

  async #lend({ reader }: Serving, piece: Piece, response: ServerResponse): Promise<void> {
    const alive = setInterval(() => response.writeProcessing(), ALIVE_MS);
    const found = await reader.lend(piece).finally(() => clearInterval(alive));
    const cut = setTimeout(() => response.destroy(), ANSWER_MS);
    try {
      if ('data' in found) await this.#sendMemory(found.data, piece, response);
      else await sendFile(found, piece, response);
      this.servedBytes += piece.bytes;
    } finally {
      clearTimeout(cut);
      if ('data' in found) found.giveBack();
    }
  }

  async #sendMemory(data: Buffer, piece: Piece, response: ServerResponse): Promise<void> {
    assertLength(data.length, piece.bytes);
    const holders = this.#lent.get(data) ?? 0;
    if (holders === 0 && this.#lentBytes + data.length > LENT_BYTES_MAX) {
      throw new PenstockError('full', `more than ${LENT_BYTES_MAX} bytes would be sent from memory`);
    }
    this.#lent.set(data, holders + 1);
    if (holders === 0) this.#lentBytes += data.length;
    try {
      const trailer = trailerOf(piece, data);
      writeHead(piece, response);
      await pipeline([data, trailer], response);
    } finally {
      const left = (this.#lent.get(data) ?? 1) - 1;
      if (left > 0) this.#lent.set(data, left);
      else {
        this.#lent.delete(data);
        this.#lentBytes -= data.length;
      }
    }
  }

  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    this.#server.closeAllConnections();
    await closed;
  }
}

async function sendFile(file: FileHandle, piece: Piece, response: ServerResponse): Promise<void> {
  try {
    assertLength((await file.stat()).size, bytesWithTrailer(piece));
    writeHead(piece, response);
    await pipeline(file.createReadStream({ start: 0, autoClose: false }), response);
  } finally {
    await file.close();
  }
}

function writeHead(piece: Piece, response: ServerResponse): void {
  response.writeHead(200, { 'content-type': 'application/octet-stream', 'content-length': bytesWithTrailer(piece) });
}

function assertLength(found: number, expected: number): void {
  if (found !== expected) throw new PenstockError('usage', `the piece has ${found} bytes, not ${expected}`);
}

function refusal(error: unknown): [status: number, text: string] {
  if (isCode(error, 'usage', 'config')) return [400, error.message];
  if (isCode(error, 'denied')) return [403, error.message];
  if (isCode(error, 'full')) return [503, error.message];
  // What it was is told to who asked the store itself; it may name keys, and no peer needs them.
  return [502, 'the store did not give it'];
}
