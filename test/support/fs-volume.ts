/** Volumes for tests: SQLite and a directory of this machine by default, opened without a mount or mounted under a guard. */
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import { systemClock } from '../../lib/clock.ts';
import { formatVolume, mountVolume } from '../../fs-gateway/main.ts';
import { openVolume } from '../../fs-gateway/open-volume.ts';
import type { OpenVolume } from '../../fs-gateway/open-volume.ts';
import type { Caller } from '../../fs-gateway/vfs/operations.ts';
import { guardMount, killIfAlive, mountDirs } from './mount-guard.ts';
import { tempDir } from './temp.ts';

export interface TestVolume {
  readonly base: string;
  readonly metaUrl: string;
  readonly storeDir: string;
}

/** A formatted volume `lake`; what it is made of is removed with the test. */
export async function testVolume(
  options: Readonly<Record<string, string>> = {},
  base = tempDir('volume'),
): Promise<TestVolume> {
  const metaUrl = `sqlite:${join(base, 'meta.db')}?durability=flush`;
  const storeDir = join(base, 'objects');
  await formatVolume({ metaUrl, storeUrl: `dir:${storeDir}`, options });
  return { base, metaUrl, storeDir };
}

/** The virtual file system of a volume, without a mount. `name` tells the mounts of one volume apart. */
export async function openTestVolume(volume: TestVolume, name = 'a', reports: string[] = []): Promise<OpenVolume> {
  const opened = await openVolume(
    {
      metaUrl: volume.metaUrl,
      volume: 'lake',
      cacheDir: join(volume.base, `cache-${name}`),
      cacheBytes: 64e6,
      mountpoint: `/nowhere/${name}`,
      ttlMs: 1000,
    },
    systemClock,
    undefined,
    (message) => reports.push(message),
  );
  onTestFinished(() => opened.close());
  return opened;
}

let operations = 0;

export function caller(uid = 0, gid = 0): Caller {
  return { uid, gid, pid: 1, operation: `test-${operations++}`, signal: new AbortController().signal };
}

export interface MountedVolume extends TestVolume {
  readonly mountpoint: string;
  readonly supervisorPid: number;
  readonly logPath: string;
}

/** A mounted volume; unmounted by force when the test ends. */
export async function mountTestVolume(volume?: TestVolume): Promise<MountedVolume> {
  const { base, mountpoint } = mountDirs();
  const mounted = volume ?? (await testVolume({}, base));
  const logPath = join(base, 'mount.log');
  guardMount(mountpoint);
  const { supervisorPid } = await mountVolume({
    metaUrl: mounted.metaUrl,
    mountpoint,
    cacheDir: join(base, 'cache'),
    cacheBytes: 256e6,
    background: true,
    logPath,
  });
  onTestFinished(() => killIfAlive(-supervisorPid)); // its whole process group: the worker too
  return { ...mounted, mountpoint, supervisorPid, logPath };
}
