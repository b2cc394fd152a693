/**
 * Decompresses the Snappy of Kafka's record batches: one raw block (https://github.com/google/snappy/blob/main/format_description.txt), or, as Kafka's
 * own producer writes it, several of them in the stream of snappy-java.
 *
 *   stream  82 'SNAPPY' 00, i32 version, i32 oldest version that reads it, then for each block: i32 bytes (big endian), the block
 *   block   varint bytes when decompressed, then elements: u8 tag (bits 1-0: 0 literal, 1 to 3 a copy with an offset of 11, 16 or 32 bits)
 *
 * Invariants: nothing is read beyond the input, written beyond `bytesMax`, or copied from before its block; a block has the length that it states.
 */
import { GrowingOutput } from './growing-output.ts';

const STREAM_MAGIC = Buffer.from([0x82, 0x53, 0x4e, 0x41, 0x50, 0x50, 0x59, 0]);
const STREAM_HEADER_BYTES = 16;
/** Literals of 60 bytes and more state their length in 1 to 4 bytes of their own. */
const SHORT_LITERAL_MAX = 59;

/** Throws an Error that says what is wrong with the bytes. */
export function snappyDecompress(input: Buffer, bytesMax: number): Buffer {
  const output = new GrowingOutput(input.length * 4, bytesMax);
  if (!input.subarray(0, STREAM_MAGIC.length).equals(STREAM_MAGIC)) {
    readBlock(input, 0, input.length, output);
    return output.finish();
  }
  for (let at = STREAM_HEADER_BYTES; at < input.length;) {
    if (at + 4 > input.length) throw new Error('a snappy block has no length');
    const end = at + 4 + input.readUInt32BE(at);
    if (end > input.length) throw new Error('a snappy block reaches beyond its stream');
    readBlock(input, at + 4, end, output);
    at = end;
  }
  return output.finish();
}

function readBlock(input: Buffer, start: number, end: number, output: GrowingOutput): void {
  let at = start;
  const number = (bytes: number): number => {
    if (at + bytes > end) throw new Error('a snappy element is cut off');
    const value = input.readUIntLE(at, bytes);
    at += bytes;
    return value;
  };
  let stated = 0;
  for (let scale = 1, byte = 128; byte >= 128; scale *= 128) {
    if (scale > 2 ** 28) throw new Error('the length of a snappy block has no end');
    byte = number(1);
    stated += (byte & 127) * scale;
  }
  const before = output.bytes;
  while (at < end) {
    const tag = number(1);
    const short = tag >>> 2;
    if ((tag & 3) === 0) {
      const literals = (short <= SHORT_LITERAL_MAX ? short : number(short - SHORT_LITERAL_MAX)) + 1;
      if (at + literals > end) throw new Error('a snappy literal is cut off');
      output.append(input, at, at + literals);
      at += literals;
    } else {
      const [length, distance] =
        (tag & 3) === 1
          ? [(short & 7) + 4, ((tag >>> 5) << 8) + number(1)]
          : [short + 1, number((tag & 3) === 2 ? 2 : 4)];
      if (distance > output.bytes - before) throw new Error('a snappy copy from before its block');
      output.repeat(distance, length);
    }
  }
  if (output.bytes - before !== stated) {
    throw new Error(`a snappy block has ${output.bytes - before} bytes instead of ${stated}`);
  }
}
