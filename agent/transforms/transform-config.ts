/** The `transforms:` of agent.yaml. Each applies to the topic that `on` names, in the order in which they stand. */
import { z } from 'zod';
import { bytes, duration } from '../../lib/config/load.ts';
import { isCode } from '../../lib/errors.ts';
import { ALARM_PRIORITY } from '../spool/frame.ts';
import { parseCondition, type Condition } from './condition.ts';
import { parse } from './parse/parse-config.ts';
import { conversionRefusal } from './units.ts';

const topic = z
  .string()
  .max(249)
  .regex(/^[A-Za-z0-9._-]+$/, 'expected a topic name: letters, digits, dots, _ and -');
/** Names a top-level field of the value. */
const field = z.string().min(1).max(256);
const finite = z.number();
const positive = z.number().positive();

/** What a sensor's state costs in memory is some hundred bytes: a megabyte or two. */
const sensorsInMemory = z.int().min(1).max(1_000_000).default(10_000);
/** Durable states are written again at the head of every segment, about 300 bytes each. */
const sensorsOnDisk = z.int().min(1).max(10_000).default(1000);

const condition: z.ZodType<Condition, string> = z.string().transform((text, context) => {
  try {
    return parseCondition(text);
  } catch (error) {
    if (!isCode(error, 'config')) throw error;
    context.issues.push({ code: 'custom', message: error.message, input: text });
    return z.NEVER;
  }
});

const rename = z.strictObject({
  type: z.literal('rename'),
  on: topic,
  /** Old name: new name. */
  fields: z.record(field, field).refine((names) => Object.keys(names).length > 0, 'expected old: new'),
});

const select = z.strictObject({ type: z.literal('select'), on: topic, fields: z.array(field).min(1) });

const filter = z.strictObject({ type: z.literal('filter'), on: topic, keep: condition });

const route = z
  .strictObject({
    type: z.literal('route'),
    on: topic,
    when: condition,
    to: topic.optional(),
    priority: z.int().min(0).max(ALARM_PRIORITY).optional(),
  })
  .refine(({ to, priority }) => to !== undefined || priority !== undefined, 'a route needs to, priority or both');

const sample = z.strictObject({
  type: z.literal('sample'),
  on: topic,
  /** The share that is kept. */
  rate: z.number().gt(0).max(1),
});

const scale = z.strictObject({
  type: z.literal('scale'),
  on: topic,
  field,
  /** field * by + offset */
  by: finite.default(1),
  offset: finite.default(0),
  /** Where the result goes; the field itself by default. */
  as: field.optional(),
});

const convert = z
  .strictObject({
    type: z.literal('convert'),
    on: topic,
    field,
    /** Units, as degF and degC. */
    from: z.string(),
    to: z.string(),
    /** Where the result goes; the field itself by default. */
    as: field.optional(),
  })
  .superRefine(({ from, to }, context) => {
    const why = conversionRefusal(from, to);
    if (why !== null)
      context.addIssue({
        code: 'custom',
        path: [why.startsWith(`'${to}'`) && from !== to ? 'to' : 'from'],
        message: why,
      });
  });

const deadband = z.strictObject({
  type: z.literal('deadband'),
  on: topic,
  field,
  /** A reading that differs from the last kept one by at most this is dropped. */
  by: finite.nonnegative(),
  /** By event time: after this long a reading is kept whatever its value, so that a quiet sensor differs from a dead one. */
  maxGap: duration().optional(),
  sensors: sensorsInMemory,
});

const swingingDoor = z.strictObject({
  type: z.literal('swingingDoor'),
  on: topic,
  field,
  /** Every reading that is left out lies within this of the straight line between its kept neighbours. */
  by: positive,
  /** A reading is held back for at most this long. */
  maxGap: duration()
    .refine((ms) => ms >= 1000, 'expected at least 1s')
    .default(60_000),
  sensors: sensorsOnDisk,
});

const aggregate = z.strictObject({
  type: z.literal('aggregate'),
  on: topic,
  fields: z.array(field).min(1).max(32),
  /** Tumbling, by event time, aligned to the epoch. */
  window: duration().refine((ms) => ms >= 100 && ms <= 86_400_000, 'expected 100ms to 24h'),
  /** How long a window of a silent sensor stays open behind its end. */
  wait: duration().default(5000),
  to: topic.optional(),
  sensors: sensorsOnDisk,
});

const wasm = z.strictObject({
  type: z.literal('wasm'),
  on: topic,
  /** A file, as docs/WASM.md describes it. */
  module: z.string().min(1),
  /** What the module is given at its start. */
  config: z.json().optional(),
  /** Of the module itself. Enough for windows over some thousand sensors; a small node has not more to give. */
  memory: bytes()
    .refine((size) => size >= 2 ** 16 && size <= 2 ** 30, 'expected 64KiB to 1GiB')
    .default(16 * 2 ** 20),
  /** Of one call, with up to 1000 readings: what takes longer hangs. By the clock, so that a busy node must have room in it. */
  timeout: duration()
    .refine((ms) => ms >= 10 && ms <= 60_000, 'expected 10ms to 1m')
    .default(1000),
  /** What the module may keep; it is written again at the head of each segment of the spool. */
  state: bytes()
    .refine((size) => size <= 2 ** 20, 'expected at most 1MiB')
    .default(16 * 1024),
});

const TYPES = [
  rename,
  select,
  filter,
  route,
  sample,
  scale,
  convert,
  deadband,
  swingingDoor,
  aggregate,
  parse,
  wasm,
] as const;
const NAMES = TYPES.map((type) => type.shape.type.value);

const transformSchema = z.discriminatedUnion('type', TYPES, {
  error: (issue) => {
    const given =
      typeof issue.input === 'object' && issue.input !== null && 'type' in issue.input ? issue.input.type : undefined;
    const known = `expected one of ${NAMES.join(', ')}`;
    if (typeof given !== 'string') return `a transform needs a type: ${known}`;
    return `'${given}' is not a type of transform: ${known}`;
  },
});

/** The worst case of one sensor's state in the head of a segment, in bytes. */
const DOOR_STATE_BYTES = 1500;
const WINDOW_STATE_BYTES = 300;
const WINDOW_FIELD_STATE_BYTES = 100;
const MODULE_STATE_BYTES = 1000;

export const transformsSchema = z
  .array(transformSchema)
  .max(100)
  .superRefine((transforms, context) => {
    const seen = new Set<string>();
    for (const [index, transform] of transforms.entries()) {
      const state = durableStateName(transform);
      if (state !== null && seen.has(state)) {
        const message = 'the same as another one above: what they hold back would be mixed up';
        context.addIssue({ code: 'custom', path: [index], message });
      }
      if (state !== null) seen.add(state);
    }
  })
  .default([]);

/** What the durable states of all transforms can take at the head of each segment. */
export function durableStateBytesMax(transforms: readonly TransformConfig[]): number {
  return transforms.reduce((sum, transform) => {
    if (transform.type === 'swingingDoor') return sum + transform.sensors * DOOR_STATE_BYTES;
    // In base64.
    if (transform.type === 'wasm') return sum + MODULE_STATE_BYTES + Math.ceil((transform.state * 4) / 3);
    if (transform.type !== 'aggregate') return sum;
    return sum + transform.sensors * (WINDOW_STATE_BYTES + transform.fields.length * WINDOW_FIELD_STATE_BYTES);
  }, 0);
}

/** Of the checkpoints that hold the states of a transform's sensors; null where there are none on the disk. */
export function durableStateName(config: TransformConfig): string | null {
  if (config.type === 'swingingDoor') return `transform:swingingDoor:${JSON.stringify([config.on, config.field])}`;
  if (config.type === 'wasm')
    return `transform:wasm:${JSON.stringify([config.on, config.module, config.config ?? null])}`;
  if (config.type !== 'aggregate') return null;
  const { on, window, to = on, fields } = config;
  return `transform:aggregate:${JSON.stringify([on, window, to, ...fields])}`;
}

export type TransformConfig = z.output<typeof transformSchema>;
export type ConfigOf<T extends TransformConfig['type']> = Extract<TransformConfig, { type: T }>;
