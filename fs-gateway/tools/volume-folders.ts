/**
 * Folders that are used like volumes of their own: `/.volumes/NAME`, each a quota root that counts to none above it. So a clone and a snapshot of one
 * share its objects, without counting to its limit, and each of them can go while the others stay.
 *
 * Invariants: a folder has its quota from the commit on that makes its name; every call may be repeated.
 * Failure: killed in between, gc removes what no name leads to.
 */
import { isCode } from '../../lib/errors.ts';
import { DT_DIR } from '../../lib/volume/dentry.ts';
import { INODE_FROZEN, newInode, S_IFDIR } from '../../lib/volume/inode.ts';
import { ROOT_INO } from '../../lib/volume/keys.ts';
import { encodeQuota } from '../../lib/volume/quota.ts';
import { ensureSystemDirectory, VOLUMES_NAME } from '../vfs/system-directories.ts';
import { expectFormat, TreeWork } from './clone.ts';
import type { CloneOptions } from './clone.ts';
import { setQuota } from './quota.ts';
import { resolvePath } from './volume-path.ts';

/** Only root gets in, and nobody who is shown one of the folders. */
const ROOT_ONLY = { mode: S_IFDIR | 0o700, flags: 0, uncounted: true };
const FOLDER_MODE = S_IFDIR | 0o755;

/** The names on the way to a folder. */
export function folderNames(name: string): readonly [string, string] {
  return [VOLUMES_NAME, name];
}

function pathOf(name = ''): string {
  return `/${folderNames(name).join('/')}`;
}

/** An empty one. One that is there stays as it is. */
export async function makeFolder(options: CloneOptions, name: string, bytesMax: number | null): Promise<void> {
  const trees = await TreeWork.open(options);
  const { view, nowNs } = trees;
  const parent = await ensureSystemDirectory(view, await trees.root(), VOLUMES_NAME, ROOT_ONLY, nowNs);
  const ino = await view.newId('ino');
  await view.change(undefined, async (change) => {
    const directory = await view.node(parent.ino);
    if (directory === null || (await view.entry(parent.ino, name)) !== null) return;
    change.expectNode(directory);
    await expectFormat(view, change);
    change.addNode(ino, newInode(FOLDER_MODE, 0, 0, nowNs, { parent: parent.ino, quota: ino }));
    change.putEntry(parent.ino, name, null, ino, DT_DIR);
    change.touchDirectory(parent.ino, nowNs, 1);
    change.count(1, 0, await view.quotas.account(directory.inode.quota));
    change.write(view.keys.quota(ino), encodeQuota({ outer: 0, bytesMax, inodesMax: null, counting: false }));
  });
}

export interface FolderCopy {
  readonly from: string;
  readonly to: string;
  readonly bytesMax: number | null;
  /** Nothing of it can be changed. */
  readonly frozen: boolean;
}

/**
 * Of one instant, or none is made: nobody reads what a report would say. One that is there stays as it is. Throws `not-found` for the source, `quota` when
 * it does not fit, `unavailable` when the engine gives no instant.
 */
export async function copyFolder(options: CloneOptions, { from, to, bytesMax, frozen }: FolderCopy): Promise<void> {
  const trees = await TreeWork.open(options);
  const source = await resolvePath(trees.view, pathOf(from));
  const parent = await resolvePath(trees.view, pathOf());
  // What nobody can change is as it was.
  const ofOneInstant = (source.inode.flags & INODE_FROZEN) === 0;
  const target = { parent, name: to, path: pathOf(to), frozen, ofOneInstant, quota: { bytesMax } };
  try {
    await trees.copy(source, target);
  } catch (error) {
    if (!isCode(error, 'exists')) throw error;
  }
}

/** Throws `not-found`. */
export async function limitFolder({ engine, volume }: CloneOptions, name: string, bytesMax: number): Promise<void> {
  await setQuota(engine, volume, pathOf(name), { bytesMax });
}

export async function hasFolder(options: CloneOptions, name: string): Promise<boolean> {
  const { view } = await TreeWork.open(options);
  const parent = await view.entry(ROOT_INO, VOLUMES_NAME);
  return parent !== null && (await view.entry(parent.ino, name)) !== null;
}

/**
 * Done when there is none. `assertUnused` throws while somebody uses it; who begins to must look whether it is there (`hasFolder`) after he can be seen:
 * it is asked again when the name is gone, and brings it back.
 */
export async function removeFolder(
  options: CloneOptions,
  name: string,
  assertUnused: () => Promise<void> = () => Promise.resolve(),
): Promise<void> {
  await assertUnused();
  const trees = await TreeWork.open(options);
  const parent = await trees.view.entry(ROOT_INO, VOLUMES_NAME);
  const root = await trees.unlink(parent, name);
  if (parent === null || root === undefined) return;
  try {
    await assertUnused();
  } catch (error) {
    await trees.relink(parent, name, root);
    throw error;
  }
  await trees.discard(root);
}
