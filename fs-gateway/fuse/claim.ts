/** One supervisor for a mount point. */
import { statSync } from 'node:fs';
import { PenstockError } from '../../lib/errors.ts';
import { findSupervisor } from './control.ts';
import { probeMount, unmountPoint } from './mount.ts';

/** Throws `held`. */
export async function refuseSecond(mountpoint: string): Promise<void> {
  const supervisor = await findSupervisor(mountpoint);
  if (supervisor === undefined) return;
  throw new PenstockError('held', `${mountpoint} is already mounted (supervisor pid ${supervisor})`);
}

/** Makes sure that nobody serves the mount point; a dead mount of ours is taken away. Throws `held`, `unavailable`, `not-found`. */
export async function claimMountpoint(mountpoint: string, log: (message: string) => void): Promise<void> {
  await refuseSecond(mountpoint);
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
