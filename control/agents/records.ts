/**
 * What the control plane wants agents to run with, as it lies in the engine.
 *
 *   {VOLUME}agent-assignments / <agent>          Assignment: its group, and what is wanted of it alone, which goes before the group's
 *   {VOLUME}agent-groups / <group>               Group: what is wanted of its members, and the roll-out under way or the last one
 *   {VOLUME}agent-configs / <agent|group>:<name>:<version>    a configuration as JSON: those that the records above name, no others
 *   {VOLUME}agent-group-sizes / <group>          number: its members
 *   {VOLUME}agent-config-revision / all          number: grows with every change of the above
 *
 * Invariants: a change compares every record that it was decided by, so of two at once one is decided anew. A version is the hash of the
 * configuration, so it is the same wherever the configuration comes from, and an agent whose group is rolled out to the end notices nothing.
 */
import { createHash } from 'node:crypto';
import { z } from 'zod';
import { PenstockError } from '../../lib/errors.ts';
import type { Key, Stored } from '../../lib/meta/engine.ts';

/** A file of thousands of sources; a request's body has room for it. */
const CONFIG_BYTES_MAX = 131_072;

export type AgentSettings = Readonly<Record<string, unknown>>;

export const wantedSchema = z.object({ version: z.string(), changedMs: z.number(), changedBy: z.string() });
export type Wanted = z.output<typeof wantedSchema>;

export const assignmentSchema = z.object({ group: z.string().nullable(), own: wantedSchema.nullable() });
export type Assignment = z.output<typeof assignmentSchema>;

/** So many agents, or a share of those that report. */
export const stepSchema = z.union([
  z.strictObject({ agents: z.int().min(1).max(20_000) }),
  z.strictObject({ percent: z.number().positive().max(100) }),
]);
export type Step = z.output<typeof stepSchema>;

export const rolloutSchema = z.object({
  id: z.string(),
  state: z
    .enum(['running', 'stopped', 'done', 'aborted', 'rolled-back'])
    .meta({ description: 'stopped: by itself or by a person, it may be resumed; done: the group has it' }),
  from: wantedSchema
    .nullable()
    .meta({ description: 'null: the group had none, and its agents ran with their own files' }),
  to: wantedSchema,
  steps: z.array(stepSchema),
  step: z.int().meta({ description: 'the index of the step under way' }),
  reach: z
    .number()
    .meta({ description: 'agents whose place in this roll-out, 0 to 1, is not above it are to have the new one' }),
  soakSeconds: z.number().meta({ description: 'each agent of a step must run so long with it before the next step' }),
  patienceSeconds: z.number().meta({ description: 'a step that takes longer stops the roll-out' }),
  failingPercentMax: z.number().meta({ description: 'of the updated agents, above what failed before' }),
  errorRateRiseMax: z.number().meta({ description: 'of readings that go to the quarantine, above the share before' }),
  before: z
    .object({ failingShare: z.number(), errorRate: z.number() })
    .meta({ description: 'what the group was like when it began, or was resumed' }),
  stepMs: z.number().meta({ description: 'when the step began' }),
  reason: z.string().nullable().meta({ description: 'why it stopped' }),
  events: z.array(z.object({ atMs: z.number(), text: z.string() })).meta({ description: 'the newest last' }),
});
export type Rollout = z.output<typeof rolloutSchema>;

export const groupSchema = z.object({ current: wantedSchema.nullable(), rollout: rolloutSchema.nullable() });
export type Group = z.output<typeof groupSchema>;

export interface Records {
  readonly assignments: string;
  readonly groups: string;
  readonly configs: string;
  readonly sizes: string;
  readonly revision: Key;
}

export const recordsOf = (volume: string): Records => ({
  assignments: `{${volume}}agent-assignments`,
  groups: `{${volume}}agent-groups`,
  configs: `{${volume}}agent-configs`,
  sizes: `{${volume}}agent-group-sizes`,
  revision: { bucket: `{${volume}}agent-config-revision`, field: 'all' },
});

export type Owner = `agent:${string}` | `group:${string}`;

export const configField = (owner: Owner, version: string): string => `${owner}:${version}`;

export interface EncodedConfig {
  readonly version: string;
  readonly bytes: Buffer;
}

/** Throws `too-large`. */
export function encodeConfig(config: AgentSettings): EncodedConfig {
  const bytes = Buffer.from(JSON.stringify(config));
  if (bytes.length > CONFIG_BYTES_MAX) {
    throw new PenstockError('too-large', `a configuration of ${bytes.length} bytes: at most ${CONFIG_BYTES_MAX}`);
  }
  return { version: createHash('sha256').update(bytes).digest('hex').slice(0, 20), bytes };
}

/** Throws `corrupt`: what steers agents is not guessed. */
export function decode<T>(schema: z.ZodType<T>, key: Key, stored: Stored | null | undefined): T | null {
  if (stored == null) return null;
  try {
    return schema.parse(JSON.parse(stored.value.toString('utf8')));
  } catch (error) {
    throw new PenstockError('corrupt', `record ${key.bucket} / ${key.field} is none of this version`, { cause: error });
  }
}

export const encode = (value: unknown): Buffer => Buffer.from(JSON.stringify(value));
