/**
 * Reads ranges of files from their extents: from the block cache, from the object's own local file where the store is a directory of
 * this machine, or from the store.
 *
 * Invariants
 * - Never wrong bytes: an own piece is verified against its extent's CRC32C before any of it is used; an external object against its
 *   length. What is missing, short or damaged is `corrupt` and names the object.
 * - One fetch per piece, however many readers wait for it.
 * Limits: FETCHES_MAX at a time; RECENT_BYTES of pieces in memory, which is where they live while the disk cache takes them.
 */
import { crc32c } from '@node-rs/crc32';
import { readSync } from 'node:fs';
import { PenstockError, isCode, systemCode } from '../../lib/errors.ts';
import type { ObjectStore } from '../../lib/store/store.ts';
import type { Extent } from '../../lib/volume/extents.ts';
import type { BlockCache } from './block-cache.ts';
import { Descriptors } from './descriptors.ts';
import { piecesOf } from './pieces.ts';
import type { Piece, PieceSlice } from './pieces.ts';

/** Parallel ranged GETs: enough to fill a 10 Gbit/s link at 20 ms; each holds one piece in memory. */
const FETCHES_MAX = 16;
const RECENT_BYTES = 64 * 2 ** 20;
/** Names of local pieces that were verified: 100 bytes each. */
const VERIFIED_MAX = 65_536;

export class BlockReader {
  readonly #store: ObjectStore;
  readonly #cache: BlockCache;
  readonly #volumeId: string;
  readonly #fetching = new Map<string, Promise<Buffer | null>>();
  /** Blocks on their way into the cache; as many as fetches and uploads that ended a moment ago. */
  readonly #putting = new Set<Promise<void>>();
  readonly #recent = new Map<string, Buffer>();
  #recentBytes = 0;
  readonly #local = new Descriptors();
  readonly #verified = new Set<string>();
  readonly #waiting: (() => void)[] = [];
  #active = 0;
  /** Bytes fetched from the store, for statistics. */
  fetchedBytes = 0;

  constructor(store: ObjectStore, cache: BlockCache, volumeId: string) {
    this.#store = store;
    this.#cache = cache;
    this.#volumeId = volumeId;
  }

  /** Fills `target` with [from, from + target.length); holes are zeros. At once when all pieces are at hand. */
  read(extents: readonly Extent[], from: number, target: Buffer): void | Promise<void> {
    const slices = piecesOf(this.#volumeId, extents, from, from + target.length);
    let end = from;
    for (const [index, slice] of slices.entries()) {
      if (slice.fileOffset > end) target.fill(0, end - from, slice.fileOffset - from);
      end = slice.fileOffset + slice.length;
      if (!this.#readNow(slice, target, slice.fileOffset - from)) {
        return this.#readRest(slices.slice(index), from, target);
      }
    }
    if (end < from + target.length) target.fill(0, end - from);
  }

  async #readRest(slices: readonly PieceSlice[], from: number, target: Buffer): Promise<void> {
    // All fetches start together; then the slices are copied in order.
    const fetched = await Promise.all(slices.map((slice) => this.#obtain(slice.piece)));
    let end = slices[0]?.fileOffset ?? from;
    for (const [index, slice] of slices.entries()) {
      if (slice.fileOffset > end) target.fill(0, end - from, slice.fileOffset - from);
      end = slice.fileOffset + slice.length;
      const data = fetched[index];
      const at = slice.fileOffset - from;
      if (data) data.copy(target, at, slice.pieceOffset, slice.pieceOffset + slice.length);
      else if (!this.#readNow(slice, target, at)) await this.#readAgain(slice, target, at);
    }
    if (end < from + target.length) target.fill(0, end - from);
  }

  /** The cache lost the piece between obtaining and reading it: fetch it once more, past the cache. */
  async #readAgain(slice: PieceSlice, target: Buffer, at: number): Promise<void> {
    const data = await this.#fetch(slice.piece);
    data.copy(target, at, slice.pieceOffset, slice.pieceOffset + slice.length);
  }

  /** Starts fetching what is not at hand of [from, to); errors are met by the reader who comes. Returns the bytes it asked for. */
  prefetch(extents: readonly Extent[], from: number, to: number): void {
    for (const { piece } of piecesOf(this.#volumeId, extents, from, to)) {
      if (this.#store.localPath(piece.objectKey) !== null) return;
      if (this.#recent.has(piece.name) || this.#cache.has(piece)) continue;
      this.#obtain(piece).catch(() => undefined);
    }
  }

  #readNow(slice: PieceSlice, target: Buffer, at: number): boolean {
    const { piece } = slice;
    const recent = this.#recent.get(piece.name);
    if (recent !== undefined) {
      recent.copy(target, at, slice.pieceOffset, slice.pieceOffset + slice.length);
      return true;
    }
    if (this.#cache.readSync(piece, slice.pieceOffset, target, at, slice.length)) return true;
    const path = this.#store.localPath(piece.objectKey);
    if (path === null || (piece.crc !== null && !this.#verified.has(piece.name))) return false;
    const { fd, bytes } = this.#openLocal(path, piece);
    if (piece.objectBytes !== null && bytes !== piece.objectBytes) {
      throw damaged(piece, `has ${bytes} bytes, expected ${piece.objectBytes}`);
    }
    const read = readSync(fd, target, at, slice.length, piece.offset + slice.pieceOffset);
    if (read !== slice.length) throw damaged(piece, `ends ${slice.length - read} bytes early`);
    return true;
  }

  /** These bytes are whole somewhere else on this disk. */
  forget(extents: readonly Extent[], size: number): void {
    for (const { piece } of piecesOf(this.#volumeId, extents, 0, size)) this.#cache.forget(piece);
  }

  /** The object's own file, where the store is a directory of this machine and the file is as long as it has to be. */
  localObject(key: string, bytes: number): string | null {
    const path = this.#store.localPath(key);
    if (path === null) return null;
    try {
      return this.#local.get(path).bytes === bytes ? path : null;
    } catch {
      return null; // Whoever reads it hears why.
    }
  }

  #openLocal(path: string, piece: Piece): { readonly fd: number; readonly bytes: number } {
    try {
      return this.#local.get(path);
    } catch (error) {
      if (systemCode(error) === 'ENOENT') throw damaged(piece, 'is missing', error);
      throw new PenstockError('io', `object ${piece.objectKey} cannot be read`, { cause: error });
    }
  }

  /** The piece's bytes, or null when it can now be read from the cache or the object's local file. */
  #obtain(piece: Piece): Promise<Buffer | null> {
    let fetching = this.#fetching.get(piece.name);
    if (fetching === undefined) {
      fetching = this.#bring(piece).finally(() => this.#fetching.delete(piece.name));
      this.#fetching.set(piece.name, fetching);
    }
    return fetching;
  }

  async #bring(piece: Piece): Promise<Buffer | null> {
    if (this.#recent.has(piece.name)) return null;
    if (await this.#cache.verify(piece)) return null;
    const data = await this.#fetch(piece);
    if (this.#store.localPath(piece.objectKey) !== null) {
      // It need not be copied: from now on it is read from the object's own file.
      if (this.#verified.size >= VERIFIED_MAX) this.#verified.clear();
      this.#verified.add(piece.name);
      return data;
    }
    this.#remember(piece, data);
    return data;
  }

  async #fetch(piece: Piece): Promise<Buffer> {
    await this.#enter();
    try {
      const data = await this.#store.get(piece.objectKey, { offset: piece.offset, length: piece.bytes });
      this.fetchedBytes += data.length;
      if (data.length !== piece.bytes) throw damaged(piece, `gave ${data.length} bytes, expected ${piece.bytes}`);
      if (piece.crc !== null && crc32c(data) !== piece.crc) throw damaged(piece, 'does not match its checksum');
      return data;
    } catch (error) {
      if (isCode(error, 'not-found')) throw damaged(piece, 'is missing', error);
      throw error;
    } finally {
      this.#leave();
    }
  }

  /** What was just uploaded is at hand for the next reader. */
  remember(piece: Piece, data: Buffer): void {
    if (this.#store.localPath(piece.objectKey) !== null) this.#verified.add(piece.name);
    else this.#remember(piece, data);
  }

  #remember(piece: Piece, data: Buffer): void {
    this.#recent.set(piece.name, data);
    this.#recentBytes += data.length;
    for (const [name, oldest] of this.#recent) {
      if (this.#recentBytes <= RECENT_BYTES || name === piece.name) break;
      this.#recent.delete(name);
      this.#recentBytes -= oldest.length;
    }
    const put = this.#cache.put(piece, data).finally(() => this.#putting.delete(put));
    this.#putting.add(put);
  }

  async #enter(): Promise<void> {
    while (this.#active >= FETCHES_MAX) await new Promise<void>((resolve) => this.#waiting.push(resolve));
    this.#active++;
  }

  #leave(): void {
    this.#active--;
    this.#waiting.shift()?.();
  }

  /** What was fetched is in the cache when this resolves: the next mount finds it there. */
  async close(): Promise<void> {
    await Promise.all(this.#putting);
    this.#local.closeAll();
    this.#cache.close();
  }
}

function damaged(piece: Piece, what: string, cause?: unknown): PenstockError {
  const range = `bytes ${piece.offset} to ${piece.offset + piece.bytes}`;
  return new PenstockError('corrupt', `object ${piece.objectKey} (${range}) ${what}`, { cause });
}
