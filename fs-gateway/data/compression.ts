/**
 * Pieces in zstd. A piece that does not become smaller by an eighth is kept as it is: reading it back would cost more than it saves. Which of
 * both it is follows from its lengths (lib/volume/extents.ts): as long as its content, or shorter.
 *
 * The work is done in libuv's pool. Limit: JOBS_MAX at a time, so that other work of the pool passes.
 */
import { promisify } from 'node:util';
import { constants, zstdCompress, zstdDecompress } from 'node:zlib';
import { Slots } from './slots.ts';

const compressAsync = promisify(zstdCompress);
const decompressAsync = promisify(zstdDecompress);
/** Half of the pool's threads (fuse/worker-process.ts). */
const JOBS_MAX = 4;
/** Less than a request to the store costs anyway. */
const BYTES_MIN = 1024;
const SAVING_MIN = 1 / 8;
/** Fast enough for any link to a store: 8 MiB in 2 to 30 ms, also where they cannot be compressed (measured). */
const LEVEL = 1;

const slots = new Slots(JOBS_MAX);

/** What is stored: the piece compressed, or the piece itself. */
export async function compressPiece(data: Buffer): Promise<Buffer> {
  if (data.length < BYTES_MIN) return data;
  const params = { [constants.ZSTD_c_compressionLevel]: LEVEL };
  const compressed = await slots.run(() => compressAsync(data, { params }));
  return compressed.length <= data.length * (1 - SAVING_MIN) ? compressed : data;
}

/** Throws zlib's errors, also when it gives more than `bytes`. */
export function decompressPiece(stored: Buffer, bytes: number): Promise<Buffer> {
  return slots.run(() => decompressAsync(stored, { maxOutputLength: bytes }));
}
