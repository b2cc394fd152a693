/**
 * Who a mount is, over its workers and over mounting again, to the other mounts of its volume: a hash of a number that its cache directory was given
 * when it was made, the host and the mount point. (Host and mount point alone are not enough: containers may have both in common, and two
 * mounts that took each other for one would remove files that the other has open.)
 *
 * Invariants: two mounts of one identity serve at no time together. In one cache directory the lock of the staging area sees to that; of a
 * directory that was copied, identity and all, the mount that comes second sees that the first one's session goes on, and ends.
 * Limits: a mount whose supervisor and worker were killed is followed by another at once on its machine (lib/process-identity.ts), elsewhere once its
 * lease is over, up to LEASES_MS.
 */
import { createHash, randomUUID } from 'node:crypto';
import { linkSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { PenstockError, systemCode } from '../lib/errors.ts';
import type { SessionInfo } from '../lib/meta/engine.ts';
import { isGone } from '../lib/process-identity.ts';
import { idOfLife } from '../lib/volume/format.ts';
import { syncFolder } from './data/journal.ts';
import { readLife } from './data/staging-life.ts';

const FILE = 'id';
const LOOK_MS = 200;
/** Three leases: by then a session that nobody renews is over. */
const LEASES_MS = 15_000;

export function mountIdOf(cacheDir: string, mountpoint: string): string {
  return digest(`${directoryId(cacheDir)}\n${hostname()}\n${mountpoint}`);
}

/** The folder of a mount point in a volume's part of the cache directory. */
export function stagingFolder(mountpoint: string): string {
  return `mount-${digest(`${hostname()}\n${mountpoint}`)}`;
}

/**
 * A worker that follows another one finds its volume under the name, not one that was made there since that was removed, nor what was loaded from a
 * dump of it: the kernel has the inodes of the first. `volumeLife`: of the one that there is (lib/volume/format.ts). Throws `not-found`; no worker serves the mount then, and it ends as one that cannot be served.
 */
export function refuseAnotherVolume(
  volumeLife: string,
  { cacheDir, mountpoint, life }: { readonly cacheDir: string; readonly mountpoint: string; readonly life: string },
): void {
  for (const folder of readdirSync(cacheDir)) {
    if (folder === volumeLife || readLife(join(cacheDir, folder, stagingFolder(mountpoint)))?.life !== life) continue;
    const now =
      idOfLife(folder) === idOfLife(volumeLife) ? 'a dump of it was loaded since' : 'there is another one now';
    throw new PenstockError(
      'not-found',
      `${mountpoint} is a mount of volume ${folder}, and ${now}: unmount it here with --force`,
    );
  }
}

function digest(text: string): string {
  return createHash('sha256').update(text).digest('hex').slice(0, 16);
}

/** The file that says which cache directory it is. */
export function identityPath(cacheDir: string): string {
  return join(cacheDir, FILE);
}

function directoryId(cacheDir: string): string {
  mkdirSync(cacheDir, { recursive: true, mode: 0o700 });
  const path = identityPath(cacheDir);
  const known = readId(path);
  if (known !== undefined) return known;
  const fresh = `${path}.${randomUUID()}`;
  try {
    // Behind a power cut it tells which promises in the journal are kept (meta/repeats.ts).
    writeFileSync(fresh, `${randomUUID()}\n`, { mode: 0o600, flush: true });
    // What a power cut has emptied is not one.
    rmSync(path, { force: true });
    linkSync(fresh, path);
    syncFolder(cacheDir);
  } catch (error) {
    if (systemCode(error) !== 'EEXIST') throw error;
  } finally {
    rmSync(fresh, { force: true });
  }
  return readId(path) ?? directoryId(cacheDir);
}

function readId(path: string): string | undefined {
  try {
    return /^[0-9a-f-]{36}$/m.exec(readFileSync(path, 'latin1'))?.[0];
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw error;
  }
}

export interface IdentityCheck {
  readonly mountId: string;
  /** The life of the mount: its other workers have it too. */
  readonly life: string;
  readonly cacheDir: string;
  readonly sessions: () => Promise<readonly SessionInfo[]>;
}

/**
 * To be called with the lock of the staging area. Resolves when nobody else has this identity, with the live sessions that have it: earlier
 * workers', and our own. Throws `held` when somebody goes on with it.
 */
export async function onlyOne({ mountId, life, cacheDir, sessions }: IdentityCheck): Promise<readonly SessionInfo[]> {
  const ofMount = async (): Promise<readonly SessionInfo[]> =>
    (await sessions()).filter(({ live, kind, detail }) => live && kind === 'mount' && detail['mountId'] === mountId);
  const isOther = ({ pid, detail }: SessionInfo): boolean =>
    detail['lockOwner'] !== life && !isGone({ pid, space: String(detail['space']), born: String(detail['born']) });
  let known = await ofMount();
  const seenMs = Math.max(0, ...known.filter(isOther).map(({ renewedMs }) => renewedMs));
  for (let waitedMs = 0; ; waitedMs += LOOK_MS) {
    const left = known.filter(isOther);
    if (left.length === 0) return known;
    // The one before this mount was killed: its lease runs out.
    const alive = left.find(({ renewedMs }) => renewedMs > seenMs || waitedMs >= LEASES_MS);
    if (alive !== undefined) {
      throw new PenstockError(
        'held',
        `${alive.host}:${String(alive.detail['mountpoint'])} (process ${alive.pid}) is mounted with the identity of this mount: ` +
          `${cacheDir} and its cache directory are copies of one another. Give one of them another --cache-dir`,
      );
    }
    await sleep(LOOK_MS);
    known = await ofMount();
  }
}
