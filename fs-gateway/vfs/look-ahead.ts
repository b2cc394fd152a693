/**
 * Looks that miss in one directory, one after another, are answered from pages of the directory that are read ahead: one round trip for a thousand
 * names instead of one for each. Where the names exist (`ls -l` over a listing that the kernel has, a loader over its files), their inodes come along.
 * Where they do not (files that are made in an old directory, a search path), all names of the directory are learned, and no further look for an absent
 * name asks, until somebody else changes the directory. Where others make files, a look for one that they have just told of must ask: so a directory
 * that somebody else has changed is not learned for QUIET_MS.
 *
 * Invariants
 * - What changes while it is read is not kept as it was read.
 * - A directory costs in the long run no more than CREDIT_OF_A_LOOK entries for each look: random looks in many directories, for which the cache has no
 *   room, do not read them again and again.
 * Limits: DIRECTORIES_MAX directories at a time, CREDIT_MAX entries before the first looks have paid for any.
 */
import { describeError } from '../../lib/errors.ts';
import { INODE_LISTING } from '../../lib/volume/inode.ts';
import { BoundedMap } from '../meta/bounded-map.ts';
import type { Context } from './context.ts';

const DIRECTORIES_MAX = 1024;
/** So many misses begin it. */
const MISSES_MIN = 8;
const PAGE_ENTRIES = 1000;
const CREDIT_OF_A_LOOK = 4;
const CREDIT_MAX = 5 * PAGE_ENTRIES;
const QUIET_MS = 60_000;

interface Ahead {
  /** Looks that asked, and found something. */
  missed: number;
  /** Looks that asked in vain. */
  absent: number;
  /** Entries that may be read. */
  credit: number;
  /** Of the next page with inodes. */
  cursor: string;
  reading: boolean;
}

export class LookAhead {
  readonly #context: Context;
  readonly #directories = new BoundedMap<number, Ahead>(DIRECTORIES_MAX);
  /** When somebody else changed a directory last. */
  readonly #changed = new BoundedMap<number, number>(DIRECTORIES_MAX);

  constructor(context: Context) {
    this.#context = context;
  }

  /** A look was answered from the cache. */
  hit(directory: number): void {
    if (this.#directories.size === 0) return;
    const ahead = this.#directories.get(directory);
    if (ahead !== undefined) earn(ahead);
  }

  /** Somebody else has changed an entry of it. */
  changed(directory: number): void {
    this.#changed.set(directory, performance.now());
  }

  /** A look asked the engine. */
  missed(directory: number, exists: boolean): void {
    let ahead = this.#directories.get(directory);
    if (ahead === undefined) {
      // Listings of the lake are cached whole.
      const node = this.#context.view.cachedNode(directory);
      if (node !== undefined && (node.inode.flags & INODE_LISTING) !== 0) return;
      ahead = { missed: 0, absent: 0, credit: CREDIT_MAX, cursor: '', reading: false };
      this.#directories.set(directory, ahead);
    }
    earn(ahead);
    const misses = exists ? ++ahead.missed : ++ahead.absent;
    if (misses < MISSES_MIN || ahead.reading || ahead.credit < PAGE_ENTRIES) return;
    if (!exists && !this.#isQuiet(directory)) return;
    const current = ahead;
    current.reading = true;
    (exists ? this.#readPage(directory, current) : this.#learn(directory, current))
      .catch((error: unknown) => this.#context.report(`reading directory ${directory} ahead: ${describeError(error)}`))
      .finally(() => (current.reading = false));
  }

  #isQuiet(directory: number): boolean {
    const changedMs = this.#changed.get(directory);
    return changedMs === undefined || performance.now() - changedMs > QUIET_MS;
  }

  async #readPage(directory: number, ahead: Ahead): Promise<void> {
    const { entries, cursor } = await this.#context.view.directories.load(directory, ahead.cursor, PAGE_ENTRIES);
    ahead.credit -= entries.length;
    // What is missed behind the last page was forgotten since.
    ahead.cursor = cursor ?? '';
    if (cursor === null) ahead.missed = 0;
  }

  async #learn(directory: number, ahead: Ahead): Promise<void> {
    ahead.absent = 0;
    ahead.credit -= await this.#context.view.directories.learn(directory, PAGE_ENTRIES);
  }
}

function earn(ahead: Ahead): void {
  ahead.credit = Math.min(ahead.credit + CREDIT_OF_A_LOOK, CREDIT_MAX);
}
