/**
 * The listing generations of the lake directories that were looked at, in memory, until the feed says there is a newer one.
 *
 * Limits: LISTINGS_KEPT directories; the entries of one are bounded by what an hour of a dataset has in files. PLACES_KEPT places of files, for what is shown to people: of those that
 * were replaced, too, as they are still read.
 */
import { PenstockError } from '../../lib/errors.ts';
import type { MetaReader } from '../../lib/meta/engine.ts';
import type { VolumeKeys } from '../../lib/volume/keys.ts';
import { findRetired, loadLive } from '../../lib/volume/listing-load.ts';
import { decodePointer, EMPTY_LISTING } from '../../lib/volume/listing.ts';
import type { ListingEntry, ListingPointer } from '../../lib/volume/listing.ts';
import { BoundedMap } from './bounded-map.ts';

const LISTINGS_KEPT = 512;
/** Some 3 MB: their names are those of the listings. */
const PLACES_KEPT = 32_768;
/** A pointer that flips between reading it and reading its segments. */
const RELOADS_MAX = 10;

export interface LakeListing {
  readonly pointer: ListingPointer;
  /** Sorted by name. */
  readonly entries: readonly ListingEntry[];
  readonly inoByName: ReadonlyMap<string, number>;
}

/** The directory and the name of a file. */
export interface LakePlace {
  readonly directory: number;
  readonly name: string;
}

export class LakeListings {
  readonly #keys: VolumeKeys;
  readonly #engine: () => MetaReader | Promise<MetaReader>;
  readonly #kept = new BoundedMap<number, LakeListing>(LISTINGS_KEPT);
  readonly #places = new BoundedMap<number, LakePlace>(PLACES_KEPT);
  readonly #loading = new Map<number, Promise<LakeListing>>();

  readonly #retry: <T>(read: () => Promise<T>) => Promise<T>;

  /** `retry` makes a read again when the session fell under it. */
  constructor(
    keys: VolumeKeys,
    engine: () => MetaReader | Promise<MetaReader>,
    retry: <T>(read: () => Promise<T>) => Promise<T>,
  ) {
    this.#keys = keys;
    this.#engine = engine;
    this.#retry = retry;
  }

  get(directory: number): LakeListing | Promise<LakeListing> {
    const kept = this.#kept.get(directory);
    if (kept !== undefined) return kept;
    let loading = this.#loading.get(directory);
    if (loading === undefined) {
      loading = this.#retry(() => this.#load(directory));
      this.#loading.set(directory, loading);
      const end = (): void => {
        if (this.#loading.get(directory) === loading) this.#loading.delete(directory);
      };
      loading.then((listing) => {
        // Dropped meanwhile: the callers get it (they asked before the flip), nobody later does.
        if (this.#loading.get(directory) === loading) this.#kept.set(directory, listing);
        end();
      }, end);
    }
    return loading;
  }

  /** The inode of a listed name, or of a retired one. */
  async find(directory: number, name: string): Promise<number | undefined> {
    const listing = await this.get(directory);
    const live = listing.inoByName.get(name);
    if (live !== undefined) return live;
    const retired = await this.#retry(async () =>
      findRetired(await this.#engine(), this.#keys, directory, listing.pointer, name),
    );
    if (retired !== undefined) this.#places.set(retired, { directory, name });
    return retired;
  }

  /** Where these files are or were, as far as it is in memory. */
  placesOf(inos: ReadonlySet<number>): ReadonlyMap<number, LakePlace> {
    const places = new Map<number, LakePlace>();
    for (const ino of inos) {
      const place = this.#places.get(ino);
      if (place !== undefined) places.set(ino, place);
    }
    return places;
  }

  drop(directory: number): void {
    this.#kept.delete(directory);
    this.#loading.delete(directory);
  }

  clear(): void {
    this.#kept.clear();
    this.#loading.clear();
  }

  async #load(directory: number): Promise<LakeListing> {
    const engine = await this.#engine();
    for (let attempt = 0; attempt < RELOADS_MAX; attempt++) {
      const [stored] = await engine.read([this.#keys.listingPointer(directory)]);
      const pointer = stored === null || stored === undefined ? EMPTY_LISTING : decodePointer(stored.value, directory);
      const entries = await loadLive(engine, this.#keys, directory, pointer);
      if (entries === null) continue;
      for (const { ino, name } of entries) this.#places.set(ino, { directory, name });
      return { pointer, entries, inoByName: new Map(entries.map((e) => [e.name, e.ino])) };
    }
    throw new PenstockError('conflict', `the listing of directory ${directory} changes too often`);
  }
}
