/**
 * Removes the records of files that nobody wants any more (orphans.ts says when): attributes, pages, content, inode and orphan record.
 * Objects are never deleted here: gc does, when no extent refers to them and the grace period is over.
 *
 * Failure: killed in between, the orphan record is still there and whoever finds it begins again.
 */
import { countedBytes, INODE_INLINE, INODE_PAGED, INODE_XATTRS } from '../../lib/volume/inode.ts';
import type { Node } from '../meta/cache.ts';
import type { Change } from '../meta/change.ts';
import type { VolumeView } from '../meta/view.ts';

/** Pages and attributes removed by one commit. */
const PORTION = 400;

export class Reclaimer {
  readonly #view: VolumeView;

  constructor(view: VolumeView) {
    this.#view = view;
  }

  /**
   * Removes the orphans in the change, but for those with records in other places: these are returned, for `reclaim`. The caller compares
   * the orphan records.
   */
  async remove(change: Change, inos: readonly number[]): Promise<number[]> {
    const { keys } = this.#view;
    const nodes = await this.#view.nodes(inos);
    const involved: number[] = [];
    for (const ino of inos) {
      const node = nodes.get(ino);
      if (node?.inode.nlink === 0 && (node.inode.flags & (INODE_PAGED | INODE_XATTRS)) !== 0) {
        involved.push(ino);
        continue;
      }
      change.write(keys.orphan(ino), null);
      // Without an inode it was removed before; a link has given it a name again.
      if (node?.inode.nlink === 0) await this.#removeNode(change, node);
    }
    return involved;
  }

  async #removeNode(change: Change, node: Node): Promise<void> {
    change.removeNode(node);
    if ((node.inode.flags & INODE_INLINE) !== 0) change.write(this.#view.keys.inlineData(node.ino), null);
    change.count(-1, -countedBytes(node.inode), await this.#view.quotas.of(node));
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
      await this.#removeNode(change, node);
    });
  }
}
