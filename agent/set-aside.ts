/** Damaged files of the agent's own are kept for a person to look at, under names of their own. */
import { constants } from 'node:fs';
import { copyFile, readdir, rm } from 'node:fs/promises';
import { basename, dirname } from 'node:path';
import { fromSystemError, systemCode } from '../lib/errors.ts';

/** Copies the present bytes of a file to a second name, for a person to look at; an earlier copy of that name is left as it is. */
export async function keepEvidence(path: string, as: string): Promise<void> {
  try {
    await copyFile(path, as, constants.COPYFILE_EXCL);
  } catch (error) {
    if (systemCode(error) === 'EEXIST') return;
    await rm(as, { force: true });
    // On a full disk the evidence is given up, the readings around the damage are not.
    if (fromSystemError(error, as).code !== 'full') throw error;
  }
}

/** The first of `<path>.corrupt-1`, `<path>.corrupt-2`, ... that does not exist. */
export async function freeCorruptName(path: string): Promise<string> {
  const taken = new Set(await readdir(dirname(path)));
  let index = 1;
  while (taken.has(`${basename(path)}.corrupt-${index}`)) index += 1;
  return `${path}.corrupt-${index}`;
}
