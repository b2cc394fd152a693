/** How large segment files are, and writing them whole. */
import type { FileHandle } from 'node:fs/promises';
import { PenstockError } from '../../lib/errors.ts';

/** Large enough that creating and deleting files costs nothing, small enough that space comes back soon. */
const SEGMENT_BYTES_DEFAULT = 16 * 1024 * 1024;
/** A spool is at least this many segments, so that a small one frees space before it is full. */
const SEGMENTS_PER_SPOOL_MIN = 8;
/** Receipts may fill this share of a segment, whose head repeats them: what they cost in writing. */
const RECEIPTS_SHARE_OF_SEGMENT = 1 / 8;
/** Of one receipt in a head, as JSON. */
const RECEIPT_BYTES = 64;

/** How large a segment of a spool of `maxBytes` grows; `wanted` bounds it further. */
export function segmentBytesFor(maxBytes: number, wanted = SEGMENT_BYTES_DEFAULT): number {
  return Math.min(wanted, Math.floor(maxBytes / SEGMENTS_PER_SPOOL_MIN));
}

/** How many receipts all sources together may keep in a spool of `maxBytes`. */
export function receiptsPerSpool(maxBytes: number): number {
  return Math.floor((segmentBytesFor(maxBytes) * RECEIPTS_SHARE_OF_SEGMENT) / RECEIPT_BYTES);
}

/** Writes all buffers at a position. A short write is continued, so that the error behind it (ENOSPC) is seen. */
export async function writeAll(handle: FileHandle, buffers: readonly Buffer[], position: number): Promise<void> {
  let rest = buffers.slice();
  let at = position;
  while (rest.length > 0) {
    // IOV_MAX is 1024 on Linux; a group rarely has more than a few dozen buffers.
    const { bytesWritten } = await handle.writev(rest.slice(0, 1024), at);
    if (bytesWritten === 0) throw new PenstockError('io', `a write of ${rest.length} buffers at ${at} wrote nothing`);
    at += bytesWritten;
    let skip = bytesWritten;
    while (rest.length > 0 && skip >= (rest[0]?.length ?? 0)) skip -= rest.shift()?.length ?? 0;
    if (skip > 0) rest = [rest[0]?.subarray(skip) ?? Buffer.alloc(0), ...rest.slice(1)];
  }
}
