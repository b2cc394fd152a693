/** From the bytes of an answer to the JSON text of a value. A whole number keeps all its digits. */
import { isUtf8 } from 'node:buffer';
import { isBitTable } from './config.ts';
import type { Item, Span } from './plan.ts';

/** Doubles carry 15 decimal digits: 217 * 0.1 is 21.7, not 21.700000000000003. */
const DIGITS = 15;

export type Decoded = { readonly json: string } | { readonly problem: string };

/** `data` is the whole answer to `span`. */
export function decodeItem(item: Item, span: Span, data: Buffer): Decoded {
  const first = item.address - span.address;
  if (isBitTable(item.table)) return { json: String(((data[first >> 3] ?? 0) & (1 << (first & 7))) !== 0) };
  const words = ordered(item, data.subarray(2 * first, 2 * (first + item.count)));
  if (item.type === 'bool') return { json: String((words.readUInt16BE(0) & (1 << item.bit)) !== 0) };
  if (item.type === 'string') return text(words.subarray(0, item.length));
  const raw = numberIn(item.type, words);
  const { scale, offset } = item;
  if (scale === undefined && offset === undefined) return typeof raw === 'bigint' ? { json: String(raw) } : json(raw);
  return json(Number((Number(raw) * (scale ?? 1) + (offset ?? 0)).toPrecision(DIGITS)));
}

/** High bytes first: bytes within a register, then registers within a number. */
function ordered({ byteOrder, wordOrder, type }: Item, wire: Buffer): Buffer {
  const bytes = Buffer.from(wire);
  if (byteOrder === 'little') bytes.swap16();
  // Reversing all bytes and the bytes of each register again reverses the registers.
  return wordOrder === 'little' && type !== 'string' ? bytes.reverse().swap16() : bytes;
}

function numberIn(type: Exclude<Item['type'], 'bool' | 'string'>, words: Buffer): number | bigint {
  switch (type) {
    case 'int16':
      return words.readInt16BE(0);
    case 'uint16':
      return words.readUInt16BE(0);
    case 'int32':
      return words.readInt32BE(0);
    case 'uint32':
      return words.readUInt32BE(0);
    case 'int64':
      return words.readBigInt64BE(0);
    case 'uint64':
      return words.readBigUInt64BE(0);
    case 'float32':
      return words.readFloatBE(0);
    case 'float64':
      return words.readDoubleBE(0);
  }
}

function json(value: number): Decoded {
  return Number.isFinite(value) ? { json: String(value) } : { problem: `${value} is no measurement` };
}

/** Up to the first NUL; devices fill up with NULs or spaces. */
function text(bytes: Buffer): Decoded {
  const nul = bytes.indexOf(0);
  const used = nul < 0 ? bytes : bytes.subarray(0, nul);
  if (!isUtf8(used)) return { problem: `the string is no UTF-8: ${used.toString('hex')}` };
  return { json: JSON.stringify(used.toString('utf8').trimEnd()) };
}
