/**
 * The primitive types of Kafka's protocol (kafka.apache.org/protocol, "Protocol Primitive Types"), big-endian, in both encodings:
 *
 *    classic    string: INT16 length, bytes       array: INT32 count, elements            null: length -1
 *    flexible   string: UVARINT length+1, bytes   array: UVARINT count+1, elements        null: 0, and tagged fields behind each struct
 *
 * Invariants: a reader never reads beyond its bytes, and a count is checked against the bytes that are left before anything is
 * allocated for it. Every flaw is `corrupt` and names what was being read.
 */
import { PenstockError } from '../../errors.ts';

export class WireWriter {
  #bytes = Buffer.allocUnsafe(256);
  #end = 0;

  /** What was written, as bytes of their own. */
  finish(): Buffer {
    return this.#bytes.subarray(0, this.#end);
  }

  int8(value: number): this {
    const at = this.#grow(1);
    this.#bytes.writeInt8(value, at);
    return this;
  }

  boolean(value: boolean): this {
    return this.int8(value ? 1 : 0);
  }

  int16(value: number): this {
    const at = this.#grow(2);
    this.#bytes.writeInt16BE(value, at);
    return this;
  }

  int32(value: number): this {
    const at = this.#grow(4);
    this.#bytes.writeInt32BE(value, at);
    return this;
  }

  int64(value: bigint): this {
    const at = this.#grow(8);
    this.#bytes.writeBigInt64BE(value, at);
    return this;
  }

  string(value: string | null): this {
    if (value === null) return this.int16(-1);
    const length = Buffer.byteLength(value);
    if (length > 0x7fff) throw new PenstockError('too-large', `a name of ${length} bytes: Kafka takes 32,767`);
    this.int16(length);
    return this.#utf8(value, length);
  }

  array<T>(items: readonly T[], write: (item: T) => void): this {
    this.int32(items.length);
    for (const item of items) write(item);
    return this;
  }

  uvarint(value: number): this {
    let rest = value;
    while (rest > 127) {
      this.#byte((rest & 127) | 128);
      rest >>>= 7;
    }
    return this.#byte(rest);
  }

  compactString(value: string): this {
    const length = Buffer.byteLength(value);
    this.uvarint(length + 1);
    return this.#utf8(value, length);
  }

  bytes(value: Uint8Array): this {
    const at = this.#grow(value.length);
    this.#bytes.set(value, at);
    return this;
  }

  noTaggedFields(): this {
    return this.uvarint(0);
  }

  #utf8(value: string, length: number): this {
    const at = this.#grow(length);
    this.#bytes.write(value, at);
    return this;
  }

  #byte(value: number): this {
    const at = this.#grow(1);
    this.#bytes[at] = value;
    return this;
  }

  #grow(count: number): number {
    const at = this.#end;
    this.#end += count;
    if (this.#end > this.#bytes.length) {
      const larger = Buffer.allocUnsafe(Math.max(this.#end, this.#bytes.length * 2));
      larger.set(this.#bytes.subarray(0, at));
      this.#bytes = larger;
    }
    return at;
  }
}

export class WireReader {
  readonly #bytes: Buffer;
  readonly #what: string;
  #at = 0;

  /** `what` stands in the messages of errors: "the answer of h:p to Metadata". */
  constructor(bytes: Buffer, what: string) {
    this.#bytes = bytes;
    this.#what = what;
  }

  int8(): number {
    return this.#bytes.readInt8(this.#take(1, 'an INT8'));
  }

  boolean(): boolean {
    return this.int8() !== 0;
  }

  int16(): number {
    return this.#bytes.readInt16BE(this.#take(2, 'an INT16'));
  }

  int32(): number {
    return this.#bytes.readInt32BE(this.#take(4, 'an INT32'));
  }

  int64(): bigint {
    return this.#bytes.readBigInt64BE(this.#take(8, 'an INT64'));
  }

  nullableString(): string | null {
    return this.#text(this.int16());
  }

  string(): string {
    return this.nullableString() ?? this.#absent('a string');
  }

  /** Bytes of the answer itself, not a copy; null reads as empty. */
  compactNullableBytes(): Buffer {
    const length = this.uvarint() - 1;
    if (length < 0) return this.#bytes.subarray(0, 0);
    const at = this.#take(length, 'bytes');
    return this.#bytes.subarray(at, at + length);
  }

  /** Null reads as empty. */
  array<T>(read: () => T): T[] {
    return this.#elements(this.int32(), read);
  }

  uvarint(): number {
    let value = 0;
    for (let shift = 0; shift < 35; shift += 7) {
      const byte = this.#bytes.readUInt8(this.#take(1, 'a UVARINT'));
      value += (byte & 127) * 2 ** shift;
      if (byte < 128) return value;
    }
    return this.flaw('a UVARINT without an end');
  }

  compactNullableString(): string | null {
    return this.#text(this.uvarint() - 1);
  }

  compactString(): string {
    return this.compactNullableString() ?? this.#absent('a string');
  }

  compactArray<T>(read: () => T): T[] {
    return this.#elements(this.uvarint() - 1, read);
  }

  uuid(): Buffer {
    const at = this.#take(16, 'a UUID');
    return this.#bytes.subarray(at, at + 16);
  }

  /** Fields of newer versions that we do not know: skipped, as the protocol asks. */
  taggedFields(): void {
    const count = this.uvarint();
    for (let i = 0; i < count; i++) {
      this.uvarint();
      this.#take(this.uvarint(), 'a tagged field');
    }
  }

  /** Nothing may follow. */
  end(): void {
    if (this.#at !== this.#bytes.length) this.flaw(`${this.#bytes.length - this.#at} bytes too many`);
  }

  flaw(flaw: string): never {
    throw new PenstockError('corrupt', `${this.#what} is damaged at byte ${this.#at}: ${flaw}`);
  }

  #text(length: number): string | null {
    if (length < 0) return null;
    const at = this.#take(length, 'a string');
    return this.#bytes.toString('utf8', at, at + length);
  }

  #elements<T>(count: number, read: () => T): T[] {
    // Every element of every answer has at least one byte.
    if (count > this.#bytes.length - this.#at)
      this.flaw(`an array of ${count} elements in ${this.#bytes.length} bytes`);
    const elements: T[] = [];
    for (let i = 0; i < count; i++) elements.push(read());
    return elements;
  }

  #take(count: number, what: string): number {
    const at = this.#at;
    if (count < 0 || count > this.#bytes.length - at) this.flaw(`${what} of ${count} bytes reaches beyond the end`);
    this.#at += count;
    return at;
  }

  #absent(what: string): never {
    return this.flaw(`null where ${what} must be`);
  }
}
