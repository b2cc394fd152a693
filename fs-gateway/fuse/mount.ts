/**
 * Mounting and unmounting: mount(2) where the process may, `fusermount3` (setuid root) where it may not, and what the kernel's mount table
 * says about a mount point.
 *
 * Failure: a mount whose server is gone answers ENOTCONN for ever. `clearStaleMount` takes such a mount away when it is ours.
 */
import {
  accessSync,
  closeSync,
  constants,
  existsSync,
  openSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  writeFileSync,
} from 'node:fs';
import { statfs } from 'node:fs/promises';
import { spawnSync } from 'node:child_process';
import { basename, delimiter, dirname, join, resolve } from 'node:path';
import { PenstockError, describeError, systemCode } from '../../lib/errors.ts';
import { Errno } from '../vfs/operations.ts';
import { MNT_DETACH, MNT_FORCE, MS_BIND, MS_NODEV, MS_NOSUID, MS_RDONLY, MS_REMOUNT, native } from './native.ts';
import { MAX_PAYLOAD_BYTES } from './protocol.ts';

export const FILE_SYSTEM_TYPE = 'fuse.penstock';
const DEVICE = '/dev/fuse';
const CAP_SYS_ADMIN = 21n;
/** ELOOP of the kernel's own path walk. */
const SYMLINKS_MAX = 40;
const HELPER_TIMEOUT_MS = 30_000;
/** A live file system answers a statfs of its root well within this; a dead one at once with ENOTCONN. */
const PROBE_TIMEOUT_MS = 5_000;

export type Mountability =
  { readonly ok: true; readonly how: 'mount' | 'fusermount3' } | { readonly ok: false; readonly reason: string };

export interface MountOptions {
  readonly mountpoint: string;
  /** Shown as the device in the mount table; no credentials. */
  readonly source: string;
  readonly readOnly: boolean;
}

/** Whether and how this process can mount; the reason is one line for people. */
export function mountability(): Mountability {
  if (process.platform !== 'linux') {
    return { ok: false, reason: `cannot mount: FUSE mounts need Linux, this is ${process.platform}` };
  }
  if (!existsSync(DEVICE)) return { ok: false, reason: `cannot mount: ${DEVICE} is missing` };
  const helper = findHelper();
  if (!hasSysAdmin()) {
    if (helper === undefined) return { ok: false, reason: 'cannot mount: not root and no fusermount3' };
  }
  try {
    accessSync(DEVICE, constants.R_OK | constants.W_OK);
  } catch {
    return { ok: false, reason: `cannot mount: no permission to open ${DEVICE}` };
  }
  return { ok: true, how: hasSysAdmin() ? 'mount' : 'fusermount3' };
}

/** Mounts and returns the descriptor of /dev/fuse, on which INIT waits to be answered. Throws `unsupported`, `denied`, `io`. */
export function mountDevice(options: MountOptions): number {
  const how = mountability();
  if (!how.ok) throw new PenstockError('unsupported', how.reason);
  return how.how === 'mount' ? mountDirectly(options) : mountByHelper(options);
}

function mountDirectly({ mountpoint, source, readOnly }: MountOptions): number {
  const fd = openSync(DEVICE, constants.O_RDWR);
  const data = `fd=${fd},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions,max_read=${MAX_PAYLOAD_BYTES}`;
  const flags = MS_NOSUID | MS_NODEV | (readOnly ? MS_RDONLY : 0);
  const result = native().mount(source, mountpoint, FILE_SYSTEM_TYPE, flags, data);
  if (result === 0) return fd;
  closeSync(fd);
  throw mountFailure(mountpoint, result);
}

function mountFailure(mountpoint: string, result: number): PenstockError {
  return new PenstockError(
    result === -Errno.EPERM ? 'denied' : 'io',
    `cannot mount on ${mountpoint}: mount(2) failed with errno ${-result}`,
  );
}

/** fusermount3 opens /dev/fuse as the caller, mounts, and sends the descriptor over the socket named by _FUSE_COMMFD. */
function mountByHelper({ mountpoint, source, readOnly }: MountOptions): number {
  const sys = native();
  const [ours, theirs] = sys.socketPair();
  const escaped = source.replace(/[\\,]/g, '\\$&');
  const options = `fsname=${escaped},subtype=penstock,default_permissions,max_read=${MAX_PAYLOAD_BYTES}${readOnly ? ',ro' : ''}`;
  try {
    const helper = spawnSync(findHelper() ?? 'fusermount3', ['-o', options, '--', mountpoint], {
      stdio: ['ignore', 'ignore', 'pipe', theirs],
      env: { ...process.env, _FUSE_COMMFD: '3' },
      encoding: 'utf8',
      timeout: HELPER_TIMEOUT_MS,
    });
    const fd = sys.receiveFd(ours);
    if (fd >= 0) return fd;
    const complaint = helper.error === undefined ? helper.stderr.trim() : describeError(helper.error);
    throw new PenstockError('io', `cannot mount on ${mountpoint}: ${complaint || 'fusermount3 sent no descriptor'}`);
  } finally {
    closeSync(ours);
    closeSync(theirs);
  }
}

export type UnmountResult = 'unmounted' | 'busy' | 'not-mounted';

/**
 * Takes the mount away: `lazy` detaches it from the tree at once and lets open files go on. `abort`: requests that nobody will answer end
 * with an error (for root; as `umount -f` does). Throws `denied`, `io`.
 */
export function unmountPoint(mountpoint: string, lazy: boolean, abort = false): UnmountResult {
  if (!hasSysAdmin()) return unmountByHelper(mountpoint, lazy);
  const result = native().umount2(mountpoint, (lazy ? MNT_DETACH : 0) | (abort ? MNT_FORCE : 0));
  if (result === 0) return 'unmounted';
  if (result === -Errno.EBUSY) return 'busy';
  if (result === -Errno.EINVAL || result === -Errno.ENOENT) return 'not-mounted';
  throw new PenstockError(
    result === -Errno.EPERM ? 'denied' : 'io',
    `cannot unmount ${mountpoint}: umount2(2) failed with errno ${-result}`,
  );
}

function unmountByHelper(mountpoint: string, lazy: boolean): UnmountResult {
  const helper = findHelper();
  if (helper === undefined) {
    throw new PenstockError('denied', `cannot unmount ${mountpoint}: not root and no fusermount3`);
  }
  const run = spawnSync(helper, ['-u', ...(lazy ? ['-z'] : []), '--', mountpoint], {
    stdio: ['ignore', 'ignore', 'pipe'],
    encoding: 'utf8',
    timeout: HELPER_TIMEOUT_MS,
  });
  if (run.status === 0) return 'unmounted';
  const complaint = run.error === undefined ? run.stderr.trim() : describeError(run.error);
  if (complaint.includes('busy')) return 'busy';
  if (findMount(mountpoint) === undefined) return 'not-mounted';
  throw new PenstockError('io', `cannot unmount ${mountpoint}: ${complaint}`);
}

/** Shows what `source` (a directory) shows on `target` too; `readOnly` counts for this place only. Throws `denied`, `io` with nothing mounted. */
export function bindMount(source: string, target: string, readOnly: boolean): void {
  const bound = native().mount(source, target, '', MS_BIND, '');
  if (bound !== 0) throw mountFailure(target, bound);
  if (readOnly) {
    try {
      makeReadOnly(target);
    } catch (error) {
      native().umount2(target, MNT_DETACH);
      throw error;
    }
  }
}

/** Of a bind mount, which leaves the other places of its file system alone. Throws `denied`, `io`. */
export function makeReadOnly(target: string): void {
  const flags = MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV;
  const result = native().mount('', target, '', flags, '');
  if (result !== 0) throw mountFailure(target, result);
}

/**
 * Lets the kernel read ahead in requests of the largest size. It offers 128 KiB by INIT, whatever is answered; only the file system's own entry
 * in sysfs takes more. Without the rights for it (a user's mount, a container with a read-only /sys), more and smaller requests do.
 */
export function widenReadAhead(device: string): void {
  try {
    writeFileSync(`/sys/class/bdi/${device}/read_ahead_kb`, String(MAX_PAYLOAD_BYTES / 1024));
  } catch {
    // As it was.
  }
}

export interface MountEntry {
  readonly mountpoint: string;
  readonly type: string;
  readonly source: string;
  /** `major:minor`: the same for all places of one file system. */
  readonly device: string;
  /** The directory of the file system that is seen here. */
  readonly root: string;
  readonly readOnly: boolean;
}

/** The topmost mount on exactly this (absolute, resolved) path. */
export function findMount(mountpoint: string): MountEntry | undefined {
  return allMounts().findLast((m) => m.mountpoint === mountpoint);
}

/** In the order in which they were mounted. */
export function allMounts(): MountEntry[] {
  return parseMountInfo(readFileSync('/proc/self/mountinfo', 'utf8'));
}

/** proc(5), mountinfo: `id parent major:minor root MOUNTPOINT options [tags] - TYPE SOURCE superoptions`, octal escapes. */
export function parseMountInfo(text: string): MountEntry[] {
  const unescape = (field: string): string =>
    Buffer.from(
      field.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(parseInt(octal, 8))),
      'latin1',
    ).toString('utf8');
  return Buffer.from(text, 'utf8')
    .toString('latin1')
    .split('\n')
    .flatMap((line) => {
      const fields = line.split(' ');
      const [type, source] = fields.slice(fields.indexOf('-') + 1);
      const [, , device, root, point, options] = fields;
      if (device === undefined || root === undefined || point === undefined || options === undefined) return [];
      if (type === undefined || source === undefined) return [];
      const readOnly = options.split(',').includes('ro');
      return [{ mountpoint: unescape(point), type, source: unescape(source), device, root: unescape(root), readOnly }];
    });
}

/**
 * The real path of a mount point, found without looking into the mount: a file system whose worker is down does not answer before the next one
 * serves. Throws `not-found`.
 */
export function resolveMountpoint(path: string): string {
  let current = resolve(path);
  for (let hop = 0; hop < SYMLINKS_MAX; hop++) {
    try {
      const parent = realpathSync(dirname(current));
      current = join(parent, basename(current));
      if (findMount(current)?.type === FILE_SYSTEM_TYPE) return current;
      current = resolve(parent, readlinkSync(current));
    } catch (error) {
      if (systemCode(error) === 'EINVAL') return current; // not a symlink
      if (systemCode(error) === 'ENOENT')
        throw new PenstockError('not-found', `the mount point ${path} does not exist`);
      throw new PenstockError('not-found', `mount point ${path}: ${describeError(error)}`, { cause: error });
    }
  }
  throw new PenstockError('not-found', `mount point ${path}: too many symbolic links`);
}

/** What a mount whose server is gone answers: ECONNABORTED to those who waited for it, ENOTCONN to later ones. */
function isDeadMount(error: unknown): boolean {
  const code = systemCode(error);
  return code === 'ENOTCONN' || code === 'ECONNABORTED';
}

export type MountState = 'free' | 'foreign' | 'stale' | 'alive' | 'unresponsive';

/** What lies on a mount point. Never blocks longer than the probe's timeout, whatever lies there. */
export async function probeMount(mountpoint: string): Promise<MountState> {
  const entry = findMount(mountpoint);
  if (entry === undefined) return 'free';
  if (entry.type !== FILE_SYSTEM_TYPE) return 'foreign';
  const { promise: late, resolve } = Promise.withResolvers<'unresponsive'>();
  const timer = setTimeout(() => resolve('unresponsive'), PROBE_TIMEOUT_MS);
  // Not stat: the kernel answers that of a dead mount, too, as long as it may believe the attributes that it knows.
  const probe = statfs(mountpoint).then(
    () => 'alive' as const,
    (error: unknown) => (isDeadMount(error) ? ('stale' as const) : ('alive' as const)),
  );
  const state = await Promise.race([probe, late]);
  clearTimeout(timer);
  return state;
}

function findHelper(): string | undefined {
  return (process.env['PATH'] ?? '')
    .split(delimiter)
    .map((folder) => join(folder, 'fusermount3'))
    .find((path) => existsSync(path));
}

/** CAP_SYS_ADMIN of the effective set: root in a container may lack it. */
export function hasSysAdmin(): boolean {
  const status = readFileSync('/proc/self/status', 'utf8');
  const effective = /^CapEff:\s*([0-9a-f]+)$/m.exec(status)?.[1] ?? '0';
  return ((BigInt(`0x${effective}`) >> CAP_SYS_ADMIN) & 1n) === 1n;
}
