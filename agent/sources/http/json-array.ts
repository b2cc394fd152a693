/**
 * The elements of a JSON array as the bytes that stand there: a reading travels as its sender wrote it, with all digits of its numbers,
 * which parsing and printing would not keep.
 */

export interface ArrayElement {
  readonly bytes: Buffer;
  /** Of its first byte, from 1. */
  readonly line: number;
}

const LF = 0x0a;
const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const COMMA = 0x2c;
const OPENING = new Set([0x5b, 0x7b]);
const CLOSING = new Set([0x5d, 0x7d]);
const BLANK = new Set([0x20, 0x09, LF, 0x0d]);

/** Whether the first byte that is no blank opens an array. */
export function isArray(body: Buffer): boolean {
  return body[skipBlanks(body, 0)] === 0x5b;
}

/**
 * Cuts at the commas of the outermost level; ends early behind `elementsMax`. What stands between them is for a JSON parser to judge.
 * Returns the line where the array is broken instead, when it does not end or something follows it.
 */
export function splitArray(
  body: Buffer,
  elementsMax: number,
): readonly ArrayElement[] | { readonly brokenAtLine: number } {
  const elements: ArrayElement[] = [];
  const first = skipBlanks(body, 0);
  let line = 1 + countLines(body, 0, first);
  let start = first + 1;
  let startLine = line;
  let depth = 1;
  for (let at = start; at < body.length; at += 1) {
    const byte = body[at] ?? 0;
    if (byte === LF) line += 1;
    else if (byte === QUOTE) {
      at = endOfString(body, at);
      if (at < 0) return { brokenAtLine: line };
    } else if (OPENING.has(byte)) depth += 1;
    else if (CLOSING.has(byte)) depth -= 1;
    if (depth > 0 && !(depth === 1 && byte === COMMA)) continue;
    const from = Math.min(skipBlanks(body, start), at);
    const isEmptyArray = depth === 0 && elements.length === 0 && from === at;
    if (!isEmptyArray)
      elements.push({ bytes: body.subarray(from, at), line: startLine + countLines(body, start, from) });
    start = at + 1;
    startLine = line;
    if (elements.length > elementsMax) return elements;
    if (depth > 0) continue;
    return skipBlanks(body, start) === body.length ? elements : { brokenAtLine: line };
  }
  return { brokenAtLine: line };
}

/** The position of the quote that ends the string which begins at `at`, or -1. JSON strings hold no line ends; a parser will say so. */
function endOfString(body: Buffer, at: number): number {
  for (let end = body.indexOf(QUOTE, at + 1); end >= 0; end = body.indexOf(QUOTE, end + 1)) {
    let backslashes = 0;
    while (body[end - 1 - backslashes] === BACKSLASH) backslashes += 1;
    if (backslashes % 2 === 0) return end;
  }
  return -1;
}

function skipBlanks(body: Buffer, from: number): number {
  let at = from;
  while (at < body.length && BLANK.has(body[at] ?? 0)) at += 1;
  return at;
}

function countLines(body: Buffer, from: number, to: number): number {
  let lines = 0;
  for (let at = body.indexOf(LF, from); at >= 0 && at < to; at = body.indexOf(LF, at + 1)) lines += 1;
  return lines;
}
