/** Pieces for tests of the cache: nothing vouches for them but the cache's own checksum. */
import type { Piece } from '../../fs-gateway/data/pieces.ts';

const BYTES = 4 * 2 ** 20;

export function pieceOf(n: number): Piece {
  const name = `piece-${n}`;
  const none = { crc: null, objectId: null, objectBytes: null, etag: null };
  return { name, objectKey: name, offset: 0, storedBytes: BYTES, bytes: BYTES, ...none };
}

export function bytesOf(n: number): Buffer {
  return Buffer.alloc(BYTES, `bytes of piece ${n}, `);
}
