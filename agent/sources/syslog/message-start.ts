/** Where a syslog message begins in the bytes of a connection: `<PRI>`, with its length (RFC 6587: digits and a space) in front or not. */

export const LF = 0x0a;
const SPACE = 0x20;
const ZERO = 0x30;
export const LESS = 0x3c;
const GREATER = 0x3e;
export const LENGTH_DIGITS_MAX = 9;
const PRIORITY_DIGITS_MAX = 3;

/** `part`: what comes next will tell. */
export type Answer = boolean | 'part';

export interface Length {
  readonly length: number;
  /** Where its message begins. */
  readonly start: number;
}

export function isDigit(byte: number | undefined): boolean {
  return byte !== undefined && byte >= 0x30 && byte <= 0x39;
}

/** null where there is none. */
export function lengthAt(bytes: Buffer, at: number): Length | 'part' | null {
  let end = at;
  while (isDigit(bytes[end])) end += 1;
  if (end - at > LENGTH_DIGITS_MAX) return null;
  if (end === bytes.length) return 'part';
  return end > at && bytes[end] === SPACE
    ? { length: Number(bytes.toString('latin1', at, end)), start: end + 1 }
    : null;
}

export function isPriorityAt(bytes: Buffer, at: number): Answer {
  if (at >= bytes.length) return 'part';
  if (bytes[at] !== LESS) return false;
  let end = at + 1;
  while (isDigit(bytes[end])) end += 1;
  if (end - at - 1 > PRIORITY_DIGITS_MAX) return false;
  if (end === bytes.length) return 'part';
  return end > at + 1 && bytes[end] === GREATER;
}

/** Some senders put a line end behind a message that they have counted. */
export function behindLineEnds(bytes: Buffer, at: number): number {
  let end = at;
  while (bytes[end] === LF) end += 1;
  return end;
}

/** Whether a message begins there, or behind line ends. */
export function beginsAt(bytes: Buffer, at: number): Answer {
  const start = behindLineEnds(bytes, at);
  if (!isDigit(bytes[start])) return isPriorityAt(bytes, start);
  const length = lengthAt(bytes, start);
  return length === 'part' ? 'part' : length !== null && isPriorityAt(bytes, length.start);
}

/** Where lengths with a message behind begin, or seem to: a digit in front of one may belong to it or not. */
export function* messageStarts(bytes: Buffer, from: number, to: number): Generator<number, void> {
  for (let less = bytes.indexOf(LESS, from); less >= 0 && less < to; less = bytes.indexOf(LESS, less + 1)) {
    if (bytes[less - 1] !== SPACE || isPriorityAt(bytes, less) === false) continue;
    let first = less - 1;
    while (first > from && less - first <= LENGTH_DIGITS_MAX && isDigit(bytes[first - 1])) first -= 1;
    for (; first < less - 1; first += 1) if (bytes[first] !== ZERO) yield first;
  }
}
