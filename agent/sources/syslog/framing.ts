/**
 * From the bytes of a connection to messages (RFC 6587): each begins with its length (`123 <34>1 ...`, octet counting, what RFC 5425 wants
 * over TLS) or ends with a line end. Both are told apart at each message, as no message begins with a digit.
 *
 * Limits: `bytesMax` of a message; of a larger one only the beginning is kept. A length above LENGTH_MAX is taken for a false one: to skip
 * so much would swallow, unseen, the messages that follow.
 */
const LF = 0x0a;
const SPACE = 0x20;
/** 16 times the largest `maxMessageBytes`; senders cut their messages far below (rsyslog at 8 KiB, syslog-ng at 64 KiB, unless told otherwise). */
const LENGTH_MAX = 1_048_576;
/** The digits of a length. */
const LENGTH_DIGITS_MAX = 9;

export interface Framed {
  readonly bytes: Buffer;
  /** `bytes` is only its beginning. */
  readonly isTooLong: boolean;
  /** Of one that is too long and counted: what its sender says it has. */
  readonly announcedBytes?: number;
}

/** Where a message begins cannot be known any more: the connection must end. */
export class FramingError extends Error {
  /** What came from the broken message on: none of it was given out. */
  readonly bytes: Buffer;

  constructor(message: string, bytes: Buffer) {
    super(message);
    this.bytes = bytes;
  }
}

export class SyslogFramer {
  readonly #bytesMax: number;
  #rest: Buffer = Buffer.alloc(0);
  /** Of a message that is too long: bytes that are still to be skipped; `line` up to the next line end. */
  #skipping: number | 'line' = 0;

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  /** Throws FramingError. The buffer must not be written again. */
  *push(chunk: Buffer): Iterable<Framed> {
    let bytes = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk]);
    this.#rest = Buffer.alloc(0);
    while (bytes.length > 0) {
      if (this.#skipping === 'line') {
        const end = bytes.indexOf(LF);
        if (end < 0) return;
        this.#skipping = 0;
        bytes = bytes.subarray(end + 1);
      } else if (this.#skipping > 0) {
        const skipped = Math.min(this.#skipping, bytes.length);
        this.#skipping -= skipped;
        bytes = bytes.subarray(skipped);
      } else {
        const next = isDigit(bytes[0]) ? this.#counted(bytes) : this.#line(bytes);
        if (next === null) {
          this.#rest = bytes;
          return;
        }
        if (next.framed.bytes.length > 0) yield next.framed;
        bytes = bytes.subarray(next.used);
      }
    }
  }

  /** What a connection ends with: a message without a line end, or a part of one whose length says that there is more. */
  finish(): { readonly bytes: Buffer; readonly isWhole: boolean } | null {
    const bytes = this.#rest;
    this.#rest = Buffer.alloc(0);
    return bytes.length === 0 ? null : { bytes, isWhole: !isDigit(bytes[0]) };
  }

  #counted(bytes: Buffer): { framed: Framed; used: number } | null {
    let digits = 1;
    while (isDigit(bytes[digits])) digits += 1;
    if (digits > LENGTH_DIGITS_MAX) {
      throw new FramingError('the length of a message has too many digits', bytes);
    }
    if (digits === bytes.length) return null;
    if (bytes[digits] !== SPACE) {
      throw new FramingError('a message begins with a digit and no length', bytes);
    }
    const length = Number(bytes.toString('latin1', 0, digits));
    if (length > LENGTH_MAX) {
      throw new FramingError(`a message announces ${length} bytes, more than ${LENGTH_MAX}`, bytes);
    }
    const start = digits + 1;
    if (length > this.#bytesMax) {
      const kept = bytes.subarray(start, start + this.#bytesMax);
      if (kept.length < this.#bytesMax) return null;
      this.#skipping = length - this.#bytesMax;
      return { framed: { bytes: kept, isTooLong: true, announcedBytes: length }, used: start + this.#bytesMax };
    }
    if (bytes.length < start + length) return null;
    return { framed: { bytes: bytes.subarray(start, start + length), isTooLong: false }, used: start + length };
  }

  #line(bytes: Buffer): { framed: Framed; used: number } | null {
    const end = bytes.indexOf(LF);
    if (end > this.#bytesMax || (end < 0 && bytes.length > this.#bytesMax)) {
      const framed = { bytes: bytes.subarray(0, this.#bytesMax), isTooLong: true };
      if (end < 0) this.#skipping = 'line';
      return { framed, used: end < 0 ? bytes.length : end + 1 };
    }
    return end < 0 ? null : { framed: { bytes: bytes.subarray(0, end), isTooLong: false }, used: end + 1 };
  }
}

function isDigit(byte: number | undefined): boolean {
  return byte !== undefined && byte >= 0x30 && byte <= 0x39;
}
