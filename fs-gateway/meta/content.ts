/**
 * Where a file's committed content is: its inline bytes, the extents in its inode, or those in its pages; cached under the version of
 * the inode, which every commit of content changes.
 *
 * Invariant: what is kept under a version is of that version. The inode is read behind the content, in one round trip: if it still has the version, the
 * content was of it, because versions never come back. Else the view is brought up to date, and who looks again reads what the file has become.
 * Limits: INLINE_KEPT files' inline bytes (16 KiB each by default), PAGES_KEPT pages.
 */
import type { Stored } from '../../lib/meta/engine.ts';
import { PenstockError } from '../../lib/errors.ts';
import { ByteReader, ByteWriter } from '../../lib/volume/bytes.ts';
import { readExtents, writeExtents } from '../../lib/volume/extents.ts';
import type { Extent } from '../../lib/volume/extents.ts';
import { INODE_INLINE, INODE_PAGED } from '../../lib/volume/inode.ts';
import { PAGE_BYTES } from '../../lib/volume/keys.ts';
import { BoundedMap } from './bounded-map.ts';
import type { Node } from './cache.ts';
import type { VolumeView } from './view.ts';

const INLINE_KEPT = 2048;
const PAGES_KEPT = 2048;
/** Pages read by one round trip. */
const PAGES_PER_READ = 64;

interface Versioned<T> {
  readonly version: string;
  readonly value: T;
}

export interface ExtentPage {
  readonly page: number;
  readonly stored: Stored | null;
  readonly extents: readonly Extent[];
}

const EMPTY = Buffer.alloc(0);
const scratch = new ByteWriter();

export function encodePage(extents: readonly Extent[]): Buffer {
  const writer = scratch.reset();
  writeExtents(writer, extents);
  return writer.finish();
}

export function pageOf(offset: number): number {
  return Math.floor(offset / PAGE_BYTES);
}

export class Content {
  readonly #view: VolumeView;
  readonly #inline = new BoundedMap<number, Versioned<Buffer>>(INLINE_KEPT);
  readonly #pages = new BoundedMap<string, Versioned<ExtentPage>>(PAGES_KEPT);

  constructor(view: VolumeView) {
    this.#view = view;
  }

  /** The bytes kept in the metadata; what the file has beyond them is zeros. Only for inodes with INODE_INLINE. */
  inline(node: Node): Buffer | Promise<Buffer> {
    return this.keptInline(node) ?? this.#readInline(node).then(({ bytes }) => bytes);
  }

  keptInline({ ino, version }: Node): Buffer | undefined {
    const kept = this.#inline.get(ino);
    return kept?.version === version ? kept.value : undefined;
  }

  /** Undefined: the file has another version by now, and so has the view. */
  async inlineOf(node: Node): Promise<Buffer | undefined> {
    const { bytes, isOf } = await this.#readInline(node);
    return isOf ? bytes : undefined;
  }

  async #readInline(node: Node): Promise<{ readonly bytes: Buffer; readonly isOf: boolean }> {
    const { keys } = this.#view;
    const [stored = null, inode = null] = await this.#view.read([keys.inlineData(node.ino), keys.inode(node.ino)]);
    const isOf = inode?.version === node.version;
    // It may have become larger than what the metadata keep.
    if (stored === null && (isOf || inode === null)) {
      throw new PenstockError('corrupt', `inode ${node.ino} has no content record`);
    }
    const bytes = stored?.value ?? EMPTY;
    if (isOf) this.keepInline(node, bytes);
    else await this.#refresh(node);
    return { bytes, isOf };
  }

  /** The feed has not told yet of another version. */
  async #refresh({ ino, version }: Node): Promise<void> {
    const { node } = await this.#view.checkedNode(ino, []);
    if (node !== null && node.version !== version) this.#view.announceStale(ino);
  }

  keepInline(node: Node, value: Buffer): void {
    this.#inline.set(node.ino, { version: node.version, value });
  }

  /** The extents that may touch [from, to); at once when they are in the inode or cached. Empty for inline files. */
  extents(node: Node, from: number, to: number): readonly Extent[] | Promise<readonly Extent[]> {
    const { flags, extents } = node.inode;
    if ((flags & INODE_INLINE) !== 0) return [];
    if ((flags & INODE_PAGED) === 0) return extents;
    const first = pageOf(from);
    const last = pageOf(Math.max(from, to - 1));
    if (first === last) {
      const kept = this.#pages.get(`${node.ino}/${first}`);
      if (kept?.version === node.version) return kept.value.extents;
    }
    return this.pages(node, first, last).then((pages) => pages.flatMap((page) => page.extents));
  }

  /** All of them. Undefined: the file has another version by now, and so has the view. */
  async extentsOf(node: Node): Promise<readonly Extent[] | undefined> {
    const last = pageOf(Math.max(0, node.inode.size - 1));
    const { pages, isOf } = await this.#readPages(node, 0, last);
    return isOf ? pages.flatMap((page) => page.extents) : undefined;
  }

  /** The pages first..last, in order, with their stored versions. */
  async pages(node: Node, first: number, last: number): Promise<ExtentPage[]> {
    return (await this.#readPages(node, first, last)).pages;
  }

  async #readPages(
    node: Node,
    first: number,
    last: number,
  ): Promise<{ readonly pages: ExtentPage[]; readonly isOf: boolean }> {
    const { keys } = this.#view;
    const pages: ExtentPage[] = [];
    let isOf = true;
    for (let start = first; start <= last; start += PAGES_PER_READ) {
      const numbers = Array.from({ length: Math.min(PAGES_PER_READ, last - start + 1) }, (_, n) => start + n);
      const wanted = [...numbers.map((page) => keys.page(node.ino, page)), keys.inode(node.ino)];
      const records = await this.#view.read(wanted);
      isOf &&= records[numbers.length]?.version === node.version;
      for (const [index, page] of numbers.entries()) {
        const stored = records[index] ?? null;
        const read = { page, stored, extents: stored === null ? [] : decodePage(stored.value, node.ino, page) };
        if (isOf) this.#pages.set(`${node.ino}/${page}`, { version: node.version, value: read });
        pages.push(read);
      }
    }
    if (!isOf) await this.#refresh(node);
    return { pages, isOf };
  }
}

function decodePage(value: Buffer, ino: number, page: number): Extent[] {
  const reader = new ByteReader(value, `extent page ${page} of inode ${ino}`);
  const extents = readExtents(reader);
  reader.end();
  return extents;
}
