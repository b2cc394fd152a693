/**
 * Schema inference: the columns for fields that were not seen before, from a sample of records.
 *
 * The type of a field is the one that most values of the sample have; the others are quarantined when their turn comes. Numbers
 * become `long` only when every one in the sample is a large integer (epoch times, ids) or one is beyond 2^53, else `double`:
 * Iceberg widens int to long and float to double, never long to double, so a first batch of whole numbers must not decide that a
 * measurement has no fractions. Integers up to 2^53 are exact in a double; whoever wants a long for small ones declares the schema.
 * Limits: FIELDS_MAX columns a table; names that differ only in case are one column in most SQL engines and are refused.
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

/** New fields in order of appearance, with ids from `firstId`. `known` maps lower-case names. */
export function inferFields(
  sample: Iterable<Readonly<Record<string, unknown>>>,
  known: ReadonlyMap<string, Field>,
  firstId: number,
): Field[] {
  const seen = new Map<string, Seen>();
  const lowerCase = new Set(known.keys());
  for (const record of sample) {
    for (const name in record) {
      if (known.get(name.toLowerCase())?.name === name) continue;
      const entry = seen.get(name);
      if (entry !== undefined) {
        count(entry, record[name]);
        continue;
      }
      const isTaken = lowerCase.has(name.toLowerCase());
      if (isTaken || record[name] === null || refuseName(name) !== undefined || lowerCase.size >= FIELDS_MAX) continue;
      const first: Seen = { booleans: 0, strings: 0, nested: 0, numbers: 0, fractions: 0, large: 0, inexact: 0 };
      count(first, record[name]);
      seen.set(name, first);
      lowerCase.add(name.toLowerCase());
    }
  }
  return [...seen].map(([name, entry], index) => ({ id: firstId + index, name, required: false, ...typeOf(entry) }));
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
