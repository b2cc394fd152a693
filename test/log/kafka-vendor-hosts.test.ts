/** A broker that names another host: what that host resolves to is judged before anything is sent there. */
import { createServer, type AddressInfo, type Socket } from 'node:net';
import { expect, onTestFinished, test } from 'vitest';
import { HostRules } from '../../control/connect/hosts.ts';
import { kafkaVendor } from '../../lib/log/kafka/kafka-vendor.ts';
import { HANG_MS } from '../support/hang.ts';

const int16 = (value: number): Buffer => Buffer.of(value >> 8, value & 0xff);
const int32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32BE(value);
  return bytes;
};
const METADATA = 3;
const API_VERSIONS = 18;

/** The answer to ApiVersions (v0 to v2) or Metadata v1, whose only broker is `host`. */
function answerTo(apiKey: number, version: number, host: string, port: number): Buffer {
  if (apiKey === API_VERSIONS) {
    const known = [METADATA, API_VERSIONS].map((key) => Buffer.concat([int16(key), int16(0), int16(1)]));
    return Buffer.concat([int16(0), int32(known.length), ...known, ...(version > 0 ? [int32(0)] : [])]);
  }
  const broker = [int32(1), int16(host.length), Buffer.from(host), int32(port), int16(-1)];
  return Buffer.concat([int32(1), ...broker, int32(1), int32(0)]);
}

async function startBroker(advertised: string): Promise<number> {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    let waiting: Buffer = Buffer.alloc(0);
    socket.on('error', () => undefined);
    socket.on('data', (chunk: Buffer) => {
      waiting = Buffer.concat([waiting, chunk]);
      while (waiting.length >= 4 && waiting.length >= 4 + waiting.readInt32BE(0)) {
        const request = waiting.subarray(4, 4 + waiting.readInt32BE(0));
        waiting = waiting.subarray(4 + request.length);
        const answer = answerTo(request.readInt16BE(0), request.readInt16BE(2), advertised, 80);
        socket.write(Buffer.concat([int32(4 + answer.length), request.subarray(4, 8), answer]));
      }
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  onTestFinished(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return (server.address() as AddressInfo).port; // it listens on one
}

test.each(['169.254.169.254', '2852039166', '0xa9fea9fe'])(
  'a broker that says that it is %s is not followed there',
  async (advertised) => {
    const url = new URL(`kafka://127.0.0.1:${await startBroker(advertised)}`);
    const rules = new HostRules([]);
    const options = {
      credentials: {},
      checkHost: (host: string): void => rules.check(host, false),
      lookup: rules.lookupOf(false),
      bytesMax: 1_000_000,
    };
    await expect(kafkaVendor.probe(url, options, AbortSignal.timeout(HANG_MS))).rejects.toMatchObject({
      code: 'denied',
      message: expect.stringContaining('link-local') as string,
    });
  },
);
