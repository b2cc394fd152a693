/** One supervisor for a mount point. */
import { statSync } from 'node:fs';
import { PenstockError } from '../../lib/errors.ts';
import type { ProcessLock } from '../../lib/process-lock.ts';
import { findSupervisor, lockControl } from './control.ts';
import { probeMount, unmountPoint } from './mount.ts';

/** Throws `held`. The lock decides between two that start together; one that serves says more of itself, and older ones have no lock. */
export async function refuseSecond(mountpoint: string): Promise<ProcessLock> {
  const supervisor = await findSupervisor(mountpoint);
  if (supervisor !== undefined) {
    throw new PenstockError('held', `${mountpoint} is already mounted (supervisor pid ${supervisor})`);
  }
  return lockControl(mountpoint);
}

/** Makes sure that nobody serves the mount point; a dead mount of ours is taken away. Throws `held`, `unavailable`, `not-found`. */
export async function claimMountpoint(mountpoint: string, log: (message: string) => void): Promise<ProcessLock> {
  const lock = await refuseSecond(mountpoint);
  try {
    await assertFree(mountpoint, log);
  } catch (error) {
    lock.release();
    throw error;
  }
  return lock;
}

async function assertFree(mountpoint: string, log: (message: string) => void): Promise<void> {
  const state = await probeMount(mountpoint);
  if (state === 'stale') {
    log(`${mountpoint}: a dead mount was left here; detaching it`);
    unmountPoint(mountpoint, true);
  } else if (state === 'alive' || state === 'unresponsive') {
    throw new PenstockError(
      'held',
      `${mountpoint} is already mounted, but no supervisor answers for it; unmount it first`,
    );
  }
  if (!statSync(mountpoint).isDirectory()) {
    throw new PenstockError('not-found', `the mount point ${mountpoint} is not a directory`);
  }
}
