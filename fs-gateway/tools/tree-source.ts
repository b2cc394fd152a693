/**
 * Where a copy takes its tree from: the records of a volume as of one instant. Where the engine gives none (docs/decisions/0055), as they are when
 * they are read; then a file of several records has to be read again when it was changed meanwhile (`unchanged`).
 */
import type { Instant, MetaEngine, MetaReader, Stored } from '../../lib/meta/engine.ts';
import type { Extent } from '../../lib/volume/extents.ts';
import { INODE_INLINE, INODE_LISTING, INODE_XATTRS, isDirectory } from '../../lib/volume/inode.ts';
import type { VolumeKeys } from '../../lib/volume/keys.ts';
import { decodeExtentPage } from '../../lib/volume/references.ts';
import { entryOf, nodeOf } from '../meta/cache.ts';
import type { Node } from '../meta/cache.ts';
import { LakeListings } from '../meta/lake-listings.ts';

const SCAN_PAGE = 500;
const PAGES_PER_READ = 100;

export interface Child {
  readonly name: string;
  readonly ino: number;
}

/** An inode with the records that belong to it, but for its pages. */
export interface Part {
  readonly node: Node;
  readonly inline: Uint8Array | null;
  readonly xattrs: readonly (readonly [name: string, value: Uint8Array])[];
}

export interface Page {
  readonly field: string;
  readonly value: Uint8Array;
  readonly extents: readonly Extent[];
}

export class TreeSource {
  readonly #keys: VolumeKeys;
  readonly #reader: MetaReader;
  readonly #instant: Instant | null;
  readonly #lake: LakeListings;

  private constructor(keys: VolumeKeys, reader: MetaReader, instant: Instant | null) {
    this.#keys = keys;
    this.#reader = reader;
    this.#instant = instant;
    this.#lake = new LakeListings(
      keys,
      () => reader,
      (read) => read(),
    );
  }

  /** As of one instant. Throws what the engine does where it gives none. */
  static async open(engine: MetaEngine, keys: VolumeKeys): Promise<TreeSource> {
    const instant = await engine.instant(keys.tag);
    return new TreeSource(keys, instant, instant);
  }

  /** The records as they are when they are read. */
  static live(engine: MetaEngine, keys: VolumeKeys): TreeSource {
    return new TreeSource(keys, engine, null);
  }

  /** All of it is of one instant. */
  get consistent(): boolean {
    return this.#instant !== null;
  }

  async close(): Promise<void> {
    await this.#instant?.close();
  }

  async node(ino: number): Promise<Node | null> {
    return (await this.nodes([ino])).get(ino) ?? null;
  }

  async nodes(inos: readonly number[]): Promise<ReadonlyMap<number, Node>> {
    const records = await this.#reader.read(inos.map((ino) => this.#keys.inode(ino)));
    const nodes = new Map<number, Node>();
    for (const [index, ino] of inos.entries()) {
      const stored = records[index] ?? null;
      if (stored !== null) nodes.set(ino, nodeOf(ino, stored));
    }
    const directories = [...nodes.values()].filter(({ inode }) => isDirectory(inode));
    if (directories.length === 0) return nodes;
    const changed = await this.#reader.readNumbers(directories.map(({ ino }) => this.#keys.entriesChanged(ino)));
    for (const [index, node] of directories.entries()) {
      nodes.set(node.ino, { ...node, entriesChangedNs: changed[index] ?? 0n });
    }
    return nodes;
  }

  async entry(parent: number, name: string): Promise<{ readonly ino: number } | null> {
    const [stored] = await this.#reader.read([this.#keys.entry(parent, name)]);
    return stored === null || stored === undefined ? null : entryOf(parent, name, stored);
  }

  /** Each name once. */
  async *children({ ino, inode }: Node): AsyncGenerator<Child> {
    if ((inode.flags & INODE_LISTING) !== 0) {
      for (const entry of (await this.#lake.get(ino)).entries) yield { name: entry.name, ino: entry.ino };
      return;
    }
    const seen = new Set<string>();
    for await (const [name, stored] of this.#scan(this.#keys.entries(ino), SCAN_PAGE)) {
      if (seen.has(name)) continue;
      seen.add(name);
      yield { name, ino: entryOf(ino, name, stored).ino };
    }
  }

  /** Those that were there, and were not changed while they were read. */
  async parts(inos: readonly number[]): Promise<ReadonlyMap<number, Part>> {
    const nodes = [...(await this.nodes(inos)).values()];
    const inline = nodes.filter(({ inode }) => (inode.flags & INODE_INLINE) !== 0);
    const contents = await this.#reader.read(inline.map(({ ino }) => this.#keys.inlineData(ino)));
    const inlineOf = new Map(inline.map(({ ino }, index) => [ino, contents[index]?.value ?? null]));
    const parts = new Map<number, Part>();
    for (const node of nodes) {
      const xattrs = (node.inode.flags & INODE_XATTRS) === 0 ? [] : await this.#xattrs(node.ino);
      parts.set(node.ino, { node, inline: inlineOf.get(node.ino) ?? null, xattrs });
    }
    const several = [...parts.values()].filter(({ node, xattrs }) => inlineOf.has(node.ino) || xattrs.length > 0);
    for (const node of await this.#changed(several.map(({ node: one }) => one))) parts.delete(node.ino);
    return parts;
  }

  async *pages(ino: number): AsyncGenerator<Page> {
    const bucket = this.#keys.pages(ino);
    for await (const [field, { value }] of this.#scan(bucket, PAGES_PER_READ)) {
      yield { field, value, extents: decodeExtentPage(value, bucket, field) };
    }
  }

  /** Whether what was read of it since then is of the same commit. */
  async unchanged(node: Node): Promise<boolean> {
    return (await this.#changed([node])).length === 0;
  }

  async #changed(nodes: readonly Node[]): Promise<readonly Node[]> {
    if (this.#instant !== null || nodes.length === 0) return [];
    const records = await this.#reader.read(nodes.map(({ ino }) => this.#keys.inode(ino)));
    return nodes.filter(({ version }, index) => records[index]?.version !== version);
  }

  async #xattrs(ino: number): Promise<(readonly [string, Uint8Array])[]> {
    const found = new Map<string, Uint8Array>();
    for await (const [name, { value }] of this.#scan(this.#keys.xattrs(ino), SCAN_PAGE)) found.set(name, value);
    return [...found];
  }

  async *#scan(bucket: string, limit: number): AsyncGenerator<readonly [string, Stored]> {
    for (let cursor: string | null = ''; cursor !== null;) {
      const page: Awaited<ReturnType<MetaReader['scan']>> = await this.#reader.scan(bucket, cursor, limit);
      yield* page.entries;
      cursor = page.cursor;
    }
  }
}

/** The objects of the lake among them: those that their tables delete. */
export function lakeKeys(extents: readonly Extent[]): string[] {
  return extents.flatMap(({ source }) => (source.kind === 'external' && source.etag === undefined ? [source.key] : []));
}
