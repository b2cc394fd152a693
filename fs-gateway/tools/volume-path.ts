/** DirectoryPaths inside a volume, for tools that work without a mount. `/` is the root; names are UTF-8 on the command line, bytes in the volume. */
import { PenstockError } from '../../lib/errors.ts';
import { INODE_LISTING, isDirectory } from '../../lib/volume/inode.ts';
import { ROOT_INO } from '../../lib/volume/keys.ts';
import type { Node } from '../meta/cache.ts';
import type { EntryPage } from '../meta/directory-pages.ts';
import type { VolumeView } from '../meta/view.ts';
import { showName } from './fsck-paths.ts';

const SCAN_PAGE = 500;
const DEPTH_MAX = 1000;
/** Directories whose paths are remembered. */
const KEPT = 100_000;

/** Throws `usage`, also for what no program could name: half of a character (a lone surrogate, which JSON can write) has no bytes, and a zero ends a name. */
export function namesOf(path: string): string[] {
  if (!path.isWellFormed()) {
    throw new PenstockError('usage', `'${path.toWellFormed()}' is no text: it has half of a character`);
  }
  if (path.includes('\0')) throw new PenstockError('usage', `${JSON.stringify(path)}: a name has no zero byte`);
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
  let found = 0;
  for (const name of names) {
    const ino = node === null ? undefined : await childOf(view, node, name);
    node = ino === undefined ? null : await view.node(ino);
    if (node === null) break;
    found += 1;
  }
  if (node === null) {
    const missing = `/${names
      .slice(0, found + 1)
      .map(showName)
      .join('/')}`;
    const where = `no such path in volume '${view.keys.volume}'`;
    throw new PenstockError('not-found', `'${shown}': ${where}${missing === shown ? '' : `: there is no ${missing}`}`);
  }
  return node;
}

async function childOf(view: VolumeView, node: Node, name: string): Promise<number | undefined> {
  if (!isDirectory(node.inode)) return undefined;
  if ((node.inode.flags & INODE_LISTING) !== 0) return view.lake.find(node.ino, name);
  return (await view.entry(node.ino, name))?.ino;
}

/** Where an inode is said to be, for directories that are in the tree no more. */
export type Elsewhere = (ino: number) => { readonly parent: number; readonly name: string } | undefined;

/** DirectoryPaths of directories, by their numbers. */
export class DirectoryPaths {
  readonly #view: VolumeView;
  readonly #elsewhere: Elsewhere;
  readonly #known = new Map<number, string | null>([[ROOT_INO, '/']]);

  constructor(view: VolumeView, elsewhere: Elsewhere = () => undefined) {
    this.#view = view;
    this.#elsewhere = elsewhere;
  }

  /** Null when it is not in the tree any more. */
  async of(ino: number, depth = 0): Promise<string | null> {
    const known = this.#known.get(ino);
    if (known !== undefined) return known;
    const path = depth < DEPTH_MAX ? await this.#find(ino, depth) : null;
    if (this.#known.size < KEPT) this.#known.set(ino, path);
    return path;
  }

  async #find(ino: number, depth: number): Promise<string | null> {
    const moved = this.#elsewhere(ino);
    const node = moved === undefined ? await this.#view.node(ino) : null;
    const parent = moved?.parent ?? node?.inode.parent;
    if (parent === undefined) return null;
    const name = moved?.name ?? (await this.#nameIn(parent, ino));
    const above = name === undefined ? null : await this.of(parent, depth + 1);
    return above === null || name === undefined ? null : join(above, name);
  }

  async #nameIn(directory: number, ino: number): Promise<string | undefined> {
    for (let cursor: string | null = ''; cursor !== null;) {
      const page: EntryPage = await this.#view.directories.scan(directory, cursor, SCAN_PAGE);
      const found = page.entries.find(([, entry]) => entry.ino === ino);
      if (found !== undefined) return found[0];
      cursor = page.cursor;
    }
    return undefined;
  }
}

export function join(directory: string, name: string): string {
  return `${directory === '/' ? '' : directory}/${showName(name)}`;
}
