/**
 * Copies a tree of a volume as metadata: new inodes whose extents refer to the same objects. It is built where no name leads, until whoever
 * asked for it, and has made the record that says so (building.ts) before the source was opened, links its root.
 *
 * Invariants
 * - The copy is as its source (tree-source.ts): all of one instant, or at least each file as of one commit.
 * - An object that the source has stays until the copy refers to it, also when its last file is removed meanwhile: gc waits for copies that are
 *   under way (gc.ts), and each commit notes the objects that it refers to (references.ts). A table does not wait for copies: behind the
 *   note of one of its objects the source is looked at as it is now, and when it has let go of the object, the copy is given up.
 * - Everything counts as it is copied, to the quota that it will be in; EDQUOT ends the copy.
 * - A directory becomes visible in the copy together with its entry, so all of the copy can be reached from its root.
 * Failure: killed at any point, nobody sees the copy, and gc removes it.
 * Limits: CHILDREN_MAX entries and WRITES_MAX records in one commit; numbers of files with several names in memory.
 */
import { PenstockError } from '../../lib/errors.ts';
import type { Write } from '../../lib/meta/engine.ts';
import { InstantLostError } from '../../lib/meta/instant-lost.ts';
import { dentryType } from '../../lib/volume/dentry.ts';
import {
  INODE_FROZEN,
  INODE_IMMUTABLE,
  INODE_LISTING,
  INODE_PAGED,
  INODE_TRASHED,
  INODE_XATTRS,
  countedBytes,
  isDirectory,
} from '../../lib/volume/inode.ts';
import type { Inode } from '../../lib/volume/inode.ts';
import { referenceNotes } from '../../lib/volume/references.ts';
import type { Node } from '../meta/cache.ts';
import type { Change } from '../meta/change.ts';
import type { Account } from '../meta/quotas.ts';
import type { VolumeView } from '../meta/view.ts';
import { isReservedIn } from '../vfs/system-directories.ts';
import type { Progress } from './tool.ts';
import { lakeKeys, TreeSource } from './tree-source.ts';
import type { Child, Part } from './tree-source.ts';

const CHILDREN_MAX = 100;
const WRITES_MAX = 400;
/** Its record, its entry, its content. */
const WRITES_PER_INODE = 3;
/** Of a file that changes while it is copied. */
const ATTEMPTS_MAX = 20;

export interface CopyOptions {
  readonly view: VolumeView;
  readonly source: TreeSource;
  /** What the copy counts to; the number of its root: it is a quota root, whose record exists. */
  readonly quota: number;
  /** Nothing of the copy can be changed. */
  readonly frozen: boolean;
  readonly nowNs: bigint;
  readonly progress: Progress;
}

interface Planned {
  readonly part: Part;
  readonly copy: number;
  readonly name: string;
}

/** A directory whose children are to be copied. */
interface Directory {
  readonly node: Node;
  readonly copy: number;
}

export class TreeCopy {
  readonly #options: CopyOptions;
  readonly #view: VolumeView;
  readonly #source: TreeSource;
  /** Copies of files with several names. */
  readonly #linked = new Map<number, number>();
  files = 0;
  directories = 0;
  bytes = 0;

  constructor(options: CopyOptions) {
    this.#options = options;
    this.#view = options.view;
    this.#source = options.source;
  }

  /** `root` is a new number, `parent` where it will be linked. Throws `not-found`, InstantLostError. */
  async run(from: number, parent: number, root: number): Promise<void> {
    const node = await this.#alone(from, root, (change, part) => this.#copy(change, part, root, parent));
    if (node === null) throw new PenstockError('not-found', `inode ${from} was removed`);
    const left: Directory[] = isDirectory(node.inode) ? [{ node, copy: root }] : [];
    for (let next = left.pop(); next !== undefined; next = left.pop()) left.push(...(await this.#directory(next)));
  }

  /** A quota root counts to those above it. */
  async #account(copy: number): Promise<Account> {
    const account = await this.#view.quotas.account(this.#options.quota);
    return copy === this.#options.quota ? account.slice(1) : account;
  }

  async #directory({ node, copy }: Directory): Promise<readonly Directory[]> {
    const further: Directory[] = [];
    let portion: Child[] = [];
    for await (const child of this.#source.children(node)) {
      if (await isReservedIn(this.#source, node.ino, child.name)) continue;
      portion.push(child);
      if (portion.length < CHILDREN_MAX) continue;
      further.push(...(await this.#portion(portion, copy)));
      portion = [];
    }
    if (portion.length > 0) further.push(...(await this.#portion(portion, copy)));
    return further;
  }

  /** As many commits as it takes; what is not there is left out. Returns the directories to go on with. */
  async #portion(children: readonly Child[], to: number): Promise<readonly Directory[]> {
    const further: Directory[] = [];
    const parts = await this.#source.parts(children.map(({ ino }) => ino));
    let simple: Planned[] = [];
    let writes = 0;
    const flush = async (): Promise<void> => {
      await this.#together(simple, to);
      simple = [];
      writes = 0;
    };
    for (const { name, ino } of children) {
      const linked = this.#linked.get(ino);
      if (linked !== undefined) {
        await flush();
        await this.#link(linked, name, to);
        continue;
      }
      const copy = await this.#view.newId('ino');
      const part = parts.get(ino);
      let node: Node | null = part?.node ?? null;
      if (part === undefined || (part.node.inode.flags & (INODE_PAGED | INODE_XATTRS)) !== 0) {
        node = await this.#alone(ino, copy, (change, fresh) => this.#copyInto(change, { part: fresh, copy, name }, to));
      } else {
        const cost = WRITES_PER_INODE + part.node.inode.extents.length;
        if (writes + cost > WRITES_MAX) await flush();
        simple.push({ part, copy, name });
        writes += cost;
      }
      if (node === null) continue;
      if (isDirectory(node.inode)) further.push({ node, copy });
      else if (node.inode.nlink > 1) this.#linked.set(ino, copy);
    }
    await flush();
    return further;
  }

  async #together(parts: readonly Planned[], to: number): Promise<void> {
    if (parts.length === 0) return;
    await this.#view.change(undefined, async (change) => {
      for (const planned of parts) await this.#copyInto(change, planned, to);
    });
    for (const { part } of parts) this.#count(part.node);
    await this.#assertKept(parts.map(({ part }) => part.node));
  }

  /** What may have many records. Null when it is not there. */
  async #alone(from: number, copy: number, fill: (change: Change, part: Part) => Promise<void>): Promise<Node | null> {
    for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
      const part = (await this.#source.parts([from])).get(from);
      if (part === undefined) {
        if ((await this.#source.node(from)) === null) return null;
        continue;
      }
      const { node } = part;
      if ((node.inode.flags & INODE_PAGED) !== 0) await this.#copyPages(from, copy);
      if (!(await this.#source.unchanged(node))) continue;
      await this.#view.change(undefined, (change) => fill(change, part));
      this.#count(node);
      await this.#assertKept([node]);
      return node;
    }
    throw new PenstockError('conflict', `inode ${from} changes too fast to be copied`);
  }

  /** Before the inode that has them: nobody looks for pages of an inode that does not exist, but for gc, which counts them. */
  async #copyPages(from: number, copy: number): Promise<void> {
    const { keys } = this.#view;
    const written = new Set<string>();
    const engine = await this.#view.engine();
    let write: Write[] = [];
    const flush = async (): Promise<void> => {
      for (let at = 0; at < write.length; at += WRITES_MAX)
        await engine.commit({ write: write.slice(at, at + WRITES_MAX) });
      write = [];
    };
    for await (const { field, value, extents } of this.#source.pages(from)) {
      written.add(field);
      write.push(...referenceNotes(keys, extents), { key: { bucket: keys.pages(copy), field }, value });
      if (write.length >= WRITES_MAX) await flush();
    }
    // An earlier attempt may have copied pages that are gone.
    const stale = (await this.#view.pageNumbers(copy, Number.MAX_SAFE_INTEGER)).filter(
      (page) => !written.has(String(page)),
    );
    write.push(...stale.map((page) => ({ key: keys.page(copy, page), value: null })));
    await flush();
  }

  async #copyInto(change: Change, { part, copy, name }: Planned, to: number): Promise<void> {
    await this.#copy(change, part, copy, to);
    change.putEntry(to, name, null, copy, dentryType(part.node.inode.mode));
    if (isDirectory(part.node.inode)) change.countSubdirectory(to);
  }

  async #copy(change: Change, { node, inline, xattrs }: Part, copy: number, parent: number): Promise<void> {
    const { keys } = this.#view;
    const { inode } = node;
    const { quota, frozen, nowNs } = this.#options;
    const directory = isDirectory(inode);
    const fields: Partial<Inode> = {
      ctimeNs: frozen ? inode.ctimeNs : nowNs,
      quota,
      nlink: directory ? 2 : 1,
      parent: directory ? parent : 0,
    };
    const dropped = INODE_FROZEN | INODE_IMMUTABLE | INODE_LISTING | INODE_TRASHED;
    // What a listing shows are plain entries in the copy; their times are those of the original.
    const mtimeNs = directory && node.entriesChangedNs > inode.mtimeSetNs ? node.entriesChangedNs : inode.mtimeNs;
    const flags = (inode.flags & ~dropped) | (frozen ? INODE_FROZEN : 0);
    change.addNode(copy, { ...inode, ...fields, flags, mtimeNs, mtimeSetNs: nowNs });
    change.count(1, countedBytes(inode), await this.#account(copy));
    for (const { key, value } of referenceNotes(keys, inode.extents)) change.write(key, value);
    if (inline !== null) change.write(keys.inlineData(copy), inline);
    for (const [name, value] of xattrs) change.write(keys.xattr(copy, name), value);
  }

  async #link(copy: number, name: string, to: number): Promise<void> {
    await this.#view.change(undefined, async (change) => {
      const node = await this.#view.node(copy);
      if (node === null) throw new PenstockError('corrupt', `the copy at inode ${copy} is gone`);
      change.updateNode(node, { ...node.inode, nlink: node.inode.nlink + 1 });
      change.putEntry(to, name, null, copy, dentryType(node.inode.mode));
    });
  }

  /** Their objects of the lake are noted from here on; a clean-up that came before has taken the files. Throws InstantLostError. */
  async #assertKept(nodes: readonly Node[]): Promise<void> {
    // (What a clone has of the lake is noted already.)
    const wanting = nodes.filter(({ inode }) => (inode.flags & INODE_IMMUTABLE) !== 0);
    if (wanting.length === 0) return;
    const now = TreeSource.live(await this.#view.engine(), this.#view.keys);
    const found = await now.nodes(wanting.map(({ ino }) => ino));
    for (const { ino, inode } of wanting) {
      const kept = new Set(lakeKeys(found.get(ino)?.inode.extents ?? []));
      if (lakeKeys(inode.extents).every((key) => kept.has(key))) continue;
      throw new InstantLostError(this.#view.keys.volume, `a file of the lake (inode ${ino}) was removed`);
    }
  }

  #count({ inode }: Node): void {
    if (isDirectory(inode)) this.directories++;
    else this.files++;
    this.bytes += countedBytes(inode);
    this.#options.progress('copied', this.files + this.directories);
  }
}
