/** From what was found in a text to numbers, truth values and times. Throws an Error that says what was expected. */
import { exactWhole, numberIn } from '../draft.ts';
import type { FieldType } from './parse-config.ts';
import { timeParser } from './time-format.ts';

interface Converted {
  readonly value: unknown;
  /** Of a time. */
  readonly us?: number;
}

export type Conversion = (value: unknown, arrivalMs: number) => Converted;

const NUMBER = /^[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?$/;
const WHOLE = /^[+-]?\d+$/;
const TRUE = new Set(['true', 'yes', 'on', '1']);
const FALSE = new Set(['false', 'no', 'off', '0']);

export function conversionOf(type: FieldType): Conversion {
  if (type === 'number') return ofText('a number', numberOf);
  if (type === 'boolean') return ofText('true or false', truthOf);
  const parse = timeParser(type.time, type.zone);
  return ofText(`a time as ${type.time}`, (text, arrivalMs) => {
    const time = parse(text, arrivalMs);
    return time === null ? null : { value: time.text, us: time.us };
  });
}

/** Programs write `-` for what there is not. */
function ofText(expected: string, convert: (text: string, arrivalMs: number) => Converted | null): Conversion {
  return (value, arrivalMs) => {
    const text = typeof value === 'string' ? value : scalarText(value);
    if (text === null || text === '' || text === '-') return { value: null };
    const converted = convert(text, arrivalMs);
    if (converted === null) throw new Error(`is ${JSON.stringify(text).slice(0, 100)}: expected ${expected}`);
    return converted;
  };
}

/** null for null; what is no scalar is no text of anything. */
function scalarText(value: unknown): string | null {
  if (value === null) return null;
  return typeof value === 'boolean' ? String(value) : (numberIn(value) ?? JSON.stringify(value));
}

function numberOf(text: string): Converted | null {
  if (!NUMBER.test(text)) return null;
  const number = Number(text);
  if (Number.isInteger(number) && !Number.isSafeInteger(number) && WHOLE.test(text)) return { value: exactWhole(text) };
  return Number.isFinite(number) ? { value: number } : null;
}

function truthOf(text: string): Converted | null {
  const word = text.toLowerCase();
  return TRUE.has(word) || FALSE.has(word) ? { value: TRUE.has(word) } : null;
}
