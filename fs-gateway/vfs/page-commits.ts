/**
 * The extents of large files, in pages (lib/volume/keys.ts), as a flush commits them: all of it by one commit, unless it touches more pages than fit.
 *
 * Invariants
 * - Each commit replaces pages and inode together, so the size is always that of the extents, and whoever looks (readers, clones, the next worker
 *   after a kill) finds the state after one of the commits.
 * - A flush in parts is one of its lower ranges first: each part is what a flush of these ranges alone would be. A far truncate goes from the end of
 *   the file, each part a truncate by itself.
 * Failure: killed between two parts, what is committed stays, and the journal has the whole flush still: it is done again.
 * Limits: PAGES_PER_COMMIT pages (44 GiB of a file) in a part. What was appended is never parted, as its place would move.
 */
import { extentsWithin } from '../../lib/volume/extents.ts';
import type { Extent } from '../../lib/volume/extents.ts';
import { INODE_PAGED } from '../../lib/volume/inode.ts';
import { PAGE_BYTES } from '../../lib/volume/keys.ts';
import { mergeExtents } from '../data/merge-extents.ts';
import type { Range } from '../data/overlay.ts';
import type { Flush, StagedFile } from '../data/staged-file.ts';
import type { Node } from '../meta/cache.ts';
import type { Change } from '../meta/change.ts';
import { encodePage, pageOf } from '../meta/content.ts';
import type { Context } from './context.ts';

const PAGES_PER_COMMIT = 700;
/** With those of extents that were in the inode: an engine takes 1000 records. */
const PAGES_MAX = 950;
/** Left behind the new end for the flush itself to remove. */
const FAR_MAX = 100;
/** A hole of so many pages is looked at page by page; of a larger one only the pages that there are. */
const HOLE_PAGES_MAX = 64;

export interface FlushPart {
  readonly flush: Flush;
  readonly ranges: readonly Range[];
  readonly uploaded: readonly Extent[];
}

export function sizeAfter(node: Node, flush: Flush): number {
  return flush.sizeSet ? flush.size : Math.max(node.inode.size, flush.size);
}

export class PageCommits {
  readonly #context: Context;
  readonly #commitAttributes: (change: Change, node: Node, flush: Flush, size: number) => Promise<void>;

  constructor(
    context: Context,
    commitAttributes: (change: Change, node: Node, flush: Flush, size: number) => Promise<void>,
  ) {
    this.#context = context;
    this.#commitAttributes = commitAttributes;
  }

  /** Removes what is far behind the end that the flush sets. */
  async cutFar(file: StagedFile, flush: Flush): Promise<void> {
    const { view, away } = this.#context;
    const { ino } = file;
    while (flush.sizeSet) {
      const before = await view.node(ino);
      if (before === null || (before.inode.flags & INODE_PAGED) === 0) return;
      const behind = (await this.#existing(ino)).filter((page) => page > pageOf(flush.size));
      if (behind.length <= FAR_MAX) return;
      const gone = behind.slice(-PAGES_PER_COMMIT);
      const end = (gone[0] ?? 0) * PAGE_BYTES;
      await view.change(undefined, async (change) => {
        const node = await view.node(ino);
        if (node === null) return;
        for (const page of gone) change.write(view.keys.page(ino, page), null);
        const size = Math.min(node.inode.size, end);
        await this.#commitAttributes(change, node, { ...flush, size, sizeSet: true }, size);
      });
      away.settled(file, view.cachedNode(ino));
    }
  }

  /** `ranges` and `uploaded` in the order of their offsets. */
  async parts(
    node: Node,
    flush: Flush,
    ranges: readonly Range[],
    uploaded: readonly Extent[],
  ): Promise<readonly (FlushPart & { readonly last: boolean })[]> {
    const whole = { flush, ranges, uploaded, last: true };
    if (flush.append !== undefined) return [whole];
    const pages = await this.#touched(node.ino, ranges);
    const parts: (FlushPart & { readonly last: boolean })[] = [];
    for (let at = 0; at < pages.length; at += PAGES_PER_COMMIT) {
      const from = at === 0 ? 0 : (pages[at] ?? 0) * PAGE_BYTES;
      const next = pages[at + PAGES_PER_COMMIT];
      const to = next === undefined ? Infinity : next * PAGE_BYTES;
      parts.push({
        flush: next === undefined ? flush : { ...flush, sizeSet: false, size: Math.min(flush.size, to) },
        ranges: ranges
          .filter((range) => range.start < to && range.end > from)
          .map((range) => ({ ...range, start: Math.max(range.start, from), end: Math.min(range.end, to) })),
        uploaded: extentsWithin(uploaded, from, to),
        last: next === undefined,
      });
    }
    return parts.length === 0 ? [whole] : parts;
  }

  /** The file's extents become pages. */
  begin(change: Change, ino: number, extents: readonly Extent[]): void {
    const pages = Map.groupBy(cutAtPages(extents), (extent) => pageOf(extent.fileOffset));
    for (const [page, list] of pages) change.write(this.#context.view.keys.page(ino, page), encodePage(list));
  }

  /** Writes what changes of the pages. False: others have made the file larger than one commit can cut it. */
  async put(change: Change, node: Node, { flush, ranges, uploaded }: FlushPart, size: number): Promise<boolean> {
    const { view, content } = this.#context;
    const touched = new Set(await this.#touched(node.ino, ranges));
    if (flush.sizeSet && size < node.inode.size) {
      for (const page of await this.#existing(node.ino)) if (page >= pageOf(size)) touched.add(page);
    }
    if (touched.size > PAGES_MAX) return false;
    const cut = cutAtPages(uploaded);
    for (const number of [...touched].sort((a, b) => a - b)) {
      const [page] = await content.pages(node, number, number);
      if (page === undefined) continue;
      const from = number * PAGE_BYTES;
      const within = ranges.filter((range) => range.start < from + PAGE_BYTES && range.end > from);
      const list = mergeExtents(page.extents, within, extentsWithin(cut, from, from + PAGE_BYTES), size);
      const key = view.keys.page(node.ino, number);
      change.expectOther(key, page.stored?.version ?? null);
      change.write(key, list.length === 0 ? null : encodePage(list));
    }
    return true;
  }

  /** The pages that have, or may have, something in the ranges. */
  async #touched(ino: number, ranges: readonly Range[]): Promise<number[]> {
    const touched = new Set<number>();
    let existing: readonly number[] | undefined;
    for (const { start, end, kind } of ranges) {
      const [first, last] = [pageOf(start), pageOf(end - 1)];
      if (kind === 'data' || last - first < HOLE_PAGES_MAX) {
        for (let page = first; page <= last; page++) touched.add(page);
        continue;
      }
      existing ??= await this.#existing(ino);
      for (const page of existing) if (page >= first && page <= last) touched.add(page);
    }
    return [...touched].sort((a, b) => a - b);
  }

  async #existing(ino: number): Promise<number[]> {
    return (await this.#context.view.pageNumbers(ino, Number.MAX_SAFE_INTEGER)).sort((a, b) => a - b);
  }
}

/** No extent crosses a page's border. */
function cutAtPages(extents: readonly Extent[]): Extent[] {
  return extents.flatMap((extent) => {
    const end = extent.fileOffset + extent.length;
    const parts: Extent[] = [];
    for (let page = pageOf(extent.fileOffset); page <= pageOf(end - 1); page++) {
      parts.push(...extentsWithin([extent], page * PAGE_BYTES, (page + 1) * PAGE_BYTES));
    }
    return parts;
  });
}
