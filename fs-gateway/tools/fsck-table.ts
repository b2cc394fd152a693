/**
 * What fsck remembers of every inode number while it walks: 22 bytes each (30 with a quota), in pages of PAGE numbers that exist where an inode is.
 * Inode numbers come from a counter, so pages are full but for what was removed: ten million inodes are about 220 MB.
 */
const PAGE = 4096;

/** No record. */
export const ABSENT = 0;
export const FILE = 1;
export const DIRECTORY = 2;
/** A directory of the lake: its names are in listings. */
export const LISTING = 3;
/** There is a record and it cannot be read. */
export const DAMAGED = 4;

interface Page {
  readonly kind: Uint8Array;
  readonly type: Uint8Array;
  readonly nlink: Uint32Array;
  readonly names: Uint32Array;
  readonly subdirectories: Uint32Array;
  readonly parent: Float64Array;
  /** Only where one of them counts to a quota. */
  quota: Float64Array | null;
}

type Counted = 'nlink' | 'names' | 'subdirectories';

export class InodeTable {
  readonly #pages = new Map<number, Page>();

  #page(ino: number): Page {
    const number = Math.floor(ino / PAGE);
    let page = this.#pages.get(number);
    if (page === undefined) {
      const [nlink, names, subdirectories] = [new Uint32Array(PAGE), new Uint32Array(PAGE), new Uint32Array(PAGE)];
      const [kind, type] = [new Uint8Array(PAGE), new Uint8Array(PAGE)];
      page = { kind, type, nlink, names, subdirectories, parent: new Float64Array(PAGE), quota: null };
      this.#pages.set(number, page);
    }
    return page;
  }

  kind(ino: number): number {
    return this.#pages.get(Math.floor(ino / PAGE))?.kind[ino % PAGE] ?? ABSENT;
  }

  isDirectory(ino: number): boolean {
    const kind = this.kind(ino);
    return kind === DIRECTORY || kind === LISTING;
  }

  /** DT_*; 0 where it is not known. */
  type(ino: number): number {
    return this.#pages.get(Math.floor(ino / PAGE))?.type[ino % PAGE] ?? 0;
  }

  set(ino: number, kind: number, type = 0, nlink = 0): void {
    const page = this.#page(ino);
    page.kind[ino % PAGE] = kind;
    page.type[ino % PAGE] = type;
    page.nlink[ino % PAGE] = nlink;
  }

  get(ino: number, what: Counted): number {
    return this.#pages.get(Math.floor(ino / PAGE))?.[what][ino % PAGE] ?? 0;
  }

  increment(ino: number, what: 'names' | 'subdirectories'): void {
    const counts = this.#page(ino)[what];
    counts[ino % PAGE] = (counts[ino % PAGE] ?? 0) + 1;
  }

  /** The directory that names the inode (the first one found); 0: none. */
  parent(ino: number): number {
    return this.#pages.get(Math.floor(ino / PAGE))?.parent[ino % PAGE] ?? 0;
  }

  setParent(ino: number, parent: number): void {
    this.#page(ino).parent[ino % PAGE] = parent;
  }

  /** `Inode.quota`. */
  quota(ino: number): number {
    return this.#pages.get(Math.floor(ino / PAGE))?.quota?.[ino % PAGE] ?? 0;
  }

  setQuota(ino: number, quota: number): void {
    const page = this.#page(ino);
    page.quota ??= new Float64Array(PAGE);
    page.quota[ino % PAGE] = quota;
  }

  /** Numbers with a record, in order of their pages. */
  *inos(): Generator<number> {
    for (const [number, { kind }] of this.#pages) {
      for (let n = 0; n < PAGE; n++) if (kind[n] !== ABSENT) yield number * PAGE + n;
    }
  }
}
