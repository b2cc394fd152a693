/** What a schema has against a value, in our words. Apart from load.ts, because a mount needs this and no YAML, which was 4 MB and a fifth of the CPU time of the start of its worker. */
import type { z } from 'zod';

export interface KeyProblem {
  /** `sources[0].path`; empty for the whole document. */
  readonly key: string;
  readonly message: string;
}

/** How a schema is to be parsed for `describeIssue`. A schema's own message comes before these. */
export const ISSUES = { reportInput: true, error: expectation } as const;

const FORMATS: Readonly<Record<string, string>> = { url: 'expected a URL', uuid: 'expected a UUID' };

function expectation(issue: z.core.$ZodRawIssue): string | undefined {
  const things = issue.origin === 'string' ? ' characters' : issue.origin === 'array' ? ' entries' : '';
  switch (issue.code) {
    case 'too_small':
      if (things !== '' && issue.minimum === 1)
        return issue.origin === 'string' ? 'is empty' : 'expected at least one entry';
      return `expected at least ${issue.minimum}${things}`;
    case 'too_big':
      return `expected at most ${issue.maximum}${things}`;
    case 'invalid_format':
      if (issue.format === 'regex') return `expected a text that matches ${issue.pattern}`;
      return FORMATS[issue.format];
    case 'invalid_key':
      return 'a key that is empty, too long, or has characters that keys here may not have';
    default:
      return undefined;
  }
}

/** An issue of a schema (parsed with `ISSUES`) in our words, without a line. */
export function describeIssue(issue: z.core.$ZodIssue): KeyProblem[] {
  return pathsOf(issue).map((path) => problemAt(path, issue));
}

export const pathsOf = (issue: z.core.$ZodIssue): PropertyKey[][] =>
  issue.code === 'unrecognized_keys' ? issue.keys.map((key) => [...issue.path, key]) : [issue.path];

export const problemAt = (path: readonly PropertyKey[], issue: z.core.$ZodIssue): KeyProblem => ({
  key: keyName(path),
  message: issue.code === 'unrecognized_keys' ? 'unknown key' : messageOf(issue),
});

function messageOf(issue: z.core.$ZodIssue): string {
  if (issue.code === 'invalid_type' && issue.input === undefined)
    return `missing: expected ${kindName(issue.expected)}`;
  // (A schema's own message does not begin so.)
  if (issue.code === 'invalid_type' && issue.message.startsWith('Invalid input'))
    return expectedInstead(kindName(issue.expected), kindOf(issue.input));
  if (issue.code === 'invalid_value') return `expected one of ${issue.values.map(String).join(', ')}`;
  if (issue.code === 'invalid_union' && issue.message.startsWith('Invalid input')) return alternatives(issue.errors);
  return issue.message;
}

/** (What is no number may come as NaN, which is of the kind that was expected.) */
const expectedInstead = (expected: string, found: string): string =>
  `expected ${expected}${expected === found ? '' : `, and this is ${found}`}`;

/** What each alternative of a union has against the value first. */
function alternatives(branches: readonly (readonly z.core.$ZodIssue[])[]): string {
  const flaws = branches.flatMap(([issue]) => (issue === undefined ? [] : describeIssue(issue).slice(0, 1)));
  const texts = flaws.map(({ key, message }) => (key === '' ? message : `${key}: ${message}`));
  return texts.length === 0 ? 'not valid' : [...new Set(texts)].join(', or ');
}

/** Kinds of values as YAML has them, where the schema's own name is one of JavaScript. */
const KINDS: Readonly<Record<string, string>> = { string: 'a text', object: 'a map of keys', array: 'a list', int: 'a whole number', number: 'a number', boolean: 'true or false', record: 'a map of keys' }; // prettier-ignore
const kindName = (expected: string): string => KINDS[expected] ?? expected;

function kindOf(input: unknown): string {
  if (input === null) return 'empty';
  return kindName(Array.isArray(input) ? 'array' : typeof input);
}

export function keyName(path: readonly PropertyKey[]): string {
  return path.reduce<string>(
    (name, part) =>
      typeof part === 'number' ? `${name}[${part}]` : name === '' ? String(part) : `${name}.${String(part)}`,
    '',
  );
}
