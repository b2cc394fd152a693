/**
 * The conditions of filters and routes: CEL (https://cel.dev) over one reading.
 *
 *   value     the JSON object of the reading; its fields are value.rms, value['odd name']
 *   sensor    the sensor id, '' where there is none
 *   topic, priority
 *
 * Conditions are checked when the configuration is read: syntax, names and, as far as they are known, types. What only a reading can show
 * (a missing field, a text where a number was expected) makes `Condition` throw, and that reading goes to the quarantine;
 * `has(value.rms) && value.rms > 7` is how CEL asks first. JSON numbers are doubles: CEL adds 1.0 to them, not 1.
 * Limits: TEXT_MAX characters, NODES_MAX nodes, DEPTH_MAX levels; CEL has no loops over anything but the reading's own lists.
 */
import type { Environment } from '@marcbachmann/cel-js';
import { createRequire } from 'node:module';
import { PenstockError } from '../../lib/errors.ts';
import { NESTING_MAX, type Draft } from './draft.ts';

const TEXT_MAX = 4096;
const NODES_MAX = 1000;
const DEPTH_MAX = 64;

/** Throws an Error with the reason when the reading gives no answer. */
export type Condition = (draft: Draft) => boolean;

let environment: Environment | undefined;

/** Loaded with the first condition: most agents have none. */
function theEnvironment(): Environment {
  if (environment === undefined) {
    // Not an `await import`, as schemas call this. The type is that of the import above.
    const cel = createRequire(import.meta.url)('@marcbachmann/cel-js') as typeof import('@marcbachmann/cel-js');
    environment = new cel.Environment({ limits: { maxAstNodes: NODES_MAX, maxDepth: DEPTH_MAX } })
      .registerVariable('value', 'dyn')
      .registerVariable('sensor', 'string')
      .registerVariable('topic', 'string')
      .registerVariable('priority', 'double');
  }
  return environment;
}

/** Throws `config` with what is wrong, where, and what to write instead. */
export function parseCondition(text: string): Condition {
  if (text.length > TEXT_MAX) throw new PenstockError('config', `expected at most ${TEXT_MAX} characters`);
  const checked = theEnvironment().check(text);
  if (!checked.valid) throw new PenstockError('config', refusal(checked.error));
  if (checked.type !== 'bool' && checked.type !== 'dyn') {
    throw new PenstockError(
      'config',
      `expected a condition, as value.rms > 0.5; this gives a ${checked.type ?? 'value'}`,
    );
  }
  const evaluate = theEnvironment().parse(text);
  return (draft) => {
    const { plainFields, key, topic, priority } = draft;
    if (plainFields === null) throw new Error(`the value is no JSON object, or nested more than ${NESTING_MAX} deep`);
    const result: unknown = evaluate({ value: plainFields, sensor: key ?? '', topic, priority });
    if (typeof result !== 'boolean') throw new Error(`the condition gives ${typeof result}, expected true or false`);
    return result;
  };
}

function refusal(error: unknown): string {
  const message = firstLine(error);
  const at =
    typeof error === 'object' && error !== null && 'range' in error && isRange(error.range)
      ? `at character ${error.range.start + 1}: `
      : '';
  const unknownName = /^Unknown variable: (.+)$/.exec(message)?.[1];
  return unknownName === undefined
    ? `${at}${message}`
    : `${at}unknown name ${unknownName}: a field is value.${unknownName}; beside value there are sensor, topic and priority`;
}

function isRange(range: unknown): range is { readonly start: number } {
  return typeof range === 'object' && range !== null && 'start' in range && typeof range.start === 'number';
}

/** The library draws the place under the text in further lines. */
function firstLine(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  return message.split('\n', 1)[0] ?? '';
}
