/**
 * Directories that belong to the volume and not to its users: `/.trash`, `/.snapshots` and `/.volumes`, and `/lake/<dataset>/.snapshots`. No
 * listing shows them (a glob over a dataset would find its rows twice), and in the root nobody can make or replace something of these names. Those of
 * the first two names are quota roots without limits, so that what they have is counted; in the third each folder is a quota root of its own.
 */
import { DT_DIR } from '../../lib/volume/dentry.ts';
import { isDirectory, newInode } from '../../lib/volume/inode.ts';
import { ROOT_INO } from '../../lib/volume/keys.ts';
import { encodeQuota } from '../../lib/volume/quota.ts';
import type { Node } from '../meta/cache.ts';
import type { VolumeView } from '../meta/view.ts';
import { Errno, PosixError } from './operations.ts';

export const TRASH_NAME = '.trash';
export const SNAPSHOTS_NAME = '.snapshots';
export const VOLUMES_NAME = '.volumes';
export const LAKE_NAME = 'lake';
const RESERVED = new Set([TRASH_NAME, SNAPSHOTS_NAME, VOLUMES_NAME]);
const UNLIMITED = { outer: 0, bytesMax: null, inodesMax: null, counting: false };

type MaybePromise<T> = T | Promise<T>;

interface SystemDirectory {
  readonly mode: number;
  readonly flags: number;
  /** It is no quota root. */
  readonly uncounted?: boolean;
}

export function isReserved(parent: number, name: string): boolean {
  return parent === ROOT_INO && RESERVED.has(name);
}

/** Whether a name belongs to the volume in this directory. Asks only for names that may. */
export async function isReservedIn(
  view: Pick<VolumeView, 'node'> & {
    entry(parent: number, name: string): MaybePromise<{ readonly ino: number } | null>;
  },
  parent: number,
  name: string,
): Promise<boolean> {
  if (parent === ROOT_INO || name !== SNAPSHOTS_NAME) return isReserved(parent, name);
  const [directory, lake] = [await view.node(parent), await view.entry(ROOT_INO, LAKE_NAME)];
  return directory !== null && lake !== null && directory.inode.parent === lake.ino;
}

/** The directory, made when it is first needed; one in a directory with a quota counts to it. */
export async function ensureSystemDirectory(
  view: VolumeView,
  parent: Node,
  name: string,
  { mode, flags, uncounted = false }: SystemDirectory,
  nowNs: bigint,
): Promise<Node> {
  const found = await directoryIn(view, parent, name, flags);
  if (found !== null) return found;
  const ino = await view.newId('ino');
  await view.change(undefined, async (change) => {
    const fresh = await view.node(parent.ino);
    if (fresh === null || (await view.entry(parent.ino, name)) !== null) return;
    const quota = fresh.inode.quota === 0 && !uncounted ? ino : fresh.inode.quota;
    change.expectNode(fresh);
    change.addNode(ino, newInode(mode, 0, 0, nowNs, { parent: parent.ino, flags, quota }));
    change.putEntry(parent.ino, name, null, ino, DT_DIR);
    change.touchDirectory(parent.ino, nowNs, 1);
    change.count(1, 0, await view.quotas.account(fresh.inode.quota));
    if (quota !== ino) return;
    change.write(view.keys.quota(ino), encodeQuota(UNLIMITED));
  });
  // The kernel may remember that the name was not there.
  view.announceStaleEntry(parent.ino, name);
  const made = await directoryIn(view, parent, name, flags);
  if (made === null) throw new PosixError(Errno.EIO, `'${name}' was removed at once`);
  return made;
}

async function directoryIn(view: VolumeView, parent: Node, name: string, flags: number): Promise<Node | null> {
  const entry = await view.entry(parent.ino, name);
  if (entry === null) return null;
  const node = await view.node(entry.ino);
  if (node === null) {
    view.forgetEntry(parent.ino, name);
    return null;
  }
  if (!isDirectory(node.inode) || (node.inode.flags & flags) !== flags) {
    throw new PosixError(Errno.EIO, `'${name}' has a name that belongs to the volume: rename it`);
  }
  return node;
}
