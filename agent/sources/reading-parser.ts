/**
 * From one input to one reading: a JSON value (a line of a file, an element of a request, a payload) or a line of CSV with a header. What
 * is no reading comes back with its reason.
 *
 * Pure: no file, no clock. JSON travels as the bytes that stood there, with all digits of its numbers.
 */
import { isUtf8 } from 'node:buffer';
import { isShort, type NewReading } from '../spool/frame.ts';
import type { PackedReadings } from '../spool/packed-readings.ts';
import { findPlainText, JsonObjectScan, Place, scalarAt } from './json-object-scan.ts';

export interface ReadingMapping {
  /** What the input is called in reasons: a line, a payload. */
  readonly input: string;
  readonly topic: string;
  readonly priority: number;
  /** A text, or a field of the value; null for no key. */
  readonly key: { readonly text: string } | { readonly field: string } | null;
  readonly eventTime: string;
}

export interface RejectedInput {
  readonly reason: string;
}

const objectScan = new JsonObjectScan();
const keyPlace = new Place();
const VALUE_BEGIN = Buffer.from('{"value":');
const VALUE_END = Buffer.from('}');
/** JSON of CSV fields: what is written like a JSON number is one; an empty field is null. */
const JSON_NUMBER = /^-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?$/;
/** Epoch times up to the year 5138 in ms; larger numbers are microseconds. */
const EPOCH_MS_MAX = 1e14;

export function isRejected(result: NewReading | RejectedInput): result is RejectedInput {
  return 'reason' in result;
}

/** `bytes` is without a line end. What is no object becomes `{ "value": ... }`. */
export function parseJson(bytes: Buffer, mapping: ReadingMapping, arrivalUs: number): NewReading | RejectedInput {
  const keyField = mapping.key !== null && 'field' in mapping.key ? mapping.key.field : null;
  if (objectScan.scan(bytes, 0, bytes.length, keyField, mapping.eventTime) && (objectScan.isAscii || isUtf8(bytes))) {
    const { first, second } = objectScan;
    return madeOf(bytes, scalarAt(bytes, first), scalarAt(bytes, second), mapping, arrivalUs);
  }
  if (!isUtf8(bytes)) return { reason: `the ${mapping.input} is not UTF-8` };
  let value: unknown;
  try {
    value = JSON.parse(bytes.toString('utf8'));
  } catch (error) {
    return { reason: `the ${mapping.input} is not JSON: ${error instanceof Error ? error.message : String(error)}` };
  }
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) {
    return readingOf(bytes, value, mapping, arrivalUs);
  }
  // Not printed again: that would overflow the stack where arrays are nested deeply.
  return readingOf(Buffer.concat([VALUE_BEGIN, bytes, VALUE_END]), { value }, mapping, arrivalUs);
}

/**
 * What `parseJson` would make of the bytes of `text` between `from` and `to`, put into `target` without an object in between; its topic and priority
 * are the mapping's. False: nothing was put there, and they are for `parseJson` (rare, or no JSON).
 */
export function packJson(
  text: Buffer,
  from: number,
  to: number,
  { key: rule, eventTime }: ReadingMapping,
  arrivalUs: number,
  target: PackedReadings,
): boolean {
  if (rule !== null && 'text' in rule) return false;
  if (!objectScan.scan(text, from, to, rule?.field ?? null, eventTime)) return false;
  if (!objectScan.isAscii && !isUtf8(text.subarray(from, to))) return false;
  const { first, second } = objectScan;
  const hasKey = first.start >= 0;
  if (hasKey && !findPlainText(text, first, keyPlace)) return false;
  const keyBytes = hasKey ? keyPlace.end - keyPlace.start : -1;
  if (!isShort(keyBytes, to - from)) return false;
  const eventUs = epochUs(scalarAt(text, second)) ?? arrivalUs;
  target.addPlaced(text, keyPlace.start, keyBytes, from, to - from, eventUs, arrivalUs);
  return true;
}

/** Any text is the `value` of a reading. */
export function parseText(bytes: Buffer, mapping: ReadingMapping, arrivalUs: number): NewReading | RejectedInput {
  if (!isUtf8(bytes)) return { reason: `the ${mapping.input} is not UTF-8` };
  const value = { value: bytes.toString('utf8') };
  return readingOf(JSON.stringify(value), value, mapping, arrivalUs);
}

export function parseCsvLine(
  line: Buffer,
  columns: readonly string[],
  mapping: ReadingMapping,
  arrivalUs: number,
): NewReading | RejectedInput {
  if (!isUtf8(line)) return { reason: `the ${mapping.input} is not UTF-8` };
  const fields = splitCsv(line.toString('utf8'));
  if (fields === null) return { reason: 'the line is not CSV: a quote is not closed or stands within a field' };
  if (fields.length !== columns.length) {
    return { reason: `the line has ${fields.length} fields where the header has ${columns.length}` };
  }
  const value: Record<string, string | number | null> = Object.create(null) as Record<string, never>;
  columns.forEach((column, index) => (value[column] = csvValue(fields[index] ?? '')));
  return readingOf(JSON.stringify(value), value, mapping, arrivalUs);
}

/** The names of a header line, or why it is none. */
export function parseCsvHeader(line: Buffer): readonly string[] | RejectedInput {
  const fields = isUtf8(line) ? splitCsv(line.toString('utf8').replace(/^\uFEFF/, '')) : null;
  if (fields === null || fields.some((field) => field === '')) return { reason: 'the first line is not a CSV header' };
  if (new Set(fields).size !== fields.length) return { reason: 'the CSV header names a column twice' };
  return fields;
}

function csvValue(field: string): string | number | null {
  if (field === '') return null;
  if (!JSON_NUMBER.test(field)) return field;
  const number = Number(field);
  // A number that would lose digits stays text: nobody asked for another one.
  return Number.isInteger(number) && !Number.isSafeInteger(number) ? field : number;
}

/** RFC 4180 within one line; null when the quotes are wrong. */
function splitCsv(line: string): string[] | null {
  if (!line.includes('"')) return line.split(',');
  const fields: string[] = [];
  for (let at = 0; ; at += 1) {
    if (line[at] === '"') {
      let field = '';
      let close = line.indexOf('"', at + 1);
      while (close >= 0 && line[close + 1] === '"') {
        field += line.slice(at + 1, close + 1);
        at = close + 1;
        close = line.indexOf('"', at + 1);
      }
      if (close < 0 || (close + 1 < line.length && line[close + 1] !== ',')) return null;
      fields.push(field + line.slice(at + 1, close));
      at = close + 1;
    } else {
      const comma = line.indexOf(',', at);
      const end = comma < 0 ? line.length : comma;
      const field = line.slice(at, end);
      if (field.includes('"')) return null;
      fields.push(field);
      at = end;
    }
    if (at >= line.length) return fields;
  }
}

export function readingOf(
  value: string | Buffer,
  fields: object,
  mapping: ReadingMapping,
  arrivalUs: number,
): NewReading {
  const key = mapping.key !== null && 'field' in mapping.key ? fieldOf(fields, mapping.key.field) : null;
  return madeOf(value, key, fieldOf(fields, mapping.eventTime), mapping, arrivalUs);
}

/** `keyValue` and `time` are what stands in the fields that the mapping names. */
function madeOf(
  value: string | Buffer,
  keyValue: unknown,
  time: unknown,
  { topic, key: rule, priority }: ReadingMapping,
  arrivalUs: number,
): NewReading {
  const key = rule === null ? null : 'text' in rule ? rule.text : keyText(keyValue);
  return { topic, key, value, eventUs: epochUs(time) ?? arrivalUs, arrivalUs, priority };
}

function fieldOf(fields: object, name: string): unknown {
  return Object.hasOwn(fields, name) ? (fields as Readonly<Record<string, unknown>>)[name] : undefined;
}

function keyText(value: unknown): string | null {
  if (typeof value === 'string') return value;
  return typeof value === 'number' || typeof value === 'boolean' ? String(value) : null;
}

/** Epoch ms, epoch us or RFC 3339, as pipeline.yaml's `eventTime`; undefined when it is none of them. */
function epochUs(value: unknown): number | undefined {
  if (typeof value === 'number' && Number.isFinite(value)) {
    const us = Math.round(Math.abs(value) < EPOCH_MS_MAX ? value * 1000 : value);
    return Number.isSafeInteger(us) ? us : undefined;
  }
  if (typeof value !== 'string' || !/^\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d/.test(value)) return undefined;
  const ms = Date.parse(value);
  if (Number.isNaN(ms)) return undefined;
  // Date.parse stops at milliseconds; the microseconds are the next three digits.
  const micros = /\.\d{3}(\d{1,3})/.exec(value)?.[1];
  return ms * 1000 + (micros === undefined ? 0 : Number(micros.padEnd(3, '0')));
}
