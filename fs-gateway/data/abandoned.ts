/** Whole files of mount points of this volume that are not mounted any more: nobody else would ever remove them. Live ones may hold what is not committed, and stay. */
import { existsSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { isCode } from '../../lib/errors.ts';
import { acquireProcessLock } from '../../lib/process-lock.ts';
import { WHOLE_FOLDER } from './whole-files.ts';

/** `base` has a folder `mount-…` for each mount point; `own` is ours. What is staged in the others stays. */
export async function removeAbandoned(base: string, own: string): Promise<void> {
  for (const name of readdirSync(base)) {
    const folder = join(base, name, WHOLE_FOLDER);
    if (!name.startsWith('mount-') || join(base, name) === own || !existsSync(folder)) continue;
    try {
      const lock = await acquireProcessLock(join(base, name, 'lock'), { label: 'removal of whole files' });
      removeAllButLive(folder);
      lock.release();
    } catch (error) {
      if (!isCode(error, 'held')) throw error;
    }
  }
}

function removeAllButLive(folder: string): void {
  for (const part of readdirSync(folder)) {
    const names = readdirSync(join(folder, part));
    const live = new Set(names.filter((name) => /\.(base|kept)$/.test(name)).map(inodeOf));
    for (const name of names) if (!live.has(inodeOf(name))) rmSync(join(folder, part, name), { force: true });
  }
}

function inodeOf(name: string): string {
  return name.replace(/\..*/, '');
}
