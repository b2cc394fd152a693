/** Paths for people: from an inode number up to the root, each name found by reading the directory that has it. */
import type { MetaEngine } from '../../lib/meta/engine.ts';
import { decodeDentry } from '../../lib/volume/dentry.ts';
import { ROOT_INO } from '../../lib/volume/keys.ts';
import type { VolumeKeys } from '../../lib/volume/keys.ts';
import { loadLive } from '../../lib/volume/listing-load.ts';
import { decodePointer } from '../../lib/volume/listing.ts';
import { scanBucket } from '../../lib/volume/references.ts';
import { LISTING } from './fsck-table.ts';
import type { InodeTable } from './fsck-table.ts';

const DEPTH_MAX = 1000;
const KEPT = 10_000;

/** A name is bytes; what is not printable UTF-8 is shown escaped. */
export function showName(name: string): string {
  const text = Buffer.from(name, 'latin1').toString('utf8');
  return /[\u0000-\u001f\u007f\ufffd]/.test(text) ? JSON.stringify(name).slice(1, -1) : text;
}

export class Paths {
  readonly #engine: MetaEngine;
  readonly #keys: VolumeKeys;
  readonly #table: InodeTable;
  readonly #directories = new Map<number, string>();

  constructor(engine: MetaEngine, keys: VolumeKeys, table: InodeTable) {
    this.#engine = engine;
    this.#keys = keys;
    this.#table = table;
  }

  /** `/a/b`, or `inode N` where no path is known. */
  async of(ino: number): Promise<string> {
    const names: string[] = [];
    let at = ino;
    for (let depth = 0; at !== ROOT_INO && depth < DEPTH_MAX; depth++) {
      const known = this.#directories.get(at);
      if (known !== undefined) return this.#join(known, names);
      const parent = this.#table.parent(at);
      const name = parent === 0 ? undefined : await this.nameIn(parent, at);
      if (name === undefined) return names.length === 0 ? `inode ${ino}` : this.#join(`inode ${at}`, names);
      names.unshift(showName(name));
      at = parent;
    }
    if (at !== ROOT_INO) return `inode ${ino}`;
    const path = this.#join('', names);
    if (this.#table.isDirectory(ino) && this.#directories.size < KEPT) this.#directories.set(ino, path);
    return path;
  }

  #join(start: string, names: readonly string[]): string {
    return names.length === 0 ? start || '/' : `${start}/${names.join('/')}`;
  }

  async in(directory: number, name: string): Promise<string> {
    const path = await this.of(directory);
    return path === '/' ? `/${showName(name)}` : `${path}/${showName(name)}`;
  }

  /** The name under which a directory has an inode. */
  async nameIn(directory: number, ino: number): Promise<string | undefined> {
    if (this.#table.kind(directory) === LISTING) {
      const [stored] = await this.#engine.read([this.#keys.listingPointer(directory)]);
      if (stored === null || stored === undefined) return undefined;
      const live = await loadLive(this.#engine, this.#keys, directory, decodePointer(stored.value, directory));
      return live?.find((entry) => entry.ino === ino)?.name;
    }
    for await (const [name, value] of scanBucket(this.#engine, this.#keys.entries(directory))) {
      try {
        if (decodeDentry(value, directory, name).ino === ino) return name;
      } catch {
        // A damaged entry is a finding of its own.
      }
    }
    return undefined;
  }
}
