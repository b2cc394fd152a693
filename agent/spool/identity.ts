/**
 * Who stores readings: the agent's id and the *incarnation*, a random id of this opening of the spool.
 *
 * Invariants: no two openings share an incarnation, so (agent, incarnation, topic, seq) names one reading for ever. A spool's folder can
 * be copied to another machine, cloned with its disk, emptied by hand, or be put back as it was days ago, and nothing in it tells: its sequences
 * may then be given out again, but never under the name that they had.
 * A backlog keeps the identity it was stored under: it stands in the head of each segment.
 */
import { randomUUID } from 'node:crypto';

export interface Identity {
  readonly agent: string;
  readonly incarnation: string;
}

export function newIdentity(agent: string): Identity {
  return { agent, incarnation: randomUUID() };
}
