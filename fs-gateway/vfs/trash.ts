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
import { dentryType } from '../../lib/volume/dentry.ts';
import { INODE_TRASHED, INODE_XATTRS, isDirectory, S_IFDIR } from '../../lib/volume/inode.ts';
import { ROOT_INO } from '../../lib/volume/keys.ts';
import type { Node } from '../meta/cache.ts';
import type { Change } from '../meta/change.ts';
import { NAME_MAX } from './context.ts';
import type { Context } from './context.ts';
import { Errno, PosixError } from './operations.ts';
import { ensureSystemDirectory, TRASH_NAME } from './system-directories.ts';

/** The whole name, where the entry in the trash has only its beginning. */
export const LONG_NAME_XATTR = 'trusted.penstock.name';
const HOUR_MS = 3_600_000;
/** Only root gets in. */
const IN_TRASH = { mode: S_IFDIR | 0o700, flags: INODE_TRASHED };

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
    change.putEntry(hour.ino, full.slice(0, NAME_MAX), null, ino, dentryType(inode.mode));
    change.touchDirectory(hour.ino, nowNs, directory ? 1 : 0);
    change.recount(inode, await view.quotas.of(node), await view.quotas.account(hour.inode.quota));
    const removed = { ...inode, flags, quota: hour.inode.quota, ctimeNs: nowNs };
    change.updateNode(node, directory ? { ...removed, parent: hour.ino, nlink: 0 } : removed);
  }

  async #hour(nowNs: bigint): Promise<Node> {
    const { view } = this.#context;
    const root = await view.node(ROOT_INO);
    if (root === null) throw new PosixError(Errno.EIO, 'the volume has no root');
    const trash = await ensureSystemDirectory(view, root, TRASH_NAME, IN_TRASH, nowNs);
    return ensureSystemDirectory(view, trash, hourName(Number(nowNs / 1_000_000n)), IN_TRASH, nowNs);
  }
}
