/**
 * A broker that answers what a test tells it to: one node, topic `t` with partition 0, whatever else is scripted by API key.
 * Requests and their order are recorded.
 */
import { once } from 'node:events';
import { createServer, type Server, type Socket } from 'node:net';
import { onTestFinished } from 'vitest';
import type { AbortedTransaction } from '../../lib/log/kafka/committed-batches.ts';
import * as api from '../../lib/log/kafka/request.ts';
import { WireWriter } from '../../lib/log/kafka/wire.ts';

const API_VERSIONS = 18;
const CORRELATION_BYTES = 4;

/** What follows the response header; or nothing, for ever; or the end of the connection; or bytes instead of a whole frame. */
export type FakeAnswer = Buffer | 'silence' | 'close' | { readonly raw: Buffer };

interface FakeRequest {
  readonly key: number;
  readonly atMs: number;
  readonly body: Buffer;
  readonly connection: number;
}

export class FakeKafka {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  readonly #script = new Map<number, (body: Buffer) => FakeAnswer>();
  /** API keys in the order of arrival, when they came, and over which connection (counted from 1). */
  readonly requests: FakeRequest[] = [];

  private constructor(server: Server) {
    this.#server = server;
  }

  /** Listens until the running test ends. */
  static async start(): Promise<FakeKafka> {
    const fake = new FakeKafka(createServer((socket) => fake.#serve(socket)));
    fake.on(API_VERSIONS, () => apiVersions([0, 100]));
    fake.on(api.METADATA.key, () => metadata(fake.port));
    fake.on(api.LIST_OFFSETS.key, () => onePartition(true, (w) => w.int16(0).int64(-1n).int64(0n).int32(0)));
    fake.#server.listen(0, '127.0.0.1');
    await once(fake.#server, 'listening');
    onTestFinished(() => fake.stop());
    return fake;
  }

  get port(): number {
    const address = this.#server.address();
    if (address === null || typeof address === 'string') throw new Error('not listening');
    return address.port;
  }

  on(key: number, answer: (body: Buffer) => FakeAnswer): void {
    this.#script.set(key, answer);
  }

  stop(): void {
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
  }

  #serve(socket: Socket): void {
    this.#sockets.add(socket);
    const connection = this.#sockets.size;
    socket.on('error', () => undefined);
    let bytes = Buffer.alloc(0);
    socket.on('data', (data: Buffer) => {
      bytes = Buffer.concat([bytes, data]);
      while (bytes.length >= 4 && bytes.length >= 4 + bytes.readInt32BE(0)) {
        const end = 4 + bytes.readInt32BE(0);
        this.#answer(socket, connection, bytes.subarray(4, end));
        bytes = bytes.subarray(end);
      }
    });
  }

  #answer(socket: Socket, connection: number, request: Buffer): void {
    const key = request.readInt16BE(0);
    const isFlexible = [api.METADATA.key, api.FETCH.key].includes(key);
    const body = request.subarray(10 + request.readInt16BE(8) + (isFlexible ? 1 : 0));
    this.requests.push({ key, atMs: performance.now(), body, connection });
    const answer = this.#script.get(key)?.(body) ?? 'close';
    if (answer === 'silence') return;
    if (answer === 'close') return void socket.destroy();
    if (!Buffer.isBuffer(answer)) return void socket.write(answer.raw);
    const head = Buffer.alloc(4 + CORRELATION_BYTES + (isFlexible ? 1 : 0));
    head.writeInt32BE(head.length - 4 + answer.length, 0);
    request.copy(head, 4, 4, 8);
    socket.write(Buffer.concat([head, answer]));
  }
}

/** Of topic `t`. */
export const TOPIC_ID = Buffer.alloc(16, 7);

/** ApiVersions v2 as kafkajs asks for it: every API of ours in this range. */
export function apiVersions([min, max]: readonly [number, number]): Buffer {
  const keys = [17, API_VERSIONS, 36, ...api.OUR_APIS.map(({ key }) => key)];
  const writer = new WireWriter().int16(0);
  return writer
    .array(keys, (key) => writer.int16(key).int16(min).int16(max))
    .int32(0)
    .finish();
}

/** Topic `t`, whose partition 0 is led by the broker at `port` (node 1 unless said otherwise), the only one. */
export function metadata(port: number, node = 1): Buffer {
  const writer = new WireWriter().int32(0);
  writer.uvarint(2).int32(node).compactString('127.0.0.1').int32(port).uvarint(0).noTaggedFields();
  writer.uvarint(0).int32(node);
  writer.uvarint(2).int16(0).compactString('t').bytes(TOPIC_ID).boolean(false);
  writer.uvarint(2).int16(0).int32(0).int32(node).int32(0).uvarint(1).uvarint(1).uvarint(1).noTaggedFields();
  return writer.int32(0).noTaggedFields().noTaggedFields().finish();
}

/** An answer about t/0 alone, with `throttleMs` in front if the API has it there. */
export function onePartition(throttleFirst: boolean, write: (writer: WireWriter) => WireWriter): Buffer {
  const writer = new WireWriter();
  if (throttleFirst) writer.int32(0);
  writer.int32(1).string('t').int32(1).int32(0);
  return write(writer).finish();
}

/** The answer to a batch. */
export function produced(error: number, baseOffset: bigint, throttleMs = 0): Buffer {
  return onePartition(false, (writer) =>
    writer.int16(error).int64(baseOffset).int64(-1n).int64(0n).int32(0).string(null).int32(throttleMs),
  );
}

/** An answer to a fetch of t/0. */
export function fetched(
  error: number,
  highWatermark: bigint,
  records = Buffer.alloc(0),
  aborted: readonly AbortedTransaction[] = [],
): Buffer {
  const writer = new WireWriter().int32(0).int16(0).int32(0).uvarint(2).bytes(TOPIC_ID).uvarint(2).int32(0);
  writer
    .int16(error)
    .int64(highWatermark)
    .int64(0n)
    .int64(0n)
    .uvarint(aborted.length + 1);
  for (const { producerId, firstOffset } of aborted) writer.int64(producerId).int64(firstOffset).noTaggedFields();
  return writer
    .int32(-1)
    .uvarint(records.length + 1)
    .bytes(records)
    .noTaggedFields()
    .noTaggedFields()
    .noTaggedFields()
    .finish();
}

/** Where an epoch of t/0 ends. */
export function epochEnded(endOffset: bigint, error = 0): Buffer {
  const writer = new WireWriter().int32(0).int32(1).string('t').int32(1);
  return writer.int16(error).int32(0).int32(0).int64(endOffset).finish();
}

export function producerId(id: bigint): Buffer {
  return new WireWriter().int32(0).int16(0).int64(id).int16(0).finish();
}
