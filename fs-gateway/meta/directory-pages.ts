/**
 * Directories' entries, read page by page: for listings, and into the cache ahead of looks.
 *
 * Invariants: see cache.ts. What changes while it is read is not believed as the page has it.
 * Limits: a directory is learned whole up to the cache's `namesMax`; `all` holds all of its names in memory.
 */
import type { ScanPage } from '../../lib/meta/engine.ts';
import type { VolumeKeys } from '../../lib/volume/keys.ts';
import { entryOf } from './cache.ts';
import type { CachedEntry, MetaCache, Node } from './cache.ts';

export interface EntryPage {
  readonly entries: readonly (readonly [string, CachedEntry])[];
  /** Null: the last page. */
  readonly cursor: string | null;
}

interface DirectoryPagesOptions {
  readonly keys: VolumeKeys;
  readonly cache: MetaCache;
  nodes(inos: readonly number[]): Promise<ReadonlyMap<number, Node>>;
  scanRecords(bucket: string, cursor: string, limit: number): Promise<ScanPage>;
}

export class DirectoryPages {
  readonly #options: DirectoryPagesOptions;

  constructor(options: DirectoryPagesOptions) {
    this.#options = options;
  }

  /** A page of a directory's entries, in no order; cursor '' starts, null ends. A later page may have an entry again. */
  async scan(directory: number, cursor: string, limit: number): Promise<EntryPage> {
    const page = await this.#options.scanRecords(this.#options.keys.entries(directory), cursor, limit);
    return {
      entries: page.entries.map(([name, stored]) => [name, entryOf(directory, name, stored)] as const),
      cursor: page.cursor,
    };
  }

  /** Caches a page with the inodes of its entries, unless an entry of the directory changes meanwhile. */
  async load(directory: number, cursor: string, limit: number): Promise<EntryPage> {
    const { cache } = this.#options;
    const watch = cache.watch(directory);
    try {
      const page = await this.scan(directory, cursor, limit);
      await this.#options.nodes(page.entries.map(([, entry]) => entry.ino));
      if (!watch.changed) for (const [name, entry] of page.entries) cache.putEntry(directory, name, entry);
      return page;
    } finally {
      cache.unwatch(watch);
    }
  }

  /**
   * Reads the names of a directory, up to what the cache has room for; returns how many. Where those were all, a name that is not among
   * them is known to be absent.
   */
  async learn(directory: number, limit: number): Promise<number> {
    const { cache } = this.#options;
    const learning = cache.beginLearning(directory);
    if (learning === undefined) return 0;
    let read: Names | undefined;
    try {
      read = await this.#read(directory, limit, learning.namesMax);
      return read.entries.size;
    } finally {
      cache.endLearning(learning, read?.isWhole === true ? read.entries : null);
    }
  }

  /** All of a directory's entries, each once: from the cache where it has them. */
  async all(directory: number, limit: number): Promise<readonly (readonly [string, CachedEntry])[]> {
    const entries = this.#options.cache.entriesOf(directory) ?? (await this.#read(directory, limit, Infinity)).entries;
    return [...entries];
  }

  async #read(directory: number, limit: number, namesMax: number): Promise<Names> {
    const entries = new Map<string, CachedEntry>();
    for (let cursor: string | null = ''; cursor !== null;) {
      if (entries.size > namesMax) return { entries, isWhole: false };
      const page: EntryPage = await this.scan(directory, cursor, limit);
      for (const [name, entry] of page.entries) entries.set(name, entry);
      cursor = page.cursor;
    }
    return { entries, isWhole: true };
  }
}

interface Names {
  readonly entries: ReadonlyMap<string, CachedEntry>;
  readonly isWhole: boolean;
}
