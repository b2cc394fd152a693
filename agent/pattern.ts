/** Patterns of agent.yaml, by RE2: they take time in proportion to the text. The library is loaded by who has one. */
import { RE2JS } from 're2js';
import { describeError } from '../lib/errors.ts';

export type Pattern = RE2JS;

/** Throws an Error where it is none. */
export function compilePattern(pattern: string): Pattern {
  return RE2JS.compile(pattern);
}

/** Why it is no pattern, or null. */
export function patternProblem(pattern: string): string | null {
  try {
    compilePattern(pattern);
    return null;
  } catch (error) {
    return `no pattern of RE2 (backreferences and lookarounds are none): ${describeError(error)}`;
  }
}
