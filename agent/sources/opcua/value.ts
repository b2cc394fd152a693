/**
 * From a value of OPC UA (a DataValue, Part 4, section 7.11) to the fields of a reading.
 *
 * Pure. Integers of 64 bits keep all their digits; what JSON cannot say (NaN, infinities) is null, with `status` saying what it was.
 */
import type { DataValue, Variant } from './library.ts';
import type { NodeReading } from './messages.ts';

/** Part 6, table 1. */
const INT64 = 8;
const UINT64 = 9;
/** Part 4, section 7.39.1: the two highest bits are the severity; the info bits of a data value have a flag for a queue that overflowed. */
const QUALITIES = ['good', 'uncertain', 'bad', 'bad'] as const;
const OVERFLOW = 0x480;

export function readingOf(node: number, data: DataValue): NodeReading {
  const { statusCode, value } = data;
  const time = data.sourceTimestamp ?? data.serverTimestamp;
  const hasOverflowed = (statusCode.value & OVERFLOW) === OVERFLOW;
  const quality = QUALITIES[(statusCode.value >>> 30) as 0 | 1 | 2 | 3];
  const number = value.value;
  const status =
    quality !== 'good'
      ? statusCode.name.replace(/#.*/, '')
      : typeof number === 'number' && !Number.isFinite(number)
        ? String(number)
        : null;
  const fields = [
    `"value":${jsonOf(value)}`,
    `"quality":"${quality}"`,
    ...(status === null ? [] : [`"status":${JSON.stringify(status)}`]),
    ...(hasOverflowed ? ['"overflow":true'] : []),
  ];
  return {
    node,
    fields: `${fields.join(',')}}`,
    timeUs: time === null ? null : time.getTime() * 1000,
    isTimeOfSource: data.sourceTimestamp !== null,
    hasOverflowed,
  };
}

function jsonOf({ dataType, arrayType, value }: Variant): string {
  if (value === null || value === undefined) return 'null';
  if (arrayType === 0) return scalarJson(dataType, value);
  // Arrays of numbers are typed ones.
  const items = Array.isArray(value) || ArrayBuffer.isView(value) ? Array.from(value as ArrayLike<unknown>) : [value];
  return `[${items.map((item) => (item === null || item === undefined ? 'null' : scalarJson(dataType, item))).join(',')}]`;
}

function scalarJson(dataType: number, value: unknown): string {
  if ((dataType === INT64 || dataType === UINT64) && isWords(value)) {
    const bits = (BigInt(value[0]) << 32n) | BigInt(value[1]);
    return String(dataType === INT64 ? BigInt.asIntN(64, bits) : bits);
  }
  if (Buffer.isBuffer(value)) return JSON.stringify(value.toString('base64'));
  if (value instanceof Date) return JSON.stringify(value.toISOString());
  if (typeof value === 'object' && value !== null) return objectJson(value);
  // JSON has no NaN and no infinities: it says null.
  return typeof value === 'bigint' ? String(value) : JSON.stringify(value);
}

/** High and low word, as the library has them. */
function isWords(value: unknown): value is readonly [number, number] {
  return Array.isArray(value) && value.length === 2 && value.every((word) => typeof word === 'number');
}

/** Of a LocalizedText its text, of a QualifiedName and a StatusCode the name, of a NodeId its text, of a structure what it says of itself. */
function objectJson(value: object): string {
  if ('text' in value) return JSON.stringify(value.text ?? null);
  if ('name' in value && ('namespaceIndex' in value || 'description' in value))
    return JSON.stringify(value.name ?? null);
  // Of the library's classes, which print themselves.
  const text = (value as { toString(): string }).toString();
  if ('identifierType' in value) return JSON.stringify(text);
  try {
    return JSON.stringify(value, (_, part: unknown) => (typeof part === 'bigint' ? String(part) : part));
  } catch {
    return JSON.stringify(text);
  }
}
