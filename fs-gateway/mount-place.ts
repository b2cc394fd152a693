/** Where a volume may be mounted: over nothing that the mount itself is made of. */
import { realpathSync } from 'node:fs';
import { basename, dirname, join, resolve, sep } from 'node:path';
import { PenstockError } from '../lib/errors.ts';
import { pathOfUrl } from '../lib/urls.ts';
import { resolveMountpoint } from './fuse/mount.ts';

export interface MountParts {
  readonly cacheDir: string;
  readonly metaUrl: string;
  readonly storeUrl: string;
}

/**
 * A mount hides what lay at its mount point. Where that is its own cache, its store, its metadata or its program, the first request waits for the
 * mount that has to answer it: neither the mount nor whoever looks at it ever ends. Throws `config`, and `not-found` without a mount point.
 */
export function refuseOwnParts(mountpoint: string, parts: MountParts): void {
  // Not by looking at it: a mount that is there may not answer.
  const place = resolveMountpoint(mountpoint);
  const files: readonly (readonly [what: string, path: string | undefined])[] = [
    ['the cache directory (--cache-dir)', parts.cacheDir],
    ['the metadata', localPath(parts.metaUrl)],
    ['the object store', localPath(parts.storeUrl)],
    ['the program', import.meta.dirname],
  ];
  for (const [what, path] of files) {
    if (path === undefined || !`${realPath(path)}${sep}`.startsWith(place === sep ? sep : `${place}${sep}`)) continue;
    throw new PenstockError(
      'config',
      `${what} at ${path} lies below the mount point ${mountpoint}, which would hide it: mount elsewhere, or move it`,
    );
  }
}

function localPath(url: string): string | undefined {
  return /^(?:sqlite|dir):/.test(url) ? pathOfUrl(new URL(url)) : undefined;
}

/** Without symbolic links as far as the path exists: a cache directory is made by the first mount. */
function realPath(path: string): string {
  const absolute = resolve(path);
  try {
    return realpathSync(absolute);
  } catch {
    // It does not exist.
    return absolute === dirname(absolute) ? absolute : join(realPath(dirname(absolute)), basename(absolute));
  }
}
