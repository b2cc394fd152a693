/** The staging area of a mount, without the mount. */
import { Staging } from '../../fs-gateway/data/staging.ts';
import type { StagingOptions } from '../../fs-gateway/data/staging.ts';

/** With promises (`-o writeback`). */
export function openStaging(
  dir: string,
  bootId: string,
  life = 'one',
  isCommitted: StagingOptions['isCommitted'] = () => false,
  reports: string[] = [],
): Staging {
  return new Staging({ dir, life, bootId, promises: true, isCommitted, report: (message) => reports.push(message) });
}

export function stagedBytes(staging: Staging, ino: number, length: number): Buffer {
  const target = Buffer.alloc(length);
  staging.get(ino)?.overlay(0, target);
  return target;
}
