/**
 * Looks that miss in one directory, one after another (`ls -l` over a listing that the kernel has, a loader over its files), are
 * answered from pages of the directory that are read ahead: one round trip for a thousand names instead of one for each.
 *
 * Invariants: a page is kept only when no entry of the directory changed while it was read.
 * Limits: DIRECTORIES_MAX directories at a time. After the first pages the next is read only if enough of the last one was asked for, so that
 * random looks in a huge directory do not read it whole.
 */
import { describeError } from '../../lib/errors.ts';
import { INODE_LISTING } from '../../lib/volume/inode.ts';
import { BoundedMap } from '../meta/bounded-map.ts';
import type { Context } from './context.ts';

const DIRECTORIES_MAX = 64;
/** So many misses in a row begin it. */
const MISSES_MIN = 8;
const PAGE_ENTRIES = 1000;
const PAGES_FREE = 4;
const HITS_MIN = PAGE_ENTRIES / 4;

interface Ahead {
  misses: number;
  /** Looks that were answered from the cache since the last page. */
  hits: number;
  pages: number;
  /** Null: the directory was read to its end. */
  cursor: string | null;
  reading: boolean;
}

export class LookAhead {
  readonly #context: Context;
  readonly #directories = new BoundedMap<number, Ahead>(DIRECTORIES_MAX);

  constructor(context: Context) {
    this.#context = context;
  }

  hit(directory: number): void {
    if (this.#directories.size === 0) return;
    const ahead = this.#directories.get(directory);
    if (ahead !== undefined) ahead.hits++;
  }

  missed(directory: number): void {
    let ahead = this.#directories.get(directory);
    if (ahead === undefined) {
      // Listings of the lake are cached whole.
      const node = this.#context.view.cachedNode(directory);
      if (node !== undefined && (node.inode.flags & INODE_LISTING) !== 0) return;
      ahead = { misses: 0, hits: 0, pages: 0, cursor: '', reading: false };
      this.#directories.set(directory, ahead);
    }
    if (++ahead.misses < MISSES_MIN || ahead.reading) return;
    if (ahead.pages > PAGES_FREE && ahead.hits < HITS_MIN) return;
    // Read to the end before: what is missed now was forgotten since.
    ahead.cursor ??= '';
    ahead.hits = 0;
    ahead.reading = true;
    const current = ahead;
    this.#read(directory, current)
      .catch((error: unknown) => this.#context.report(`reading directory ${directory} ahead: ${describeError(error)}`))
      .finally(() => (current.reading = false));
  }

  async #read(directory: number, ahead: Ahead): Promise<void> {
    ahead.cursor = await this.#context.view.loadEntries(directory, ahead.cursor ?? '', PAGE_ENTRIES);
    ahead.pages = ahead.cursor === null ? 0 : ahead.pages + 1;
    // A directory that was read whole begins anew only after as many misses.
    if (ahead.cursor === null) ahead.misses = 0;
  }
}
