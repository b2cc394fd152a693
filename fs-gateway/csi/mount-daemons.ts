/**
 * Starts and ends the mount daemons of a node: detached processes, one per volume.
 *
 * Where processes end with the container that they were started in, as in Kubernetes, the driver that the kubelet calls can be upgraded only
 * if its daemons live elsewhere: it then lets a second driver, in a pod of its own, stage for it (`remoteMountDaemons`). Unmounting goes
 * over the daemon's own control socket in either case, which both containers see.
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { isCode } from '../../lib/errors.ts';
import { requireFormat, mountVolume, umountVolume } from '../main.ts';
import { absoluteUrl } from '../../lib/registry.ts';
import { csiClient } from './client.ts';
import { assertStore } from './provision.ts';
import type { Secrets } from './secrets.ts';
import { CsiError, Status } from './status.ts';
import { volumeIdOf } from './volume-id.ts';

/** A mount is ready in a second; one whose engine does not answer is given up before the caller's patience ends. */
const MOUNT_MS = 40_000;

export interface DaemonRequest {
  readonly volume: string;
  readonly point: string;
  readonly readOnly: boolean;
  readonly secrets: Secrets;
  readonly cacheBytes?: number;
}

export interface MountDaemons {
  /** Resolves when the volume is mounted. */
  mount(request: DaemonRequest): Promise<void>;
  /** Writes what is staged, unmounts, and ends the daemon. */
  umount(point: string): Promise<void>;
}

export interface DaemonFolders {
  readonly cacheDir: string;
  /** Each daemon writes its messages to VOLUME.log in it. */
  readonly logDir: string;
}

export function makeMountDaemons({ cacheDir, logDir }: DaemonFolders): MountDaemons {
  mkdirSync(logDir, { recursive: true, mode: 0o700 });
  return {
    async mount({ volume, point, readOnly, secrets, cacheBytes }) {
      const { metaUrl, credentials } = secrets;
      const { store } = await requireFormat(absoluteUrl(metaUrl, '/'), volume);
      // A mount with wrong credentials would stand, and fail under the pod's hands.
      await assertStore(store, secrets);
      await mountVolume({
        metaUrl,
        name: volume,
        mountpoint: point,
        cacheDir,
        readOnly,
        background: true,
        logPath: join(logDir, `${volume}.log`),
        signal: AbortSignal.timeout(MOUNT_MS),
        ...(cacheBytes !== undefined && { cacheBytes }),
        ...(credentials !== undefined && { credentials }),
      });
    },
    umount,
  };
}

/** The driver at `socket` starts the daemons. */
export function remoteMountDaemons(socket: string): MountDaemons {
  const call = csiClient('Node', socket);
  return {
    async mount({ volume, point, readOnly, secrets, cacheBytes }) {
      const { metaUrl, storeUrl, credentials } = secrets;
      const mode = readOnly ? 'MULTI_NODE_READER_ONLY' : 'MULTI_NODE_MULTI_WRITER';
      await call('NodeStageVolume', {
        volumeId: volumeIdOf(volume),
        stagingTargetPath: point,
        volumeCapability: { mount: {}, accessMode: { mode } },
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
