/** Paths inside a volume, for tools that work without a mount. `/` is the root; names are UTF-8 on the command line, bytes in the volume. */
import { PenstockError } from '../../lib/errors.ts';
import { INODE_LISTING, isDirectory } from '../../lib/volume/inode.ts';
import { ROOT_INO } from '../../lib/volume/keys.ts';
import type { Node } from '../meta/cache.ts';
import type { VolumeView } from '../meta/view.ts';

export function namesOf(path: string): string[] {
  const names = path.split('/').filter((name) => name !== '' && name !== '.');
  if (names.includes('..')) throw new PenstockError('usage', `'${path}': a path inside of a volume has no '..'`);
  return names.map((name) => Buffer.from(name).toString('latin1'));
}

/** Throws `not-found`; symbolic links are not followed. */
export async function resolvePath(view: VolumeView, path: string): Promise<Node> {
  return resolveNames(view, namesOf(path), path);
}

export async function resolveNames(view: VolumeView, names: readonly string[], shown: string): Promise<Node> {
  let node = await view.node(ROOT_INO);
  for (const name of names) {
    const ino = node === null ? undefined : await childOf(view, node, name);
    node = ino === undefined ? null : await view.node(ino);
  }
  if (node === null) throw new PenstockError('not-found', `'${shown}': no such path in volume '${view.keys.volume}'`);
  return node;
}

async function childOf(view: VolumeView, node: Node, name: string): Promise<number | undefined> {
  if (!isDirectory(node.inode)) return undefined;
  if ((node.inode.flags & INODE_LISTING) !== 0) return view.lake.find(node.ino, name);
  return (await view.entry(node.ino, name))?.ino;
}
