/** What the routes of agents and their groups share. */
import type { FastifyRequest } from 'fastify';
import { z } from 'zod';
import { PenstockError } from '../../lib/errors.ts';

const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/;
const EXPECTED = "expected 1 to 128 letters, digits, '.', '_' or '-'";

export const agentId = z.string().regex(NAME, EXPECTED);
export const groupName = z.string().regex(NAME, EXPECTED);
/** The agent's own schema judges it: `ControlContext`. */
export const settings = z.record(z.string(), z.unknown());

/** Throws `denied` when an agent's token is used for another agent. One that is named `plant-a-*` speaks for all whose id begins so. */
export function assertSpeaksFor({ principal }: FastifyRequest, agent: string): void {
  if (principal?.role !== 'agent' || principal.name === agent) return;
  // No id has a star.
  if (principal.name.endsWith('*') && agent.startsWith(principal.name.slice(0, -1))) return;
  throw new PenstockError('denied', `this token speaks for agent ${principal.name} only`);
}
