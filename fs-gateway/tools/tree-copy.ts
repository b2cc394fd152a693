/**
 * Copies a tree of a volume as metadata: new inodes whose extents refer to the same objects. It is built where no name leads, until whoever
 * asked for it, and has made the record that says so (building.ts), links its root.
 *
 * Invariants
 * - Each file is as of one commit: its copy compares the source's inode. So its objects are referred to at that moment, and the same
 *   commit notes them for a gc whose walk has passed (references.ts).
 * - Everything counts as it is copied, to the quota that it will be in; EDQUOT ends the copy.
 * - A directory becomes visible in the copy together with its entry, so all of the copy can be reached from its root.
 * Failure: killed at any point, nobody sees the copy, and gc removes it.
 * Limits: CHILDREN_MAX entries and WRITES_MAX records in one commit; numbers of files with several names, and a bit per inode, in memory.
 */
import { PenstockError } from '../../lib/errors.ts';
import type { Key } from '../../lib/meta/engine.ts';
import {
  INODE_FROZEN,
  INODE_IMMUTABLE,
  INODE_INLINE,
  INODE_LISTING,
  INODE_PAGED,
  INODE_TRASHED,
  INODE_XATTRS,
  countedBytes,
  isDirectory,
  S_IFMT,
} from '../../lib/volume/inode.ts';
import type { Inode } from '../../lib/volume/inode.ts';
import { decodeExtentPage, referenceNotes } from '../../lib/volume/references.ts';
import type { Node } from '../meta/cache.ts';
import type { Change } from '../meta/change.ts';
import type { Account } from '../meta/quotas.ts';
import type { VolumeView } from '../meta/view.ts';
import { isReservedIn } from '../vfs/system-directories.ts';
import { IdSet } from './id-set.ts';
import type { Progress } from './tool.ts';

const SCAN_PAGE = 500;
const CHILDREN_MAX = 50;
const WRITES_MAX = 400;
/** Its record, its entry, its content. */
const WRITES_PER_INODE = 3;
const PAGES_PER_COMMIT = 100;
/** Of a file that changes while it is copied. */
const ATTEMPTS_MAX = 20;

export interface CopyOptions {
  readonly view: VolumeView;
  /** What the copy counts to; the number of its root: it is a quota root, whose record exists. */
  readonly quota: number;
  /** Nothing of the copy can be changed. */
  readonly frozen: boolean;
  readonly nowNs: bigint;
  readonly progress: Progress;
}

interface Planned extends Child {
  readonly copy: number;
  readonly directory: boolean;
}

interface Child {
  readonly name: string;
  readonly ino: number;
}

export class TreeCopy {
  readonly #options: CopyOptions;
  readonly #view: VolumeView;
  /** Copies of files with several names. */
  readonly #linked = new Map<number, number>();
  readonly #seen = new IdSet();
  files = 0;
  directories = 0;
  bytes = 0;

  constructor(options: CopyOptions) {
    this.#options = options;
    this.#view = options.view;
  }

  /** Whether the copy has this inode: what changes in it from now on is not in the copy. */
  has(source: number): boolean {
    return this.#seen.has(source);
  }

  /** `root` is a new number, `parent` where it will be linked. */
  async run(source: Node, parent: number, root: number): Promise<void> {
    const copied = await this.#alone(source.ino, root, (change, node) => this.#copy(change, node, root, parent));
    if (!copied) throw new PenstockError('not-found', `inode ${source.ino} was removed`);
    if (!isDirectory(source.inode)) return;
    const left: (readonly [from: number, to: number])[] = [[source.ino, root]];
    for (let next = left.pop(); next !== undefined; next = left.pop()) left.push(...(await this.#directory(...next)));
  }

  /** A quota root counts to those above it. */
  async #account(copy: number): Promise<Account> {
    const account = await this.#view.quotas.account(this.#options.quota);
    return copy === this.#options.quota ? account.slice(1) : account;
  }

  async #directory(from: number, to: number): Promise<readonly (readonly [number, number])[]> {
    const further: (readonly [number, number])[] = [];
    const names = new Set<string>();
    let portion: Child[] = [];
    const flush = async (): Promise<void> => {
      further.push(...(await this.#portion(portion, to)));
      portion = [];
    };
    for await (const child of this.#children(from)) {
      // A scan may give an entry twice.
      if (names.has(child.name) || (await isReservedIn(this.#view, from, child.name))) continue;
      names.add(child.name);
      portion.push(child);
      if (portion.length >= CHILDREN_MAX) await flush();
    }
    if (portion.length > 0) await flush();
    return further;
  }

  async *#children(directory: number): AsyncGenerator<Child> {
    const node = await this.#view.node(directory);
    if (node === null) return;
    if ((node.inode.flags & INODE_LISTING) !== 0) {
      for (const { name, ino } of (await this.#view.lake.get(directory)).entries) yield { name, ino };
      return;
    }
    for (let cursor: string | null = ''; cursor !== null;) {
      const page: Awaited<ReturnType<VolumeView['scan']>> = await this.#view.scan(directory, cursor, SCAN_PAGE);
      for (const [name, { ino }] of page.entries) yield { name, ino };
      cursor = page.cursor;
    }
  }

  /** As many commits as it takes; what was removed meanwhile is left out. Returns the directories to go on with. */
  async #portion(children: readonly Child[], to: number): Promise<readonly (readonly [number, number])[]> {
    const further: (readonly [number, number])[] = [];
    const nodes = await this.#view.nodes(children.map(({ ino }) => ino));
    let simple: Planned[] = [];
    let writes = 0;
    const flush = async (): Promise<void> => {
      for (const { ino, copy, directory } of await this.#together(simple, to)) if (directory) further.push([ino, copy]);
      simple = [];
      writes = 0;
    };
    for (const { name, ino } of children) {
      const inode = nodes.get(ino)?.inode;
      if (inode === undefined) continue;
      const linked = this.#linked.get(ino);
      if (linked !== undefined) {
        await this.#link(linked, name, to);
        continue;
      }
      const directory = isDirectory(inode);
      const copy = await this.#view.newId('ino');
      if (!directory && inode.nlink > 1) this.#linked.set(ino, copy);
      if ((inode.flags & (INODE_PAGED | INODE_XATTRS)) !== 0) {
        const copied = await this.#alone(ino, copy, (change, node) => this.#copyInto(change, node, copy, name, to));
        if (copied && directory) further.push([ino, copy]);
        continue;
      }
      const cost = WRITES_PER_INODE + inode.extents.length;
      if (writes + cost > WRITES_MAX || (!directory && inode.nlink > 1)) await flush();
      simple.push({ name, ino, copy, directory });
      writes += cost;
      // Another name of it may be the next.
      if (!directory && inode.nlink > 1) await flush();
    }
    await flush();
    return further;
  }

  /** Returns what was still there. */
  async #together(parts: readonly Planned[], to: number): Promise<readonly Planned[]> {
    if (parts.length === 0) return [];
    const { value } = await this.#view.change(undefined, async (change) => {
      const copied: Planned[] = [];
      await this.#view.nodes(parts.map(({ ino }) => ino));
      for (const part of parts) {
        const node = await this.#view.node(part.ino);
        // What has more records than it was planned with since then is copied alone.
        const grown = node !== null && (node.inode.flags & (INODE_PAGED | INODE_XATTRS)) !== 0;
        if (node === null || grown) continue;
        await this.#copyInto(change, node, part.copy, part.name, to);
        copied.push(part);
      }
      return copied;
    });
    const copied = new Set(value);
    for (const { ino } of copied) this.#count(ino);
    for (const part of parts) {
      if (copied.has(part)) continue;
      const { ino, copy, name } = part;
      if (await this.#alone(ino, copy, (change, node) => this.#copyInto(change, node, copy, name, to)))
        copied.add(part);
    }
    return [...copied];
  }

  /** What may have many records; false when it was removed. */
  async #alone(source: number, copy: number, fill: (change: Change, node: Node) => Promise<void>): Promise<boolean> {
    for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
      const before = await this.#view.node(source);
      if (before === null) return false;
      if ((before.inode.flags & INODE_PAGED) !== 0) await this.#copyPages(source, copy);
      const { value: copied } = await this.#view.change(undefined, async (change) => {
        const node = await this.#view.node(source);
        if (node?.version !== before.version) return false;
        await fill(change, node);
        return true;
      });
      if (copied !== true) continue;
      this.#count(source);
      return true;
    }
    throw new PenstockError('conflict', `inode ${source} changes too fast to be copied`);
  }

  /** Before the inode that has them: nobody looks for pages of an inode that does not exist, but for gc, which counts them. */
  async #copyPages(source: number, copy: number): Promise<void> {
    const { keys } = this.#view;
    const [from, to] = [keys.pages(source), keys.pages(copy)];
    const written = new Set<string>();
    const engine = await this.#view.engine();
    for (let cursor: string | null = ''; cursor !== null;) {
      const page: Awaited<ReturnType<typeof engine.scan>> = await engine.scan(from, cursor, PAGES_PER_COMMIT);
      for (const [field, { value }] of page.entries) {
        written.add(field);
        const notes = referenceNotes(keys, decodeExtentPage(value, from, field));
        const write = [{ key: { bucket: to, field }, value }, ...notes];
        for (let at = 0; at < write.length; at += WRITES_MAX)
          await engine.commit({ write: write.slice(at, at + WRITES_MAX) });
      }
      cursor = page.cursor;
    }
    // An earlier attempt may have copied pages that are gone.
    const stale = (await this.#view.pageNumbers(copy, Number.MAX_SAFE_INTEGER)).filter(
      (page) => !written.has(String(page)),
    );
    await engine.commit({ write: stale.map((page) => ({ key: keys.page(copy, page), value: null })) });
  }

  async #copyInto(change: Change, node: Node, copy: number, name: string, to: number): Promise<void> {
    await this.#copy(change, node, copy, to);
    change.putEntry(to, name, null, copy, (node.inode.mode & S_IFMT) >> 12);
    if (isDirectory(node.inode)) change.countSubdirectory(to);
  }

  async #copy(change: Change, node: Node, copy: number, parent: number): Promise<void> {
    const { keys } = this.#view;
    const { inode, ino } = node;
    const { quota, frozen, nowNs } = this.#options;
    const directory = isDirectory(inode);
    this.#seen.add(ino);
    change.expectNode(node);
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
    if ((inode.flags & INODE_INLINE) !== 0)
      await this.#copyRecords(change, [[keys.inlineData(ino), keys.inlineData(copy)]]);
    if ((inode.flags & INODE_XATTRS) === 0) return;
    const names = await this.#view.xattrNames(ino);
    await this.#copyRecords(
      change,
      names.map((name) => [keys.xattr(ino, name), keys.xattr(copy, name)]),
    );
  }

  async #copyRecords(change: Change, pairs: readonly (readonly [from: Key, to: Key])[]): Promise<void> {
    const records = await this.#view.read(pairs.map(([from]) => from));
    for (const [index, [, to]] of pairs.entries()) {
      const record = records[index];
      if (record !== null && record !== undefined) change.write(to, record.value);
    }
  }

  async #link(copy: number, name: string, to: number): Promise<void> {
    await this.#view.change(undefined, async (change) => {
      const node = await this.#view.node(copy);
      // Its first name was removed before it could be copied, and this one with it or after it.
      if (node === null) return;
      change.updateNode(node, { ...node.inode, nlink: node.inode.nlink + 1 });
      change.putEntry(to, name, null, copy, (node.inode.mode & S_IFMT) >> 12);
    });
  }

  #count(source: number): void {
    const node = this.#view.cachedNode(source);
    if (node === undefined) return;
    if (isDirectory(node.inode)) this.directories++;
    else this.files++;
    this.bytes += countedBytes(node.inode);
    this.#options.progress('copied', this.files + this.directories);
  }
}
