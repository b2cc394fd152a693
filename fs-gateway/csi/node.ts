/**
 * The node service: a volume is mounted once on a node, at its staging path, by a mount daemon of its own; pods see bind mounts of it.
 *
 * It keeps no state: what is staged and published is read from the kernel's mount table each time, so a driver that was killed or
 * replaced goes on where the one before it was.
 * Invariants
 * - The mount daemon is a detached process: the end of the driver, in order or not, leaves it and what programs have open alone.
 * - A dead mount (its daemon was killed) is detached and made anew by the next stage or publish; nothing else is ever taken off a path.
 * - Unstage writes everything that is staged before it unmounts, and leaves the volume mounted when it cannot.
 */
import { rmdir, statfs } from 'node:fs/promises';
import { isAbsolute, join } from 'node:path';
import { systemCode } from '../../lib/errors.ts';
import { findMount, probeMount, unmountPoint } from '../fuse/mount.ts';
import { folderNames } from '../tools/volume-folders.ts';
import { parseCapability, wantedCapacity } from './capabilities.ts';
import type { Capability } from './capabilities.ts';
import { absent, existing } from './controller.ts';
import { InFlight } from './in-flight.ts';
import type { MountDaemons } from './mount-daemons.ts';
import {
  absolutePath,
  assertOurs,
  existingMountpoint,
  isDead,
  makeMountpoint,
  noAnswer,
  placesOf,
  stateOf,
  withinLook,
} from './mounts.ts';
import { parseContext } from './parameters.ts';
import type {
  NodeExpandVolumeRequest,
  NodeGetVolumeStatsRequest,
  NodePublishVolumeRequest,
  NodeStageVolumeRequest,
  NodeUnpublishVolumeRequest,
  NodeUnstageVolumeRequest,
  StringMap,
} from './protocol.ts';
import { publish } from './publish.ts';
import { parseSecrets } from './secrets.ts';
import { CsiError, invalid, Status } from './status.ts';
import { placeName } from './volume-id.ts';
import type { Place } from './volume-id.ts';

/** Of mounts on top of each other on one path: each repeat of a publish that was killed could have made one. */
const STACKED_MAX = 16;

export interface NodeOptions {
  readonly nodeId: string;
  readonly daemons: MountDaemons;
  /** Used where a call brings none. */
  readonly secrets?: StringMap;
}

interface Staging {
  readonly place: Place;
  readonly point: string;
  readonly capability: Capability;
  readonly secrets: StringMap;
  readonly cacheBytes: number | undefined;
}

export class Node {
  readonly #options: NodeOptions;
  readonly #inFlight = new InFlight();

  constructor(options: NodeOptions) {
    this.#options = options;
  }

  nodeGetCapabilities(): object {
    const types = [
      ...['STAGE_UNSTAGE_VOLUME', 'GET_VOLUME_STATS', 'EXPAND_VOLUME'],
      ...['VOLUME_CONDITION', 'SINGLE_NODE_MULTI_WRITER'],
    ];
    return { capabilities: types.map((type) => ({ rpc: { type } })) };
  }

  nodeGetInfo(): object {
    return { nodeId: this.#options.nodeId };
  }

  async nodeStageVolume(request: NodeStageVolumeRequest): Promise<object> {
    const path = absolutePath('staging_target_path', request.stagingTargetPath);
    const capability = parseCapability(request.volumeCapability);
    const { cacheBytes } = parseContext(request.volumeContext);
    const place = existing(request.volumeId);
    return this.#inFlight.run(placeName(place), async () => {
      const point = await makeMountpoint(path);
      await this.#stage({ place, point, capability, secrets: request.secrets, cacheBytes });
      return {};
    });
  }

  /** Mounts the volume, unless it is mounted. */
  async #stage({ place, point, capability, secrets, cacheBytes }: Staging): Promise<void> {
    const state = await stateOf(point, place);
    if (state === 'unresponsive') throw noAnswer(point);
    if (state === 'alive') {
      const { readOnly } = capability;
      const isReadOnly = findMount(point)?.readOnly ?? readOnly;
      if (isReadOnly === readOnly) return;
      const mode = isReadOnly ? 'read-only' : 'writable';
      throw new CsiError(Status.ALREADY_EXISTS, `volume '${placeName(place)}' is staged ${mode} at ${point}`);
    }
    if (state === 'stale') unmountPoint(point, true);
    await this.#options.daemons.mount({
      place,
      point,
      capability,
      secrets: parseSecrets(secrets, this.#options.secrets),
      ...(cacheBytes !== undefined && { cacheBytes }),
    });
  }

  async nodeUnstageVolume(request: NodeUnstageVolumeRequest): Promise<object> {
    const path = absolutePath('staging_target_path', request.stagingTargetPath);
    const place = existing(request.volumeId);
    return this.#inFlight.run(placeName(place), async () => {
      const point = existingMountpoint(path);
      const entry = point === undefined ? undefined : findMount(point);
      if (point === undefined || entry === undefined) return {};
      assertOurs(entry, place);
      const [published] = placesOf(entry);
      if (published !== undefined && (await probeMount(point)) !== 'stale') {
        throw new CsiError(
          Status.FAILED_PRECONDITION,
          `volume '${placeName(place)}' is still published at ${published.mountpoint}`,
        );
      }
      await this.#options.daemons.umount(point);
      return {};
    });
  }

  async nodePublishVolume(request: NodePublishVolumeRequest): Promise<object> {
    const target = absolutePath('target_path', request.targetPath);
    const staging = absolutePath('staging_target_path', request.stagingTargetPath);
    const capability = parseCapability(request.volumeCapability);
    const { cacheBytes, subPath } = parseContext(request.volumeContext);
    const place = existing(request.volumeId);
    return this.#inFlight.run(placeName(place), async () => {
      const point = existingMountpoint(staging);
      const state = point === undefined ? 'free' : await stateOf(point, place);
      if (state === 'unresponsive') throw noAnswer(staging);
      if (point === undefined || (state === 'free' && !(await isDead(target, place)))) {
        throw new CsiError(Status.FAILED_PRECONDITION, `volume '${placeName(place)}' is not staged at ${staging}`);
      }
      if (state !== 'alive') {
        // Its daemon died after the stage: with the secrets at hand, the pod gets a mount that works.
        const staged = { ...capability, readOnly: findMount(point)?.readOnly ?? capability.readOnly };
        await this.#stage({ place, point, capability: staged, secrets: request.secrets, cacheBytes });
      }
      await publish({ place, point, target, subPath, capability, readOnly: request.readonly });
      return {};
    });
  }

  async nodeUnpublishVolume(request: NodeUnpublishVolumeRequest): Promise<object> {
    const target = absolutePath('target_path', request.targetPath);
    const place = existing(request.volumeId);
    return this.#inFlight.run(placeName(place), async () => {
      const point = existingMountpoint(target);
      if (point === undefined) return {};
      for (let n = 0; n < STACKED_MAX; n++) {
        const entry = findMount(point);
        if (entry === undefined) break;
        assertOurs(entry, place);
        if (unmountPoint(point, false) === 'busy') {
          throw new CsiError(Status.FAILED_PRECONDITION, `${point} is in use: a program has files of it open`);
        }
      }
      await rmdir(point).catch((error: unknown) => {
        if (systemCode(error) !== 'ENOENT') throw error;
      });
      return {};
    });
  }

  async nodeGetVolumeStats(request: NodeGetVolumeStatsRequest): Promise<object> {
    const { point, folder } = mountedAt(request.volumePath, request.volumeId);
    const state = await probeMount(point);
    if (state === 'stale') {
      return { usage: [], volumeCondition: { abnormal: true, message: 'its mount daemon has ended: restart the pod' } };
    }
    if (state === 'unresponsive') {
      return { usage: [], volumeCondition: { abnormal: true, message: noAnswer(point).message } };
    }
    const { bsize, blocks, bfree, bavail, files, ffree } = await withinLook(statfs(join(point, folder)), point);
    return {
      usage: [
        { unit: 'BYTES', total: blocks * bsize, used: (blocks - bfree) * bsize, available: bavail * bsize },
        { unit: 'INODES', total: files, used: files - ffree, available: ffree },
      ],
      volumeCondition: { abnormal: false, message: 'mounted' },
    };
  }

  /** The controller has grown it already; a node has nothing to do. */
  async nodeExpandVolume(request: NodeExpandVolumeRequest): Promise<object> {
    const capacityBytes = wantedCapacity(request.capacityRange);
    mountedAt(request.volumePath, request.volumeId);
    return { capacityBytes };
  }
}

interface Mounted {
  readonly point: string;
  /** Where the volume begins in what is mounted there. */
  readonly folder: string;
}

function mountedAt(volumePath: string, volumeId: string): Mounted {
  if (volumePath === '') throw invalid('volume_path is missing');
  const place = existing(volumeId);
  const point = isAbsolute(volumePath) ? existingMountpoint(volumePath) : undefined;
  const entry = point === undefined ? undefined : findMount(point);
  if (point === undefined || entry === undefined) throw absent(volumeId);
  assertOurs(entry, place);
  const whole = place.folder === undefined || entry.root !== '/';
  return { point, folder: whole ? '' : join(...folderNames(place.folder)) };
}
