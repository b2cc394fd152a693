/**
 * The transform `parse`: a text field to fields, by JSON, logfmt or a pattern.
 *
 * Invariants: a reading is parsed whole or not at all. What a text says replaces nothing of the reading unless it may (`overwrite`): where it has a
 * field of the same name, both stay, the text's in the text.
 * Limits: a pattern is asked about texts of up to MATCHED_MAX; RE2's take time in proportion to them, so that no text can stall the agent.
 */
import { describeError } from '../../../lib/errors.ts';
import { compilePattern, patternProblem } from '../../pattern.ts';
import { emptyFields, NESTING_MAX, parseObject, type Draft, type FieldValues } from '../draft.ts';
import type { Step } from '../step.ts';
import { conversionOf, type Conversion } from './field-types.ts';
import { parseLogfmt } from './logfmt.ts';
import type { ParseConfig } from './parse-config.ts';

const MATCHED_MAX = 32_768;
/** Where a reading is kept that could not be parsed: why. */
const PROBLEM_FIELD = 'parseProblem';

/** What is wrong with the pattern of a configuration that is right otherwise; null for nothing. */
export function parsePatternProblem({ pattern, types }: ParseConfig): { key: string; message: string } | null {
  if (pattern === undefined) return null;
  const refused = patternProblem(pattern);
  if (refused !== null) return { key: 'pattern', message: refused };
  const names = Object.keys(compilePattern(pattern).namedGroups());
  if (names.length === 0) return { key: 'pattern', message: 'expected named groups, as (?P<status>\\d+)' };
  const unknown = Object.keys(types).find((name) => !names.includes(name));
  const message = `the pattern has no group ${unknown}: it has ${names.join(', ')}`;
  return unknown === undefined ? null : { key: 'types', message };
}

/** What a text says. Throws an Error that says why it is none. */
type Parser = (text: string) => FieldValues;

export function parseStep(config: ParseConfig): Step {
  const { on, field, format, onMismatch } = config;
  const read = parserOf(config);
  const conversions = Object.entries(config.types).map(([name, type]) => [name, conversionOf(type)] as const);
  return {
    name: `parse ${on}.${field} ${format}`,
    on,
    apply(draft, out) {
      const text = draft.field(field);
      if (text === undefined || text === null) {
        out.miss(draft);
        return;
      }
      try {
        if (typeof text !== 'string') throw new Error(`${field} is no text`);
        merge(draft, text, typed(read(text), conversions, draft, config.eventTime), config);
        out.pass(draft);
      } catch (error) {
        if (onMismatch === 'quarantine') throw error;
        if (onMismatch === 'drop') {
          out.drop();
          return;
        }
        draft.replace(Object.assign(emptyFields(), draft.fields, { [PROBLEM_FIELD]: describeError(error) }));
        out.miss(draft);
      }
    },
  };
}

function parserOf({ field, format, pattern = '' }: ParseConfig): Parser {
  if (format === 'json') {
    return (text) => found(parseObject(text), `${field} is no JSON object, or nested more than ${NESTING_MAX} deep`);
  }
  if (format === 'logfmt') return (text) => found(parseLogfmt(text), `${field} is no logfmt (key=value)`);
  const compiled = compilePattern(pattern);
  const groups = Object.entries(compiled.namedGroups());
  return (text) => {
    if (text.length > MATCHED_MAX) throw new Error(`${field} is longer than ${MATCHED_MAX} characters`);
    const matcher = compiled.matcher(text);
    if (!matcher.find()) throw new Error(`${field} does not match the pattern`);
    const fields = emptyFields();
    for (const [name, group] of groups) {
      const value = matcher.group(group);
      // A group that took no part says nothing.
      if (value !== null) fields[name] = value;
    }
    return fields;
  };
}

function found(fields: FieldValues | null, refusal: string): FieldValues {
  if (fields === null) throw new Error(refusal);
  return fields;
}

/** The fields with their types; the draft gets its time. */
function typed(
  fields: FieldValues,
  conversions: readonly (readonly [name: string, convert: Conversion])[],
  draft: Draft,
  eventTime: string | undefined,
): FieldValues {
  if (conversions.length === 0) return fields;
  const result = Object.assign(emptyFields(), fields);
  let eventUs: number | undefined;
  for (const [name, convert] of conversions) {
    if (!Object.hasOwn(result, name)) continue;
    try {
      const { value, us } = convert(result[name], draft.arrivalUs / 1000);
      result[name] = value;
      if (name === eventTime) eventUs = us;
    } catch (error) {
      throw new Error(`${name} ${describeError(error)}`, { cause: error });
    }
  }
  draft.eventUs = eventUs ?? draft.eventUs;
  return result;
}

function merge(draft: Draft, text: string, fields: FieldValues, config: ParseConfig): void {
  const { field, as, keepText, overwrite } = config;
  const named: FieldValues = as === undefined ? fields : { [as]: fields };
  const others = emptyFields();
  for (const [name, value] of Object.entries(draft.fields ?? {})) if (name !== field) others[name] = value;
  const isTaken = !overwrite && Object.keys(named).some((name) => Object.hasOwn(others, name));
  // The text holds what would be lost, and is lost where something found has its name.
  const kept = keepText || isTaken ? { [field]: text } : {};
  draft.replace(
    overwrite
      ? Object.assign(emptyFields(), others, named, keepText && !Object.hasOwn(named, field) ? kept : {})
      : Object.assign(emptyFields(), named, others, kept),
  );
}
