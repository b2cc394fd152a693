/**
 * From the bytes of a connection to messages (RFC 6587): each begins with its length (`123 <34>1 ...`, octet counting, what RFC 5425 wants
 * over TLS) or ends with a line end. Both are told apart at each message, as no message begins with a digit.
 *
 * A length is false when no message begins behind it. That is the only proof: what looks like messages within one may be text that somebody
 * had logged, and must not become messages that its sender never sent. The next message is then looked for within what the false length
 * spans and behind it: one behind which another one begins, or nothing has come yet.
 *
 * Limits: `bytesMax` of a message; of a larger one only the beginning is kept. What breaks the connection, because to skip so much would swallow the
 * messages that follow unseen: a length above LENGTH_MAX; one above WHOLE_BYTES with messages in the beginning (to keep all of it until it is proven
 * false would be 1 MiB for each connection); no message in twice WHOLE_BYTES behind a false length.
 */
import {
  type Answer,
  beginsAt,
  behindLineEnds,
  isDigit,
  isPriorityAt,
  lengthAt,
  LESS,
  LENGTH_DIGITS_MAX,
  LF,
  messageStarts,
} from './message-start.ts';

/** 16 times the largest `maxMessageBytes`; senders cut their messages far below (rsyslog at 8 KiB, syslog-ng at 64 KiB, unless told otherwise). */
const LENGTH_MAX = 1_048_576;
/** Up to this length a message is in memory as a whole: the largest `maxMessageBytes`. */
const WHOLE_BYTES = 65_536;

export interface Framed {
  readonly bytes: Buffer;
  /** Why this is no message, or only the beginning of one. */
  readonly fault: string | null;
}

interface Cut {
  readonly framed: Framed;
  /** Bytes, with the length before or the line end behind. */
  readonly used: number;
}

/** Whether one message follows another; `last`: to the end of what has come. */
type Proof = Answer | 'last';

/** Where a message begins cannot be known any more: the connection must end. */
export class FramingError extends Error {
  /** What came from the broken message on: none of it was given out. */
  readonly bytes: Buffer;

  constructor(message: string, bytes: Buffer) {
    super(message);
    this.bytes = bytes;
  }
}

export function tooLong(bytesMax: number): string {
  return `the message is longer than maxMessageBytes (${bytesMax})`;
}

export class SyslogFramer {
  readonly #bytesMax: number;
  #rest: Buffer = Buffer.alloc(0);
  /** In front of `rest`: a message that may have others in it, until what follows shows whether its length is true. */
  #held: Cut | null = null;
  /** Of a message that is too long: bytes that are still to be skipped; `line` up to the next line end. */
  #skipping: number | 'line' = 0;
  /** The message before began with its length. */
  #isCounting = false;

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  /** A whole message waits for what follows it. */
  get isHolding(): boolean {
    return this.#held !== null;
  }

  /** Throws FramingError. The buffer must not be written again. */
  *push(chunk: Buffer): Iterable<Framed> {
    let bytes = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk]);
    this.#rest = Buffer.alloc(0);
    this.#held = null;
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
        const next = this.#next(bytes);
        if (next === null) {
          this.#rest = bytes;
          return;
        }
        if (next.framed.bytes.length > 0) yield next.framed;
        bytes = bytes.subarray(next.used);
      }
    }
  }

  /** Nothing follows: what is held has the length that its sender says. */
  release(): Framed[] {
    if (this.#held === null) return [];
    const { framed, used } = this.#held;
    this.#held = null;
    this.#rest = this.#rest.subarray(used);
    this.#isCounting = true;
    return [framed];
  }

  /** What a connection ends with: a message without a line end, or a part of one whose length says that there is more. */
  finish(): Framed[] {
    const released = this.release();
    const bytes = this.#rest;
    this.#rest = Buffer.alloc(0);
    if (behindLineEnds(bytes, 0) === bytes.length) return released;
    const isPart = isDigit(bytes[0]) || (this.#isCounting && isPriorityAt(bytes, 0) === false);
    return [...released, { bytes, fault: isPart ? 'the connection ended within the message' : null }];
  }

  #next(bytes: Buffer): Cut | null {
    if (!isDigit(bytes[0])) return this.#isCounting && bytes[0] !== LF ? this.#behindCounted(bytes) : this.#line(bytes);
    const length = lengthAt(bytes, 0);
    if (length === 'part') return null;
    if (length !== null) return this.#counted(bytes, length);
    if (this.#isCounting) return this.#behindCounted(bytes);
    const digits = bytes.findIndex((byte) => !isDigit(byte));
    throw new FramingError(
      digits < 0 || digits > LENGTH_DIGITS_MAX
        ? 'the length of a message has too many digits'
        : 'a message begins with a digit and no length',
      bytes,
    );
  }

  #counted(bytes: Buffer, { length, start }: { readonly length: number; readonly start: number }): Cut | null {
    if (length > LENGTH_MAX) {
      throw new FramingError(`a message announces ${length} bytes, more than ${LENGTH_MAX}`, bytes);
    }
    const lengthHere = Math.min(length, WHOLE_BYTES);
    const end = start + lengthHere;
    if (bytes.length < end) return null;
    const framed =
      length > this.#bytesMax
        ? {
            bytes: bytes.subarray(start, start + this.#bytesMax),
            fault: `${tooLong(this.#bytesMax)}: its sender announced ${length} bytes`,
          }
        : { bytes: bytes.subarray(start, end), fault: null };
    const cut = { framed, used: end };
    const mayHoldOthers = messageStarts(bytes, start + 1, end).next().done !== true;
    if (mayHoldOthers && length > lengthHere) {
      if (messageStarts(bytes, start + 1, end).some((at) => this.#isProven(bytes, at, 0) === true)) {
        throw new FramingError(`a message announces ${length} bytes, and others begin within them`, bytes);
      }
    } else if (mayHoldOthers) {
      const isTrue = beginsAt(bytes, end);
      if (isTrue === 'part') {
        this.#held = cut;
        return null;
      }
      const fault = `its sender announced ${length} bytes, which is false: others begin within them, and none behind them`;
      if (!isTrue) return this.#upToNext(bytes, end, fault);
    }
    this.#skipping = length - lengthHere;
    this.#isCounting = true;
    return cut;
  }

  /**
   * No length stands behind a message that had one. It is a line, or that length was false (it may count characters): then what is left of its
   * message goes up to the next one, or to a line end.
   */
  #behindCounted(bytes: Buffer): Cut | null {
    const fault = 'no message begins here: the length of the one before this is false';
    const lineEnd = bytes.indexOf(LF);
    if (lineEnd < 0) return this.#upToNext(bytes, 0, fault);
    const isBeforeNext = messageStarts(bytes, 1, lineEnd).every((at) => this.#isProven(bytes, at, 0) === false);
    if (!isBeforeNext) return this.#upToNext(bytes, 0, fault);
    if (isPriorityAt(bytes, 0) === true) return this.#line(bytes);
    return { framed: { bytes: bytes.subarray(0, lineEnd), fault }, used: lineEnd + 1 };
  }

  /** What stands in front of the next message that is proven to begin; `end` is where a false length ends. */
  #upToNext(bytes: Buffer, end: number, fault: string): Cut | null {
    let awaited: number | undefined;
    const judged = new Map<number, Proof>();
    for (const at of messageStarts(bytes, 1, bytes.length)) {
      const message = bytes.indexOf(LESS, at);
      // Of one that has not all come, others may be the text; but digits before its length may be no part of it.
      if (awaited !== undefined && awaited !== message) break;
      const isProven = this.#isProven(bytes, at, end, judged);
      if (isProven === 'part') awaited = message;
      else if (isProven === true || (isProven === 'last' && awaited === undefined)) {
        return { framed: { bytes: bytes.subarray(0, at), fault }, used: at };
      }
    }
    if (bytes.length > 2 * WHOLE_BYTES) throw new FramingError(fault, bytes);
    return null;
  }

  /**
   * Whether from `first` on one message follows another to behind `end`; `last`: or to the end of what has come. `judged`: what was found out so
   * far, by place. Many chains run together in one, and to walk its rest for each of them would take the square of its length.
   */
  #isProven(bytes: Buffer, first: number, end: number, judged = new Map<number, Proof>()): Proof {
    const walked: number[] = [];
    let at = first;
    let proof: Proof | undefined;
    while (proof === undefined) {
      // Behind `end` it depends on `first`, and ends at once.
      const known = at <= end ? judged.get(at) : undefined;
      const next = known ?? this.#behindMessage(bytes, at, at > first && at > end);
      if (at <= end) walked.push(at);
      if (typeof next === 'number') at = next;
      else proof = next;
    }
    for (const place of walked) judged.set(place, proof);
    return proof;
  }

  /** Where the message at `at` ends; or what the chain is that leads there. `isEnough`: that one begins there proves it. */
  #behindMessage(bytes: Buffer, at: number, isEnough: boolean): number | Proof {
    const begins = beginsAt(bytes, at);
    if (begins !== true || isEnough) return begins;
    const length = lengthAt(bytes, behindLineEnds(bytes, at));
    // The end of one without a length proves nothing.
    if (length === null || length === 'part' || length.length > WHOLE_BYTES) return false;
    const end = length.start + length.length;
    if (end > bytes.length) return 'part';
    return end === bytes.length ? 'last' : end;
  }

  #line(bytes: Buffer): Cut | null {
    const end = bytes.indexOf(LF);
    if (end !== 0) this.#isCounting = false;
    if (end > this.#bytesMax || (end < 0 && bytes.length > this.#bytesMax)) {
      const framed = { bytes: bytes.subarray(0, this.#bytesMax), fault: tooLong(this.#bytesMax) };
      if (end < 0) this.#skipping = 'line';
      return { framed, used: end < 0 ? bytes.length : end + 1 };
    }
    return end < 0 ? null : { framed: { bytes: bytes.subarray(0, end), fault: null }, used: end + 1 };
  }
}
