/**
 * One FUSE request as it lies in the device loop's buffer: bounds-checked access to its fields. The bytes come from the kernel, but a
 * server must not depend on it: every read is checked against the request's own length, and a request that is too short for
 * its opcode becomes `MalformedRequest` (EINVAL), never a read beyond it.
 *
 * Invariants
 * - A request is valid only until the next one is read into the same buffer: what outlives the synchronous part of an operation
 *   is copied (`bytesCopy`, names become strings); only WRITE's payload is a view (see `Operations.write`).
 */
import {
  IN_GID,
  IN_HEADER_BYTES,
  IN_NODEID,
  IN_OPCODE,
  IN_PID,
  IN_UID,
  IN_UNIQUE,
  NAME_BYTES_MAX,
} from './protocol.ts';
import { Errno, PosixError } from '../vfs/operations.ts';

/** The request is shorter than its opcode needs, or a length in it points outside. */
export class MalformedRequest extends PosixError {
  constructor(message: string) {
    super(Errno.EINVAL, message);
  }
}

export class RequestReader {
  /** SETXATTR carries the 16-byte header that FUSE_SETXATTR_EXT negotiates, instead of the one of 8 bytes. */
  readonly setxattrExtended: boolean;
  readonly #buffer: Buffer;
  #length = 0;

  constructor(buffer: Buffer, setxattrExtended: boolean) {
    this.#buffer = buffer;
    this.setxattrExtended = setxattrExtended;
  }

  /** Takes the next request, `length` bytes from the start of the buffer. False when it is not even a whole header. */
  load(length: number): boolean {
    this.#length = Math.min(length, this.#buffer.length);
    return length >= IN_HEADER_BYTES && length <= this.#buffer.length && this.#buffer.readUInt32LE(0) === length;
  }

  get opcode(): number {
    return this.#buffer.readUInt32LE(IN_OPCODE);
  }
  get uniqueLow(): number {
    return this.#buffer.readUInt32LE(IN_UNIQUE);
  }
  get uniqueHigh(): number {
    return this.#buffer.readUInt32LE(IN_UNIQUE + 4);
  }
  get ino(): bigint {
    return this.#buffer.readBigUInt64LE(IN_NODEID);
  }
  get uid(): number {
    return this.#buffer.readUInt32LE(IN_UID);
  }
  get gid(): number {
    return this.#buffer.readUInt32LE(IN_GID);
  }
  get pid(): number {
    return this.#buffer.readUInt32LE(IN_PID);
  }
  /** Bytes behind the header. */
  get bodyBytes(): number {
    return this.#length - IN_HEADER_BYTES;
  }

  u32(offset: number): number {
    return this.#buffer.readUInt32LE(this.#at(offset, 4));
  }
  u64(offset: number): bigint {
    return this.#buffer.readBigUInt64LE(this.#at(offset, 8));
  }
  i64(offset: number): bigint {
    return this.#buffer.readBigInt64LE(this.#at(offset, 8));
  }
  /** File offsets are loff_t: the kernel sends none that are negative, but for LSEEK. */
  offset64(offset: number): bigint {
    const value = this.i64(offset);
    if (value < 0n) throw new MalformedRequest('negative file offset');
    return value;
  }

  /** The zero-terminated name that starts at `offset` of the body, as latin1. Throws EINVAL, ENAMETOOLONG. */
  name(offset: number, bytesMax = NAME_BYTES_MAX): string {
    return this.string(offset, bytesMax).text;
  }

  /** Two strings behind each other: the names of a RENAME, name and target of a SYMLINK. */
  names(offset: number, secondBytesMax = NAME_BYTES_MAX): readonly [string, string] {
    const first = this.string(offset, NAME_BYTES_MAX);
    return [first.text, this.string(first.end, secondBytesMax).text];
  }

  /** A zero-terminated string; `end` is the body offset behind its zero. */
  string(offset: number, bytesMax: number): { readonly text: string; readonly end: number } {
    const start = this.#at(offset, 1);
    const zero = this.#buffer.indexOf(0, start);
    if (zero < 0 || zero >= this.#length) throw new MalformedRequest('name without its terminating zero');
    if (zero === start) throw new MalformedRequest('empty name');
    if (zero - start > bytesMax) throw new PosixError(Errno.ENAMETOOLONG, `name of ${zero - start} bytes`);
    return { text: this.#buffer.toString('latin1', start, zero), end: zero + 1 - IN_HEADER_BYTES };
  }

  /** A view of `bytes` bytes, only valid until the next request. */
  bytesView(offset: number, bytes: number): Buffer {
    const start = this.#at(offset, bytes);
    return this.#buffer.subarray(start, start + bytes);
  }

  bytesCopy(offset: number, bytes: number): Buffer {
    return Buffer.from(this.bytesView(offset, bytes));
  }

  #at(offset: number, bytes: number): number {
    const start = IN_HEADER_BYTES + offset;
    if (start + bytes > this.#length) {
      throw new MalformedRequest(`request of ${this.#length} bytes is too short: ${bytes} bytes at ${start}`);
    }
    return start;
  }
}
