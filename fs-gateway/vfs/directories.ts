/**
 * Reading directories: entries in pages of the engine's scan, with cookies that stay good when the directory changes. One that the cache
 * knows whole, and that is not large, is one page without a round trip.
 *
 * A cookie is (page, position in the page): the page's scan cursor is kept per open directory, and within a page the entries are in
 * the order of a hash of their names, so an entry that goes away moves no other. Hashes of the names given are remembered while the
 * directory is open, because a scan may return an entry twice. The page before the current one is kept as it was given: a reply that is full at the end of a
 * page goes on from there, and what the two have is not scanned, and given, again.
 * A page is as of its scan. Once an entry of the directory has changed, what is left of the page is given as names only: attributes would
 * make the kernel enter a name that may be gone by now, and keep it.
 * The kernel keeps listings that it has read whole. It is told to go on using one as long as nobody else has changed the directory since
 * (its own changes it knows itself).
 * Limits: twice PAGE_ENTRIES, or WHOLE_MAX, in memory per open directory beside the hashes. After the worker's death pages are found again by
 * scanning from the start; where entries of earlier pages went away meanwhile, the borders of pages may have moved by as many.
 */
import { DT_DIR, DT_REG } from '../../lib/volume/dentry.ts';
import { INODE_LISTING, isDirectory, isRegular } from '../../lib/volume/inode.ts';
import { ROOT_INO } from '../../lib/volume/keys.ts';
import { BoundedMap } from '../meta/bounded-map.ts';
import type { CachedEntry, Node, Watch } from '../meta/cache.ts';
import type { EntryPage } from '../meta/directory-pages.ts';
import type { Context } from './context.ts';
import { nodeOrThrow } from './context.ts';
import { entryOfNode } from './attributes.ts';
import { isReservedIn } from './system-directories.ts';
import type { DirectoryEntry, Entry, OpenResult } from './operations.ts';
import { NameSet } from './name-set.ts';
import { Errno, PosixError } from './operations.ts';

const PAGE_ENTRIES = 1000;
/** More entries than that are not one page: putting them in order would keep others waiting for some milliseconds. */
const WHOLE_MAX = 8192;
/** The number of a page with all entries: behind those that a scan can have. */
const WHOLE = 2 ** 20;
/** Directories whose listings the kernel may still have. */
const KEPT_MAX = 16_384;
/** Of an open directory. */
const PAGES_KEPT = 2;
/** `.` and `..` have the cookies 1 and 2; a page's entries begin behind them. */
const DOTS = 2;
const POSITION_BITS = 32;
const POSITIONS = 2 ** POSITION_BITS;
/** Positions (below 2^32) times this are safe integers. */
const INDICES = 2 ** 21;

interface Listed {
  readonly name: string;
  readonly ino: number;
  readonly type: number;
  /** Order within the page: hash of the name, made unique. */
  position: number;
  /** Undefined in listings of the lake. */
  readonly record: CachedEntry | undefined;
}

interface Page {
  readonly index: number;
  readonly entries: readonly Listed[];
  /** Null: the last page. */
  readonly next: string | null;
  /** Absent for listings of the lake, which are not changed entry by entry. */
  readonly watch?: Watch;
}

class OpenDirectory {
  /** Cursor of each page that was reached. */
  readonly cursors: string[] = [''];
  /** The names of the pages up to `givenTo`. */
  readonly given = new NameSet();
  givenTo = -1;
  /** PAGES_KEPT at most, the last one that was read behind the others. */
  pages: readonly Page[] = [];
}

export class Directories {
  readonly #context: Context;
  readonly #open = new Map<bigint, OpenDirectory>();
  readonly #kept = new BoundedMap<number, true>(KEPT_MAX);
  /** What is written and not committed, for the sizes in READDIRPLUS. */
  readonly #entry: (ino: number) => Entry | undefined;

  constructor(context: Context, entry: (ino: number) => Entry | undefined) {
    this.#context = context;
    this.#entry = entry;
  }

  open(handle: bigint, { ino, inode }: Node): OpenResult {
    this.#open.set(handle, new OpenDirectory());
    if ((inode.flags & INODE_LISTING) !== 0) return { handle };
    const keepCache = this.#kept.get(ino) === true;
    if (!keepCache) this.#kept.set(ino, true);
    return { handle, cacheDirectory: true, keepCache };
  }

  release(handle: bigint): void {
    const directory = this.#open.get(handle);
    if (directory !== undefined) this.#keep(directory, []);
    this.#open.delete(handle);
  }

  /** Somebody else changed the directory, or one of its entries. */
  changed(ino: number): void {
    this.#kept.delete(ino);
  }

  everythingChanged(): void {
    this.#kept.clear();
  }

  #keep(directory: OpenDirectory, pages: readonly Page[]): void {
    for (const page of directory.pages) {
      if (page.watch !== undefined && !pages.includes(page)) this.#context.view.unwatch(page.watch);
    }
    directory.pages = pages;
  }

  async read(
    ino: number,
    handle: bigint,
    cookie: bigint,
    plus: boolean,
    accept: (entry: DirectoryEntry) => boolean,
  ): Promise<void> {
    const node = await nodeOrThrow(this.#context.view, ino);
    if (!isDirectory(node.inode)) throw new PosixError(Errno.ENOTDIR, `inode ${ino} is not a directory`);
    let directory = this.#open.get(handle);
    if (directory === undefined) this.#open.set(handle, (directory = new OpenDirectory()));
    let at = Number(cookie);
    if (at === 0) {
      directory.given.clear();
      directory.givenTo = -1;
      this.#keep(directory, []);
      directory.cursors.length = 1;
    }
    if (at < 1 && !accept({ name: '.', ino: BigInt(ino), type: DT_DIR, cookie: 1n })) return;
    const parent = BigInt(node.inode.parent === 0 ? ROOT_INO : node.inode.parent);
    if (at < DOTS && !accept({ name: '..', ino: parent, type: DT_DIR, cookie: 2n })) return;
    if (at < DOTS) at = DOTS;
    const listing = (node.inode.flags & INODE_LISTING) !== 0;
    if (at === DOTS && !listing && this.#context.view.isWhole(ino, WHOLE_MAX)) at += WHOLE * POSITIONS;
    while (true) {
      const index = Math.floor(at / POSITIONS);
      const page = await this.#page(ino, listing, directory, index);
      const from = firstBehind(page.entries, at - index * POSITIONS);
      if (!(await this.#give(ino, page, from, plus, accept))) return;
      if (page.next === null) return;
      at = (index + 1) * POSITIONS + DOTS;
    }
  }

  /** False when the reply is full. */
  async #give(
    directory: number,
    { index, entries, watch }: Page,
    from: number,
    plus: boolean,
    accept: (entry: DirectoryEntry) => boolean,
  ): Promise<boolean> {
    const { view, ttlMs, told } = this.#context;
    let fetched: ReadonlyMap<number, Node> | undefined;
    let fetchedTo = 0;
    for (let at = from; at < entries.length; at++) {
      const listed = entries[at];
      if (listed === undefined) break;
      const { name, type, record } = listed;
      const attributes = plus && watch?.changed !== true;
      let node = attributes ? (view.cachedNode(listed.ino) ?? fetched?.get(listed.ino)) : undefined;
      if (attributes && node === undefined && at >= fetchedTo) {
        // Also what this reply has no room for: the next ones find theirs in the cache.
        const next = entries.slice(at, at + PAGE_ENTRIES);
        fetched = await view.nodes(next.map((entry) => entry.ino));
        fetchedTo = at + next.length;
        node = watch?.changed === true ? undefined : fetched.get(listed.ino);
      }
      const ino = BigInt(listed.ino);
      const cookie = BigInt(index * POSITIONS + listed.position);
      if (node === undefined) {
        if (!accept({ name, ino, type, cookie })) return false;
      } else {
        const entry = this.#entry(listed.ino) ?? entryOfNode(node, ttlMs);
        if (!accept({ name, ino, type, cookie, entry })) return false;
        // With attributes the kernel enters the name.
        if (record === undefined) continue;
        if (isRegular(node.inode)) told.tell(listed.ino, { parent: directory, name }, record.heldAt);
        if (record.told !== true) view.tellEntry(directory, name, record);
      }
    }
    return true;
  }

  async #page(ino: number, listing: boolean, directory: OpenDirectory, index: number): Promise<Page> {
    const kept = directory.pages.find((page) => page.index === index);
    if (kept !== undefined) return kept;
    const cursor = index === WHOLE ? '' : directory.cursors[index];
    if (cursor === undefined) {
      // A handle of a previous worker: its pages are found again from the start.
      for (let known = directory.cursors.length - 1; known < index; known++) {
        if ((await this.#page(ino, listing, directory, known)).next === null) return { index, entries: [], next: null };
      }
      return this.#page(ino, listing, directory, index);
    }
    const page = listing
      ? await this.#lakePage(ino, cursor, index)
      : await this.#scanPage(ino, cursor, index, directory);
    if (page.next !== null) directory.cursors[index + 1] = page.next;
    this.#keep(directory, [...directory.pages, page].slice(-PAGES_KEPT));
    return page;
  }

  async #scanPage(ino: number, cursor: string, index: number, directory: OpenDirectory): Promise<Page> {
    const { view } = this.#context;
    const watch = view.watch(ino);
    let page: EntryPage;
    try {
      page =
        index === WHOLE
          ? { entries: await view.directories.all(ino, PAGE_ENTRIES), cursor: null }
          : await view.directories.scan(ino, cursor, PAGE_ENTRIES);
    } catch (error) {
      view.unwatch(watch);
      throw error;
    }
    // An entry that the scan gives again in a later page was given before. A page that is read again (a seek back) is given as it is.
    const first = index !== WHOLE && index > directory.givenTo;
    if (first) directory.givenTo = index;
    const listed: Listed[] = [];
    for (const [name, record] of page.entries) {
      if (name.startsWith('.') && (await isReservedIn(view, ino, name))) continue;
      if (first && !directory.given.add(name)) continue;
      listed.push(listedOf(name, record.ino, record.type, record));
    }
    return { index, entries: inOrder(listed), next: page.cursor, watch };
  }

  /** Listings have their names in order: the cursor is the last name given. */
  async #lakePage(ino: number, cursor: string, index: number): Promise<Page> {
    const { entries } = await this.#context.view.lake.get(ino);
    const start = cursor === '' ? 0 : entries.findIndex((entry) => entry.name > cursor);
    const portion = start < 0 ? [] : entries.slice(start, start + PAGE_ENTRIES);
    const last = portion.at(-1);
    return {
      index,
      entries: inOrder(portion.map(({ name, ino: file }) => listedOf(name, file, DT_REG))),
      next: last === undefined || start + portion.length >= entries.length ? null : last.name,
    };
  }
}

function listedOf(name: string, ino: number, type: number, record?: CachedEntry): Listed {
  return { name, ino, type, position: DOTS + 1 + (hashOf(name) % (POSITIONS / 2)), record };
}

/** Sorts them, and makes their positions unique. */
function inOrder(entries: readonly Listed[]): readonly Listed[] {
  const sorted = byPosition(entries);
  let last = 0;
  for (const entry of sorted) {
    last = Math.max(entry.position, last + 1);
    entry.position = last;
  }
  return sorted;
}

/** As numbers, with the index behind the position, they are sorted without a call of JavaScript for each comparison. */
function byPosition(entries: readonly Listed[]): Listed[] {
  const sorted: Listed[] = [];
  let unique = entries.length <= INDICES;
  if (unique) {
    for (const key of Float64Array.from(entries, ({ position }, index) => position * INDICES + index).sort()) {
      const entry = entries[key % INDICES];
      if (entry === undefined) continue;
      unique &&= entry.position !== sorted.at(-1)?.position;
      sorted.push(entry);
    }
  }
  if (unique) return sorted;
  // The order of those with one hash must not depend on that of the scan.
  return entries.toSorted((a, b) => a.position - b.position || (a.name < b.name ? -1 : 1));
}

/** The index of the first entry behind a position. */
function firstBehind(entries: readonly Listed[], position: number): number {
  let low = 0;
  let high = entries.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((entries[middle]?.position ?? 0) <= position) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** FNV-1a over the name's bytes. */
function hashOf(name: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < name.length; i++) hash = Math.imul(hash ^ name.charCodeAt(i), 0x01000193);
  return hash >>> 0;
}
