/**
 * Starts and ends the mount daemons of a node: detached processes, one per volume.
 *
 * Where processes end with the container that they were started in, as in Kubernetes, the driver that the kubelet calls can be upgraded only
 * if its daemons live elsewhere: it then lets a second driver, in a pod of its own, stage for it (`remoteMountDaemons`). Unmounting goes
 * over the daemon's own control socket in either case, which both containers see. And the first driver keeps the devices of the mounts
 * (fuse/keeper.ts): the end of a daemon, or of the whole second container, is a pause for programs.
 */
import { closeSync, mkdirSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { describeError, isCode } from '../../lib/errors.ts';
import { takeMount } from '../fuse/keeper.ts';
import { resumeMount } from '../fuse/lifecycle.ts';
import { mountVolume, requireFormat, umountVolume, WORKER_MODULE } from '../main.ts';
import { absoluteUrl } from '../../lib/registry.ts';
import { systemClock } from '../../lib/clock.ts';
import type { Clock } from '../../lib/clock.ts';
import { liveMounts } from '../../lib/volume/mounts.ts';
import { setAsideUnused } from '../data/abandoned.ts';
import { mountNames } from '../tools/tool.ts';
import { hasFolder } from '../tools/volume-folders.ts';
import { assertStore, withEngine } from './backend.ts';
import type { Capability } from './capabilities.ts';
import { csiClient } from './client.ts';
import type { Secrets } from './secrets.ts';
import { CsiError, Status } from './status.ts';
import { placeName, volumeIdOf } from './volume-id.ts';
import type { Place } from './volume-id.ts';

/** A mount is ready in a second; one whose engine does not answer is given up before the caller's patience ends. */
const MOUNT_MS = 40_000;
/** How soon a dead daemon is followed by another. */
const LOOK_MS = 500;
/** A volume that comes back within it finds its cache; claims come and go, and each leaves up to its `cacheSize`. */
const UNUSED_MS = 7 * 86_400_000;
const SWEEP_MS = 3_600_000;

export interface DaemonRequest {
  readonly place: Place;
  readonly point: string;
  readonly capability: Capability;
  readonly secrets: Secrets;
  readonly cacheBytes?: number;
}

export interface MountDaemons {
  /** Resolves when the volume is mounted. */
  mount(request: DaemonRequest): Promise<void>;
  /** Writes what is staged, unmounts, and ends the daemon. */
  umount(point: string): Promise<void>;
}

/** Those that this process starts. */
export interface OwnMountDaemons extends MountDaemons {
  /**
   * Removes caches of volumes that are not mounted here and were not since `beforeMs`; returns how many. Mounts begin before it or after it. What cannot be removed is handed to
   * `failed`, and the others follow.
   */
  sweep(beforeMs: number, failed: (error: unknown) => void): Promise<number>;
}

export interface DaemonSetting {
  /** The socket of the keeper of their mounts. */
  readonly keeper: string;
  readonly cacheDir: string;
  /** Each daemon writes its messages to VOLUME.log, or HOME-FOLDER.log, in it. */
  readonly logDir: string;
}

export function makeMountDaemons({ cacheDir, logDir, keeper }: DaemonSetting): OwnMountDaemons {
  mkdirSync(logDir, { recursive: true, mode: 0o700 });
  let beginning = 0;
  let sweeping: Promise<unknown> = Promise.resolve();
  const daemons: OwnMountDaemons = {
    async mount(request) {
      beginning += 1;
      try {
        await sweeping;
        await start(request);
      } finally {
        beginning -= 1;
      }
    },
    umount,
    async sweep(beforeMs, failed) {
      if (beginning > 0) return 0;
      const aside = setAsideUnused(cacheDir, beforeMs, failed);
      sweeping = aside.catch(() => undefined);
      let removed = 0;
      for (const folder of await aside) {
        try {
          await rm(folder, { recursive: true, force: true });
          removed++;
        } catch (error) {
          failed(error);
        }
      }
      return removed;
    },
  };
  return daemons;

  async function start({ place, point, capability, secrets, cacheBytes }: DaemonRequest): Promise<void> {
    const { volume, folder } = place;
    const { metaUrl, credentials } = secrets;
    const { mode, readOnly, mountOptions } = capability;
    const { store } = await requireFormat(absoluteUrl(metaUrl, '/'), volume);
    // A mount with wrong credentials would stand, and fail under the pod's hands.
    await assertStore(store, secrets);
    await assertThere(secrets, place);
    if (!mode.manyNodes) await refuseElsewhere(secrets, place, Infinity);
    await mountVolume({
      ...mountOptions,
      metaUrl,
      name: volume,
      ...(folder !== undefined && { folder }),
      mountpoint: point,
      cacheDir,
      readOnly,
      background: true,
      logPath: logPathOf(logDir, placeName(place)),
      keeper,
      storeAsked: true,
      signal: AbortSignal.timeout(MOUNT_MS),
      ...(cacheBytes !== undefined && { cacheBytes }),
      ...(credentials !== undefined && { credentials }),
    });
    try {
      // Who removes it looks for mounts after that.
      await assertThere(secrets, place);
      if (!mode.manyNodes) await refuseElsewhere(secrets, place, await ownSession(secrets, volume, point));
    } catch (error) {
      await umount(point);
      throw error;
    }
  }
}

function logPathOf(logDir: string, place: string): string {
  return join(logDir, `${place.replace('/', '-')}.log`);
}

/** Until the signal fires: once an hour, removes caches that nobody has used for a week. */
export async function sweepCaches(
  daemons: OwnMountDaemons,
  clock: Clock,
  signal: AbortSignal,
  log: (message: string) => void,
): Promise<void> {
  const failed = (error: unknown): void => log(`a cache of a volume that is not used: ${describeError(error)}`);
  while (!signal.aborted) {
    try {
      const removed = await daemons.sweep(clock.nowMs() - UNUSED_MS, failed);
      if (removed > 0) log(`removed the caches of ${removed} volumes that were not used here for a week`);
    } catch (error) {
      failed(error);
    }
    await sleep(SWEEP_MS, undefined, { signal }).catch(() => undefined);
  }
}

/** Until the signal fires: starts daemons for the mounts that the keeper has and nobody serves. */
export async function resumeMounts(
  { logDir, keeper }: DaemonSetting,
  signal: AbortSignal,
  log: (message: string) => void,
): Promise<void> {
  while (!signal.aborted) {
    try {
      for (let taken = await takeMount(keeper); taken !== undefined; taken = await takeMount(keeper)) {
        const { mountpoint, source } = taken.mount.options;
        log(`the daemon of ${mountpoint} was killed: another goes on with its mount`);
        const place = /^penstock:(.*)@/.exec(source)?.[1] ?? 'unknown';
        // Another version may have mounted it: its supervisor and its worker go together, and are ours from here on.
        const mount = { ...taken.mount, options: { ...taken.mount.options, workerModule: WORKER_MODULE } };
        await resumeMount(mount, taken.fd, keeper, logPathOf(logDir, place)).finally(() => closeSync(taken.fd));
      }
    } catch (error) {
      log(`a mount whose daemon was killed: ${describeError(error)}`);
    }
    await sleep(LOOK_MS, undefined, { signal }).catch(() => undefined);
  }
}

/**
 * For a volume of one node: throws FAILED_PRECONDITION when another node has it mounted since before `session`. Asked before the mount and after it:
 * of two nodes that mount at once, the later one yields. A node that died holds it for no longer than its session's lease.
 */
async function refuseElsewhere(secrets: Secrets, place: Place, session: number): Promise<void> {
  const mounts = await withEngine(secrets, (engine) => liveMounts(engine, place.volume));
  const ofPlace = mounts.filter(({ detail }) => detail['folder'] === place.folder);
  const other = ofPlace.find(({ host, id }) => host !== hostname() && id < session);
  if (other === undefined) return;
  throw new CsiError(
    Status.FAILED_PRECONDITION,
    `volume '${placeName(place)}' is for one node, and mounted on ${mountNames([other])}`,
  );
}

/** Throws NOT_FOUND when the folder of a volume is not there. */
async function assertThere(secrets: Secrets, place: Place): Promise<void> {
  const { volume, folder } = place;
  if (folder === undefined) return;
  const there = await withEngine(secrets, (engine) => hasFolder({ engine, volume, clock: systemClock }, folder));
  if (!there) throw new CsiError(Status.NOT_FOUND, `there is no volume '${volumeIdOf(place)}'`);
}

async function ownSession(secrets: Secrets, volume: string, point: string): Promise<number> {
  const mounts = await withEngine(secrets, (engine) => liveMounts(engine, volume));
  const own = mounts.find(({ host, detail }) => host === hostname() && detail['mountpoint'] === point);
  return own?.id ?? Infinity;
}

/** The driver at `socket` starts the daemons. */
export function remoteMountDaemons(socket: string): MountDaemons {
  const call = csiClient('Node', socket);
  return {
    async mount({ place, point, capability, secrets, cacheBytes }) {
      const { metaUrl, storeUrl, credentials } = secrets;
      const { modeName: mode, readOnly } = capability;
      const mountFlags = [...capability.mountFlags, ...(readOnly ? ['ro'] : [])];
      await call('NodeStageVolume', {
        volumeId: volumeIdOf(place),
        stagingTargetPath: point,
        volumeCapability: { mount: { mountFlags }, accessMode: { mode } },
        secrets: { meta: metaUrl, ...(storeUrl !== undefined && { store: storeUrl }), ...credentials },
        volumeContext: cacheBytes === undefined ? {} : { cacheSize: String(cacheBytes) },
      });
    },
    umount,
  };
}

async function umount(point: string): Promise<void> {
  try {
    await umountVolume(point);
  } catch (error) {
    if (isCode(error, 'not-found')) return;
    // The flush failed: everything stays as it is, for the next try.
    if (isCode(error, 'io')) throw new CsiError(Status.UNAVAILABLE, error.message, { cause: error });
    throw error;
  }
}
