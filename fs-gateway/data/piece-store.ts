/**
 * Fetches pieces from the object store.
 *
 * Invariants: a piece is given whole or not at all: an own one verified against its extent's CRC32C, an external one against its length (and its etag, where it
 * has one). Its checksum is that of its content: what is wrong in the store, in decompression or on the way is found by it.
 * What is missing, short or damaged is `corrupt` and names the object.
 * Limits: FETCHES_MAX at a time.
 */
import { crc32c } from '@node-rs/crc32';
import { PenstockError, isCode } from '../../lib/errors.ts';
import type { ObjectStore } from '../../lib/store/store.ts';
import { decompressPiece } from './compression.ts';
import { isCompressed } from './pieces.ts';
import type { Piece } from './pieces.ts';
import { Slots } from './slots.ts';

/** Parallel ranged GETs: enough to fill a 10 Gbit/s link at 20 ms; each holds one piece in memory. */
const FETCHES_MAX = 16;

export class PieceStore {
  readonly #store: ObjectStore;
  readonly #slots = new Slots(FETCHES_MAX);
  /** Bytes fetched, for statistics. */
  fetchedBytes = 0;

  constructor(store: ObjectStore) {
    this.#store = store;
  }

  /** Into `into`, which has the piece's length. */
  fetch(piece: Piece, into: Buffer): Promise<void> {
    return this.#slots.run(() => this.#get(piece, into));
  }

  async #get(piece: Piece, into: Buffer): Promise<void> {
    try {
      const stored = await this.#store.get(piece.objectKey, {
        offset: piece.offset,
        length: piece.storedBytes,
        ...(piece.etag !== null && { ifMatch: piece.etag }),
        ...(!isCompressed(piece) && { into }),
      });
      this.fetchedBytes += stored.length;
      const data = isCompressed(piece) ? await decompressed(piece, stored) : stored;
      if (data.length !== piece.bytes) throw damaged(piece, `gave ${data.length} bytes, expected ${piece.bytes}`);
      if (piece.crc !== null && crc32c(data) !== piece.crc) throw damaged(piece, 'does not match its checksum');
      if (data !== into) data.copy(into);
    } catch (error) {
      if (isCode(error, 'not-found')) throw damaged(piece, 'is missing', error);
      if (isCode(error, 'conflict')) throw damaged(piece, 'was changed since it was published', error);
      throw error;
    }
  }
}

async function decompressed(piece: Piece, stored: Buffer): Promise<Buffer> {
  try {
    return await decompressPiece(stored, piece.bytes);
  } catch (error) {
    throw damaged(piece, 'cannot be decompressed', error);
  }
}

/** The `corrupt` that names the object. */
export function damaged(piece: Piece, what: string, cause?: unknown): PenstockError {
  const range = `bytes ${piece.offset} to ${piece.offset + piece.storedBytes}`;
  return new PenstockError('corrupt', `object ${piece.objectKey} (${range}) ${what}`, { cause });
}
