/**
 * Where a file's committed content is: its inline bytes, the extents in its inode, or those in its pages; cached under the version of
 * the inode, which every commit of content changes.
 *
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
    const kept = this.#inline.get(node.ino);
    return kept?.version === node.version ? kept.value : this.#readInline(node);
  }

  async #readInline(node: Node): Promise<Buffer> {
    const [stored] = await this.#view.read([this.#view.keys.inlineData(node.ino)]);
    if (stored === null || stored === undefined) {
      throw new PenstockError('corrupt', `inode ${node.ino} has no content record`);
    }
    this.keepInline(node, stored.value);
    return stored.value;
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

  /** The pages first..last, in order, with their stored versions. */
  async pages(node: Node, first: number, last: number): Promise<ExtentPage[]> {
    const { keys } = this.#view;
    const pages: ExtentPage[] = [];
    for (let start = first; start <= last; start += PAGES_PER_READ) {
      const numbers = Array.from({ length: Math.min(PAGES_PER_READ, last - start + 1) }, (_, n) => start + n);
      const records = await this.#view.read(numbers.map((page) => keys.page(node.ino, page)));
      for (const [index, page] of numbers.entries()) {
        const stored = records[index] ?? null;
        const read = { page, stored, extents: stored === null ? [] : decodePage(stored.value, node.ino, page) };
        this.#pages.set(`${node.ino}/${page}`, { version: node.version, value: read });
        pages.push(read);
      }
    }
    return pages;
  }
}

function decodePage(value: Buffer, ino: number, page: number): Extent[] {
  const reader = new ByteReader(value, `extent page ${page} of inode ${ino}`);
  const extents = readExtents(reader);
  reader.end();
  return extents;
}
