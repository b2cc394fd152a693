/**
 * Shows a staged volume, or a folder of it, at the path of a pod.
 *
 * Invariants: a target is read-only before anybody is told that it is there; of what is mounted there already, only a dead mount of the volume is
 * taken off.
 */
import { rmdir } from 'node:fs/promises';
import { findMount, makeReadOnly, probeMount, unmountPoint } from '../fuse/mount.ts';
import { folderNames } from '../tools/volume-folders.ts';
import { bindFolder } from './bind.ts';
import type { Capability } from './capabilities.ts';
import { assertOurs, existingMountpoint, makeMountpoint, placesOf } from './mounts.ts';
import { CsiError, Status } from './status.ts';
import { placeName } from './volume-id.ts';
import type { Place } from './volume-id.ts';

interface Publication {
  readonly place: Place;
  readonly point: string;
  readonly target: string;
  readonly subPath: readonly string[];
  readonly capability: Capability;
  readonly readOnly: boolean;
}

export async function publish(publication: Publication): Promise<void> {
  const { place, point, target, subPath, capability, readOnly: asked } = publication;
  const staged = findMount(point);
  if (staged === undefined) throw new CsiError(Status.UNAVAILABLE, `${point} was unmounted meanwhile`);
  const readOnly = asked || capability.readOnly;
  const found = existingMountpoint(target);
  const path = await makeMountpoint(target);
  const there = findMount(path);
  const home = place.folder === undefined ? [] : folderNames(place.folder);
  if (there !== undefined) {
    assertOurs(there, place);
    if (there.device === staged.device) {
      const wanted = `/${[...home, ...subPath].join('/')}`;
      if (there.root !== wanted || (there.readOnly && !readOnly && !staged.readOnly)) {
        const what = `${there.root}${there.readOnly ? ', read-only' : ''}`;
        throw new CsiError(Status.ALREADY_EXISTS, `${path} shows the volume already, but as ${what}`);
      }
      // A publish that was killed between its two steps.
      if (readOnly && !there.readOnly) makeReadOnly(path);
      return;
    }
    // Of a daemon that has died.
    if ((await probeMount(path)) !== 'stale') {
      throw new CsiError(Status.ALREADY_EXISTS, `${path} shows another mount of the volume`);
    }
    unmountPoint(path, true);
  }
  try {
    const [elsewhere] = placesOf(staged);
    if (capability.mode.onePod && elsewhere !== undefined) {
      throw new CsiError(
        Status.FAILED_PRECONDITION,
        `volume '${placeName(place)}' is for one pod (ReadWriteOncePod), and published at ${elsewhere.mountpoint}`,
      );
    }
    await bindFolder({ root: point, home, subPath, target: path, readOnly, make: !staged.readOnly });
  } catch (error) {
    if (found === undefined) await rmdir(path);
    throw error;
  }
}
