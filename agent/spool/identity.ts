/**
 * Who a spool is: the agent's id and the *incarnation*, a random id that is made with the spool's folder and bound to the machine.
 *
 * Invariants: two spools never share an incarnation, also when a disk image is cloned or a folder copied to another machine, and
 * when a reinstalled node counts from 1 again. So (agent, incarnation, topic, seq) names one reading for ever.
 * Failure: an identity file that is missing or damaged is replaced by one with a new incarnation.
 * Limits: a container without /etc/machine-id is told apart by its network address alone; a pod whose address changes at every
 * start gets a new incarnation each time, which is harmless: backlog keeps the identity it was stored under.
 */
import { createHash, randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { networkInterfaces } from 'node:os';
import { join } from 'node:path';
import { z } from 'zod';
import { fromSystemError, systemCode } from '../../lib/errors.ts';
import { replaceFile } from '../../lib/durable-files.ts';

const identitySchema = z.strictObject({
  agent: z.string(),
  incarnation: z.uuid(),
  machine: z.string(),
  since: z.string(),
});
export type Identity = z.infer<typeof identitySchema>;

/** A fingerprint of this machine: its id and the first hardware address in the order of the interfaces' names. */
export async function machineFingerprint(): Promise<string> {
  const machineId = await readFile('/etc/machine-id', 'utf8').catch(() => '');
  const addresses = Object.entries(networkInterfaces())
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .flatMap(([, list]) => list ?? [])
    .filter((address) => !address.internal && address.mac !== '00:00:00:00:00:00')
    .map((address) => address.mac);
  return createHash('sha256')
    .update(`${machineId.trim()}\n${addresses[0] ?? ''}`)
    .digest('hex')
    .slice(0, 32);
}

/** The identity stored in `dir` if it belongs to this agent and machine, else a new one, durable on return. */
export async function loadIdentity(dir: string, agent: string, machine: string, nowMs: number): Promise<Identity> {
  const stored = await readIdentity(join(dir, 'identity.json'));
  if (stored?.agent === agent && stored.machine === machine) return stored;
  return renewIdentity(dir, agent, machine, nowMs);
}

export async function renewIdentity(dir: string, agent: string, machine: string, nowMs: number): Promise<Identity> {
  const identity = { agent, machine, incarnation: randomUUID(), since: new Date(nowMs).toISOString() };
  const path = join(dir, 'identity.json');
  await replaceFile(path, `${JSON.stringify(identity)}\n`).catch((error: unknown) => {
    throw fromSystemError(error, `cannot write ${path}`);
  });
  return identity;
}

async function readIdentity(path: string): Promise<Identity | undefined> {
  try {
    return identitySchema.parse(JSON.parse(await readFile(path, 'utf8')));
  } catch (error) {
    const code = systemCode(error);
    // Unreadable is not damaged: a disk that answers EIO must not cost the identity.
    if (code !== undefined && code !== 'ENOENT') throw fromSystemError(error, `cannot read ${path}`);
    return undefined;
  }
}
