/**
 * What is mounted at a path of the node service, from the kernel's mount table.
 *
 * Limits: nothing waits for a file system that does not answer beyond LOOK_MS.
 */
import { lstat, mkdir } from 'node:fs/promises';
import { isAbsolute, join } from 'node:path';
import { describeError, isCode, systemCode } from '../../lib/errors.ts';
import { controlRequest } from '../fuse/control.ts';
import { allMounts, FILE_SYSTEM_TYPE, findMount, probeMount, resolveMountpoint } from '../fuse/mount.ts';
import type { MountEntry, MountState } from '../fuse/mount.ts';
import { CsiError, invalid, Status } from './status.ts';
import { parseVolumeId, placeName } from './volume-id.ts';
import type { Place } from './volume-id.ts';

const LOOK_MS = 5_000;

/** Where else the file system of a mount is seen. */
export function placesOf(entry: MountEntry): MountEntry[] {
  return allMounts().filter(({ device, mountpoint }) => device === entry.device && mountpoint !== entry.mountpoint);
}

/** What is shown there; undefined for what is not ours. */
export function placeOf(entry: MountEntry | undefined): Place | undefined {
  const name = entry?.type === FILE_SYSTEM_TYPE ? /^penstock:(.+)@/.exec(entry.source)?.[0] : undefined;
  return name === undefined ? undefined : parseVolumeId(name.slice(0, -1));
}

/** Throws FAILED_PRECONDITION when something else is mounted there. */
export async function stateOf(point: string, place: Place): Promise<MountState> {
  const entry = findMount(point);
  if (entry === undefined) return 'free';
  assertOurs(entry, place);
  return probeMount(point);
}

/** Whether a target shows a mount of the volume whose daemon has ended. */
export async function isDead(target: string, place: Place): Promise<boolean> {
  const point = existingMountpoint(target);
  return point !== undefined && (await stateOf(point, place)) === 'stale';
}

export function assertOurs(entry: MountEntry, place: Place): void {
  if (entry.type === FILE_SYSTEM_TYPE && entry.source.startsWith(`penstock:${placeName(place)}@`)) return;
  throw new CsiError(
    Status.FAILED_PRECONDITION,
    `${entry.mountpoint} is a mount of ${entry.source} (${entry.type}), not of volume '${placeName(place)}'`,
  );
}

export function absolutePath(name: string, path: string): string {
  if (path === '') throw invalid(`${name} is missing`);
  if (!isAbsolute(path) || path.includes('\0')) throw invalid(`${name}: expected an absolute path`);
  return join(path);
}

/** The real path, its folder made where it is missing; nothing looks into what is mounted there. Throws INVALID_ARGUMENT where no folder can be. */
export async function makeMountpoint(path: string): Promise<string> {
  const found = existingMountpoint(path);
  if (found !== undefined) {
    if (findMount(found) === undefined && !(await lstat(found)).isDirectory())
      throw invalid(`${path} is not a directory`);
    return found;
  }
  try {
    await mkdir(path, { recursive: true, mode: 0o750 });
  } catch (error) {
    if (!['ENOTDIR', 'EEXIST', 'ENAMETOOLONG'].includes(systemCode(error) ?? '')) throw error;
    throw invalid(describeError(error));
  }
  return resolveMountpoint(path);
}

/** Whether a daemon serves the volume at this very path, and not only shows it there to a pod. */
export async function isServedAt(point: string): Promise<boolean> {
  return controlRequest(point, { type: 'stats' }, LOOK_MS).then(
    ({ ok }) => ok,
    () => false,
  );
}

export function existingMountpoint(path: string): string | undefined {
  try {
    return resolveMountpoint(path);
  } catch (error) {
    if (isCode(error, 'not-found')) return undefined;
    throw error;
  }
}

export function noAnswer(point: string): CsiError {
  return new CsiError(Status.UNAVAILABLE, `the mount at ${point} does not answer: is its metadata engine up?`);
}

export async function withinLook<T>(work: Promise<T>, point: string): Promise<T> {
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => late.reject(noAnswer(point)), LOOK_MS);
  try {
    return await Promise.race([work, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}
