/** As much of JSON as one field of an object needs. What the agent gives is well-formed: its sources have seen to that. */

const QUOTE: u8 = 0x22;
const BACKSLASH: u8 = 0x5c;
const COLON: u8 = 0x3a;
const OPEN: u8 = 0x7b;
const CLOSE: u8 = 0x7d;
const OPEN_LIST: u8 = 0x5b;
const CLOSE_LIST: u8 = 0x5d;
const COMMA: u8 = 0x2c;
const SPACE: u8 = 0x20;

/** The text of a top-level field of the object; '' where there is none. Names with escapes are not found. */
export function field(at: usize, bytes: u32, name: string): string {
  const end = at + bytes;
  const wanted = String.UTF8.encode(name);
  let place = skipSpace(at, end);
  if (place >= end || load<u8>(place) != OPEN) return '';
  place = skipSpace(place + 1, end);
  while (place < end && load<u8>(place) == QUOTE) {
    const nameEnd = skipValue(place, end);
    const isIt =
      nameEnd - place - 2 == wanted.byteLength &&
      memory.compare(place + 1, changetype<usize>(wanted), wanted.byteLength) == 0;
    place = skipSpace(nameEnd, end);
    if (place < end && load<u8>(place) == COLON) place = skipSpace(place + 1, end);
    const valueEnd = skipValue(place, end);
    if (isIt) return String.UTF8.decodeUnsafe(place, valueEnd - place);
    place = skipSpace(valueEnd, end);
    if (place < end && load<u8>(place) == COMMA) place = skipSpace(place + 1, end);
  }
  return '';
}

/** The number of a field; NaN where it is none. */
export function numberField(at: usize, bytes: u32, name: string): f64 {
  const text = field(at, bytes, name);
  const first = text.length == 0 ? 0 : text.charCodeAt(0);
  return first == 0x2d || (first >= 0x30 && first <= 0x39) ? parseFloat(text) : NaN;
}

/** The text of a field that is a string without escapes; '' where it is none. */
export function textField(at: usize, bytes: u32, name: string): string {
  const text = field(at, bytes, name);
  return text.startsWith('"') ? text.slice(1, -1) : '';
}

function skipSpace(at: usize, end: usize): usize {
  while (at < end && load<u8>(at) <= SPACE) at++;
  return at;
}

/** Behind the value that begins at `at`. */
function skipValue(at: usize, end: usize): usize {
  let depth = 0;
  while (at < end) {
    const byte = load<u8>(at);
    if (byte == QUOTE) {
      at++;
      while (at < end && load<u8>(at) != QUOTE) at += load<u8>(at) == BACKSLASH ? 2 : 1;
      at++;
      if (depth == 0) return at;
    } else if (byte == OPEN || byte == OPEN_LIST) {
      depth++;
      at++;
    } else if (byte == CLOSE || byte == CLOSE_LIST) {
      if (depth == 0) return at;
      at++;
      if (--depth == 0) return at;
    } else if (depth == 0 && (byte == COMMA || byte <= SPACE)) {
      return at;
    } else {
      at++;
    }
  }
  return end;
}
