/**
 * What the kernel concludes from a change by name. The change takes what the name has at that instant; another mount may have set it a moment
 * ago, and then the kernel, whose invalidation is still on its way, holds something else under it (the entry is not `told`).
 *
 * - rename: the kernel moves what it holds, and would show that under the new name for as long as it may believe us: the invalidation is for the
 *   old one. So all its names are void before it has the answer. (An invalidation of the new name alone would wait for the directories that the
 *   rename holds, and the program could look before it. Refusing was rejected: system calls try again only once.)
 * - rmdir, and a directory that is replaced: the kernel marks the one that it holds as dead, for good, though it may live under another name.
 *   That is refused before anything is done (ESTALE): the system call looks at its names anew and tries again, once.
 * - Sticky directories: it was the owner of another file that the kernel checked. Refused likewise.
 * Limits: an entry that the cache has forgotten counts as not told. A kernel that cannot void all names (before Linux 6.16) gets an invalidation
 * of the new name, and a program may look before it.
 */
import { isDirectory } from '../../lib/volume/inode.ts';
import type { CachedEntry, Node } from '../meta/cache.ts';
import type { VolumeView } from '../meta/view.ts';
import { Errno, PosixError } from './operations.ts';
import type { KernelNotifier } from './operations.ts';

const S_ISVTX = 0o1000;

/** What a name has. */
export interface Found {
  readonly entry: CachedEntry;
  readonly node: Node;
}

export class KernelNames {
  readonly #view: VolumeView;
  readonly #notifier: Pick<KernelNotifier, 'incrementEpoch' | 'invalidateEntry'> | undefined;

  /** Without a notifier there is no kernel, and nothing to be wrong. */
  constructor(view: VolumeView, notifier: Pick<KernelNotifier, 'incrementEpoch' | 'invalidateEntry'> | undefined) {
    this.#view = view;
    this.#notifier = notifier;
  }

  /** Of what a change is about to take from a name of `directory`: true when the kernel may hold something else there. Throws ESTALE. */
  isUnseen(uid: number | undefined, directory: Node, { entry, node }: Found, removed: boolean): boolean {
    if (this.#notifier === undefined || entry.told === true) return false;
    const sticky = (directory.inode.mode & S_ISVTX) !== 0 && uid !== 0;
    const foreign = sticky && uid !== directory.inode.uid && uid !== node.inode.uid;
    if (foreign || (removed && isDirectory(node.inode))) {
      throw new PosixError(Errno.ESTALE, `the kernel may hold something else than inode ${node.ino} under its name`);
    }
    return true;
  }

  /** Unseen ones have changed: the kernel looked after the attributes of what it holds. */
  changed(unseen: readonly Found[]): void {
    for (const { node } of unseen) this.#view.announceStale(node.ino);
  }

  /** Unseen ones have other names than the kernel will think. To be called before it has the answer. */
  misplaced(...names: readonly (readonly [parent: number, name: string])[]): void {
    if (this.#notifier?.incrementEpoch() !== false) return;
    for (const [parent, name] of names) this.#notifier.invalidateEntry(BigInt(parent), name);
  }
}
