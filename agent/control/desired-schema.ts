/**
 * What a control plane may want of an agent: an agent.yaml without `agent` and `control`, which stay the node's own, and with or without
 * `log`. The agent checks it with the schema of its file; so does the control plane, before it takes it.
 *
 * `${NAME}` in it is the environment of the agent's machine. So a secret need not stand in it, and may not: the control plane shows
 * configurations to whoever may read.
 */
import { z } from 'zod';
import { describeIssue, ISSUES, type KeyProblem } from '../../lib/config/issues.ts';
import { agentSchema, type AgentConfig } from '../config.ts';

const OWN_KEYS = ['agent', 'control'] as const;
const REFERENCE = /\$\{[A-Z_][A-Z0-9_]*\}/;
/** Stands in for the node's own where there is no node. */
const ANY_NODE: OwnKeys = { agent: { id: 'any', dataDir: 'any' }, control: undefined, log: 'file:any' };

interface OwnKeys extends Pick<AgentConfig, 'agent' | 'log'> {
  readonly control: AgentConfig['control'] | undefined;
}

/** Makes of it, and of what the node says itself, the configuration to run with. */
export function desiredSchema(own: OwnKeys): z.ZodType<AgentConfig> {
  return z.preprocess((value, context) => {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) return value;
    for (const key of OWN_KEYS) {
      if (!Object.hasOwn(value, key)) continue;
      context.addIssue({ code: 'custom', path: [key], message: 'stays in agent.yaml of the node: leave it out' });
    }
    const { agent, control, log } = own;
    return { log, ...value, agent, ...(control === undefined ? {} : { control }) };
  }, agentSchema);
}

/** What is wrong with it on every node; empty: nothing that can be known here. What the environment decides, the agent judges. */
export function desiredProblems(desired: unknown): KeyProblem[] {
  const parsed = desiredSchema(ANY_NODE).safeParse(desired, ISSUES);
  const issues = parsed.success
    ? []
    : parsed.error.issues.filter(({ path }) => {
        const value = valueAt(desired, path);
        return typeof value !== 'string' || !REFERENCE.test(value);
      });
  return [...issues.flatMap(describeIssue), ...secretsIn(desired)];
}

const sourcesSchema = z.object({ sources: z.array(z.unknown()) });

function secretsIn(desired: unknown): KeyProblem[] {
  const sources = sourcesSchema.safeParse(desired).data?.sources ?? [];
  const places = [...sources.map((_, index) => ['sources', index, 'token']), ['log']];
  return places.flatMap((path) => {
    const value = valueAt(desired, path);
    const isSecret = typeof value === 'string' && (path[0] !== 'log' || /\/\/[^/?#]*:[^/?#]*@/.test(value));
    if (!isSecret || REFERENCE.test(value)) return [];
    const key = path[0] === 'log' ? 'log' : `sources[${String(path[1])}].token`;
    return [
      { key, message: 'a secret stays on the node: name a file of it, or a variable of its environment as ${NAME}' },
    ];
  });
}

function valueAt(root: unknown, path: readonly PropertyKey[]): unknown {
  return path.reduce<unknown>(
    (value, part) =>
      typeof value === 'object' && value !== null && Object.hasOwn(value, part)
        ? (value as Readonly<Record<PropertyKey, unknown>>)[part] // any object can be read so
        : undefined,
    root,
  );
}
