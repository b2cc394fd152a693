/**
 * What the control plane wanted last, on the disk, so that an agent starts with it while no control plane answers.
 *
 *   <dataDir>/desired.json   { good, trying }, replaced as a whole and synced
 *
 * `good` has run, `trying` has not yet proved that it can. Failure: a damaged file is set aside by name and the agent starts with its own
 * configuration; the control plane is asked anyway.
 */
import { readFile, rename } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { z } from 'zod';
import { makeDirectory, replaceFile } from '../../lib/durable-files.ts';
import { fromSystemError, systemCode } from '../../lib/errors.ts';
import { freeCorruptName } from '../set-aside.ts';

const desired = z.object({ version: z.string(), config: z.record(z.string(), z.unknown()) });
/** `version` names the content. */
export type Desired = z.output<typeof desired>;

const stateSchema = z.object({
  good: desired.nullable(),
  /** `starts`: how often the agent began to run with it and did not come to an end in order. */
  trying: desired.extend({ starts: z.int() }).nullable(),
});
export type DesiredState = z.output<typeof stateSchema>;

export const statePath = (dataDir: string): string => join(dataDir, 'desired.json');

/** Throws `denied` or `io`. */
export async function readState(path: string, log: (line: string) => void): Promise<DesiredState> {
  const none: DesiredState = { good: null, trying: null };
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return none;
    throw fromSystemError(error, path);
  }
  const parsed = stateSchema.safeParse(parseJson(text));
  if (parsed.success) return parsed.data;
  const aside = await freeCorruptName(path);
  await rename(path, aside);
  log(`${path} was damaged: set aside as ${aside}, the agent begins with its own configuration`);
  return none;
}

/** On the disk when it resolves. Throws `full`, `denied` or `io`. */
export async function writeState(path: string, state: DesiredState): Promise<void> {
  try {
    await makeDirectory(dirname(path));
    await replaceFile(path, JSON.stringify(state));
  } catch (error) {
    throw fromSystemError(error, path);
  }
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
