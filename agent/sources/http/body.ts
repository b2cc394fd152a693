/**
 * The body of a request, whole, within its bounds. A compressed body is counted as it comes out, so a small one that would become huge
 * is refused when it passes `maxBytes`.
 */
import type { IncomingMessage } from 'node:http';
import type { Readable } from 'node:stream';
import { createGunzip } from 'node:zlib';
import { describeError, systemCode } from '../../../lib/errors.ts';
import { Refusal } from './refusal.ts';

/** The most that the body may take in memory. Throws a Refusal when the client says it is larger, or coded in a way that is not known. */
export function announcedBytes(request: IncomingMessage, maxBytes: number): number {
  const { 'content-length': length } = request.headers;
  const coding = codingOf(request);
  if (!['identity', 'gzip', 'x-gzip'].includes(coding)) {
    const headers = { 'accept-encoding': 'gzip' };
    throw new Refusal(415, `Content-Encoding '${coding}' is not supported: expected gzip or none`, { headers });
  }
  if (length === undefined || coding !== 'identity') return maxBytes;
  if (Number(length) > maxBytes) throw tooLarge(maxBytes);
  return Number(length);
}

/**
 * Throws a Refusal, and leaves the request readable then, so that it can be answered; rejects with the stream's error when the client
 * goes away or its time is over.
 */
export async function readBody(request: IncomingMessage, maxBytes: number): Promise<Buffer> {
  if (codingOf(request) === 'identity') return collect(request, maxBytes);
  const decoder = createGunzip();
  const giveUp = (error: Error): void => void decoder.destroy(error);
  request.once('error', giveUp);
  request.pipe(decoder);
  try {
    return await collect(decoder, maxBytes);
  } catch (error) {
    if (!systemCode(error)?.startsWith('Z_')) throw error;
    throw new Refusal(400, `the body is not gzip: ${describeError(error)}`, { cause: error });
  } finally {
    request.off('error', giveUp);
    request.unpipe(decoder);
    decoder.destroy();
  }
}

/** Names of codings are case-insensitive (RFC 9110, section 8.4.1). */
function codingOf(request: IncomingMessage): string {
  return request.headers['content-encoding']?.toLowerCase() ?? 'identity';
}

async function collect(stream: Readable, maxBytes: number): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  // Destroying a request would close its connection before it is answered.
  for await (const chunk of stream.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > maxBytes) throw tooLarge(maxBytes);
    chunks.push(chunk);
  }
  return chunks.length === 1 && chunks[0] !== undefined ? chunks[0] : Buffer.concat(chunks, bytes);
}

function tooLarge(maxBytes: number): Refusal {
  return new Refusal(413, `the body has more than maxBodyBytes (${maxBytes} bytes): send it in parts`);
}
