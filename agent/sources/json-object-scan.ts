/**
 * Where two fields of a JSON object stand in its text: what a reading needs to know of a value that travels as the bytes that came. No string
 * and no object is made of the rest, which is most of what `JSON.parse` costs a line.
 *
 * Invariants: what is found to be an object is one for `JSON.parse` too (RFC 8259, all of it is checked), with the same fields; where a name
 * comes twice, the last one counts.
 * Limits: `scan` is false for what is no object or no JSON, and for what is rare: names with escapes or beyond ASCII, and values nested deeper
 * than DEPTH_MAX. `JSON.parse` is to be asked then. Bytes beyond ASCII in strings are only noted (`isAscii`): whether they are UTF-8 is for
 * the caller to see.
 */
const DEPTH_MAX = 64;

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const COMMA = 0x2c;
const COLON = 0x3a;
const OPEN_BRACE = 0x7b;
const CLOSE_BRACE = 0x7d;
const OPEN_BRACKET = 0x5b;
const CLOSE_BRACKET = 0x5d;
const MINUS = 0x2d;
const PLUS = 0x2b;
const DOT = 0x2e;
const ZERO = 0x30;
const LOWER_E = 0x65;
const LOWER_U = 0x75;
const WORDS = ['true', 'false', 'null'] as const;
/** In each byte of a word. */
const ONES = 0x01010101;
const SPACES = 0x20202020;
const QUOTES = 0x22222222;
const BACKSLASHES = 0x5c5c5c5c;
const HIGH_BITS = ~0x7f7f7f7f;

/** 1 for bytes that stand for themselves in a string and are ASCII. */
const PLAIN = Uint8Array.from({ length: 256 }, (_, byte) =>
  Number(byte >= 0x20 && byte < 0x80 && byte !== QUOTE && byte !== BACKSLASH),
);
const ESCAPED = new Set(Buffer.from('"\\/bfnrt'));

/** Where the text of a value stands; `start` is -1 where there is none. */
export interface ValuePlace {
  readonly start: number;
  readonly end: number;
}

export class Place implements ValuePlace {
  start = -1;
  end = -1;
}

/** May be used again and again; what was found is valid until then. */
export class JsonObjectScan {
  readonly first = new Place();
  readonly second = new Place();
  isAscii = true;
  #text: Uint8Array = new Uint8Array(0);
  #words = new DataView(this.#text.buffer);
  /** Behind the text; what stands there may be looked at, and makes nothing an object. */
  #end = 0;

  /** Of the text from `from` to `to`. `firstName` null: only the second field is looked for. */
  scan(text: Uint8Array, from: number, to: number, firstName: string | null, secondName: string): boolean {
    const { first, second } = this;
    first.start = second.start = -1;
    this.isAscii = true;
    if (text !== this.#text) {
      this.#text = text;
      this.#words = new DataView(text.buffer, text.byteOffset, text.length);
    }
    this.#end = to;
    let at = this.#space(from);
    if (text[at] !== OPEN_BRACE) return false;
    at = this.#space(at + 1);
    if (text[at] === CLOSE_BRACE) return this.#space(at + 1) === to;
    for (;;) {
      const nameStart = at + 1;
      const nameEnd = this.#plainNameEnd(at);
      if (nameEnd < 0) return false;
      at = this.#space(nameEnd + 1);
      if (text[at] !== COLON) return false;
      const start = this.#space(at + 1);
      const end = this.#value(start, 0);
      if (end < 0) return false;
      if (firstName !== null && this.#isName(nameStart, nameEnd, firstName)) setPlace(first, start, end);
      if (this.#isName(nameStart, nameEnd, secondName)) setPlace(second, start, end);
      at = this.#space(end);
      if (text[at] === CLOSE_BRACE) return this.#space(at + 1) === to;
      if (text[at] !== COMMA) return false;
      at = this.#space(at + 1);
    }
  }

  #isName(start: number, end: number, name: string): boolean {
    if (end - start !== name.length) return false;
    for (let index = 0; index < name.length; index += 1) {
      if (this.#text[start + index] !== name.charCodeAt(index)) return false;
    }
    return true;
  }

  #space(from: number): number {
    const text = this.#text;
    let at = from;
    while (at < this.#end) {
      const byte = text[at];
      if (byte !== 0x20 && byte !== 0x09 && byte !== 0x0a && byte !== 0x0d) break;
      at += 1;
    }
    return at;
  }

  /** Where the closing quote is; -1: it is not a plain name. */
  #plainNameEnd(from: number): number {
    const text = this.#text;
    if (text[from] !== QUOTE) return -1;
    let at = from + 1;
    while (at < this.#end && PLAIN[text[at] ?? 0] === 1) at += 1;
    return text[at] === QUOTE ? at : -1;
  }

  /** Behind the value, or -1; the same for all below. */
  #value(from: number, depth: number): number {
    switch (this.#text[from]) {
      case QUOTE:
        return this.#string(from);
      case OPEN_BRACE:
        return depth === DEPTH_MAX ? -1 : this.#object(from, depth + 1);
      case OPEN_BRACKET:
        return depth === DEPTH_MAX ? -1 : this.#array(from, depth + 1);
      case 0x74:
        return this.#word(from, WORDS[0]);
      case 0x66:
        return this.#word(from, WORDS[1]);
      case 0x6e:
        return this.#word(from, WORDS[2]);
      default:
        return this.#number(from);
    }
  }

  #string(from: number): number {
    const text = this.#text;
    for (let at = this.#plainEnd(from + 1); at < this.#end; at += 1) {
      const byte = text[at] ?? 0;
      if (PLAIN[byte] === 1) continue;
      if (byte === QUOTE) return at + 1;
      if (byte >= 0x80) this.isAscii = false;
      else if (byte !== BACKSLASH) return -1;
      else if (text[at + 1] === LOWER_U) {
        for (let digit = at + 2; digit < at + 6; digit += 1) if (!isHexDigit(text[digit])) return -1;
        at += 5;
      } else if (ESCAPED.has(text[at + 1] ?? 0)) at += 1;
      else return -1;
    }
    return -1;
  }

  /** Everything from here to there stands for itself and is ASCII; what follows is for a closer look. Four bytes at a time (Mycroft's test for a zero byte). */
  #plainEnd(from: number): number {
    const words = this.#words;
    const last = this.#end - 4;
    let at = from;
    for (; at <= last; at += 4) {
      const word = words.getInt32(at, true);
      const quotes = word ^ QUOTES;
      const backslashes = word ^ BACKSLASHES;
      // Beyond ASCII, below a space, a quote or a backslash. A borrow can only report a byte behind a true one.
      if (((word | (word - SPACES) | (quotes - ONES) | (backslashes - ONES)) & HIGH_BITS) !== 0) break;
    }
    return at;
  }

  #object(from: number, depth: number): number {
    const text = this.#text;
    let at = this.#space(from + 1);
    if (text[at] === CLOSE_BRACE) return at + 1;
    for (;;) {
      if (text[at] !== QUOTE) return -1;
      const nameEnd = this.#string(at);
      if (nameEnd < 0) return -1;
      at = this.#space(nameEnd);
      if (text[at] !== COLON) return -1;
      const end = this.#value(this.#space(at + 1), depth);
      if (end < 0) return -1;
      at = this.#space(end);
      if (text[at] === CLOSE_BRACE) return at + 1;
      if (text[at] !== COMMA) return -1;
      at = this.#space(at + 1);
    }
  }

  #array(from: number, depth: number): number {
    const text = this.#text;
    let at = this.#space(from + 1);
    if (text[at] === CLOSE_BRACKET) return at + 1;
    for (;;) {
      const end = this.#value(at, depth);
      if (end < 0) return -1;
      at = this.#space(end);
      if (text[at] === CLOSE_BRACKET) return at + 1;
      if (text[at] !== COMMA) return -1;
      at = this.#space(at + 1);
    }
  }

  #word(from: number, word: string): number {
    for (let index = 1; index < word.length; index += 1) {
      if (this.#text[from + index] !== word.charCodeAt(index)) return -1;
    }
    return from + word.length;
  }

  #number(from: number): number {
    const text = this.#text;
    let at = text[from] === MINUS ? from + 1 : from;
    const whole = at;
    at = this.#digits(at);
    if (at === whole || (text[whole] === ZERO && at > whole + 1)) return -1;
    if (text[at] === DOT) {
      const fraction = at + 1;
      at = this.#digits(fraction);
      if (at === fraction) return -1;
    }
    if (((text[at] ?? 0) | 0x20) === LOWER_E) {
      const isSigned = text[at + 1] === PLUS || text[at + 1] === MINUS;
      const exponent = at + (isSigned ? 2 : 1);
      at = this.#digits(exponent);
      if (at === exponent) return -1;
    }
    return at;
  }

  #digits(from: number): number {
    const text = this.#text;
    let at = from;
    while (at < this.#end && isDigit(text[at])) at += 1;
    return at;
  }
}

function setPlace(place: Place, start: number, end: number): void {
  place.start = start;
  place.end = end;
}

function isDigit(byte = 0): boolean {
  return byte >= ZERO && byte <= 0x39;
}

function isHexDigit(byte = 0): boolean {
  const lower = byte | 0x20;
  return isDigit(byte) || (lower >= 0x61 && lower <= 0x66);
}

const DIGITS_MAX = 15;

/** What `JSON.parse` makes of the value at `place`; undefined of an object or array, and where there is none. The bytes are UTF-8. */
export function scalarAt(text: Buffer, { start, end }: ValuePlace): string | number | boolean | null | undefined {
  const first = text[start];
  if (start < 0 || first === OPEN_BRACE || first === OPEN_BRACKET) return undefined;
  if (first === QUOTE) {
    const content = text.toString('utf8', start + 1, end - 1);
    if (!content.includes('\\')) return content;
  } else {
    const whole = shortWholeNumber(text, start, end);
    if (whole >= 0) return whole;
  }
  // No object and no array, see above.
  return JSON.parse(text.toString('utf8', start, end)) as string | number | boolean | null;
}

/** Where the content of a string stands, or a whole number as `String` would write it; false: it is neither, or written otherwise. */
export function findPlainText(text: Uint8Array, value: ValuePlace, found: Place): boolean {
  const isString = text[value.start] === QUOTE;
  setPlace(found, value.start + Number(isString), value.end - Number(isString));
  if (!isString) return shortWholeNumber(text, found.start, found.end) >= 0;
  for (let at = found.start; at < found.end; at += 1) if (text[at] === BACKSLASH) return false;
  return true;
}

/** -1: it is something else. */
function shortWholeNumber(text: Uint8Array, start: number, end: number): number {
  if (end - start > DIGITS_MAX) return -1;
  let value = 0;
  for (let at = start; at < end; at += 1) {
    const byte = text[at];
    if (!isDigit(byte)) return -1;
    value = value * 10 + ((byte ?? 0) - ZERO);
  }
  return value;
}
