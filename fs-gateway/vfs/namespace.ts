/**
 * The names: lookup, and every operation that makes, moves or removes one, each as one minitransaction.
 *
 * Invariants
 * - What a plan read is compared in its commit: the parents still exist, the names and inodes are as they were.
 * - A directory never becomes its own ancestor: a move between directories compares the whole chain of ancestors of its target.
 * - Times and counts of the parents are patched, so operations in one directory never make each other retry.
 * Limits: LINK_MAX links of a file; ANCESTORS_MAX directories deep for a move between directories.
 */
import { dentryType } from '../../lib/volume/dentry.ts';
import {
  INODE_IMMUTABLE,
  INODE_LISTING,
  INODE_TRASHED,
  INODE_XATTRS,
  isDirectory,
  S_IFDIR,
  S_IFLNK,
  S_IFMT,
} from '../../lib/volume/inode.ts';
import type { Inode } from '../../lib/volume/inode.ts';
import { ROOT_INO } from '../../lib/volume/keys.ts';
import { BoundedMap } from '../meta/bounded-map.ts';
import type { Node } from '../meta/cache.ts';
import type { Change } from '../meta/change.ts';
import { Acls } from './acls.ts';
import { assertName, nodeOrThrow, refuseFrozen, writableDirectory } from './context.ts';
import type { Context } from './context.ts';
import { KernelNames } from './kernel-names.ts';
import type { Found } from './kernel-names.ts';
import { Errno, PosixError, RENAME_EXCHANGE, RENAME_NOREPLACE } from './operations.ts';
import type { Caller, KernelNotifier, Result } from './operations.ts';
import { inherit } from './ownership.ts';
import { isReserved } from './system-directories.ts';
import { Trash } from './trash.ts';
import type { Orphans } from './orphans.ts';

/** ext4's; more is a program's mistake. */
const LINK_MAX = 65_000;
const ANCESTORS_MAX = 900;
/** A name that points to an inode that is gone is a race with its removal: looked at again this often. */
const DANGLING_RETRIES = 3;
const REMOVED_DIRECTORIES_MAX = 1024;

/** What is asked again under the same id was asked once; a tool has none. */
export interface Requested {
  readonly operation: string | undefined;
  readonly uid?: number;
}

/** What a request made. */
export interface Made {
  readonly node: Node;
  /** An earlier worker made it and was killed before the kernel knew: another mount may have taken its name since. */
  readonly again: boolean;
  /** Another mount has, and the inode is removed: `node` is what was made, without a name. */
  readonly gone: boolean;
}

export type NamespaceContext = Pick<Context, 'view' | 'time' | 'format'>;

export class Namespace {
  readonly #context: NamespaceContext;
  readonly #orphans: Pick<Orphans, 'add' | 'reserve' | 'unlinked'>;
  readonly #trash: Trash;
  readonly #acls: Acls;
  readonly #kernel: KernelNames;
  /** Directories that this mount has removed, the last ones: as fstat(2) shows them to programs that have them open. */
  readonly removedDirectories = new BoundedMap<number, Node>(REMOVED_DIRECTORIES_MAX);

  constructor(
    context: NamespaceContext,
    orphans: Pick<Orphans, 'add' | 'reserve' | 'unlinked'>,
    notifier?: KernelNotifier,
  ) {
    this.#context = context;
    this.#orphans = orphans;
    this.#trash = new Trash(context);
    this.#acls = new Acls(context.view);
    this.#kernel = new KernelNames(context.view, notifier);
  }

  /** The inode behind a name, null when there is none; for the kernel, which keeps it. */
  lookup(parent: number, name: string): Result<Node | null> {
    assertName(name);
    const { view } = this.#context;
    const directory = view.cachedNode(parent);
    if (directory !== undefined && (directory.inode.flags & INODE_LISTING) === 0) {
      const entry = view.cachedEntry(parent, name);
      if (entry === null) return null;
      const node = entry === undefined ? undefined : view.cachedNode(entry.ino);
      if (entry !== undefined && node !== undefined) {
        entry.told = true;
        return node;
      }
    }
    return this.#lookup(parent, name);
  }

  async #lookup(parent: number, name: string): Promise<Node | null> {
    const { view } = this.#context;
    const directory = await nodeOrThrow(view, parent);
    if (!isDirectory(directory.inode)) throw new PosixError(Errno.ENOTDIR, `inode ${parent} is not a directory`);
    if ((directory.inode.flags & INODE_LISTING) !== 0) {
      const ino = await view.lake.find(parent, name);
      return ino === undefined ? null : view.node(ino);
    }
    const found = await this.#find(parent, name);
    if (found === null) return null;
    found.entry.told = true;
    return found.node;
  }

  /** Makes a name with a new inode. */
  async make(
    caller: Caller,
    parent: number,
    name: string,
    mode: number,
    umask: number,
    fields: Partial<Inode> = {},
  ): Promise<Made> {
    assertNewName(parent, name);
    const { view, time } = this.#context;
    const ino = await view.newId('ino');
    const directory = (mode & S_IFMT) === S_IFDIR;
    const { repeated } = await view.change(caller.operation, async (change) => {
      const parentNode = await writableDirectory(view, parent);
      if ((await view.entry(parent, name)) !== null) throw new PosixError(Errno.EEXIST, `'${name}' exists`);
      const nowNs = time.nowNs();
      change.expectNode(parentNode);
      const { uid, gid } = caller;
      await this.#acls.addNode(change, ino, parentNode, { uid, gid, mode, umask, fields }, nowNs);
      change.putEntry(parent, name, null, ino, dentryType(mode), { told: true });
      change.touchDirectory(parent, nowNs, directory ? 1 : 0);
      change.count(1, 0, await view.quotas.account(parentNode.inode.quota));
    });
    if (repeated === undefined) return { node: await nodeOrThrow(view, ino), again: false, gone: false };
    const node = await view.node(repeated);
    if (node !== null) return { node, again: true, gone: false };
    return { node: await this.#asMade(repeated, caller, parent, mode & ~umask, fields), again: true, gone: true };
  }

  /** Nobody but the caller will see it: nothing is committed. */
  async #asMade(ino: number, caller: Caller, parent: number, mode: number, fields: Partial<Inode>): Promise<Node> {
    const { view, time } = this.#context;
    const directory = await nodeOrThrow(view, parent);
    const inode = inherit(directory, caller, mode, time.nowNs(), { ...fields, nlink: 0 });
    return { ino, inode, version: directory.version, entriesChangedNs: 0n, subdirectories: 0 };
  }

  /** O_TMPFILE. What it makes is reserved: `Orphans.opened` is to be called when its open is counted, or has failed. */
  async makeUnnamed(
    caller: Caller,
    parent: number,
    mode: number,
    umask: number,
    operation = caller.operation,
  ): Promise<Node> {
    const { view, time } = this.#context;
    const ino = await view.newId('ino');
    const { repeated } = await view.change(operation, async (change) => {
      const directory = await writableDirectory(view, parent);
      const { uid, gid } = caller;
      change.expectNode(directory);
      const wanted = { uid, gid, mode, umask, fields: { nlink: 0 } };
      await this.#acls.addNode(change, ino, directory, wanted, time.nowNs());
      this.#orphans.add(change, ino);
      change.count(1, 0, await view.quotas.account(directory.inode.quota));
    });
    const node = await this.#orphans.reserve(repeated ?? ino);
    if (node !== null) return node;
    if (repeated === undefined) throw new PosixError(Errno.EIO, `inode ${ino} was removed while it was made`);
    // An earlier worker made it and was killed before anybody knew: it had no name and nobody had it open, so it was removed. Another is as good.
    return this.makeUnnamed(caller, parent, mode, umask, `${operation} again`);
  }

  symlink(caller: Caller, parent: number, name: string, target: Buffer): Promise<Made> {
    return this.make(caller, parent, name, S_IFLNK | 0o777, 0, { target: Buffer.from(target), size: target.length });
  }

  async link(caller: Caller, ino: number, parent: number, name: string): Promise<Made> {
    assertNewName(parent, name);
    const { view, time } = this.#context;
    const { repeated } = await view.change(caller.operation, async (change) => {
      const node = await nodeOrThrow(view, ino);
      refuseFrozen(node);
      if ((node.inode.flags & INODE_TRASHED) !== 0) throw new PosixError(Errno.ENOENT, `inode ${ino} was removed`);
      const parentNode = await writableDirectory(view, parent);
      if ((await view.entry(parent, name)) !== null) throw new PosixError(Errno.EEXIST, `'${name}' exists`);
      if (isDirectory(node.inode) || (node.inode.flags & INODE_IMMUTABLE) !== 0) {
        throw new PosixError(Errno.EPERM, `inode ${ino} cannot have another name`);
      }
      if (node.inode.quota !== parentNode.inode.quota) throw otherQuota(ino);
      if (node.inode.nlink >= LINK_MAX) throw new PosixError(Errno.EMLINK, `inode ${ino} has ${LINK_MAX} names`);
      const nowNs = time.nowNs();
      change.expectNode(parentNode);
      change.updateNode(node, { ...node.inode, nlink: node.inode.nlink + 1, ctimeNs: nowNs });
      // A file that was made without a name is no orphan any more.
      if (node.inode.nlink === 0) change.write(view.keys.orphan(ino), null);
      change.putEntry(parent, name, null, ino, dentryType(node.inode.mode), { told: true });
      change.touchDirectory(parent, nowNs, 0);
    });
    return { node: await nodeOrThrow(view, ino), again: repeated !== undefined, gone: false };
  }

  async unlink({ operation, uid }: Requested, parent: number, name: string): Promise<void> {
    const { view, time } = this.#context;
    let unseen: readonly Found[] = [];
    const { value: removed } = await view.change(operation, async (change) => {
      const parentNode = await writableDirectory(view, parent, true);
      const found = await this.#existing(parent, name);
      const { entry, node } = found;
      if (isDirectory(node.inode)) throw new PosixError(Errno.EISDIR, `'${name}' is a directory`);
      unseen = this.#kernel.isUnseen(uid, parentNode, found, true) ? [found] : [];
      const nowNs = time.nowNs();
      change.expectNode(parentNode);
      change.removeEntry(parent, name, entry);
      change.touchDirectory(parent, nowNs, 0);
      return this.#dropLink(change, { parent, name, entry, node }, nowNs);
    });
    this.#kernel.changed(unseen);
    this.#orphans.unlinked(removed);
  }

  async rmdir({ operation, uid }: Requested, parent: number, name: string): Promise<void> {
    const { view, time } = this.#context;
    await view.change(operation, async (change) => {
      const parentNode = await writableDirectory(view, parent, true);
      const found = await this.#existing(parent, name);
      const { entry, node } = found;
      if (!isDirectory(node.inode)) throw new PosixError(Errno.ENOTDIR, `'${name}' is not a directory`);
      this.#kernel.isUnseen(uid, parentNode, found, true);
      const nowNs = time.nowNs();
      change.expectNode(parentNode);
      change.removeEntry(parent, name, entry);
      change.touchDirectory(parent, nowNs, -1);
      await this.#dropDirectory(change, { parent, name, entry, node }, nowNs);
    });
  }

  async rename(
    { operation, uid }: Requested,
    parent: number,
    name: string,
    newParent: number,
    newName: string,
    flags: number,
  ): Promise<void> {
    assertNewName(parent, name);
    assertNewName(newParent, newName);
    if ((flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE)) !== 0)
      throw new PosixError(Errno.EINVAL, `rename flags ${flags}`);
    const { view } = this.#context;
    /** As of the last plan. */
    const met: { unseen: readonly Found[]; misplaced: boolean } = { unseen: [], misplaced: false };
    const { value: removed } = await view.change(operation, async (change) => {
      const exchange = (flags & RENAME_EXCHANGE) !== 0;
      const from = await writableDirectory(view, parent, !exchange);
      const to = await writableDirectory(view, newParent);
      const source = await this.#existing(parent, name);
      if ((from.inode.flags & INODE_TRASHED) !== 0 && from.inode.parent === ROOT_INO) {
        throw new PosixError(Errno.EPERM, `'${name}' is an hour of the trash`);
      }
      const target = await this.#find(newParent, newName);
      if (target !== null && (flags & RENAME_NOREPLACE) !== 0)
        throw new PosixError(Errno.EEXIST, `'${newName}' exists`);
      if (target === null && exchange) throw new PosixError(Errno.ENOENT, `no '${newName}'`);
      const unseenTarget = target !== null && this.#kernel.isUnseen(uid, to, target, !exchange) ? [target] : [];
      met.unseen = this.#kernel.isUnseen(uid, from, source, false) ? [source, ...unseenTarget] : unseenTarget;
      met.misplaced = met.unseen.includes(source) || (exchange && unseenTarget.length > 0);
      // Two names of one inode: rename(2) does nothing.
      if (target?.node.ino === source.node.ino) return undefined;
      if (parent !== newParent) {
        await this.#refuseLoop(change, to, source.node);
        if (exchange && target !== null) await this.#refuseLoop(change, from, target.node);
      }
      change.expectNode(from);
      if (parent !== newParent) change.expectNode(to);
      if (!exchange || target === null) {
        return this.#move(change, { parent, name, ...source }, { parent: newParent, node: to, name: newName, target });
      }
      const [a, b] = [await this.#takeOver(change, source.node, to), await this.#takeOver(change, target.node, from)];
      this.#exchange(
        change,
        { parent, name, ...source, node: a },
        { parent: newParent, name: newName, ...target, node: b },
      );
      return undefined;
    });
    if (met.misplaced) this.#kernel.misplaced([newParent, newName], [parent, name]);
    this.#kernel.changed(met.unseen);
    this.#orphans.unlinked(removed);
  }

  async #move(
    change: Change,
    source: Named,
    to: { readonly parent: number; readonly node: Node; readonly name: string; readonly target: Found | null },
  ): Promise<number | undefined> {
    const nowNs = this.#context.time.nowNs();
    const node = await this.#takeOver(change, source.node, to.node);
    const directory = isDirectory(node.inode);
    let removed: number | undefined;
    let toDelta = directory ? 1 : 0;
    if (to.target !== null) {
      const old = to.target.node;
      if (directory && !isDirectory(old.inode)) throw new PosixError(Errno.ENOTDIR, `'${to.name}' is not a directory`);
      if (!directory && isDirectory(old.inode)) throw new PosixError(Errno.EISDIR, `'${to.name}' is a directory`);
      if (isDirectory(old.inode)) {
        await this.#dropDirectory(change, { parent: to.parent, name: to.name, ...to.target }, nowNs);
        toDelta--;
      } else removed = await this.#dropLink(change, { parent: to.parent, name: to.name, ...to.target }, nowNs);
    }
    change.updateNode(node, moved(node.inode, to.parent, nowNs));
    change.removeEntry(source.parent, source.name, source.entry);
    change.putEntry(to.parent, to.name, to.target?.entry ?? null, node.ino, source.entry.type, source.entry);
    const fromDelta = directory ? -1 : 0;
    if (source.parent === to.parent) change.touchDirectory(to.parent, nowNs, fromDelta + toDelta);
    else {
      change.touchDirectory(source.parent, nowNs, fromDelta);
      change.touchDirectory(to.parent, nowNs, toDelta);
    }
    return removed;
  }

  /**
   * The inode as it is to be in `directory`, for its quota. Files are counted anew in the same commit; a directory would take all that is
   * below it along, so it stays (as with project quotas of XFS; mv copies).
   */
  async #takeOver(change: Change, node: Node, directory: Node): Promise<Node> {
    const { quotas } = this.#context.view;
    const { inode } = node;
    const quota = directory.inode.quota;
    if (inode.quota === quota) return node;
    if (inode.quota === node.ino) {
      const [outer] = await quotas.of(node);
      if ((outer === undefined || outer.ino === ROOT_INO ? 0 : outer.ino) === quota) return node;
    }
    const empty = (inode.flags & INODE_TRASHED) !== 0;
    if ((isDirectory(inode) && !empty) || inode.nlink > 1) throw otherQuota(node.ino);
    change.recount(inode, await quotas.of(node), await quotas.account(quota));
    return { ...node, inode: { ...inode, quota } };
  }

  #exchange(change: Change, a: Named, b: Named): void {
    const nowNs = this.#context.time.nowNs();
    change.updateNode(a.node, moved(a.node.inode, b.parent, nowNs));
    change.updateNode(b.node, moved(b.node.inode, a.parent, nowNs));
    change.putEntry(a.parent, a.name, a.entry, b.node.ino, b.entry.type, b.entry);
    change.putEntry(b.parent, b.name, b.entry, a.node.ino, a.entry.type, a.entry);
    const delta = (isDirectory(b.node.inode) ? 1 : 0) - (isDirectory(a.node.inode) ? 1 : 0);
    change.touchDirectory(a.parent, nowNs, a.parent === b.parent ? 0 : delta);
    if (a.parent !== b.parent) change.touchDirectory(b.parent, nowNs, -delta);
  }

  /** EINVAL when `moving` is `directory` or above it; the chain stays as it is until the commit, or the commit fails. */
  async #refuseLoop(change: Change, directory: Node, moving: Node): Promise<void> {
    if (!isDirectory(moving.inode)) return;
    let at = directory;
    for (let depth = 0; depth < ANCESTORS_MAX; depth++) {
      if (at.ino === moving.ino) throw new PosixError(Errno.EINVAL, 'a directory cannot be moved into itself');
      if (at.ino === ROOT_INO) return;
      if (at !== directory) change.expectNode(at);
      at = await nodeOrThrow(this.#context.view, at.inode.parent);
    }
    throw new PosixError(Errno.ELOOP, `more than ${ANCESTORS_MAX} directories deep`);
  }

  /** Takes one name away; returns the inode when it was the last. */
  async #dropLink(change: Change, { parent, name, node }: Named, nowNs: bigint): Promise<number | undefined> {
    const { inode } = node;
    if ((inode.flags & INODE_IMMUTABLE) !== 0) throw new PosixError(Errno.EPERM, `inode ${node.ino} is immutable`);
    if (inode.nlink > 1) {
      change.updateNode(node, { ...inode, nlink: inode.nlink - 1, ctimeNs: nowNs });
      return undefined;
    }
    if (this.#trash.takes(node)) {
      await this.#trash.put(change, node, parent, name, nowNs);
      return undefined;
    }
    if (inode.quota !== 0) {
      // Until its last close it counts to the volume only: whoever removes files has room at once.
      const { quotas } = this.#context.view;
      change.recount(inode, await quotas.of(node), await quotas.account(0));
    }
    change.updateNode(node, { ...inode, nlink: 0, quota: 0, ctimeNs: nowNs });
    this.#orphans.add(change, node.ino);
    return node.ino;
  }

  async #dropDirectory(change: Change, { parent, name, node }: Named, nowNs: bigint): Promise<void> {
    const { view } = this.#context;
    if ((node.inode.flags & INODE_LISTING) !== 0) {
      throw new PosixError(Errno.EPERM, `directory ${node.ino} is a listing of the lake`);
    }
    if (this.#trash.takes(node)) {
      await this.#trash.put(change, node, parent, name, nowNs);
      return;
    }
    change.expectEmpty(node.ino);
    change.removeNode(node);
    this.removedDirectories.set(node.ino, { ...node, inode: { ...node.inode, nlink: 0, ctimeNs: nowNs } });
    change.count(-1, 0, await view.quotas.of(node));
    if ((node.inode.flags & INODE_XATTRS) === 0) return;
    for (const name of await view.xattrNames(node.ino)) change.write(view.keys.xattr(node.ino, name), null);
  }

  async #existing(parent: number, name: string): Promise<Found> {
    const found = await this.#find(parent, name);
    if (found === null) throw new PosixError(Errno.ENOENT, `no '${name}'`);
    return found;
  }

  async #find(parent: number, name: string): Promise<Found | null> {
    assertName(name);
    const { view } = this.#context;
    for (let attempt = 0; attempt < DANGLING_RETRIES; attempt++) {
      const entry = await view.entry(parent, name);
      if (entry === null) return null;
      const node = await view.node(entry.ino);
      if (node !== null) return { entry, node };
      view.forgetEntry(parent, name);
    }
    throw new PosixError(Errno.EIO, `'${name}' in directory ${parent} names an inode that does not exist`);
  }
}

interface Named extends Found {
  readonly parent: number;
  readonly name: string;
}

function otherQuota(ino: number): PosixError {
  return new PosixError(Errno.EXDEV, `inode ${ino} counts to another quota`);
}

/** A name that is made, moved or replaced. */
function assertNewName(parent: number, name: string): void {
  assertName(name);
  if (isReserved(parent, name)) throw new PosixError(Errno.EPERM, `'${name}' belongs to the volume`);
}

/** What is moved out of the trash is no longer removed. */
function moved(inode: Inode, parent: number, nowNs: bigint): Inode {
  const flags = inode.flags & ~INODE_TRASHED;
  return isDirectory(inode)
    ? { ...inode, flags, nlink: 2, parent, ctimeNs: nowNs }
    : { ...inode, flags, ctimeNs: nowNs };
}
