/** The content of a version of an inode as one value, and its key: what tells whether a local copy is the copy of this version. */
import { INODE_INLINE, INODE_PAGED } from '../../lib/volume/inode.ts';
import { contentKey } from '../data/whole-record.ts';
import type { FileContent } from '../data/whole-record.ts';
import type { Node } from '../meta/cache.ts';
import type { Context } from './context.ts';
import type { Result } from './operations.ts';

/** A node is one version of an inode, which never changes. */
const keys = new WeakMap<Node, string>();

/** Of a large file this reads its pages. */
export function contentOf({ content }: Context, node: Node): Result<FileContent> {
  const { size, flags } = node.inode;
  if ((flags & INODE_INLINE) !== 0) {
    const inline = content.inline(node);
    if (inline instanceof Promise) return inline.then((bytes) => ({ size, extents: [], inline: bytes }));
    return { size, extents: [], inline };
  }
  const extents = content.extents(node, 0, size);
  if (extents instanceof Promise) return extents.then((list) => ({ size, extents: list, inline: null }));
  return { size, extents, inline: null };
}

export function keyOf(context: Context, node: Node): Result<string> {
  const known = keys.get(node);
  if (known !== undefined) return known;
  const content = contentOf(context, node);
  if (content instanceof Promise) return content.then((read) => remember(node, contentKey(read)));
  return remember(node, contentKey(content));
}

/** The key if somebody has asked for it before. */
export function knownKey(node: Node): string | undefined {
  return keys.get(node);
}

/**
 * Differs where the content does, and is known at once. Objects are never written again, and no version comes twice. (mtime and size would
 * not do: utimensat sets mtime back.)
 */
export function contentMark(node: Node): string {
  const { flags, size, extents } = node.inode;
  if ((flags & (INODE_INLINE | INODE_PAGED)) !== 0) return node.version;
  // Nothing but zeros, as a file that was just made: no hash says more.
  if (extents.length === 0) return String(size);
  return keys.get(node) ?? remember(node, contentKey({ size, extents, inline: null }));
}

function remember(node: Node, key: string): string {
  keys.set(node, key);
  return key;
}
