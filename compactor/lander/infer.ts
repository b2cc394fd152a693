/**
 * Schema inference: the columns for fields that were not seen before, from a sample of records.
 *
 * The type of a field is the one that most values of the sample have; the others are quarantined when their turn comes. Numbers
 * become `long` only when every one in the sample is a large integer (epoch times, ids) or one is beyond 2^53, else `double`:
 * Iceberg widens int to long and float to double, never long to double, so a first batch of whole numbers must not decide that a
 * measurement has no fractions. Integers up to 2^53 are exact in a double; whoever wants a long for small ones declares the schema.
 * Limits: FIELDS_MAX columns a table; names that differ only in case are one column in most SQL engines and are refused. A record that is refused for its names
 * makes no columns: one with thousands of names would take the room of all that come after it.
 */
import { FIELDS_MAX, refuseName } from './field-names.ts';
import type { Field } from './fields.ts';

export const SAMPLE_RECORDS_MAX = 2000;
/** What a double may come to hold later is unknown; what is this large already is counted in whole units. */
const LARGE_INTEGER = 2 ** 31;

interface Seen {
  booleans: number;
  strings: number;
  nested: number;
  numbers: number;
  fractions: number;
  large: number;
  /** Beyond what a double holds exactly. */
  inexact: number;
}

/** New fields in order of appearance, with ids from `firstId`. Of those that are `known`, another program may have made two that differ only in case. */
export function inferFields(
  sample: Iterable<Readonly<Record<string, unknown>>>,
  known: readonly Pick<Field, 'name'>[],
  firstId: number,
): Field[] {
  const seen = new Map<string, Seen>();
  const names = new Set(known.map(({ name }) => name));
  const lowerCase = new Set(known.map(({ name }) => name.toLowerCase()));
  const hasColumn = (name: string): boolean => seen.has(name) || names.has(name);
  for (const record of sample) {
    const missing = missingColumns(record, hasColumn, lowerCase);
    if (typeof missing === 'string') continue;
    for (const name of missing) {
      seen.set(name, { booleans: 0, strings: 0, nested: 0, numbers: 0, fractions: 0, large: 0, inexact: 0 });
      lowerCase.add(name.toLowerCase());
    }
    for (const name in record) {
      const entry = seen.get(name);
      if (entry !== undefined) count(entry, record[name]);
    }
  }
  return [...seen].map(([name, entry], index) => ({ id: firstId + index, name, required: false, ...typeOf(entry) }));
}

/**
 * The names of `record` that need a column of their own; a field that is null needs none. A text is the reason why one of them cannot have it.
 * `lowerCase`: the names of all columns.
 */
export function missingColumns(
  record: Readonly<Record<string, unknown>>,
  hasColumn: (name: string) => boolean,
  lowerCase: ReadonlySet<string>,
): readonly string[] | string {
  const missing: string[] = [];
  const missingLowerCase = new Set<string>();
  for (const name in record) {
    if (hasColumn(name)) continue;
    const refusal = refuseName(name);
    if (refusal !== undefined) return refusal;
    if (record[name] === null) continue;
    const lower = name.toLowerCase();
    if (lowerCase.has(lower) || missingLowerCase.has(lower)) {
      return `field ${name} cannot become a column: its name differs from that of another only in case`;
    }
    if (lowerCase.size + missing.length >= FIELDS_MAX) {
      return `field ${name} cannot become a column: a dataset has at most ${FIELDS_MAX}`;
    }
    missingLowerCase.add(lower);
    missing.push(name);
  }
  return missing;
}

function count(seen: Seen, value: unknown): void {
  switch (typeof value) {
    case 'boolean':
      seen.booleans++;
      break;
    case 'string':
      seen.strings++;
      break;
    case 'number':
      seen.numbers++;
      if (!Number.isInteger(value)) seen.fractions++;
      else if (Math.abs(value) >= LARGE_INTEGER) seen.large++;
      if (Math.abs(value) > Number.MAX_SAFE_INTEGER) seen.inexact++;
      break;
    default:
      if (value !== null) seen.nested++;
  }
}

function typeOf(seen: Seen): Pick<Field, 'type' | 'isJson'> {
  const most = Math.max(seen.booleans, seen.strings, seen.nested, seen.numbers);
  if (seen.numbers === most) {
    const isLong = seen.fractions === 0 && (seen.large === seen.numbers || seen.inexact > 0);
    return { type: isLong ? 'long' : 'double', isJson: false };
  }
  if (seen.strings === most) return { type: 'string', isJson: false };
  return seen.booleans === most ? { type: 'boolean', isJson: false } : { type: 'string', isJson: true };
}
