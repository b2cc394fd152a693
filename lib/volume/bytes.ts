/**
 * The byte codec of a volume's records: little-endian fixed integers, LEB128 varints, length-prefixed bytes, and a CRC32C behind
 * each record. A reader that meets anything else than a whole, intact record throws `corrupt` with the record's name.
 */
import { crc32c } from '@node-rs/crc32';
import { PenstockError } from '../errors.ts';

const CRC_BYTES = 4;
const INITIAL_BYTES = 256;

export class ByteWriter {
  #buffer = Buffer.allocUnsafe(INITIAL_BYTES);
  #length = 0;

  get length(): number {
    return this.#length;
  }

  /** Makes the writer empty again; its buffer is kept. */
  reset(): this {
    this.#length = 0;
    return this;
  }

  #reserve(bytes: number): void {
    if (this.#length + bytes <= this.#buffer.length) return;
    const larger = Buffer.allocUnsafe(Math.max(this.#buffer.length * 2, this.#length + bytes));
    this.#buffer.copy(larger, 0, 0, this.#length);
    this.#buffer = larger;
  }

  u8(value: number): this {
    this.#reserve(1);
    this.#buffer[this.#length++] = value;
    return this;
  }

  u32(value: number): this {
    this.#reserve(4);
    this.#length = this.#buffer.writeUInt32LE(value, this.#length);
    return this;
  }

  i64(value: bigint): this {
    this.#reserve(8);
    this.#length = this.#buffer.writeBigInt64LE(value, this.#length);
    return this;
  }

  /** A whole number from 0 to 2^53 - 1. */
  varint(value: number): this {
    this.#reserve(8);
    let rest = value;
    while (rest > 127) {
      this.#buffer[this.#length++] = (rest % 128) + 128;
      rest = Math.floor(rest / 128);
    }
    this.#buffer[this.#length++] = rest;
    return this;
  }

  /** A signed 64-bit integer, small when near 0 (zigzag). */
  signed(value: bigint): this {
    this.#reserve(10);
    let rest = BigInt.asUintN(64, (value << 1n) ^ (value >> 63n));
    while (rest > 127n) {
      this.#buffer[this.#length++] = Number(rest & 127n) + 128;
      rest >>= 7n;
    }
    this.#buffer[this.#length++] = Number(rest);
    return this;
  }

  bytes(value: Uint8Array): this {
    this.varint(value.length);
    this.#reserve(value.length);
    this.#buffer.set(value, this.#length);
    this.#length += value.length;
    return this;
  }

  /** A byte string whose chars are one byte each. */
  latin1(value: string): this {
    this.varint(value.length);
    this.#reserve(value.length);
    this.#length += this.#buffer.write(value, this.#length, 'latin1');
    return this;
  }

  /** A copy of what was written, with its CRC32C behind it. */
  finish(): Buffer {
    const record = Buffer.allocUnsafe(this.#length + CRC_BYTES);
    this.#buffer.copy(record, 0, 0, this.#length);
    record.writeUInt32LE(crc32c(record.subarray(0, this.#length)), this.#length);
    return record;
  }
}

export class ByteReader {
  readonly #buffer: Buffer;
  readonly #end: number;
  readonly #name: string;
  #offset = 0;

  /** Checks the CRC. `name` is what an error calls the record. */
  constructor(record: Buffer, name: string) {
    this.#buffer = record;
    this.#end = record.length - CRC_BYTES;
    this.#name = name;
    if (this.#end < 0 || crc32c(record.subarray(0, this.#end)) !== record.readUInt32LE(this.#end)) {
      throw this.damaged('its checksum does not match');
    }
  }

  damaged(why: string): PenstockError {
    return new PenstockError('corrupt', `${this.#name} is damaged: ${why}`);
  }

  #take(bytes: number): number {
    const at = this.#offset;
    if (bytes > this.#end - at) throw this.damaged(`it ends ${bytes - (this.#end - at)} bytes early`);
    this.#offset = at + bytes;
    return at;
  }

  u8(): number {
    return this.#buffer.readUInt8(this.#take(1));
  }

  u32(): number {
    return this.#buffer.readUInt32LE(this.#take(4));
  }

  i64(): bigint {
    return this.#buffer.readBigInt64LE(this.#take(8));
  }

  varint(): number {
    let value = 0;
    let scale = 1;
    while (true) {
      const byte = this.u8();
      value += (byte & 127) * scale;
      if (byte < 128) break;
      scale *= 128;
      if (scale > 2 ** 49) throw this.damaged('a number in it is longer than 53 bits');
    }
    if (!Number.isSafeInteger(value)) throw this.damaged('a number in it is longer than 53 bits');
    return value;
  }

  signed(): bigint {
    let value = 0n;
    let shift = 0n;
    while (true) {
      const byte = this.u8();
      if (byte === 0 && shift === 0n) return 0n;
      value |= BigInt(byte & 127) << shift;
      if (byte < 128) break;
      shift += 7n;
      if (shift > 63n) throw this.damaged('a number in it is longer than 64 bits');
    }
    return BigInt.asIntN(64, (value >> 1n) ^ -(value & 1n));
  }

  /** A copy, so that the record's buffer can be freed. */
  bytes(): Buffer {
    const length = this.varint();
    const at = this.#take(length);
    return Buffer.from(this.#buffer.subarray(at, at + length));
  }

  latin1(): string {
    const length = this.varint();
    const at = this.#take(length);
    return this.#buffer.toString('latin1', at, at + length);
  }

  /** Nothing is left: an older version wrote no more. */
  get isAtEnd(): boolean {
    return this.#offset === this.#end;
  }

  /** Nothing may be left. */
  end(): void {
    if (this.#offset !== this.#end) throw this.damaged(`${this.#end - this.#offset} bytes too many`);
  }
}
