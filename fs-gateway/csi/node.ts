/**
 * The node service: a volume is mounted once on a node, at its staging path, by a mount daemon of its own; pods see bind mounts of it.
 *
 * It keeps no state: what is staged and published is read from the kernel's mount table each time, so a driver that was killed or
 * replaced goes on where the one before it was.
 * Invariants
 * - The mount daemon is a detached process: the end of the driver, in order or not, leaves it and what programs have open alone.
 * - A dead mount (its daemon was killed) is detached and made anew by the next stage or publish; nothing else is ever taken off a path.
 * - A target is read-only before anybody is told that it is there.
 * - Unstage writes everything that is staged before it unmounts, and leaves the volume mounted when it cannot.
 * Limits: no call waits for a file system that does not answer beyond LOOK_MS.
 */
import { mkdir, rmdir, statfs } from 'node:fs/promises';
import { isAbsolute, join } from 'node:path';
import { isCode, systemCode } from '../../lib/errors.ts';
import {
  allMounts,
  FILE_SYSTEM_TYPE,
  findMount,
  makeReadOnly,
  probeMount,
  resolveMountpoint,
  unmountPoint,
} from '../fuse/mount.ts';
import type { MountEntry, MountState } from '../fuse/mount.ts';
import { bindFolder } from './bind.ts';
import { parseCapability, wantedCapacity } from './capabilities.ts';
import type { Capability } from './capabilities.ts';
import { absent, existing } from './controller.ts';
import { InFlight } from './in-flight.ts';
import type { MountDaemons } from './mount-daemons.ts';
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
import { parseSecrets } from './secrets.ts';
import { CsiError, invalid, Status } from './status.ts';

const LOOK_MS = 5_000;
/** Of mounts on top of each other on one path: each repeat of a publish that was killed could have made one. */
const STACKED_MAX = 16;

export interface NodeOptions {
  readonly nodeId: string;
  readonly daemons: MountDaemons;
  /** Used where a call brings none. */
  readonly secrets?: StringMap;
}

interface Staging {
  readonly volume: string;
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
    const volume = existing(request.volumeId);
    return this.#inFlight.run(volume, async () => {
      const point = await makeMountpoint(path);
      await this.#stage({ volume, point, capability, secrets: request.secrets, cacheBytes });
      return {};
    });
  }

  /** Mounts the volume, unless it is mounted. */
  async #stage({ volume, point, capability, secrets, cacheBytes }: Staging): Promise<void> {
    const state = await stateOf(point, volume);
    if (state === 'unresponsive') throw noAnswer(point);
    if (state === 'alive') {
      const { readOnly } = capability;
      const isReadOnly = findMount(point)?.readOnly ?? readOnly;
      if (isReadOnly === readOnly) return;
      const mode = isReadOnly ? 'read-only' : 'writable';
      throw new CsiError(Status.ALREADY_EXISTS, `volume '${volume}' is staged ${mode} at ${point}`);
    }
    if (state === 'stale') unmountPoint(point, true);
    await this.#options.daemons.mount({
      volume,
      point,
      capability,
      secrets: parseSecrets(secrets, this.#options.secrets),
      ...(cacheBytes !== undefined && { cacheBytes }),
    });
  }

  async nodeUnstageVolume(request: NodeUnstageVolumeRequest): Promise<object> {
    const path = absolutePath('staging_target_path', request.stagingTargetPath);
    const volume = existing(request.volumeId);
    return this.#inFlight.run(volume, async () => {
      const point = existingMountpoint(path);
      const entry = point === undefined ? undefined : findMount(point);
      if (point === undefined || entry === undefined) return {};
      assertOurs(entry, volume);
      const [published] = placesOf(entry);
      if (published !== undefined && (await probeMount(point)) !== 'stale') {
        throw new CsiError(
          Status.FAILED_PRECONDITION,
          `volume '${volume}' is still published at ${published.mountpoint}`,
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
    const volume = existing(request.volumeId);
    return this.#inFlight.run(volume, async () => {
      const point = existingMountpoint(staging);
      const state = point === undefined ? 'free' : await stateOf(point, volume);
      if (state === 'unresponsive') throw noAnswer(staging);
      if (point === undefined || (state === 'free' && !(await isDead(target, volume)))) {
        throw new CsiError(Status.FAILED_PRECONDITION, `volume '${volume}' is not staged at ${staging}`);
      }
      if (state !== 'alive') {
        // Its daemon died after the stage: with the secrets at hand, the pod gets a mount that works.
        const staged = { ...capability, readOnly: findMount(point)?.readOnly ?? capability.readOnly };
        await this.#stage({ volume, point, capability: staged, secrets: request.secrets, cacheBytes });
      }
      await publish({ volume, point, target, subPath, capability, readOnly: request.readonly });
      return {};
    });
  }

  async nodeUnpublishVolume(request: NodeUnpublishVolumeRequest): Promise<object> {
    const target = absolutePath('target_path', request.targetPath);
    const volume = existing(request.volumeId);
    return this.#inFlight.run(volume, async () => {
      const point = existingMountpoint(target);
      if (point === undefined) return {};
      for (let n = 0; n < STACKED_MAX; n++) {
        const entry = findMount(point);
        if (entry === undefined) break;
        assertOurs(entry, volume);
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
    const { point } = mountedAt(request.volumePath, request.volumeId);
    const state = await probeMount(point);
    if (state === 'stale') {
      return { usage: [], volumeCondition: { abnormal: true, message: 'its mount daemon has ended: restart the pod' } };
    }
    if (state === 'unresponsive') throw noAnswer(point);
    const { bsize, blocks, bfree, bavail, files, ffree } = await withinLook(statfs(point), point);
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

interface Publication {
  readonly volume: string;
  readonly point: string;
  readonly target: string;
  readonly subPath: readonly string[];
  readonly capability: Capability;
  readonly readOnly: boolean;
}

async function publish({ volume, point, target, subPath, capability, readOnly: asked }: Publication): Promise<void> {
  const staged = findMount(point);
  if (staged === undefined) throw new CsiError(Status.UNAVAILABLE, `${point} was unmounted meanwhile`);
  const readOnly = asked || capability.readOnly;
  const found = existingMountpoint(target);
  const place = found ?? (await makeMountpoint(target));
  const there = findMount(place);
  if (there !== undefined) {
    assertOurs(there, volume);
    if (there.device === staged.device) {
      const wanted = `/${subPath.join('/')}`;
      if (there.root !== wanted || (there.readOnly && !readOnly && !staged.readOnly)) {
        const what = `${there.root}${there.readOnly ? ', read-only' : ''}`;
        throw new CsiError(Status.ALREADY_EXISTS, `${place} shows the volume already, but as ${what}`);
      }
      // A publish that was killed between its two steps.
      if (readOnly && !there.readOnly) makeReadOnly(place);
      return;
    }
    // Of a daemon that has died.
    if ((await probeMount(place)) !== 'stale') {
      throw new CsiError(Status.ALREADY_EXISTS, `${place} shows another mount of the volume`);
    }
    unmountPoint(place, true);
  }
  try {
    const [elsewhere] = placesOf(staged);
    if (capability.mode.onePod && elsewhere !== undefined) {
      throw new CsiError(
        Status.FAILED_PRECONDITION,
        `volume '${volume}' is for one pod (ReadWriteOncePod), and published at ${elsewhere.mountpoint}`,
      );
    }
    await bindFolder({ root: point, subPath, target: place, readOnly, make: !staged.readOnly });
  } catch (error) {
    if (found === undefined) await rmdir(place);
    throw error;
  }
}

/** Where else the file system of a mount is seen. */
function placesOf(entry: MountEntry): MountEntry[] {
  return allMounts().filter(({ device, mountpoint }) => device === entry.device && mountpoint !== entry.mountpoint);
}

function mountedAt(volumePath: string, volumeId: string): { readonly point: string } {
  if (volumePath === '') throw invalid('volume_path is missing');
  const volume = existing(volumeId);
  const point = isAbsolute(volumePath) ? existingMountpoint(volumePath) : undefined;
  const entry = point === undefined ? undefined : findMount(point);
  if (point === undefined || entry === undefined) throw absent(volumeId);
  assertOurs(entry, volume);
  return { point };
}

/** Throws FAILED_PRECONDITION when something else is mounted there. */
async function stateOf(point: string, volume: string): Promise<MountState> {
  const entry = findMount(point);
  if (entry === undefined) return 'free';
  assertOurs(entry, volume);
  return probeMount(point);
}

/** Whether a target shows a mount of the volume whose daemon has ended. */
async function isDead(target: string, volume: string): Promise<boolean> {
  const place = existingMountpoint(target);
  return place !== undefined && (await stateOf(place, volume)) === 'stale';
}

function assertOurs(entry: MountEntry, volume: string): void {
  if (entry.type === FILE_SYSTEM_TYPE && entry.source.startsWith(`penstock:${volume}@`)) return;
  throw new CsiError(
    Status.FAILED_PRECONDITION,
    `${entry.mountpoint} is a mount of ${entry.source} (${entry.type}), not of volume '${volume}'`,
  );
}

function absolutePath(name: string, path: string): string {
  if (path === '') throw invalid(`${name} is missing`);
  if (!isAbsolute(path) || path.includes('\0')) throw invalid(`${name}: expected an absolute path`);
  return join(path);
}

/** The real path, its folder made where it is missing; nothing looks into what is mounted there. */
async function makeMountpoint(path: string): Promise<string> {
  const found = existingMountpoint(path);
  if (found !== undefined) return found;
  await mkdir(path, { recursive: true, mode: 0o750 });
  return resolveMountpoint(path);
}

function existingMountpoint(path: string): string | undefined {
  try {
    return resolveMountpoint(path);
  } catch (error) {
    if (isCode(error, 'not-found')) return undefined;
    throw error;
  }
}

function noAnswer(point: string): CsiError {
  return new CsiError(Status.UNAVAILABLE, `the mount at ${point} does not answer: is its metadata engine up?`);
}

async function withinLook<T>(work: Promise<T>, point: string): Promise<T> {
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => late.reject(noAnswer(point)), LOOK_MS);
  try {
    return await Promise.race([work, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}
