/**
 * The bytes of a spool segment: a segment is a sequence of frames, and nothing else.
 *
 *   frame      0  u32  magic "PSF1"
 *              4  u32  payload bytes
 *              8  u32  CRC32C of the payload
 *             12  u32  group: frames with one number were written and synced together
 *             16  u8   type: 1 head, 2 readings, 3 state
 *             17  u8   flags: bit 0 = last frame of its group
 *             18  u16  topic id (readings; else 0)
 *             20  u8   priority (readings; else 0)
 *             21  u8   zero
 *             22  u16  zero
 *             24  u64  sequence of the first reading (readings; else 0)
 *             32  u32  number of readings (readings; else 0)
 *             36  u32  CRC32C of bytes 0..35
 *             40       payload
 *
 *   reading    0  u32  value bytes
 *              4  u16  key bytes + 1; 0 = no key
 *              6  u16  zero
 *              8  i64  event time, microseconds since the epoch
 *             16  i64  arrival time, microseconds since the epoch
 *             24       key, value
 *
 * Integers are little-endian. The header has a checksum of its own, so that a damaged payload can be stepped over by its length;
 * behind a damaged header the next frame is found again by its magic. The payload of head and state is JSON (spool-state.ts).
 *
 * Invariants: nothing is decoded from a frame whose two checksums do not hold.
 * Limits: a frame holds FRAME_PAYLOAD_BYTES of readings, or one reading that is larger; a reading is at most READING_BYTES_MAX, so
 * that with its headers it fits into a batch of the log (BATCH_BYTES_MAX).
 */
import { crc32c } from '@node-rs/crc32';
import { takeFrameBuffer } from './frame-buffers.ts';

export const FRAME_HEADER_BYTES = 40;
/** What one damaged byte can cost, and the least that is read to return one reading. */
export const FRAME_PAYLOAD_BYTES = 256 * 1024;
/** Key and value together. */
export const READING_BYTES_MAX = 1_048_000;
/** Priorities are 0 to 9, the highest first; readings of this one are never dropped. */
export const ALARM_PRIORITY = 9;
const BUFFER_BYTES_MIN = 1024;
const KEY_BYTES_MAX = 0xfffe;
export const READING_HEADER_BYTES = 24;
/** "PSF1" */
const MAGIC = 0x31465350;
const MAGIC_BYTES = Buffer.from('PSF1', 'latin1');
/** Payloads above this are not ours, whatever the header's checksum says (a state of 10,000 file checkpoints is about 3 MB). */
const PAYLOAD_BYTES_MAX = 64 * 1024 * 1024;
const TWO_32 = 2 ** 32;

export const FRAME_HEAD = 1;
export const FRAME_READINGS = 2;
export const FRAME_STATE = 3;
const FLAG_LAST = 1;

export interface FrameHeader {
  readonly type: number;
  readonly group: number;
  readonly last: boolean;
  readonly topicId: number;
  readonly priority: number;
  readonly baseSeq: number;
  readonly count: number;
}

/** A header as it was read: with what is needed to fetch and check the payload. */
export interface StoredFrame extends FrameHeader {
  readonly payloadBytes: number;
  readonly payloadCrc: number;
}

/** What a source hands over. Times are microseconds since the epoch. */
export interface NewReading {
  readonly topic: string;
  readonly key: string | null;
  /** Text is stored as UTF-8. */
  readonly value: string | Uint8Array;
  readonly eventUs: number;
  readonly arrivalUs: number;
  readonly priority: number;
  /** Told its sequence number in the moment in which it is durable, before anybody can read it: for the few that are traced. */
  readonly onStored?: (seq: number) => void;
}

export function encodeFrameHeader(header: FrameHeader, payload: Uint8Array): Buffer {
  const bytes = Buffer.alloc(FRAME_HEADER_BYTES);
  bytes.writeUInt32LE(MAGIC, 0);
  bytes.writeUInt32LE(payload.length, 4);
  bytes.writeUInt32LE(crc32c(payload), 8);
  bytes.writeUInt32LE(header.group >>> 0, 12);
  bytes.writeUInt8(header.type, 16);
  bytes.writeUInt8(header.last ? FLAG_LAST : 0, 17);
  bytes.writeUInt16LE(header.topicId, 18);
  bytes.writeUInt8(header.priority, 20);
  bytes.writeBigUInt64LE(BigInt(header.baseSeq), 24);
  bytes.writeUInt32LE(header.count, 32);
  bytes.writeUInt32LE(crc32c(bytes.subarray(0, 36)), 36);
  return bytes;
}

/** null when the 40 bytes at `offset` are not an undamaged header. The caller makes sure that they are there. */
export function decodeFrameHeader(bytes: Buffer, offset: number): StoredFrame | null {
  if (bytes.readUInt32LE(offset) !== MAGIC) return null;
  if (crc32c(bytes.subarray(offset, offset + 36)) !== bytes.readUInt32LE(offset + 36)) return null;
  const payloadBytes = bytes.readUInt32LE(offset + 4);
  if (payloadBytes > PAYLOAD_BYTES_MAX) return null;
  return {
    payloadBytes,
    payloadCrc: bytes.readUInt32LE(offset + 8),
    group: bytes.readUInt32LE(offset + 12),
    type: bytes.readUInt8(offset + 16),
    last: (bytes.readUInt8(offset + 17) & FLAG_LAST) !== 0,
    topicId: bytes.readUInt16LE(offset + 18),
    priority: bytes.readUInt8(offset + 20),
    baseSeq: Number(bytes.readBigUInt64LE(offset + 24)),
    count: bytes.readUInt32LE(offset + 32),
  };
}

export function payloadIsIntact(frame: StoredFrame, payload: Uint8Array): boolean {
  return payload.length === frame.payloadBytes && crc32c(payload) === frame.payloadCrc;
}

/** The offset of the next possible header at or behind `from`, or -1. */
export function findMagic(bytes: Buffer, from: number): number {
  return bytes.indexOf(MAGIC_BYTES, from);
}

/** The largest encoded size of a reading; exact for bytes, an upper bound for text. */
function encodedBytesMax(reading: NewReading): number {
  const value = typeof reading.value === 'string' ? reading.value.length * 3 : reading.value.length;
  return READING_HEADER_BYTES + value + (reading.key === null ? 0 : reading.key.length * 3);
}

/** Why a reading cannot be stored, or null. */
export function refusal(reading: NewReading): string | null {
  const keyBytes = reading.key === null ? 0 : Buffer.byteLength(reading.key);
  const bytes =
    (typeof reading.value === 'string' ? Buffer.byteLength(reading.value) : reading.value.length) + keyBytes;
  if (bytes > READING_BYTES_MAX) return `the reading has ${bytes} bytes, at most ${READING_BYTES_MAX} can be carried`;
  if (keyBytes > KEY_BYTES_MAX) return `the sensor id has ${keyBytes} bytes, at most ${KEY_BYTES_MAX} can be carried`;
  if (!Number.isSafeInteger(reading.eventUs) || !Number.isSafeInteger(reading.arrivalUs)) {
    return 'the reading has no valid time';
  }
  return null;
}

/** The cheap form of `refusal(reading) === null`: even the upper bounds of the encoded sizes are within the limits. */
export function isSurelyFine(reading: NewReading): boolean {
  return (
    isShort(reading.key?.length ?? 0, reading.value.length) &&
    Number.isSafeInteger(reading.eventUs) &&
    Number.isSafeInteger(reading.arrivalUs)
  );
}

/** A key and a value of so many bytes or UTF-16 units are within the limits. */
export function isShort(keyLength: number, valueLength: number): boolean {
  return keyLength < 1024 && valueLength < READING_BYTES_MAX / 4;
}

/** Readings of one topic and priority on their way into a frame. */
export class ReadingsPayload {
  bytesUsed = 0;
  count = 0;
  #buffer: Buffer;

  /** `bytesExpected`: about as many as will come; the buffer grows. */
  constructor(bytesExpected: number) {
    this.#buffer =
      bytesExpected > FRAME_PAYLOAD_BYTES / 8
        ? takeFrameBuffer(FRAME_PAYLOAD_BYTES)
        : Buffer.allocUnsafeSlow(2 ** Math.ceil(Math.log2(Math.max(BUFFER_BYTES_MIN, bytesExpected))));
  }

  /** The encoded readings. */
  get payload(): Buffer {
    return this.#buffer.subarray(0, this.bytesUsed);
  }

  /** What it holds before it grows. */
  get capacity(): number {
    return this.#buffer.length;
  }

  /** False when the frame has readings and this one would make it too large. */
  add(reading: NewReading): boolean {
    const bytesMax = encodedBytesMax(reading);
    if (this.bytesUsed + bytesMax > this.#buffer.length && !this.#grow(bytesMax)) return false;
    const buffer = this.#buffer;
    const keyStart = this.bytesUsed + READING_HEADER_BYTES;
    const keyBytes = reading.key === null ? -1 : buffer.write(reading.key, keyStart);
    const valueStart = keyStart + Math.max(0, keyBytes);
    let valueBytes = reading.value.length;
    if (typeof reading.value === 'string') valueBytes = buffer.write(reading.value, valueStart);
    else buffer.set(reading.value, valueStart);
    this.#finish(keyBytes, valueBytes, reading.eventUs, reading.arrivalUs);
    return true;
  }

  /** The same of one whose key and value are bytes of `text`; `keyBytes` -1: no key. */
  addPlaced(
    text: Buffer,
    keyStart: number,
    keyBytes: number,
    valueStart: number,
    valueBytes: number,
    eventUs: number,
    arrivalUs: number,
  ): boolean {
    const bytes = READING_HEADER_BYTES + Math.max(0, keyBytes) + valueBytes;
    if (this.bytesUsed + bytes > this.#buffer.length && !this.#grow(bytes)) return false;
    const buffer = this.#buffer;
    let at = this.bytesUsed + READING_HEADER_BYTES;
    // In range by what the caller found there; the fallback is for the type only.
    for (let index = 0; index < keyBytes; index += 1) buffer[at++] = text[keyStart + index] ?? 0;
    text.copy(buffer, at, valueStart, valueStart + valueBytes);
    this.#finish(keyBytes, valueBytes, eventUs, arrivalUs);
    return true;
  }

  /** All readings of another one; false when there is no room for them. */
  addAll({ payload, count }: ReadingsPayload): boolean {
    if (this.bytesUsed + payload.length > this.#buffer.length && !this.#grow(payload.length)) return false;
    payload.copy(this.#buffer, this.bytesUsed);
    this.bytesUsed += payload.length;
    this.count += count;
    return true;
  }

  /** Key and value stand behind the place of the header. */
  #finish(keyBytes: number, valueBytes: number, eventUs: number, arrivalUs: number): void {
    const buffer = this.#buffer;
    const start = this.bytesUsed;
    buffer.writeUInt32LE(valueBytes, start);
    buffer.writeUInt32LE(keyBytes + 1, start + 4);
    writeInt64(buffer, eventUs, start + 8);
    writeInt64(buffer, arrivalUs, start + 16);
    this.bytesUsed = start + READING_HEADER_BYTES + Math.max(0, keyBytes) + valueBytes;
    this.count += 1;
  }

  #grow(bytesMax: number): boolean {
    const needed = this.bytesUsed + bytesMax;
    if (this.count > 0 && needed > FRAME_PAYLOAD_BYTES) return false;
    let size = this.#buffer.length;
    while (size < needed) size *= 2;
    const larger = Buffer.allocUnsafeSlow(size);
    this.#buffer.copy(larger, 0, 0, this.bytesUsed);
    this.#buffer = larger;
    return true;
  }
}

/** How many bytes the reading at `at` of a payload takes. */
export function readingBytes(payload: Buffer, at: number): number {
  const keyBytes = payload.readUInt16LE(at + 4);
  return READING_HEADER_BYTES + (keyBytes === 0 ? 0 : keyBytes - 1) + payload.readUInt32LE(at);
}

/** Whole numbers within ±2^53: exact, and several times faster than the bigint accessors. */
function writeInt64(buffer: Buffer, value: number, offset: number): void {
  const high = Math.floor(value / TWO_32);
  buffer.writeUInt32LE(value - high * TWO_32, offset);
  buffer.writeInt32LE(high, offset + 4);
}

export function readInt64(buffer: Buffer, offset: number): number {
  return buffer.readInt32LE(offset + 4) * TWO_32 + buffer.readUInt32LE(offset);
}
