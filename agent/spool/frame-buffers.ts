/**
 * Memory of full frames that is used again. A frame lives in memory for some megabytes of others (recent-frames.ts), and what lives so long is freed
 * only when V8 goes through the whole heap: with a new buffer for each frame it did that all the time.
 *
 * Limits: FREE_MAX are kept; what nobody gives back is the garbage collector's.
 */

/** A delivery of a file's lines takes three, and as many are being filled. */
const FREE_MAX = 6;

const free: Buffer[] = [];
let size = 0;

/** All of the same size. */
export function takeFrameBuffer(bytes: number): Buffer {
  size = bytes;
  return free.pop() ?? Buffer.allocUnsafeSlow(bytes);
}

/** The memory behind a payload that nobody will read or write any more, if it is such a buffer. */
export function giveFrameBuffer(payload: Buffer): void {
  if (payload.buffer.byteLength === size && free.length < FREE_MAX) free.push(Buffer.from(payload.buffer));
}
