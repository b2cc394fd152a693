/**
 * Removes a tree that no name leads to any more, from the leaves up, in portions. Its files become orphans, because a mount may have one
 * open; they go as all orphans do.
 * Failure: killed at any point, {v}c <root ino> is still there, and gc goes on.
 * Limits: PORTION entries in one commit; one level of recursion per level of the tree.
 */
import { INODE_XATTRS, isDirectory } from '../../lib/volume/inode.ts';
import { encodeOrphan } from '../../lib/volume/orphan.ts';
import type { CachedEntry, Node } from '../meta/cache.ts';
import type { Change } from '../meta/change.ts';
import type { EntryPage } from '../meta/directory-pages.ts';
import type { VolumeView } from '../meta/view.ts';
import type { Progress } from './tool.ts';

const PORTION = 100;

export class TreeRemoval {
  readonly #view: VolumeView;
  readonly #nowNs: bigint;
  readonly #progress: Progress;
  #removed = 0;

  constructor(view: VolumeView, nowNs: bigint, progress: Progress) {
    this.#view = view;
    this.#nowNs = nowNs;
    this.#progress = progress;
  }

  async run(root: number): Promise<void> {
    const view = this.#view;
    const node = await view.node(root);
    if (node !== null && isDirectory(node.inode)) await this.#empty(root);
    await view.change(undefined, async (change) => {
      const last = await view.node(root);
      if (last !== null) await this.#drop(change, last);
      change.write(view.keys.building(root), null);
    });
  }

  async #empty(directory: number): Promise<void> {
    for (let found = true; found;) {
      found = false;
      for (let cursor: string | null = ''; cursor !== null;) {
        const page: EntryPage = await this.#view.directories.scan(directory, cursor, PORTION);
        const entries = new Map(page.entries);
        found ||= entries.size > 0;
        const nodes = await this.#view.nodes([...entries.values()].map(({ ino }) => ino));
        for (const [number, node] of nodes) if (isDirectory(node.inode)) await this.#empty(number);
        const all = [...entries];
        for (let at = 0; at < all.length; at += PORTION) await this.#remove(directory, all.slice(at, at + PORTION));
        cursor = page.cursor;
      }
    }
  }

  async #remove(directory: number, entries: readonly (readonly [string, CachedEntry])[]): Promise<void> {
    await this.#view.change(undefined, async (change) => {
      const links = new Map<number, number>();
      for (const [name, entry] of entries) {
        change.removeEntry(directory, name, entry);
        links.set(entry.ino, (links.get(entry.ino) ?? 0) + 1);
      }
      await this.#view.nodes([...links.keys()]);
      for (const [ino, names] of links) {
        const node = await this.#view.node(ino);
        if (node !== null) await this.#drop(change, node, names);
      }
    });
    this.#removed += entries.length;
    this.#progress('removed', this.#removed);
  }

  async #drop(change: Change, node: Node, names = 1): Promise<void> {
    const { keys, quotas } = this.#view;
    const { ino, inode } = node;
    if (isDirectory(inode)) {
      change.expectEmpty(ino);
      change.removeNode(node);
      change.count(-1, 0, await quotas.of(node));
      if ((inode.flags & INODE_XATTRS) === 0) return;
      for (const name of await this.#view.xattrNames(ino)) change.write(keys.xattr(ino, name), null);
      return;
    }
    if (inode.nlink > names) {
      change.updateNode(node, { ...inode, nlink: inode.nlink - names });
      return;
    }
    change.recount(inode, await quotas.of(node), await quotas.account(0));
    change.updateNode(node, { ...inode, nlink: 0, quota: 0, ctimeNs: this.#nowNs });
    change.write(keys.orphan(ino), encodeOrphan(['removal']));
  }
}
