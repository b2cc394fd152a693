/**
 * Scratch directories: where DuckDB spills and where Parquet files stand until they are uploaded. Each belongs to one process,
 * holds nothing that is needed after it, and is removed by it; what a killed process left is removed by the next one that
 * makes a scratch directory under the same root.
 *
 * Invariants: a directory whose owner lives is never removed by another (the owner holds a kernel lock in it).
 */
import { randomUUID } from 'node:crypto';
import { mkdirSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import { fromSystemError, isCode } from '../errors.ts';
import { acquireProcessLock } from '../process-lock.ts';

const LOCK = 'owner.lock';
const PREFIX = 'run-';

export interface Scratch {
  readonly path: string;
  /** Removes it with all that is in it. */
  remove(): void;
}

/** TMPDIR steers it. One a user: a shared one could not be cleaned. */
export function defaultScratchRoot(): string {
  return join(tmpdir(), `penstock-scratch-${userInfo().uid}`);
}

export async function makeScratch(root: string, label: string): Promise<Scratch> {
  try {
    mkdirSync(root, { recursive: true });
    await removeAbandoned(root);
  } catch (error) {
    throw fromSystemError(error, `scratch directory ${root}`);
  }
  const path = join(root, `${PREFIX}${randomUUID()}`);
  const lock = await acquireProcessLock(join(path, LOCK), { label });
  return {
    path,
    remove: () => {
      // Emptied before the lock goes: in between, another process may remove it as abandoned.
      rmSync(path, { recursive: true, force: true, maxRetries: 3 });
      lock.release();
    },
  };
}

async function removeAbandoned(root: string): Promise<void> {
  for (const name of readdirSync(root)) {
    if (!name.startsWith(PREFIX)) continue;
    const path = join(root, name);
    try {
      const lock = await acquireProcessLock(join(path, LOCK), { label: 'cleaning' });
      rmSync(path, { recursive: true, force: true, maxRetries: 3 });
      lock.release();
    } catch (error) {
      if (!isCode(error, 'held', 'not-found', 'io')) throw error;
    }
  }
}
