/**
 * From an entry of the journal to a reading. Pure.
 *
 *   { ts, severity, facility, hostname, unit, userUnit, app, procId, transport, bootId, monotonicUs, message,
 *     fields: { NAME: "text" | { "base64": "..." } | [several] }, truncated: { NAME: bytes } }
 *
 * What an entry lacks is left out. Names are those of the syslog source. In `fields` stands what the configuration asks for, and each of the named
 * ones whose text is not all that the entry has: a field that occurs twice (its first value has the name), or one that is no UTF-8.
 */
import { isUtf8 } from 'node:buffer';
import type { NewReading } from '../../spool/frame.ts';
import { withoutHalves } from '../file/container-log.ts';
import { readingOf, type ReadingMapping } from '../reading-parser.ts';
import type { JournaldSourceConfig } from './config.ts';
import type { Entry, FieldValue } from './export-format.ts';

/** By the name in the reading, the fields that it is taken from: the first of them that there is. */
const NAMED = {
  severity: ['PRIORITY'],
  facility: ['SYSLOG_FACILITY'],
  hostname: ['_HOSTNAME'],
  unit: ['_SYSTEMD_UNIT'],
  userUnit: ['_SYSTEMD_USER_UNIT'],
  app: ['SYSLOG_IDENTIFIER', '_COMM'],
  procId: ['_PID', 'SYSLOG_PID'],
  transport: ['_TRANSPORT'],
  bootId: ['_BOOT_ID'],
  monotonicUs: ['__MONOTONIC_TIMESTAMP'],
  message: ['MESSAGE'],
} as const;
const NUMBERS = new Set(['severity', 'facility', 'monotonicUs']);
/** When it was received, and, where a sender that the kernel vouches for had it stamped, when it was sent. */
const RECEIVED = '__REALTIME_TIMESTAMP';
const SENT = '_SOURCE_REALTIME_TIMESTAMP';
const CURSOR = '__CURSOR';

/** The fields of the journal that every reading needs. */
export const ENTRY_FIELDS: readonly string[] = [...Object.values(NAMED).flat(), SENT].filter((name) => !isOfStore(name)); // prettier-ignore
const NAMED_FIELDS = new Set<string>(Object.values(NAMED).flat());

/** Empty in what is no entry of journalctl's. */
export function cursorOf(entry: Entry): string {
  return textOf(first(entry, CURSOR)) ?? '';
}

export function journalReading(
  entry: Entry,
  { fields: asked }: Pick<JournaldSourceConfig, 'fields'>,
  mapping: ReadingMapping,
  arrivalUs: number,
): NewReading {
  const ts = timeOf(entry);
  const named = Object.entries(NAMED).flatMap(([name, sources]) => {
    const text = textOf(sources.map((source) => first(entry, source)).find((value) => value !== undefined));
    return text === undefined ? [] : [[name, NUMBERS.has(name) ? numberOr(text) : text] as const];
  });
  const isAsked = (name: string): boolean => (asked === 'all' ? !NAMED_FIELDS.has(name) : asked.includes(name));
  const others: [string, unknown][] = [];
  const truncated: [string, number][] = [];
  for (const [name, values] of entry.fields) {
    if (isOfStore(name)) continue;
    const isNamed = NAMED_FIELDS.has(name);
    if (isAsked(name) || (isNamed && !isPlain(values))) others.push([name, jsonOf(values)]);
    const size = values.reduce((sum, value) => sum + value.size, 0);
    const isCut = values.some(({ bytes, size: whole }) => bytes.length < whole);
    if (isCut && (isNamed || isAsked(name))) truncated.push([name, size]);
  }
  const value = {
    ...(ts !== undefined && { ts }),
    ...Object.fromEntries(named),
    ...(others.length > 0 && { fields: Object.fromEntries(others) }),
    ...(truncated.length > 0 && { truncated: Object.fromEntries(truncated) }),
    ...(entry.omitted > 0 && { omittedFields: entry.omitted }),
  };
  return readingOf(JSON.stringify(value), value, mapping, arrivalUs);
}

/** Whether something of the reading was left out, because it is too large. */
export function isCut({ fields, omitted }: Entry): boolean {
  return omitted > 0 || [...fields.values()].flat().some(({ bytes, size }) => bytes.length < size);
}

/** It says where and when the entry is stored, and is no field of it. */
function isOfStore(name: string): boolean {
  return name.startsWith('__');
}

function first({ fields }: Entry, name: string): FieldValue | undefined {
  return fields.get(name)?.[0];
}

/** RFC 3339 with microseconds. */
function timeOf(entry: Entry): string | undefined {
  const us = [SENT, RECEIVED].map((name) => Number(textOf(first(entry, name)) ?? NaN)).find(isTime);
  if (us === undefined) return undefined;
  const micros = String(us % 1e6).padStart(6, '0');
  return new Date(Math.floor(us / 1000)).toISOString().replace(/\.\d{3}Z$/, `.${micros}Z`);
}

function isTime(us: number): boolean {
  return Number.isSafeInteger(us) && us > 0;
}

/** What is no UTF-8 is U+FFFD in it. */
function textOf(value: FieldValue | undefined): string | undefined {
  return value === undefined ? undefined : wholeCharacters(value).toString('utf8');
}

/** Where it was cut, that may have divided a character. */
function wholeCharacters({ bytes, size }: FieldValue): Buffer {
  return bytes.length < size ? withoutHalves(bytes, false, true) : bytes;
}

function numberOr(text: string): number | string {
  return /^\d{1,15}$/.test(text) ? Number(text) : text;
}

/** Whether the text of its first value is all that there is. */
function isPlain(values: readonly FieldValue[]): boolean {
  return values.length === 1 && values.every((value) => isUtf8(wholeCharacters(value)));
}

function jsonOf(values: readonly FieldValue[]): unknown {
  const each = values.map((value) => {
    const bytes = wholeCharacters(value);
    return isUtf8(bytes) ? bytes.toString('utf8') : { base64: value.bytes.toString('base64') };
  });
  return each.length === 1 ? each[0] : each;
}
