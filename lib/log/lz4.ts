/**
 * Decompresses the LZ4 of Kafka's record batches: frames (https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md) of blocks
 * (lz4_Block_format.md beside it).
 *
 *   frame   magic 04 22 4D 18, u8 flags (bits 7-6 version 01, 4 block checksums, 3 content size, 2 content checksum, 0 dictionary), u8 largest block
 *           (bits 6-4: 4 = 64 KiB ... 7 = 4 MiB), [u64 content size], u8 checksum of the header, blocks, u32 0, [u32 content checksum]
 *   block   u32 bytes (bit 31: stored as it is), data, [u32 checksum]
 *
 * Invariants: nothing is read beyond the input, written beyond `bytesMax`, or copied from before the output. Checksums are not compared: the
 * batch has one over all of it.
 */
import { GrowingOutput } from './growing-output.ts';

const MAGIC = 0x184d2204;
const VERSION = 1;
const STORED_BIT = 0x8000_0000;
/** A length of 15 goes on in the bytes that follow. */
const LENGTH_OPEN = 15;
const MATCH_BYTES_MIN = 4;

/** Throws an Error that says what is wrong with the bytes. */
export function lz4Decompress(input: Buffer, bytesMax: number): Buffer {
  const output = new GrowingOutput(input.length * 4, bytesMax);
  let at = 0;
  while (at < input.length) at = readFrame(input, at, output);
  return output.finish();
}

/** Where the frame ends. */
function readFrame(input: Buffer, start: number, output: GrowingOutput): number {
  if (start + 7 > input.length || input.readUInt32LE(start) !== MAGIC) throw new Error('no lz4 frame');
  const flags = input.readUInt8(start + 4);
  if (flags >>> 6 !== VERSION) throw new Error(`lz4 frames of version ${flags >>> 6} are not known`);
  if ((flags & 1) !== 0) throw new Error('the lz4 frame needs a dictionary');
  const blockChecksum = (flags & 0x10) === 0 ? 0 : 4;
  let at = start + 7 + ((flags & 0x08) === 0 ? 0 : 8);
  for (;;) {
    if (at + 4 > input.length) throw new Error('the lz4 frame has no end');
    const header = input.readUInt32LE(at);
    at += 4;
    if (header === 0) break;
    const end = at + (header & ~STORED_BIT);
    if (end + blockChecksum > input.length) throw new Error('an lz4 block reaches beyond its frame');
    if ((header & STORED_BIT) === 0) readBlock(input, at, end, output);
    else output.append(input, at, end);
    at = end + blockChecksum;
  }
  return at + ((flags & 0x04) === 0 ? 0 : 4);
}

/** Sequences: literals, then a match, which the last one lacks. */
function readBlock(input: Buffer, start: number, end: number, output: GrowingOutput): void {
  let at = start;
  const length = (first: number): number => {
    let sum = first;
    for (let byte = first === LENGTH_OPEN ? 255 : 0; byte === 255;) {
      if (at >= end) throw new Error('an lz4 length has no end');
      byte = input[at++] ?? 0;
      sum += byte;
    }
    return sum;
  };
  while (at < end) {
    const token = input[at++] ?? 0;
    const literals = length(token >>> 4);
    if (at + literals > end) throw new Error('lz4 literals reach beyond their block');
    output.append(input, at, at + literals);
    at += literals;
    if (at === end) return;
    if (at + 2 > end) throw new Error('an lz4 match has no offset');
    const distance = input.readUInt16LE(at);
    at += 2;
    output.repeat(distance, length(token & 15) + MATCH_BYTES_MIN);
  }
}
