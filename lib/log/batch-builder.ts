/**
 * Writes the records of a RecordBatch v2 into one reusable buffer. A record, all numbers being zigzag varints:
 *
 *    length | attributes (1 byte, 0) | timestampDelta | offsetDelta | keyLength, key | valueLength, value
 *    | headerCount | { nameLength, name | valueLength, value } ...          a null key or value has length -1
 *
 * Invariants: `add` either appends a whole record or changes nothing; `seal` returns bytes of their own, the builder can be filled
 * again at once.
 * Limits: the capacity given to the constructor, header included; zstd is synchronous (level 1, about 0.2 us a record of 200 B).
 */
import { constants, zstdCompressSync } from 'node:zlib';
import { BATCH_HEADER_BYTES, COMPRESSION, sealBatch, type ProducerIdentity } from './record-batch.ts';
import { varintBytes, writeVarint } from './varint.ts';

/** What comes out is collected in pieces of this size. A batch of readings is a tenth to a fifth of what goes in. */
const ZSTD_OPTIONS = { chunkSize: 128 * 1024, params: { [constants.ZSTD_c_compressionLevel]: 1 } };

export interface HeaderMark {
  readonly end: number;
  readonly count: number;
}

/** Headers of a record, already in wire form, so that a sender with constant headers encodes them once. */
export class HeaderBlock {
  readonly #bytes: Buffer;
  #end = 0;
  #count = 0;

  constructor(capacityBytes: number) {
    this.#bytes = Buffer.allocUnsafeSlow(capacityBytes);
  }

  get count(): number {
    return this.#count;
  }

  get bytes(): number {
    return this.#end;
  }

  /** Where the block ends now: pass it to `truncate` to keep the headers in front and replace the rest. */
  mark(): HeaderMark {
    return { end: this.#end, count: this.#count };
  }

  truncate(mark: HeaderMark): void {
    this.#end = mark.end;
    this.#count = mark.count;
  }

  /** Throws RangeError when the block is full. */
  add(name: string, value: Uint8Array | null): void {
    const nameBytes = Buffer.byteLength(name);
    const size = varintBytes(nameBytes) + nameBytes + varintBytes(value?.length ?? -1) + (value?.length ?? 0);
    if (this.#end + size > this.#bytes.length) throw new RangeError(`header '${name}' does not fit its block`);
    let at = writeVarint(this.#bytes, this.#end, nameBytes);
    at += this.#bytes.write(name, at);
    at = writeVarint(this.#bytes, at, value?.length ?? -1);
    if (value !== null) this.#bytes.set(value, at);
    this.#end = at + (value?.length ?? 0);
    this.#count++;
  }

  /** A short header whose name and value are ASCII: no intermediate buffer. */
  addAscii(name: string, value: string): void {
    const bytes = this.#bytes;
    // Two varints of at most five bytes each.
    if (this.#end + name.length + value.length + 10 > bytes.length) {
      throw new RangeError(`header '${name}' does not fit its block`);
    }
    let at = writeVarint(bytes, this.#end, name.length);
    for (let i = 0; i < name.length; i++) bytes[at++] = name.charCodeAt(i);
    at = writeVarint(bytes, at, value.length);
    for (let i = 0; i < value.length; i++) bytes[at++] = value.charCodeAt(i);
    this.#end = at;
    this.#count++;
  }

  /** A safe integer, in decimal. Throws RangeError when the block is full. */
  addWholeNumber(name: string, value: number): void {
    const bytes = this.#bytes;
    if (this.#end + name.length + 27 > bytes.length) throw new RangeError(`header '${name}' does not fit its block`);
    let at = writeVarint(bytes, this.#end, name.length);
    for (let i = 0; i < name.length; i++) bytes[at++] = name.charCodeAt(i);
    const digits = wholeNumberBytes(value);
    at = writeVarint(bytes, at, digits);
    // Two integers of 32 bits, whose division is a multiplication.
    let high = Math.floor(Math.abs(value) / LOW_DIGITS);
    let low = Math.abs(value) - high * LOW_DIGITS;
    const lowStart = high === 0 ? at : at + digits - 8;
    let i = at + digits - 1;
    for (; i >= lowStart; i--, low = (low / 10) | 0) bytes[i] = 48 + (low % 10);
    for (; i >= at; i--, high = (high / 10) | 0) bytes[i] = 48 + (high % 10);
    if (value < 0) bytes[at] = 45;
    this.#end = at + digits;
    this.#count++;
  }

  copyTo(target: Uint8Array, at: number): number {
    copyBytes(this.#bytes, 0, this.#end, target, at);
    return at + this.#end;
  }
}

const NO_HEADERS = new HeaderBlock(0);
const NO_BYTES = new Uint8Array(0);

const LOW_DIGITS = 100_000_000;

/** Of a safe integer in decimal. */
function wholeNumberBytes(value: number): number {
  const rest = Math.abs(value);
  const high = Math.floor(rest / LOW_DIGITS);
  let digits = (value < 0 ? 2 : 1) + (high === 0 ? 0 : 8);
  for (let part = high === 0 ? rest | 0 : high; part >= 10; part = (part / 10) | 0) digits++;
  return digits;
}

/** Key and value of a record in one piece of memory, the value behind the key. */
export interface PlacedRecord {
  readonly bytes: Buffer;
  readonly start: number;
  /** -1: no key. */
  readonly keyBytes: number;
  readonly valueBytes: number;
}

/** A view and TypedArray.set have a fixed cost of some 100 ns; below about that many bytes a loop is faster. */
function copyBytes(source: Uint8Array, start: number, length: number, target: Uint8Array, at: number): void {
  if (length > 48) {
    target.set(length === source.length ? source : source.subarray(start, start + length), at);
    return;
  }
  // In range by the caller's check; the fallback is for the type only.
  for (let i = 0; i < length; i++) target[at + i] = source[start + i] ?? 0;
}

export class RecordBatchBuilder {
  readonly #buffer: Buffer;
  #end = BATCH_HEADER_BYTES;
  #records = 0;
  #baseTimestampMs = 0;
  #maxTimestampMs = 0;

  constructor(capacityBytes: number) {
    this.#buffer = Buffer.allocUnsafeSlow(capacityBytes);
  }

  get records(): number {
    return this.#records;
  }

  /** Of the batch as it stands, uncompressed. */
  get bytes(): number {
    return this.#end;
  }

  /** False: the record does not fit any more (or, with `records` 0, never will). */
  add(
    timestampMs: number,
    key: Uint8Array | null,
    value: Uint8Array | null,
    headers: HeaderBlock = NO_HEADERS,
  ): boolean {
    const [keyBytes, valueBytes] = [key?.length ?? -1, value?.length ?? -1];
    return this.#append(timestampMs, key ?? NO_BYTES, 0, keyBytes, value ?? NO_BYTES, 0, valueBytes, headers);
  }

  /** The same of a record with a value. */
  addPlaced(timestampMs: number, { bytes, start, keyBytes, valueBytes }: PlacedRecord, headers: HeaderBlock): boolean {
    const valueStart = start + (keyBytes > 0 ? keyBytes : 0);
    return this.#append(timestampMs, bytes, start, keyBytes, bytes, valueStart, valueBytes, headers);
  }

  #append(
    timestampMs: number,
    key: Uint8Array,
    keyStart: number,
    keyBytes: number,
    value: Uint8Array,
    valueStart: number,
    valueBytes: number,
    headers: HeaderBlock,
  ): boolean {
    const delta = this.#records === 0 ? 0 : timestampMs - this.#baseTimestampMs;
    const size =
      1 +
      varintBytes(delta) +
      varintBytes(this.#records) +
      varintBytes(keyBytes) +
      varintBytes(valueBytes) +
      varintBytes(headers.count) +
      headers.bytes +
      (keyBytes > 0 ? keyBytes : 0) +
      (valueBytes > 0 ? valueBytes : 0);
    const buffer = this.#buffer;
    if (this.#end + varintBytes(size) + size > buffer.length) return false;
    if (this.#records === 0) this.#baseTimestampMs = this.#maxTimestampMs = timestampMs;
    else if (timestampMs > this.#maxTimestampMs) this.#maxTimestampMs = timestampMs;
    let at = writeVarint(buffer, this.#end, size);
    buffer[at++] = 0;
    at = writeVarint(buffer, at, delta);
    at = writeVarint(buffer, at, this.#records);
    at = writeVarint(buffer, at, keyBytes);
    if (keyBytes > 0) copyBytes(key, keyStart, keyBytes, buffer, at);
    at = writeVarint(buffer, at + (keyBytes > 0 ? keyBytes : 0), valueBytes);
    if (valueBytes > 0) copyBytes(value, valueStart, valueBytes, buffer, at);
    at = writeVarint(buffer, at + (valueBytes > 0 ? valueBytes : 0), headers.count);
    this.#end = headers.copyTo(buffer, at);
    this.#records++;
    return true;
  }

  /** The finished batch, and an empty builder. At least one record must have been added. */
  seal(identity: ProducerIdentity, compression: 'none' | 'zstd'): Buffer {
    const records = this.#buffer.subarray(BATCH_HEADER_BYTES, this.#end);
    const body = compression === 'zstd' ? zstdCompressSync(records, ZSTD_OPTIONS) : records;
    const batch = Buffer.allocUnsafeSlow(BATCH_HEADER_BYTES + body.length);
    batch.set(body, BATCH_HEADER_BYTES);
    sealBatch(batch, {
      producerId: identity.producerId,
      producerEpoch: identity.producerEpoch,
      baseSequence: identity.baseSequence,
      compression: COMPRESSION[compression],
      records: this.#records,
      baseTimestampMs: this.#baseTimestampMs,
      maxTimestampMs: this.#maxTimestampMs,
    });
    this.#end = BATCH_HEADER_BYTES;
    this.#records = 0;
    return batch;
  }
}
