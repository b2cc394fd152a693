/**
 * What is left in a cache directory by mounts that are over, and nobody else would ever remove.
 *
 * Invariants: only what can be fetched again goes, and only while the locks of all mount points that could use it are ours. What is staged, live
 * or promised stays, and so do the lock files.
 * Failure: killed on the way, the next look goes on.
 */
import { existsSync, readdirSync, renameSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { isCode } from '../../lib/errors.ts';
import { acquireProcessLock } from '../../lib/process-lock.ts';
import type { ProcessLock } from '../../lib/process-lock.ts';
import { WHOLE_FOLDER } from './whole-files.ts';

/** In the folder of a volume: the cache of its blocks, shared by its mount points. */
export const BLOCKS_FOLDER = 'blocks';
const GOING = 'blocks.unused';
/** Of a life of a volume (lib/volume/format.ts). */
const LIFE = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}(\.[0-9a-f-]{36})?$/;

/** Of this volume, the whole files of other mount points than `own`. `base` has a folder `mount-…` for each. */
export async function removeAbandoned(base: string, own: string): Promise<void> {
  for (const folder of mountsIn(base)) {
    if (folder === own || !existsSync(join(folder, WHOLE_FOLDER))) continue;
    const lock = await tryLock(folder);
    if (lock === undefined) continue;
    removeAllButLive(join(folder, WHOLE_FOLDER));
    lock.release();
  }
}

/**
 * Sets aside the caches of volumes that no mount of this cache directory has served since `beforeMs`; returns the folders, for the caller to remove. What cannot be looked at
 * is handed to `failed`, and the others follow. The caller sees to it that no mount point is used for the first time meanwhile: it would have no lock yet.
 */
export async function setAsideUnused(
  cacheDir: string,
  beforeMs: number,
  failed: (error: unknown) => void,
): Promise<string[]> {
  const aside: string[] = [];
  for (const name of readdirSync(cacheDir).filter((entry) => LIFE.test(entry))) {
    try {
      aside.push(...(await setAside(join(cacheDir, name), beforeMs)));
    } catch (error) {
      failed(error);
    }
  }
  return aside;
}

/** The same of one volume: `base` is its folder. */
export async function setAside(base: string, beforeMs: number): Promise<string[]> {
  const [blocks, going] = [join(base, BLOCKS_FOLDER), join(base, GOING)];
  // Of a process that was killed while it removed them.
  if (existsSync(going)) return [going];
  const mounts = mountsIn(base);
  // A mount makes and removes files in its folder when it begins, and when it ends.
  if (mounts.length === 0 || mounts.some((folder) => statSync(folder).mtimeMs > beforeMs)) return [];
  const whole = mounts.map((folder) => join(folder, WHOLE_FOLDER)).filter((folder) => existsSync(folder));
  if (whole.length === 0 && !existsSync(blocks)) return [];
  const locks: ProcessLock[] = [];
  try {
    for (const folder of mounts) {
      const lock = await tryLock(folder);
      if (lock === undefined) return [];
      locks.push(lock);
    }
    for (const folder of whole) removeAllButLive(folder);
    if (!existsSync(blocks)) return [];
    renameSync(blocks, going);
    return [going];
  } finally {
    for (const lock of locks) lock.release();
  }
}

function mountsIn(base: string): string[] {
  return readdirSync(base)
    .filter((name) => name.startsWith('mount-'))
    .map((name) => join(base, name));
}

/** Of the folder of a mount; undefined when a mount has it. */
export async function tryLock(folder: string): Promise<ProcessLock | undefined> {
  try {
    return await acquireProcessLock(join(folder, 'lock'), { label: 'removal of caches' });
  } catch (error) {
    if (isCode(error, 'held')) return undefined;
    throw error;
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
