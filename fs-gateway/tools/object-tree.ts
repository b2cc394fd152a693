/**
 * Makes files of objects that are in the volume's store already, without copying: each is an inode with one external extent.
 *
 * Invariants
 * - The tree is built where no name leads (clone.ts links it), and counts as it is built, to the quota that it will be in.
 * - Each file writes the note that keeps the clean-up of the lake from its object (references.ts).
 * Failure: killed at any point, nobody sees the tree, and gc removes it.
 * Limits: one path of a directory in memory for each directory.
 */
import type { Extent, ExternalObject } from '../../lib/volume/extents.ts';
import { DT_DIR, DT_REG } from '../../lib/volume/dentry.ts';
import { FILE_BYTES_MAX, INODE_FROZEN, newInode, S_IFDIR, S_IFREG } from '../../lib/volume/inode.ts';
import { referenceNotes } from '../../lib/volume/references.ts';
import type { Change } from '../meta/change.ts';
import type { VolumeView } from '../meta/view.ts';
import { NAME_MAX } from '../vfs/context.ts';
import type { Progress } from './tool.ts';

/** Files of one commit: an inode, an entry and a note each. */
const PORTION = 100;
const SKIPPED_SHOWN = 20;

/** An object as a file. */
export interface ObjectFile {
  /** Directories and name, as bytes. */
  readonly names: readonly string[];
  readonly object: Omit<ExternalObject, 'kind'>;
  readonly modifiedMs: number;
}

export interface ObjectTreeOptions {
  readonly view: VolumeView;
  readonly quota: number;
  readonly frozen: boolean;
  readonly nowNs: bigint;
  readonly progress: Progress;
}

interface NewFile {
  readonly file: ObjectFile;
  readonly directory: number;
  readonly name: string;
  readonly ino: number;
}

export class ObjectTree {
  readonly #options: ObjectTreeOptions;
  readonly #directories = new Map<string, number>();
  #portion: NewFile[] = [];
  files = 0;
  directories = 0;
  bytes = 0;
  skipped = 0;
  /** The first ones of those that cannot be files here, with the reason. */
  readonly problems: string[] = [];

  constructor(options: ObjectTreeOptions) {
    this.#options = options;
  }

  /** One file, `root`. */
  async file(file: ObjectFile, root: number): Promise<void> {
    await this.#change(root, (change) => this.#addFile(change, file, root));
    this.#counted(file);
  }

  /** A directory `root`, to be linked in `parent`, with all files below it. */
  async tree(files: AsyncIterable<ObjectFile> | Iterable<ObjectFile>, parent: number, root: number): Promise<void> {
    await this.#change(root, (change) => this.#addDirectory(change, root, parent));
    this.directories++;
    this.#directories.set('', root);
    for await (const file of files) await this.#take(file);
    await this.#flush();
  }

  async #take(file: ObjectFile): Promise<void> {
    const shown = Buffer.from(file.names.join('/'), 'latin1').toString();
    const problem = problemOf(file);
    if (problem !== null) {
      this.#skip(shown, problem);
      return;
    }
    const name = file.names.at(-1) ?? '';
    const directory = await this.#directory(file.names.slice(0, -1));
    if (directory === null) {
      this.#skip(shown, 'an object has the name of its folder');
      return;
    }
    this.#portion.push({ file, directory, name, ino: await this.#options.view.newId('ino') });
    if (this.#portion.length >= PORTION) await this.#flush();
  }

  #skip(shown: string, problem: string): void {
    this.skipped++;
    if (this.problems.length < SKIPPED_SHOWN) this.problems.push(`${shown}: ${problem}`);
  }

  /** Null: a file has its name. */
  async #directory(names: readonly string[]): Promise<number | null> {
    const path = names.join('/');
    const known = this.#directories.get(path);
    if (known !== undefined) return known;
    const parent = await this.#directory(names.slice(0, -1));
    if (parent === null) return null;
    // A file of this name may wait for its commit.
    await this.#flush();
    const { view } = this.#options;
    const name = names.at(-1) ?? '';
    if ((await view.entry(parent, name)) !== null) return null;
    const ino = await view.newId('ino');
    await this.#change(ino, async (change) => {
      await this.#addDirectory(change, ino, parent);
      change.putEntry(parent, name, null, ino, DT_DIR);
      change.countSubdirectory(parent);
    });
    this.directories++;
    this.#directories.set(path, ino);
    return ino;
  }

  async #flush(): Promise<void> {
    const portion = this.#portion;
    this.#portion = [];
    const [first] = portion;
    if (first === undefined) return;
    await this.#change(first.ino, async (change) => {
      for (const { file, directory, name, ino } of portion) {
        await this.#addFile(change, file, ino);
        change.putEntry(directory, name, null, ino, DT_REG);
      }
    });
    for (const { file } of portion) this.#counted(file);
  }

  /** Made together with inode `made`, so a commit whose answer was lost is not made again. */
  async #change(made: number, plan: (change: Change) => Promise<void>): Promise<void> {
    const { view } = this.#options;
    await view.change(undefined, async (change) => {
      if ((await view.node(made)) === null) await plan(change);
    });
  }

  async #addFile(change: Change, { object, modifiedMs }: ObjectFile, ino: number): Promise<void> {
    const { view, quota, frozen } = this.#options;
    const size = object.objectBytes;
    const source = { kind: 'external', ...object } as const;
    const extents: Extent[] = size === 0 ? [] : [{ fileOffset: 0, length: size, sliceOffset: 0, source }];
    const mtimeNs = BigInt(Math.floor(modifiedMs)) * 1_000_000n;
    const mode = S_IFREG | (frozen ? 0o444 : 0o644);
    change.addNode(ino, newInode(mode, 0, 0, mtimeNs, { ...this.#fields(), quota, size, extents }));
    change.count(1, size, await view.quotas.account(quota));
    for (const { key, value } of referenceNotes(view.keys, extents)) change.write(key, value);
  }

  async #addDirectory(change: Change, ino: number, parent: number): Promise<void> {
    const { view, quota, nowNs } = this.#options;
    change.addNode(ino, newInode(S_IFDIR | 0o755, 0, 0, nowNs, { ...this.#fields(), quota, parent }));
    change.count(1, 0, await view.quotas.account(quota));
  }

  #fields(): { readonly flags: number; readonly ctimeNs: bigint } {
    const { frozen, nowNs } = this.#options;
    return { flags: frozen ? INODE_FROZEN : 0, ctimeNs: nowNs };
  }

  #counted({ object }: ObjectFile): void {
    this.files++;
    this.bytes += object.objectBytes;
    this.#options.progress('objects published', this.files);
  }
}

function problemOf({ names, object }: ObjectFile): string | null {
  if (names.some((name) => name.length > NAME_MAX)) return `a name is above ${NAME_MAX} bytes`;
  return object.objectBytes > FILE_BYTES_MAX ? `${object.objectBytes} bytes are above the limit of a file` : null;
}
