/**
 * The part of fsck about content: that small files have their record, that extents lie within their file and page, and what objects they
 * need. Contents without an inode are handed to `lost`.
 */
import { describeError } from '../../lib/errors.ts';
import type { MetaEngine } from '../../lib/meta/engine.ts';
import type { Extent } from '../../lib/volume/extents.ts';
import { extentEnd } from '../../lib/volume/extents.ts';
import { decodeInode, INODE_INLINE, INODE_PAGED, S_IFREG } from '../../lib/volume/inode.ts';
import type { Inode } from '../../lib/volume/inode.ts';
import { PAGE_BYTES } from '../../lib/volume/keys.ts';
import type { VolumeKeys } from '../../lib/volume/keys.ts';
import { decodeExtentPage, scanBucket } from '../../lib/volume/references.ts';
import type { Findings } from './fsck-findings.ts';
import type { ObjectNeeds } from './fsck-objects.ts';
import { ABSENT, FILE } from './fsck-table.ts';
import type { InodeTable } from './fsck-table.ts';
import type { Progress } from './tool.ts';

export type Lost = (ino: number, what: string, mode: number, fields: Partial<Inode>) => Promise<void>;

export interface ContentParts {
  readonly engine: MetaEngine;
  readonly keys: VolumeKeys;
  readonly table: InodeTable;
  readonly objects: ObjectNeeds;
  readonly findings: Findings;
  readonly lost: Lost;
  readonly progress: Progress;
}

export class ContentCheck {
  readonly #engine: MetaEngine;
  readonly #keys: VolumeKeys;
  readonly #table: InodeTable;
  readonly #objects: ObjectNeeds;
  readonly #findings: Findings;
  readonly #lost: Lost;
  readonly #progress: Progress;
  /** Files whose content is in the metadata, by bucket of inodes. */
  readonly #inline = new Map<string, number>();
  /** Buckets of contents with an inode that cannot say whether it has one there. */
  readonly #unsure = new Set<string>();

  constructor(parts: ContentParts) {
    this.#engine = parts.engine;
    this.#keys = parts.keys;
    this.#table = parts.table;
    this.#objects = parts.objects;
    this.#findings = parts.findings;
    this.#lost = parts.lost;
    this.#progress = parts.progress;
  }

  /** Its inode cannot be read. */
  noteDamaged(ino: number): void {
    this.#unsure.add(this.#keys.inlineData(ino).bucket);
  }

  async note(ino: number, inode: Inode): Promise<void> {
    if ((inode.flags & INODE_INLINE) !== 0) {
      const { bucket } = this.#keys.inlineData(ino);
      this.#inline.set(bucket, (this.#inline.get(bucket) ?? 0) + 1);
    }
    await this.#objects.need(ino, inode.extents);
    await this.#outside(ino, inode.extents, 0, inode.size);
  }

  async #outside(ino: number, extents: readonly Extent[], from: number, to: number): Promise<void> {
    for (const extent of extents) {
      if (extent.fileOffset >= from && extentEnd(extent) <= to) continue;
      const place = `bytes ${extent.fileOffset} to ${extentEnd(extent)}, allowed are ${from} to ${to}`;
      await this.#findings.add('extent-outside', `inode ${ino}: an extent of ${place}`);
    }
  }

  /** Small files' content: the number of records per bucket tells whether one is missing, without reading them. */
  async walkInline(): Promise<void> {
    const prefix = this.#keys.inlineData(0).bucket.slice(0, -1);
    const seen = new Set<string>();
    for await (const bucket of this.#engine.buckets(prefix)) {
      if (seen.has(bucket)) continue;
      seen.add(bucket);
      const expected = this.#inline.get(bucket) ?? 0;
      if (this.#unsure.has(bucket) || (await this.#engine.count(bucket)) !== expected)
        await this.#contentOf(bucket.slice(prefix.length));
    }
    for (const bucket of this.#inline.keys()) {
      if (!seen.has(bucket)) await this.#contentOf(bucket.slice(prefix.length));
    }
  }

  async #contentOf(number: string): Promise<void> {
    const first = Number(number) * 256;
    const inodes = await this.#engine.read(Array.from({ length: 256 }, (_, n) => this.#keys.inode(first + n)));
    const content = await this.#engine.read(Array.from({ length: 256 }, (_, n) => this.#keys.inlineData(first + n)));
    for (let n = 0; n < 256; n++) {
      const ino = first + n;
      const [inode, bytes] = [inodes[n] ?? null, content[n] ?? null];
      if (inode === null && bytes !== null) {
        await this.#lost(ino, `${bytes.value.length} bytes of content`, S_IFREG | 0o600, {
          flags: INODE_INLINE,
          size: bytes.value.length,
        });
      } else if (inode !== null && bytes === null && this.#table.kind(ino) === FILE) {
        const inline = (decodeInode(inode.value, ino).flags & INODE_INLINE) !== 0;
        if (inline) await this.#findings.add('missing-content', `inode ${ino} has no content record`);
      }
    }
  }

  async walkPages(): Promise<void> {
    let pages = 0;
    for await (const bucket of this.#engine.buckets(this.#keys.pagesPrefix)) {
      const ino = Number(bucket.slice(this.#keys.pagesPrefix.length));
      const [stored] = await this.#engine.read([this.#keys.inode(ino)]);
      const known = stored !== null && stored !== undefined && this.#table.kind(ino) === FILE;
      const size = known ? decodeInode(stored.value, ino).size : Number.MAX_SAFE_INTEGER;
      let end = 0;
      for await (const [field, value] of scanBucket(this.#engine, bucket)) {
        this.#progress('extent pages', ++pages);
        try {
          const extents = decodeExtentPage(value, bucket, field);
          await this.#objects.need(ino, extents);
          const from = Number(field) * PAGE_BYTES;
          await this.#outside(ino, extents, from, Math.min(from + PAGE_BYTES, size));
          for (const extent of extents) end = Math.max(end, extentEnd(extent));
        } catch (error) {
          await this.#findings.add('damaged-record', describeError(error));
        }
      }
      if (this.#table.kind(ino) === ABSENT) {
        await this.#lost(ino, 'extents', S_IFREG | 0o600, { flags: INODE_PAGED, size: end });
      }
    }
  }
}
