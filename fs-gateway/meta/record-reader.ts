/**
 * Reads inodes and entries into the cache.
 *
 * Invariants: what is returned is not older than any news that was heard before the read began. A record that changes while it is read is
 * read again: the kernel must not be told what is older than an invalidation that it had already. Only one that changes without a pause
 * is given as it was at the last attempt.
 */
import type { MetaEngine, Stored } from '../../lib/meta/engine.ts';
import { isDirectory } from '../../lib/volume/inode.ts';
import type { VolumeKeys } from '../../lib/volume/keys.ts';
import { entryOf, nodeOf } from './cache.ts';
import type { CachedEntry, MetaCache, Node, Reading } from './cache.ts';

/** So often in a row a record may change while it is read. */
const READ_ATTEMPTS_MAX = 16;

export interface RecordReaderOptions {
  readonly keys: VolumeKeys;
  readonly cache: MetaCache;
  engine(): MetaEngine | Promise<MetaEngine>;
  retry<T>(read: () => Promise<T>): Promise<T>;
}

export interface Name {
  readonly parent: number;
  readonly name: string;
}

/** An inode as the engine has it at a moment of the call. */
export interface Checked {
  /** Null: there is no such inode. */
  readonly node: Node | null;
  /** Of the names that were asked for, those that do not lead to it. */
  readonly strays: readonly Name[];
}

export class RecordReader {
  readonly #options: RecordReaderOptions;

  constructor(options: RecordReaderOptions) {
    this.#options = options;
  }

  /** Null: there is no such inode. Throws `corrupt`. */
  async node(ino: number): Promise<Node | null> {
    return (await this.checked(ino, [])).node;
  }

  /** An inode and, behind it, names of it, in one round trip. Throws `corrupt`. */
  checked(ino: number, names: readonly Name[]): Promise<Checked> {
    return this.#options.retry(() => this.#checked(ino, names));
  }

  /** Whether the engine has this very version of the inode, and no news of another came meanwhile. */
  async isCurrent({ ino, version }: Node): Promise<boolean> {
    const key = this.#options.keys.inode(ino);
    const [stored] = await this.#options.retry(async () => (await this.#options.engine()).read([key]));
    return stored?.version === version && this.#options.cache.node(ino)?.version === version;
  }

  /** Null: there is no such name. */
  entry(parent: number, name: string): Promise<CachedEntry | null> {
    return this.#options.retry(() => this.#entry(parent, name));
  }

  async #checked(ino: number, names: readonly Name[]): Promise<Checked> {
    const { keys, cache } = this.#options;
    const wanted = [keys.inode(ino), ...names.map(({ parent, name }) => keys.entry(parent, name))];
    return this.#untilFresh(
      () => cache.beginNode(ino),
      (reading) => cache.endNode(ino, reading),
      async () => {
        const engine = await this.#options.engine();
        const [stored, ...entries] = await engine.read(wanted);
        const strays = names.filter(({ parent, name }, index) => {
          const entry = entries[index] ?? null;
          return entry === null || entryOf(parent, name, entry).ino !== ino;
        });
        const known = cache.node(ino);
        // One node for one version: others keep what they know of it by the node. (A directory has numbers beside it, which have none.)
        const same = known !== undefined && known.version === stored?.version && !isDirectory(known.inode);
        return { node: same ? known : await this.#nodeFrom(engine, ino, stored ?? null), strays };
      },
      ({ node }) => {
        if (node !== null) cache.putNode(node);
      },
    );
  }

  async #untilFresh<T>(
    begin: () => Reading,
    end: (reading: Reading) => boolean,
    read: () => Promise<T>,
    keep: (value: T) => void,
  ): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      const reading = begin();
      let ended = false;
      try {
        const value = await read();
        ended = true;
        if (end(reading)) keep(value);
        else if (attempt < READ_ATTEMPTS_MAX) continue;
        return value;
      } finally {
        if (!ended) end(reading);
      }
    }
  }

  async #nodeFrom(engine: MetaEngine, ino: number, stored: Stored | null): Promise<Node | null> {
    if (stored === null) return null;
    const node = nodeOf(ino, stored);
    if (!isDirectory(node.inode)) return node;
    const [changed, count] = await engine.readNumbers([
      this.#options.keys.entriesChanged(ino),
      this.#options.keys.subdirectories(ino),
    ]);
    return { ...node, entriesChangedNs: changed ?? 0n, subdirectories: Number(count ?? 0n) };
  }

  async #entry(parent: number, name: string): Promise<CachedEntry | null> {
    return this.#untilFresh(
      () => this.#options.cache.beginEntry(parent, name),
      (reading) => this.#options.cache.endEntry(parent, name, reading),
      async () => {
        const engine = await this.#options.engine();
        const { record, target } = await engine.follow(
          this.#options.keys.entry(parent, name),
          this.#options.keys.entryToInode,
        );
        const found = record === null ? null : entryOf(parent, name, record);
        const entry = found === null || target === null ? found : { ...found, heldAt: target.version };
        if (entry !== null && target !== null && this.#options.cache.mayKeepTarget(entry.ino)) {
          // The inode came in the same answer. The numbers beside a directory take another round trip.
          const node = await this.#nodeFrom(engine, entry.ino, target);
          if (node !== null && this.#options.cache.mayKeepTarget(entry.ino)) this.#options.cache.putNode(node);
        }
        return entry;
      },
      (entry) => this.#options.cache.putEntry(parent, name, entry),
    );
  }

  /** Several inodes in one round trip (two when there are directories among them); absent ones are left out. */
  async nodes(inos: readonly number[]): Promise<ReadonlyMap<number, Node>> {
    const found = new Map<number, Node>();
    let wanted = inos;
    for (let attempt = 1; attempt <= READ_ATTEMPTS_MAX; attempt++) {
      const missing = wanted.filter((ino) => {
        const node = this.#options.cache.node(ino);
        if (node !== undefined) found.set(ino, node);
        return node === undefined;
      });
      if (missing.length === 0) break;
      // What changed meanwhile is read once more.
      wanted = await this.#options.retry(() => this.#readNodes(missing, found));
    }
    return found;
  }

  /** Returns those that somebody changed meanwhile. */
  async #readNodes(inos: readonly number[], found: Map<number, Node>): Promise<number[]> {
    const readings = inos.map((ino) => ({ ino, reading: this.#options.cache.beginNode(ino) }));
    const fresh = new Map<number, Node>();
    let stale: number[] = [];
    try {
      const engine = await this.#options.engine();
      const records = await engine.read(inos.map((ino) => this.#options.keys.inode(ino)));
      for (const [index, ino] of inos.entries()) {
        const stored = records[index];
        if (stored !== null && stored !== undefined) fresh.set(ino, nodeOf(ino, stored));
      }
      const directories = [...fresh.values()].filter((node) => isDirectory(node.inode));
      const numbers = await engine.readNumbers(
        directories.flatMap(({ ino }) => [
          this.#options.keys.entriesChanged(ino),
          this.#options.keys.subdirectories(ino),
        ]),
      );
      for (const [n, node] of directories.entries()) {
        const entriesChangedNs = numbers[2 * n] ?? 0n;
        fresh.set(node.ino, { ...node, entriesChangedNs, subdirectories: Number(numbers[2 * n + 1] ?? 0n) });
      }
    } finally {
      stale = readings.filter(({ ino, reading }) => !this.#options.cache.endNode(ino, reading)).map(({ ino }) => ino);
    }
    const changed = new Set(stale);
    for (const [ino, node] of fresh) {
      found.set(ino, node);
      if (!changed.has(ino)) this.#options.cache.putNode(node);
    }
    return stale;
  }
}
