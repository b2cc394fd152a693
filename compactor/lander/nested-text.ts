/**
 * Structs, lists and maps as JSON text that DuckDB's `from_json_strict` turns into the column's type without loss.
 *
 * A field that the type does not have is a misfit, not left out; one that the value lacks is null.
 */
import type { FieldType, StructType } from '../../lib/table/schema.ts';
import { INEXACT, MISFIT } from './fit.ts';
import { scalarText } from './scalar-text.ts';

type Text = string | typeof MISFIT | typeof INEXACT;

/** `value` is neither null nor undefined. */
export function nestedText(type: FieldType, value: unknown): Text {
  if (typeof type === 'string') return quoted(type, scalarText(type, value));
  if (typeof value !== 'object' || value === null) return MISFIT;
  if (type.type === 'list') return Array.isArray(value) ? listText(type.element, value) : MISFIT;
  if (Array.isArray(value) || value instanceof Uint8Array) return MISFIT;
  return type.type === 'struct' ? structText(type, value) : mapText(type.key, type.value, value);
}

/** Numbers and truth values stand as they are, everything else (NaN too) between quotes. */
function quoted(type: string, text: Text): Text {
  if (typeof text !== 'string') return text;
  const isPlain =
    type === 'boolean' ||
    type === 'int' ||
    type === 'long' ||
    ((type === 'double' || type === 'float') && !/[IN]/.test(text));
  return isPlain ? text : JSON.stringify(text);
}

function listText(element: FieldType, values: readonly unknown[]): Text {
  const parts: string[] = [];
  for (const value of values) {
    const part = orNull(element, value);
    if (typeof part !== 'string') return part;
    parts.push(part);
  }
  return `[${parts.join(',')}]`;
}

function structText({ fields }: StructType, value: object): Text {
  const parts: string[] = [];
  let found = 0;
  for (const { name, type } of fields) {
    const isThere = Object.hasOwn(value, name);
    if (isThere) found++;
    const part = isThere ? orNull(type, (value as Readonly<Record<string, unknown>>)[name]) : 'null'; // it has the key
    if (typeof part !== 'string') return part;
    parts.push(`${JSON.stringify(name)}:${part}`);
  }
  return found === Object.keys(value).length ? `{${parts.join(',')}}` : MISFIT;
}

function mapText(key: FieldType, type: FieldType, value: object): Text {
  const parts: string[] = [];
  for (const [name, entry] of Object.entries(value)) {
    // The keys of an object are text: those of a map of numbers are read as such.
    const keyText =
      key === 'string' ? scalarText(key, name) : /^-?\d{1,19}$/.test(name) ? scalarText('long', BigInt(name)) : MISFIT;
    if (typeof keyText !== 'string') return keyText;
    if (key === 'int' && BigInt.asIntN(32, BigInt(keyText)) !== BigInt(keyText)) return MISFIT;
    const part = orNull(type, entry);
    if (typeof part !== 'string') return part;
    parts.push(`${JSON.stringify(keyText)}:${part}`);
  }
  return `{${parts.join(',')}}`;
}

function orNull(type: FieldType, value: unknown): Text {
  return value === null || value === undefined ? 'null' : nestedText(type, value);
}
