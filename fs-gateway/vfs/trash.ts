/**
 * The trash of a volume with `trash` above 0: what is removed or replaced is moved, in the commit that removes its last name, to
 * `/.trash/<hour, UTC>/<inode of its directory>-<inode>-<name>`, and removed for good by gc when that is longer ago than the option says.
 *
 * Invariants
 * - `.trash`, its hours and what is in them have INODE_TRASHED: nothing can be made in or moved into them, and what is removed from
 *   them is gone. Only root gets in (mode 0700); no listing shows `.trash`.
 * - `.trash` is a quota root without limits: what is removed counts to its directory's quotas no more, and how much the trash has is known.
 * - A removed directory is empty, as rmdir wants it: a tree is in the trash piece by piece, each with the directory it was in.
 */
import { INODE_TRASHED, INODE_XATTRS, isDirectory, newInode, S_IFDIR, S_IFMT } from '../../lib/volume/inode.ts';
import { ROOT_INO } from '../../lib/volume/keys.ts';
import { encodeQuota } from '../../lib/volume/quota.ts';
import type { Node } from '../meta/cache.ts';
import type { Change } from '../meta/change.ts';
import type { VolumeView } from '../meta/view.ts';
import { NAME_MAX } from './context.ts';
import type { Context } from './context.ts';
import { Errno, PosixError } from './operations.ts';

export const TRASH_NAME = '.trash';
/** Names in the root that are ours; no listing shows them. */
const RESERVED = new Set([TRASH_NAME]);
/** The whole name, where the entry in the trash has only its beginning. */
export const LONG_NAME_XATTR = 'trusted.penstock.name';
const HOUR_MS = 3_600_000;
const DIRECTORY_MODE = S_IFDIR | 0o700;
const DIRECTORY_TYPE = S_IFDIR >> 12;

export function isReserved(parent: number, name: string): boolean {
  return parent === ROOT_INO && RESERVED.has(name);
}

/** `2026-01-31-07` */
export function hourName(nowMs: number): string {
  return new Date(nowMs).toISOString().slice(0, 13).replace('T', '-');
}

/** When the hour is over, ms since the epoch; undefined for a name that is no hour. */
export function hourEndMs(name: string): number | undefined {
  const match = /^(\d{4}-\d\d-\d\d)-(\d\d)$/.exec(name);
  const startMs = match === null ? Number.NaN : Date.parse(`${match[1] ?? ''}T${match[2] ?? ''}:00:00Z`);
  return Number.isNaN(startMs) ? undefined : startMs + HOUR_MS;
}

export class Trash {
  readonly #context: Pick<Context, 'view' | 'time' | 'format'>;

  constructor(context: Pick<Context, 'view' | 'time' | 'format'>) {
    this.#context = context;
  }

  /** Whether what loses its last name goes there. */
  takes({ inode }: Node): boolean {
    return this.#context.format.trashMs > 0 && (inode.flags & INODE_TRASHED) === 0;
  }

  /** In the change that takes the last name, `name` in `parent`, away. */
  async put(change: Change, node: Node, parent: number, name: string, nowNs: bigint): Promise<void> {
    const { view } = this.#context;
    const { ino, inode } = node;
    const directory = isDirectory(inode);
    const hour = await this.#hour(nowNs);
    const full = `${parent}-${ino}-${name}`;
    let flags = inode.flags | INODE_TRASHED;
    if (full.length > NAME_MAX) {
      change.write(view.keys.xattr(ino, LONG_NAME_XATTR), Buffer.from(name, 'latin1'));
      flags |= INODE_XATTRS;
    }
    if (directory) change.expectEmpty(ino);
    change.expectNode(hour);
    change.putEntry(hour.ino, full.slice(0, NAME_MAX), null, ino, (inode.mode & S_IFMT) >> 12);
    change.touchDirectory(hour.ino, nowNs, directory ? 1 : 0);
    change.recount(inode, await view.quotas.of(node), await view.quotas.account(hour.inode.quota));
    const removed = { ...inode, flags, quota: hour.inode.quota, ctimeNs: nowNs };
    change.updateNode(node, directory ? { ...removed, parent: hour.ino, nlink: 0 } : removed);
  }

  async #hour(nowNs: bigint): Promise<Node> {
    const { view } = this.#context;
    const root = await view.node(ROOT_INO);
    if (root === null) throw new PosixError(Errno.EIO, 'the volume has no root');
    const trash = await this.#directory(root, TRASH_NAME, nowNs);
    return this.#directory(trash, hourName(Number(nowNs / 1_000_000n)), nowNs);
  }

  /** Made when it is first needed. */
  async #directory(parent: Node, name: string, nowNs: bigint): Promise<Node> {
    const { view } = this.#context;
    const found = await directoryIn(view, parent, name);
    if (found !== null) return found;
    const ino = await view.newId('ino');
    await view.change(undefined, async (change) => {
      const fresh = await view.node(parent.ino);
      if (fresh === null || (await view.entry(parent.ino, name)) !== null) return;
      const quota = fresh.inode.quota === 0 ? ino : fresh.inode.quota;
      change.expectNode(fresh);
      change.addNode(ino, newInode(DIRECTORY_MODE, 0, 0, nowNs, { parent: parent.ino, flags: INODE_TRASHED, quota }));
      change.putEntry(parent.ino, name, null, ino, DIRECTORY_TYPE);
      change.touchDirectory(parent.ino, nowNs, 1);
      change.count(1, 0, await view.quotas.account(fresh.inode.quota));
      if (quota !== ino) return;
      const unlimited = { outer: 0, bytesMax: null, inodesMax: null, counting: false };
      change.write(view.keys.quota(ino), encodeQuota(unlimited));
    });
    // The kernel may remember that the name was not there.
    view.announceStaleEntry(parent.ino, name);
    const made = await directoryIn(view, parent, name);
    if (made === null) throw new PosixError(Errno.EIO, `'${name}' of the trash was removed at once`);
    return made;
  }
}

async function directoryIn(view: VolumeView, parent: Node, name: string): Promise<Node | null> {
  const entry = await view.entry(parent.ino, name);
  if (entry === null) return null;
  const node = await view.node(entry.ino);
  if (node === null) {
    view.forgetEntry(parent.ino, name);
    return null;
  }
  if (!isDirectory(node.inode) || (node.inode.flags & INODE_TRASHED) === 0) {
    throw new PosixError(Errno.EIO, `'${name}' is in the place of the trash: rename it`);
  }
  return node;
}
