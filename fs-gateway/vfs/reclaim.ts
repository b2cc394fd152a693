/**
 * What becomes of a file without names. Nobody here has it open and its content is in the inode: it is gone in the same commit.
 * Otherwise an orphan record is left, so that nothing is lost sight of in a crash, and the records are removed in the background:
 * at the last close, or by the next session that finds the orphan.
 *
 * Record {v}o <ino>: the id of the mount that has it open (latin1); the inode has nlink 0.
 * Objects are never deleted here: gc does, when no extent refers to them and the grace period is over.
 */
import { countedBytes, INODE_INLINE, INODE_PAGED, INODE_XATTRS } from '../../lib/volume/inode.ts';
import type { Node } from '../meta/cache.ts';
import type { Change } from '../meta/change.ts';
import type { VolumeView } from '../meta/view.ts';
import { describeError } from '../../lib/errors.ts';
import type { ScanPage } from '../../lib/meta/engine.ts';

/** Pages and attributes removed by one commit. */
const PORTION = 400;

export class Reclaimer {
  readonly #view: VolumeView;
  readonly #owner: Buffer;
  readonly #report: (message: string) => void;
  readonly #running = new Set<Promise<void>>();

  constructor(view: VolumeView, mountId: string, report: (message: string) => void) {
    this.#view = view;
    this.#owner = Buffer.from(mountId, 'latin1');
    this.#report = report;
  }

  /** Takes the last name; returns the inode when `later` has to be called for it after the commit. */
  dropLast(change: Change, node: Node, nowNs: bigint, open: boolean): number | undefined {
    const { inode, ino } = node;
    const simple = (inode.flags & (INODE_PAGED | INODE_XATTRS)) === 0;
    if (!open && simple) {
      change.removeNode(node);
      if ((inode.flags & INODE_INLINE) !== 0) change.write(this.#view.keys.inlineData(ino), null);
      change.count(-1, -countedBytes(inode));
      return undefined;
    }
    change.updateNode(node, { ...inode, nlink: 0, ctimeNs: nowNs });
    change.write(this.#view.keys.orphan(ino), this.#owner);
    return open ? undefined : ino;
  }

  /** Removes an orphan's records in the background. */
  later(ino: number | undefined): void {
    if (ino === undefined) return;
    const running = this.reclaim(ino)
      .catch((error: unknown) => this.#report(`orphan ${ino} stays for the next session: ${describeError(error)}`))
      .finally(() => this.#running.delete(running));
    this.#running.add(running);
  }

  async reclaim(ino: number): Promise<void> {
    const view = this.#view;
    const { keys } = view;
    for (let removed = PORTION; removed === PORTION;) {
      const names = await view.xattrNames(ino, PORTION);
      removed = names.length;
      await view.change(undefined, (change) => names.forEach((name) => change.write(keys.xattr(ino, name), null)));
    }
    for (let removed = PORTION; removed === PORTION;) {
      const pages = await view.pageNumbers(ino, PORTION);
      removed = pages.length;
      await view.change(undefined, (change) => pages.forEach((page) => change.write(keys.page(ino, page), null)));
    }
    await view.change(undefined, async (change) => {
      const node = await view.node(ino);
      change.write(keys.orphan(ino), null);
      // A link made it a file with a name again.
      if (node === null || node.inode.nlink > 0) return;
      change.removeNode(node);
      if ((node.inode.flags & INODE_INLINE) !== 0) change.write(keys.inlineData(ino), null);
      change.count(-1, -countedBytes(node.inode));
    });
  }

  /** A file that is made without a name. */
  addUnnamed(change: Change, ino: number): void {
    change.write(this.#view.keys.orphan(ino), this.#owner);
  }

  /** Reclaims what an earlier worker of this mount left and nobody has open. */
  async resume(isOpen: (ino: number) => boolean): Promise<void> {
    for (let cursor: string | null = ''; cursor !== null;) {
      const engine = await this.#view.engine();
      const page: ScanPage = await engine.scan(this.#view.keys.orphans, cursor, PORTION);
      for (const [field, { value }] of page.entries) {
        if (value.equals(this.#owner) && !isOpen(Number(field))) this.later(Number(field));
      }
      cursor = page.cursor;
    }
  }

  async idle(): Promise<void> {
    await Promise.all(this.#running);
  }
}
