/** The `rules:` of agent.yaml: what the agent changes about itself while something holds. */
import { z } from 'zod';
import { duration } from '../../lib/config/load.ts';
import { topic } from '../config-parts.ts';
import { ALARM_PRIORITY } from '../spool/frame.ts';

export interface Threshold {
  readonly above: boolean;
  /** Percent. */
  readonly value: number;
}

const THRESHOLD = /^([<>])\s*(\d{1,3}(?:\.\d+)?)\s*%$/;

const PERCENT = "expected > or < and percent, as '>80%' (in quotes)";

const threshold: z.ZodType<Threshold, string> = z.string(PERCENT).transform((text, context) => {
  const match = THRESHOLD.exec(text);
  const value = Number(match?.[2]);
  if (match !== null && value <= 100) return { above: match[1] === '>', value };
  context.issues.push({ code: 'custom', message: PERCENT, input: text });
  return z.NEVER;
});

const atLeastOne = (keys: object): boolean => Object.values(keys).some((value) => value !== undefined);

const rule = z.strictObject({
  /** All of them together. */
  when: z
    .strictObject({
      spoolUsed: threshold.optional(),
      /** Of the whole machine. */
      cpu: threshold.optional(),
      /** The emptiest one; a machine without any meets no condition on it. */
      battery: threshold.optional(),
      uplink: z.enum(['up', 'down']).optional(),
    })
    .refine(atLeastOne, 'expected at least one of spoolUsed, cpu, battery, uplink'),
  do: z
    .strictObject({
      /** The share of readings that is kept. */
      sample: z.number().gt(0).max(1).optional(),
      /** Sources, by their `to` or `type`. */
      disable: z.array(z.string().min(1)).min(1).optional(),
      /** Where readings go. */
      route: topic.optional(),
      priority: z
        .int()
        .min(0)
        .max(ALARM_PRIORITY - 1)
        .optional(),
    })
    .refine(atLeastOne, 'expected at least one of sample, disable, route, priority'),
  /** The topics that sample, route and priority apply to; all by default. */
  on: z.array(topic).min(1).optional(),
  /** What holds must hold this long to count, and be over this long to be over: a peak changes nothing. */
  for: duration().default(10_000),
  /** In percent: a threshold is left only this far on its other side, so that a rule does not flap at its edge. */
  hysteresis: z.number().min(0).max(50).default(5),
});
export type RuleConfig = z.output<typeof rule>;

export const rulesSchema = z.array(rule).max(100).default([]);
