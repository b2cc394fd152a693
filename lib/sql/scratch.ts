/**
 * Scratch directories: where DuckDB spills and where Parquet files stand until they are uploaded. Each belongs to one process,
 * holds nothing that is needed after it, and is removed by it; what a killed process left is removed by the next one that
 * makes a scratch directory under the same root.
 *
 * Invariants: a directory whose owner lives is never removed by another: the owner holds a kernel lock in it, and it gets the name that
 * others look at only when it is locked.
 * Failure: killed before that, it stays under its first name for NEW_MS.
 */
import { randomUUID } from 'node:crypto';
import { mkdirSync, readdirSync, renameSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fromSystemError, isCode } from '../errors.ts';
import { acquireProcessLock } from '../process-lock.ts';

const LOCK = 'owner.lock';
const PREFIX = 'run-';
const NEW_PREFIX = 'new-';
/** Far longer than it takes to lock a directory. */
const NEW_MS = 3_600_000;

export interface Scratch {
  readonly path: string;
  /** Removes it with all that is in it. */
  remove(): void;
}

/** TMPDIR steers it. One a user (by number: that of a container has no name): a shared one could not be cleaned. */
export function defaultScratchRoot(): string {
  return join(tmpdir(), `penstock-scratch-${process.getuid?.() ?? 0}`);
}

export async function makeScratch(root: string, label: string): Promise<Scratch> {
  try {
    mkdirSync(root, { recursive: true });
    await removeAbandoned(root);
  } catch (error) {
    throw fromSystemError(error, `scratch directory ${root}`);
  }
  const id = randomUUID();
  const path = join(root, PREFIX + id);
  const lock = await acquireProcessLock(join(root, NEW_PREFIX + id, LOCK), { label });
  try {
    renameSync(join(root, NEW_PREFIX + id), path);
  } catch (error) {
    lock.release();
    throw fromSystemError(error, `scratch directory ${path}`);
  }
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
    const path = join(root, name);
    if (name.startsWith(NEW_PREFIX)) {
      const madeMs = statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? Infinity;
      if (Date.now() - madeMs > NEW_MS) rmSync(path, { recursive: true, force: true });
    }
    if (!name.startsWith(PREFIX)) continue;
    try {
      const lock = await acquireProcessLock(join(path, LOCK), { label: 'cleaning' });
      rmSync(path, { recursive: true, force: true, maxRetries: 3 });
      lock.release();
    } catch (error) {
      if (!isCode(error, 'held', 'not-found', 'io')) throw error;
    }
  }
}
