/**
 * Values as the text that DuckDB casts to their types: for columns that are staged as text (decimals, uuids, times, everything
 * nested) and cast when the file is written.
 *
 * Invariant: what is answered casts without loss and without error; what would not is a misfit here.
 */
import type { ColumnType, FieldType } from '../../lib/table/schema.ts';
import { decimalOf } from '../../lib/table/schema.ts';
import { EpochMicros, toEpochMicros } from './event-time.ts';
import { INEXACT, MISFIT } from './fit.ts';

const INT_MAX = 2 ** 31;
const LONG_LIMIT = 2n ** 63n;
const DATE = /^\d{4}-\d\d-\d\d$/;
const MS_PER_DAY = 86_400_000;
const MICROS_PER_DAY = 86_400_000_000;
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;
const TIME = /^([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,6})?$/;
const LOCAL_TIMESTAMP = /^(\d{4}-\d\d-\d\d)[T ](([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,6})?)$/;
const DECIMAL = /^(-?)0*(\d+)(?:\.(\d*?)0*)?$/;
/** Decimal digits that a double always gives back. */
const DOUBLE_DIGITS = 15;
/** Years 1 to 9999, which every reader's calendar has. */
const MICROS_MIN = -62_135_596_800_000_000;
const MICROS_MAX = 253_402_300_800_000_000;
const BASE64 = /^[A-Za-z0-9+/]*={0,2}$/;

/** `value` is neither null nor undefined. */
export function scalarText(type: FieldType, value: unknown): string | typeof MISFIT | typeof INEXACT {
  switch (type) {
    case 'boolean':
      return typeof value === 'boolean' ? String(value) : MISFIT;
    case 'int':
      return typeof value === 'number' && Number.isInteger(value) && value >= -INT_MAX && value < INT_MAX
        ? String(value)
        : MISFIT;
    case 'long':
      return longText(value);
    case 'float':
    case 'double':
      return floatText(type, value);
    case 'string':
      return typeof value === 'string' && value.isWellFormed() ? value : MISFIT;
    case 'date':
      return typeof value === 'string' && dayOf(value) !== null ? value : MISFIT;
    case 'time':
      return typeof value === 'string' && TIME.test(value) ? value : MISFIT;
    case 'timestamp':
      return localTimestamp(value);
    case 'timestamptz': {
      const text = microsText(toEpochMicros(value));
      return text === null ? MISFIT : `${text}Z`;
    }
    case 'uuid':
      return typeof value === 'string' && UUID.test(value) ? value.toLowerCase() : MISFIT;
    case 'binary':
      return bytesText(value);
    default:
      return decimalText(type, value);
  }
}

/** Days since the epoch; null for what is no date. */
export function dayOf(value: unknown): number | null {
  const ms = typeof value === 'string' && DATE.test(value) ? Date.parse(value) : NaN;
  if (!Number.isFinite(ms) || new Date(ms).toISOString().slice(0, 10) !== value) return null;
  return ms / MS_PER_DAY;
}

/** `HH:MM:SS.ffffff`; null outside of a day. */
export function timeOfDay(micros: number): string | null {
  if (!(micros >= 0 && micros < MICROS_PER_DAY)) return null;
  return microsText(micros)?.slice(11) ?? null;
}

/** Bytes, also as base64 text, which is how JSON carries them; null for anything else. */
export function bytesOf(value: unknown): Uint8Array | null {
  if (value instanceof Uint8Array) return value;
  if (typeof value !== 'string' || value.length % 4 !== 0 || !BASE64.test(value)) return null;
  return Buffer.from(value, 'base64');
}

function longText(value: unknown): string | typeof MISFIT | typeof INEXACT {
  if (typeof value === 'bigint') return value >= -LONG_LIMIT && value < LONG_LIMIT ? value.toString() : MISFIT;
  if (typeof value !== 'number' || !Number.isInteger(value)) return MISFIT;
  return Number.isSafeInteger(value) ? String(value) : INEXACT;
}

function floatText(type: 'float' | 'double', value: unknown): string | typeof MISFIT {
  const number = typeof value === 'bigint' ? Number(value) : value;
  if (typeof number !== 'number') return MISFIT;
  return type === 'float' && Number.isFinite(number) && !Number.isFinite(Math.fround(number)) ? MISFIT : String(number);
}

function localTimestamp(value: unknown): string | typeof MISFIT {
  if (value instanceof EpochMicros) return microsText(value.micros) ?? MISFIT;
  const match = typeof value === 'string' ? LOCAL_TIMESTAMP.exec(value) : null;
  if (match === null || dayOf(match[1]) === null) return MISFIT;
  return `${match[1] ?? ''} ${match[2] ?? ''}`;
}

/** `YYYY-MM-DD HH:MM:SS.ffffff`; null for what no calendar has. */
function microsText(micros: number): string | null {
  if (!Number.isSafeInteger(micros) || micros < MICROS_MIN || micros >= MICROS_MAX) return null;
  const seconds = Math.floor(micros / 1e6);
  const fraction = String(micros - seconds * 1e6).padStart(6, '0');
  return `${new Date(seconds * 1000).toISOString().slice(0, 19).replace('T', ' ')}.${fraction}`;
}

/** DuckDB reads `\xHH` as a byte. */
function bytesText(value: unknown): string | typeof MISFIT {
  const bytes = bytesOf(value);
  if (bytes === null) return MISFIT;
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('hex').replace(/../g, '\\x$&');
}

/** Text, or a number whose digits a double has kept. */
function decimalText(type: FieldType, value: unknown): string | typeof MISFIT {
  const declared = decimalOf(type);
  if (declared === null || (typeof value !== 'string' && typeof value !== 'number' && typeof value !== 'bigint')) {
    return MISFIT;
  }
  const match = DECIMAL.exec(String(value));
  if (match === null) return MISFIT;
  const [, sign = '', whole = '', fraction = ''] = match;
  const wholeDigits = whole === '0' ? 0 : whole.length;
  if (typeof value === 'number' && wholeDigits + fraction.length > DOUBLE_DIGITS) return MISFIT;
  if (fraction.length > declared.scale || wholeDigits > declared.precision - declared.scale) return MISFIT;
  return fraction === '' ? `${sign}${whole}` : `${sign}${whole}.${fraction}`;
}

/** For messages: `decimal(10, 2)`, `a list`. */
export function typeText(type: FieldType | ColumnType): string {
  if (typeof type === 'string') return type;
  const kind = 'type' in type ? type.type : (Object.keys(type)[0] ?? '');
  return kind === 'struct' ? 'an object' : kind === 'list' ? 'an array' : 'an object of one type of values';
}
