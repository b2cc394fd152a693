/**
 * A reading on its way through the transforms. Its value is parsed when a transform first asks for a field, and written anew only when
 * one has changed it: what nobody touches travels as the bytes that came.
 *
 * Invariants: a whole number that a double cannot hold is written back digit for digit (it may be an id).
 */
import type { NewReading } from '../spool/frame.ts';

export type FieldValues = Readonly<Record<string, unknown>>;

/** As the language specification has them (ECMA-262, JSON.parse source text access); TypeScript's library does not, yet. */
interface ExactJson {
  parse(
    text: string,
    reviver: (key: string, value: unknown, context: { readonly source?: string }) => unknown,
  ): unknown;
  rawJSON(text: string): unknown;
  isRawJSON(value: unknown): value is { readonly rawJSON: string };
}
const exactJson = JSON as unknown as ExactJson; // the type above, see its comment
/** Fewer digits are always exact. */
const MANY_DIGITS = /\d{16}/;
const WHOLE_NUMBER = /^-?\d+$/;
/** JSON.parse takes any depth, and JSON.stringify, to which each level is a call, overflows the stack at some thousands. */
export const NESTING_MAX = 512;

export class Draft {
  /** As it came. */
  readonly original: NewReading;
  #fields: FieldValues | null | undefined;
  #isChanged = false;
  topic: string;
  priority: number;
  eventUs: number;

  constructor(reading: NewReading) {
    this.original = reading;
    this.topic = reading.topic;
    this.priority = reading.priority;
    this.eventUs = reading.eventUs;
  }

  get key(): string | null {
    return this.original.key;
  }

  get arrivalUs(): number {
    return this.original.arrivalUs;
  }

  /** For rewriting: opaque where a number is not exact. null when `parseObject` takes the value for no JSON object. */
  get fields(): FieldValues | null {
    if (this.#fields === undefined) this.#fields = parseObject(textOf(this.original.value));
    return this.#fields;
  }

  /** For judging: every number is a number. */
  get plainFields(): FieldValues | null {
    const { fields } = this;
    if (fields === null || !MANY_DIGITS.test(textOf(this.original.value))) return fields;
    return JSON.parse(JSON.stringify(fields)) as FieldValues; // an object, as `fields` is
  }

  /** undefined when the field is missing. */
  field(name: string): unknown {
    const { fields } = this;
    const value = fields !== null && Object.hasOwn(fields, name) ? fields[name] : undefined;
    return exactJson.isRawJSON(value) ? Number(value.rawJSON) : value;
  }

  /** undefined when the field is missing, null or no number. */
  number(name: string): number | undefined {
    const value = this.field(name);
    return typeof value === 'number' && Number.isFinite(value) ? value : undefined;
  }

  replace(fields: FieldValues): void {
    this.#fields = fields;
    this.#isChanged = true;
  }

  toReading(): NewReading {
    const { topic, priority, eventUs } = this;
    const value = this.#isChanged ? JSON.stringify(this.#fields) : this.original.value;
    return { ...this.original, topic, priority, eventUs, value };
  }
}

/** Object.create(null): a field may be called `__proto__`. */
export function emptyFields(): Record<string, unknown> {
  return Object.create(null) as Record<string, unknown>; // it has no type of its own
}

export function textOf(value: string | Uint8Array): string {
  return typeof value === 'string' ? value : Buffer.from(value.buffer, value.byteOffset, value.length).toString();
}

/** The text of a number of `fields`; null for anything else. */
export function numberIn(value: unknown): string | null {
  return exactJson.isRawJSON(value) ? value.rawJSON : typeof value === 'number' ? String(value) : null;
}

/** A whole number as `fields` has it, digit for digit. */
export function exactWhole(text: string): unknown {
  return exactJson.rawJSON(text.replace(/^\+/, '').replace(/^(-?)0+(?=\d)/, '$1'));
}

/** null where the text is no JSON object, or one that is nested more than NESTING_MAX deep. */
export function parseObject(text: string): FieldValues | null {
  let parsed: unknown;
  try {
    parsed = MANY_DIGITS.test(text) ? exactJson.parse(text, keepDigits) : JSON.parse(text);
  } catch {
    return null;
  }
  if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed)) return null;
  // Each level takes two characters: most texts are too short to be asked.
  if (text.length > 2 * NESTING_MAX && isDeeper(parsed, NESTING_MAX)) return null;
  // JSON objects have string keys only.
  return parsed as FieldValues;
}

function isDeeper(value: unknown, levels: number): boolean {
  if (typeof value !== 'object' || value === null) return false;
  return levels === 0 || Object.values(value).some((each) => isDeeper(each, levels - 1));
}

function keepDigits(_key: string, value: unknown, { source }: { readonly source?: string }): unknown {
  const isInexact = typeof value === 'number' && !Number.isSafeInteger(value);
  return isInexact && source !== undefined && WHOLE_NUMBER.test(source) ? exactJson.rawJSON(source) : value;
}
