/** What was given up or lost, as a reading: every hole in a topic's sequence is explained in the log. */
import { ALARM_PRIORITY, type NewReading } from './frame.ts';
import type { Identity } from './identity.ts';
import type { SpoolGap } from './spool-reader.ts';

export const GAPS_TOPIC = 'penstock.gaps';

/** `agent` tells; `owner` stored what is gone (null: not known any more). */
export function gapReading(gap: SpoolGap, agent: string, owner: Identity | null, nowMs: number): NewReading {
  const [fromSeq, toSeq] = [Number(gap.fromSeq), Number(gap.toSeq)];
  const { topic, reason } = gap;
  const incarnation = owner?.incarnation ?? null;
  const value = {
    ts: nowMs,
    agent: owner?.agent ?? agent,
    incarnation,
    topic,
    fromSeq,
    toSeq,
    readings: toSeq - fromSeq + 1,
    reason,
  };
  const nowUs = Math.round(nowMs * 1000);
  return {
    topic: GAPS_TOPIC,
    key: agent,
    value: JSON.stringify(value),
    eventUs: nowUs,
    arrivalUs: nowUs,
    priority: ALARM_PRIORITY,
  };
}
