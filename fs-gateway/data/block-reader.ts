/**
 * Reads ranges of files from their extents: from the block cache, from the object's own local file where the store is a directory of
 * this machine, from a peer that keeps the piece for its group (peers/), or from the store.
 *
 * Invariants
 * - Never wrong bytes: an own piece is verified against its extent's CRC32C before any of it is used; an external object against its
 *   length. What is missing, short or damaged is `corrupt` and names the object.
 * - One fetch per piece, however many readers wait for it. What is lent to a peer never waits for another peer, so no circle of nodes
 *   waits for itself.
 * Limits: RECENT_BYTES of pieces in memory, which is where they live while the disk cache takes them.
 */
import { readSync } from 'node:fs';
import type { FileHandle } from 'node:fs/promises';
import { PenstockError, systemCode } from '../../lib/errors.ts';
import type { ObjectStore } from '../../lib/store/store.ts';
import type { Extent } from '../../lib/volume/extents.ts';
import type { BlockCache } from './block-cache.ts';
import { Descriptors } from './descriptors.ts';
import { damaged, PieceStore } from './piece-store.ts';
import { isCompressed, piecesOf } from './pieces.ts';
import type { Piece, PieceSlice } from './pieces.ts';

const RECENT_BYTES = 64 * 2 ** 20;
/** Names of local pieces that were verified: 100 bytes each. */
const VERIFIED_MAX = 65_536;

/** The nodes that share what they have fetched (peers/peer-client.ts). */
export interface PeerPieces {
  /** The piece as the node has it that keeps it for the group, verified; null: the store has to be asked. Never throws. */
  fetch(piece: Piece): Promise<Buffer | null>;
  /** This node keeps the piece for the group. */
  keeps(piece: Piece): boolean;
}

export interface BlockReaderOptions {
  readonly store: ObjectStore;
  readonly cache: BlockCache;
  readonly volumeId: string;
  readonly peers?: PeerPieces;
}

export class BlockReader {
  readonly #store: ObjectStore;
  readonly #cache: BlockCache;
  readonly #volumeId: string;
  readonly #peers: PeerPieces | undefined;
  readonly #pieces: PieceStore;
  /** Pieces that readers wait for, from wherever they come. */
  readonly #fetching = new Map<string, Promise<Buffer | null>>();
  /** Of them, and of those that peers wait for, the ones that the store is asked for. */
  readonly #storing = new Map<string, Promise<Buffer>>();
  /** Blocks on their way into the cache; as many as fetches and uploads that ended a moment ago. */
  readonly #putting = new Map<string, Promise<void>>();
  readonly #recent = new Map<string, Buffer>();
  #recentBytes = 0;
  readonly #local = new Descriptors();
  readonly #verified = new Set<string>();

  constructor({ store, cache, volumeId, peers }: BlockReaderOptions) {
    this.#store = store;
    this.#cache = cache;
    this.#volumeId = volumeId;
    this.#peers = peers;
    this.#pieces = new PieceStore(store);
  }

  /** Bytes fetched from the store, for statistics. */
  get fetchedBytes(): number {
    return this.#pieces.fetchedBytes;
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
    const data = await this.#fromStore(slice.piece);
    data.copy(target, at, slice.pieceOffset, slice.pieceOffset + slice.length);
  }

  /** Starts fetching what is not at hand of [from, to); errors are met by the reader who comes. Returns the bytes it asked for. */
  prefetch(extents: readonly Extent[], from: number, to: number): void {
    for (const { piece } of piecesOf(this.#volumeId, extents, from, to)) {
      if (this.#localPath(piece) !== null) return;
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
    const path = this.#localPath(piece);
    if (path === null || (piece.crc !== null && !this.#verified.has(piece.name))) return false;
    const { fd, bytes } = this.#openLocal(path, piece);
    if (piece.objectBytes !== null && bytes !== piece.objectBytes) {
      throw damaged(piece, `has ${bytes} bytes, expected ${piece.objectBytes}`);
    }
    const read = readSync(fd, target, at, slice.length, piece.offset + slice.pieceOffset);
    if (read !== slice.length) throw damaged(piece, `ends ${slice.length - read} bytes early`);
    return true;
  }

  /** The file from which the piece can be read as it is. One that somebody may write again is asked of the store, with its etag. */
  #localPath(piece: Piece): string | null {
    return isCompressed(piece) || piece.etag !== null ? null : this.#store.localPath(piece.objectKey);
  }

  /** These bytes are whole somewhere else on this disk: only what is kept for peers is needed. */
  forget(extents: readonly Extent[], size: number): void {
    for (const { piece } of piecesOf(this.#volumeId, extents, 0, size)) {
      if (this.#peers?.keeps(piece) !== true) this.#cache.forget(piece);
    }
  }

  /**
   * For a peer: the piece, or the open file that holds it and its CRC32C (block-cache.ts), from here or from the store. Throws as a
   * read does.
   */
  async lend(piece: Piece): Promise<Buffer | FileHandle> {
    const recent = this.#recent.get(piece.name);
    if (recent !== undefined) return recent;
    const cached = (await this.#isCached(piece)) ? await this.#cache.open(piece) : null;
    if (cached !== null) return cached;
    return this.#fromStore(piece);
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
    if (await this.#isCached(piece)) return null;
    const lent = await this.#peers?.fetch(piece);
    if (lent === undefined || lent === null) return this.#fromStore(piece);
    this.#remember(piece, lent);
    return lent;
  }

  async #isCached(piece: Piece): Promise<boolean> {
    await this.#putting.get(piece.name);
    return this.#cache.verify(piece);
  }

  #fromStore(piece: Piece): Promise<Buffer> {
    // Whoever waited for something else meanwhile finds it here: it is remembered before it is no longer being fetched.
    const recent = this.#recent.get(piece.name);
    if (recent !== undefined) return Promise.resolve(recent);
    let storing = this.#storing.get(piece.name);
    if (storing === undefined) {
      storing = this.#pieces
        .fetch(piece)
        .then((data) => {
          this.remember(piece, data);
          return data;
        })
        .finally(() => this.#storing.delete(piece.name));
      this.#storing.set(piece.name, storing);
    }
    return storing;
  }

  /** What was just fetched or uploaded is at hand for the next reader. */
  remember(piece: Piece, data: Buffer): void {
    if (this.#localPath(piece) === null) {
      this.#remember(piece, data);
      return;
    }
    // It need not be copied: from now on it is read from the object's own file.
    if (this.#verified.size >= VERIFIED_MAX) this.#verified.clear();
    this.#verified.add(piece.name);
  }

  #remember(piece: Piece, data: Buffer): void {
    if (this.#recent.has(piece.name) || this.#putting.has(piece.name)) return;
    this.#recent.set(piece.name, data);
    this.#recentBytes += data.length;
    for (const [name, oldest] of this.#recent) {
      if (this.#recentBytes <= RECENT_BYTES || name === piece.name) break;
      this.#recent.delete(name);
      this.#recentBytes -= oldest.length;
    }
    const put = this.#cache.put(piece, data).finally(() => this.#putting.delete(piece.name));
    this.#putting.set(piece.name, put);
  }

  /** What was fetched is in the cache when this resolves: the next mount finds it there. */
  async close(): Promise<void> {
    await Promise.all(this.#putting.values());
    this.#local.closeAll();
    this.#cache.close();
  }
}
