/** The transform `parse` of agent.yaml. Patterns are checked when a configuration is checked, as their library is loaded only then. */
import { z } from 'zod';
import { timeFormatProblem } from './time-format.ts';

/** Names a top-level field of the value. */
const field = z.string().min(1).max(256);

const fieldType = z.union(
  [
    z.enum(['number', 'boolean']),
    z.strictObject({
      /** `rfc3339`, `epoch`, `epochMs`, `epochUs`, `epochNs`, or as strptime has it. */
      time: z.string().min(1).max(256),
      /** Of times that do not say theirs: UTC, or as Europe/Berlin. */
      zone: z.string().optional(),
    }),
  ],
  { error: "expected number, boolean, or { time: FORMAT, zone: ZONE }, as { time: '%d/%b/%Y:%H:%M:%S %z' }" },
);
export type FieldType = z.output<typeof fieldType>;

export const parse = z
  .strictObject({
    type: z.literal('parse'),
    on: z.string().regex(/^[A-Za-z0-9._-]{1,249}$/, 'expected a topic name: letters, digits, dots, _ and -'),
    /** With the text. */
    field,
    format: z.enum(['json', 'logfmt', 'regex']),
    /** Of `regex`: RE2's, whose named groups become fields. */
    pattern: z.string().min(1).max(4096).optional(),
    /** Of what is found; without one, a value is as it was found. */
    types: z.record(field, fieldType).default({}),
    /** One of the times among them: that of the reading. */
    eventTime: field.optional(),
    /** A field that holds all that is found, as an object; without it, they are fields of the reading. */
    as: field.optional(),
    /** Whether the text stays beside what was found in it. */
    keepText: z.boolean().default(false),
    /** Whether what is found takes the place of fields that the reading has already (its pod, say, which a message could forge). */
    overwrite: z.boolean().default(false),
    /** In a log of many programs most readings are of others. */
    onMismatch: z.enum(['keep', 'quarantine', 'drop']).default('keep'),
  })
  .superRefine(({ format, pattern, types, eventTime }, context) => {
    const refuse = (path: string[], message: string): void => context.addIssue({ code: 'custom', path, message });
    if ((format === 'regex') !== (pattern !== undefined)) {
      refuse(['pattern'], format === 'regex' ? 'the format regex needs a pattern' : 'only the format regex has one');
    }
    for (const [name, type] of Object.entries(types)) {
      const problem = typeof type === 'string' ? null : timeFormatProblem(type.time, type.zone);
      if (problem !== null) refuse(['types', name, problem.key], problem.message);
    }
    if (eventTime !== undefined && typeof types[eventTime] !== 'object') {
      refuse(['eventTime'], `expected a field that \`types\` calls a time, as ${eventTime}: { time: rfc3339 }`);
    }
  });
export type ParseConfig = z.output<typeof parse>;
