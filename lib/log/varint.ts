/**
 * Zigzag varints as RecordBatch v2 uses them (Protocol Buffers' sint32/sint64). Values are JavaScript numbers: lengths, deltas and
 * counts all stay below 2^53, and numbers keep the codec free of allocation.
 */

/** Bytes that `writeVarint` needs. */
export function varintBytes(value: number): number {
  let zigzag = value < 0 ? -2 * value - 1 : 2 * value;
  let bytes = 1;
  while (zigzag > 127) {
    zigzag = zigzag > 0x7fff_ffff ? Math.floor(zigzag / 128) : zigzag >>> 7;
    bytes++;
  }
  return bytes;
}

/** Writes `value` (an integer, |value| < 2^52) and returns the position behind it. The caller has made room. */
export function writeVarint(into: Uint8Array, at: number, value: number): number {
  let zigzag = value < 0 ? -2 * value - 1 : 2 * value;
  while (zigzag > 127) {
    into[at++] = (zigzag & 127) | 128;
    zigzag = zigzag > 0x7fff_ffff ? Math.floor(zigzag / 128) : zigzag >>> 7;
  }
  into[at++] = zigzag;
  return at;
}
