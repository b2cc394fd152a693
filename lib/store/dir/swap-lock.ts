/**
 * The lock under which `put` with `ifMatch` compares and renames: POSIX has no rename that compares. It is SQLite's exclusive lock
 * (the only fcntl lock plain Node can take), so the kernel drops it with its holder; keys are spread over a few lock files.
 */
import { createHash } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { setTimeout as sleep } from 'node:timers/promises';
import { PenstockError } from '../../errors.ts';
import { RESERVED_SEGMENT } from '../object-key.ts';

/** The lock is held for a stat and a rename; who does not get it for that long faces a disk that hangs. */
const WAIT_MAX_MS = 30_000;
const SQLITE_BUSY = 5;

export async function withSwapLock<T>(root: string, key: string, work: () => Promise<T>): Promise<T> {
  const folder = join(root, RESERVED_SEGMENT, 'locks');
  await mkdir(folder, { recursive: true });
  const name = createHash('sha256').update(key).digest('hex').slice(0, 2);
  const database = new DatabaseSync(join(folder, name), { timeout: 0 });
  try {
    const deadline = performance.now() + WAIT_MAX_MS;
    while (!tryLock(database)) {
      if (performance.now() > deadline) throw new PenstockError('unavailable', `${folder}/${name} stays locked`);
      await sleep(1 + Math.random() * 4);
    }
    return await work();
  } finally {
    database.close();
  }
}

function tryLock(database: DatabaseSync): boolean {
  try {
    database.exec('BEGIN EXCLUSIVE');
    return true;
  } catch (error) {
    if (error instanceof Error && 'errcode' in error && error.errcode === SQLITE_BUSY) return false;
    throw error;
  }
}
