/** The content of a version of an inode as one value, and its key: what tells whether a local copy is the copy of this version. */
import { PenstockError } from '../../lib/errors.ts';
import { INODE_INLINE, INODE_PAGED } from '../../lib/volume/inode.ts';
import { contentKey } from '../data/whole-record.ts';
import type { FileContent } from '../data/whole-record.ts';
import type { Node } from '../meta/cache.ts';
import type { Context } from './context.ts';
import type { Result } from './operations.ts';

/** Another node writes the file again and again. */
const READS_MAX = 64;

/** A node is one version of an inode, which never changes. */
const keys = new WeakMap<Node, string>();

/** Of a large file this reads its pages. What is read is of one version: that of the node, or the one that it has become meanwhile. */
export function contentOf(context: Context, node: Node): Result<FileContent> {
  return knownContent(context, node) ?? readContent(context, node);
}

function knownContent({ content }: Context, node: Node): FileContent | undefined {
  const { size, flags, extents } = node.inode;
  if ((flags & INODE_PAGED) !== 0) return undefined;
  if ((flags & INODE_INLINE) === 0) return { size, extents, inline: null };
  const inline = content.keptInline(node);
  return inline === undefined ? undefined : { size, extents: [], inline };
}

async function readContent(context: Context, node: Node): Promise<FileContent> {
  const { content, view } = context;
  let now = node;
  for (let attempt = 1; attempt <= READS_MAX; attempt++) {
    const known = knownContent(context, now);
    if (known !== undefined) return known;
    const { size, flags } = now.inode;
    if ((flags & INODE_PAGED) !== 0) {
      const extents = await content.extentsOf(now);
      if (extents !== undefined) return { size, extents, inline: null };
    } else {
      const inline = await content.inlineOf(now);
      if (inline !== undefined) return { size, extents: [], inline };
    }
    const next = await view.node(now.ino);
    if (next === null) throw new PenstockError('conflict', `inode ${node.ino} was removed elsewhere while it was read`);
    now = next;
  }
  throw new PenstockError('conflict', `inode ${node.ino} was changed elsewhere ${READS_MAX} times while it was read`);
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
