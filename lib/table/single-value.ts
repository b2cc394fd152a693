/**
 * Iceberg's binary form of one value, as bounds in manifests have it.
 *
 * Spec: https://iceberg.apache.org/spec/#binary-single-value-serialization. Little-endian numbers; strings are UTF-8; decimals are
 * the unscaled value, two's complement, big-endian, in as few bytes as hold it.
 * The input is text as SQL prints it (DuckDB's Parquet statistics): what does not parse, overflows, or is NaN gives null, which
 * readers take for "not known".
 */
import { decimalOf } from './schema.ts';
import type { PrimitiveType } from './schema.ts';

/** Code points kept of a long string: Iceberg's `truncate(16)` metrics mode. */
const STRING_CODE_POINTS_MAX = 16;
const CODE_POINT_MAX = 0x10ffff;
const MS_PER_DAY = 86_400_000;

/** A value that no value of the column is below. */
export function lowerBound(type: PrimitiveType, text: string): Uint8Array | null {
  if (type === 'string') return Buffer.from(Array.from(text).slice(0, STRING_CODE_POINTS_MAX).join(''));
  // Readers that order -0.0 before 0.0 must find it above the lower bound.
  return singleValue(type, isZero(type, text) ? '-0' : text);
}

/** A value that no value of the column is above; null where a truncated string has no successor. */
export function upperBound(type: PrimitiveType, text: string): Uint8Array | null {
  if (type === 'string') return upperString(text);
  return singleValue(type, isZero(type, text) ? '0' : text);
}

function isZero(type: PrimitiveType, text: string): boolean {
  return (type === 'float' || type === 'double') && Number(text) === 0 && text.trim() !== '';
}

/** The first code points with the last one that can grow grown by one: UTF-8 orders as code points do. */
function upperString(text: string): Uint8Array | null {
  const points = Array.from(text).map((char) => char.codePointAt(0) ?? 0);
  if (points.length <= STRING_CODE_POINTS_MAX) return Buffer.from(text);
  for (let kept = STRING_CODE_POINTS_MAX; kept > 0; kept--) {
    const last = points[kept - 1] ?? CODE_POINT_MAX;
    if (last >= CODE_POINT_MAX) continue;
    // Surrogates are no characters: the one after U+D7FF is U+E000.
    const next = last + 1 === 0xd800 ? 0xe000 : last + 1;
    return Buffer.from(String.fromCodePoint(...points.slice(0, kept - 1), next));
  }
  return null;
}

function singleValue(type: PrimitiveType, text: string): Uint8Array | null {
  switch (type) {
    case 'boolean':
      return booleanValue(text);
    case 'int':
      return int32(integer(text));
    case 'date':
      return int32(dayOf(text));
    case 'long':
      return int64(integer(text));
    case 'time':
      return int64(timeUs(text));
    case 'timestamp':
    case 'timestamptz':
      return int64(timestampUs(text));
    case 'float':
    case 'double':
      return floating(type, text);
    case 'uuid':
      return /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(text)
        ? Buffer.from(text.replaceAll('-', ''), 'hex')
        : null;
    default:
      return decimal(type, text);
  }
}

function booleanValue(text: string): Uint8Array | null {
  if (text === 'true' || text === '1') return Buffer.from([1]);
  return text === 'false' || text === '0' ? Buffer.from([0]) : null;
}

function integer(text: string): bigint | null {
  return /^-?\d+$/.test(text) ? BigInt(text) : null;
}

function int32(value: bigint | null): Uint8Array | null {
  if (value === null || BigInt.asIntN(32, value) !== value) return null;
  const bytes = Buffer.alloc(4);
  bytes.writeInt32LE(Number(value));
  return bytes;
}

function int64(value: bigint | null): Uint8Array | null {
  if (value === null || BigInt.asIntN(64, value) !== value) return null;
  const bytes = Buffer.alloc(8);
  bytes.writeBigInt64LE(value);
  return bytes;
}

function floating(type: 'float' | 'double', text: string): Uint8Array | null {
  const infinite = /^([+-]?)inf(?:inity)?$/i.exec(text);
  const value = infinite !== null ? (infinite[1] === '-' ? -Infinity : Infinity) : text === '' ? NaN : Number(text);
  if (Number.isNaN(value)) return null;
  const bytes = Buffer.alloc(type === 'float' ? 4 : 8);
  if (type === 'float') bytes.writeFloatLE(value);
  else bytes.writeDoubleLE(value);
  return bytes;
}

function dayOf(text: string): bigint | null {
  const match = /^(\d{4})-(\d{2})-(\d{2})$/.exec(text);
  if (match === null) return null;
  return BigInt(utcMs(match) / MS_PER_DAY);
}

function utcMs([, year, month, day]: readonly string[]): number {
  // Date.UTC takes years below 100 for 19xx.
  return new Date(0).setUTCFullYear(Number(year), Number(month) - 1, Number(day));
}

function timeUs(text: string): bigint | null {
  const match = /^(\d{2}):(\d{2}):(\d{2})(?:\.(\d{1,6}))?$/.exec(text);
  if (match === null) return null;
  const seconds = (Number(match[1]) * 60 + Number(match[2])) * 60 + Number(match[3]);
  return BigInt(seconds) * 1_000_000n + BigInt((match[4] ?? '').padEnd(6, '0'));
}

/** `2026-01-31 07:00:00.123456+00`, with or without an offset. */
function timestampUs(text: string): bigint | null {
  const match = /^(\d{4})-(\d{2})-(\d{2})[ T](\d{2}:\d{2}:\d{2}(?:\.\d{1,6})?)(?:Z|([+-])(\d{2})(?::?(\d{2}))?)?$/.exec(
    text,
  );
  const time = match?.[4] === undefined ? null : timeUs(match[4]);
  if (match === null || time === null) return null;
  const offsetMinutes = (Number(match[6] ?? '0') * 60 + Number(match[7] ?? '0')) * (match[5] === '-' ? -1 : 1);
  return BigInt(utcMs(match)) * 1000n + time - BigInt(offsetMinutes) * 60_000_000n;
}

function decimal(type: PrimitiveType, text: string): Uint8Array | null {
  const declared = decimalOf(type);
  const match = /^(-?)(\d+)(?:\.(\d+))?$/.exec(text);
  const digits = match?.[3] ?? '';
  if (declared === null || match === null || digits.length > declared.scale) return null;
  const magnitude = BigInt(`${match[2] ?? ''}${digits.padEnd(declared.scale, '0')}`);
  return minimalTwosComplement(match[1] === '-' ? -magnitude : magnitude);
}

function minimalTwosComplement(value: bigint): Uint8Array {
  let bytes = 1;
  while (BigInt.asIntN(bytes * 8, value) !== value) bytes++;
  const hex = BigInt.asUintN(bytes * 8, value).toString(16);
  return Buffer.from(hex.padStart(bytes * 2, '0'), 'hex');
}
