/** Whether the kernel can serve files of a cache directory by itself (FUSE_PASSTHROUGH); asked before the mount, so that people read why not. */
import { statfsSync } from 'node:fs';
import { release } from 'node:os';
import { hasSysAdmin } from './mount.ts';

/** f_type of statfs(2), linux/magic.h: file systems that hold no file over a restart, or are themselves stacked on another. */
const UNFIT: ReadonlyMap<number, string> = new Map([
  [0x01021994, 'tmpfs'],
  [0x858458f6, 'ramfs'],
  [0x794c7630, 'overlayfs'],
]);
const KERNEL_MIN = [6, 9] as const;

/** Why not, as one line; undefined: it can. */
export function passthroughProblem(cacheDir: string): string | undefined {
  const kernel = release();
  const [major = 0, minor = 0] = kernel.split('.').map((part) => Number.parseInt(part, 10));
  const [wantedMajor, wantedMinor] = KERNEL_MIN;
  if (major < wantedMajor || (major === wantedMajor && minor < wantedMinor)) {
    return `Linux ${kernel} is older than ${wantedMajor}.${wantedMinor}`;
  }
  if (!hasSysAdmin()) return 'CAP_SYS_ADMIN is missing';
  const unfit = UNFIT.get(statfsSync(cacheDir).type >>> 0);
  return unfit === undefined ? undefined : `the cache directory ${cacheDir} is on ${unfit}`;
}
