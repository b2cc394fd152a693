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
import { dirname, isAbsolute, join } from 'node:path';
import type { Clock } from '../../lib/clock.ts';
import { systemCode } from '../../lib/errors.ts';
import { forgetPod, notePod } from '../callers/pod-names.ts';
import { findMount, probeMount, unmountPoint } from '../fuse/mount.ts';
import { folderNames } from '../tools/volume-folders.ts';
import { parseCapability, wantedCapacity } from './capabilities.ts';
import type { Capability } from './capabilities.ts';
import { absent, existing } from './controller.ts';
import { EphemeralVolumes, isEphemeral, isEphemeralId } from './ephemeral.ts';
import { InFlight } from './in-flight.ts';
import type { MountDaemons } from './mount-daemons.ts';
import {
  absolutePath,
  assertOurs,
  existingMountpoint,
  isDead,
  isServedAt,
  makeMountpoint,
  noAnswer,
  placeOf,
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
  readonly clock: Clock;
  /** Used where a call brings none, and for inline volumes. */
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
  readonly #ephemeral: EphemeralVolumes;
  readonly #inFlight = new InFlight();

  constructor(options: NodeOptions) {
    this.#options = options;
    this.#ephemeral = new EphemeralVolumes(options.secrets, options.clock);
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
      await this.#unstage(path, place);
      return {};
    });
  }

  async #unstage(path: string, place: Place): Promise<void> {
    const point = existingMountpoint(path);
    const entry = point === undefined ? undefined : findMount(point);
    if (point === undefined || entry === undefined) return;
    assertOurs(entry, place);
    const [published] = placesOf(entry);
    if (published !== undefined && (await probeMount(point)) !== 'stale') {
      throw new CsiError(
        Status.FAILED_PRECONDITION,
        `volume '${placeName(place)}' is still published at ${published.mountpoint}`,
      );
    }
    await this.#options.daemons.umount(point);
  }

  async nodePublishVolume(request: NodePublishVolumeRequest): Promise<object> {
    const target = absolutePath('target_path', request.targetPath);
    notePod(request.volumeContext);
    if (isEphemeral(request.volumeContext)) return this.#publishEphemeral(request, target);
    const staging = absolutePath('staging_target_path', request.stagingTargetPath);
    if (`${target}/`.startsWith(`${staging}/`)) throw invalid('target_path is in staging_target_path');
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
    forgetPod(target);
    if (isEphemeralId(request.volumeId)) return this.#unpublishEphemeral(request.volumeId, target);
    const place = existing(request.volumeId);
    return this.#inFlight.run(placeName(place), async () => {
      await unpublish(target, place);
      return {};
    });
  }

  async #publishEphemeral(request: NodePublishVolumeRequest, target: string): Promise<object> {
    const { volumeId, volumeContext, readonly } = request;
    const capability = parseCapability(request.volumeCapability);
    return this.#inFlight.run(volumeId, async () => {
      const { place, context } = await this.#ephemeral.make(volumeId, volumeContext);
      const { cacheBytes, subPath } = context;
      const point = await makeMountpoint(stagingBeside(target));
      await this.#stage({ place, point, capability, secrets: {}, cacheBytes });
      await publish({ place, point, target, subPath, capability, readOnly: readonly });
      return {};
    });
  }

  async #unpublishEphemeral(volumeId: string, target: string): Promise<object> {
    return this.#inFlight.run(volumeId, async () => {
      const staging = stagingBeside(target);
      const point = existingMountpoint(staging);
      const place =
        (await this.#ephemeral.find(volumeId)) ?? placeOf(point === undefined ? undefined : findMount(point));
      if (place === undefined) return {};
      await unpublish(target, place);
      await this.#unstage(staging, place);
      await removeFolder(staging);
      await this.#ephemeral.remove(place);
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

/** The place of the mount that a pod's inline volume is a folder of: nobody else uses the folder of its target. */
function stagingBeside(target: string): string {
  return join(dirname(target), '.penstock');
}

async function unpublish(target: string, place: Place): Promise<void> {
  const point = existingMountpoint(target);
  if (point === undefined) return;
  for (let n = 0; n < STACKED_MAX; n++) {
    const entry = findMount(point);
    if (entry === undefined) break;
    assertOurs(entry, place);
    // Its daemon writes what is staged before it lets go, which is what unstage asks it for.
    if (await isServedAt(point)) {
      throw new CsiError(
        Status.FAILED_PRECONDITION,
        `volume '${placeName(place)}' is staged at ${point}, not published`,
      );
    }
    if (unmountPoint(point, false) === 'busy') {
      throw new CsiError(Status.FAILED_PRECONDITION, `${point} is in use: a program has files of it open`);
    }
  }
  await removeFolder(point);
}

async function removeFolder(path: string): Promise<void> {
  await rmdir(path).catch((error: unknown) => {
    if (systemCode(error) !== 'ENOENT') throw error;
  });
}

interface Mounted {
  readonly point: string;
  /** Where the volume begins in what is mounted there. */
  readonly folder: string;
}

function mountedAt(volumePath: string, volumeId: string): Mounted {
  if (volumePath === '') throw invalid('volume_path is missing');
  const point = isAbsolute(volumePath) ? existingMountpoint(volumePath) : undefined;
  const entry = point === undefined ? undefined : findMount(point);
  // That an inline volume is there, only its own path says.
  const place = isEphemeralId(volumeId) ? placeOf(entry) : existing(volumeId);
  if (point === undefined || entry === undefined || place === undefined) throw absent(volumeId);
  assertOurs(entry, place);
  const whole = place.folder === undefined || entry.root !== '/';
  return { point, folder: whole ? '' : join(...folderNames(place.folder)) };
}
