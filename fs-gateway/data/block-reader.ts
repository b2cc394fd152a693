/**
 * Reads ranges of files from their extents: from the block cache, from the object's own local file where the store is a directory of
 * this machine, from a peer that keeps the piece for its group (peers/), or from the store.
 *
 * Invariants
 * - Never wrong bytes: an own piece is verified against its extent's CRC32C before any of it is used; an external object against its
 *   length. What is missing, short or damaged is `corrupt` and names the object.
 * - The first read in a chunk of an external object fetches a part of it, another one all of it: a random read costs little, and a chunk at most two GETs.
 * - Chunks that are fetched ahead come by two in one GET. Where the object is damaged each is asked for by itself, and its own answer is the one that counts.
 * - One fetch per piece, however many readers wait for it. What is lent to a peer never waits for another peer, so no circle of nodes
 *   waits for itself.
 * Limits: the memory of pieces, those on their way from the store included (recent-pieces.ts). What was uploaded while there is no room is not kept. Beside that,
 * LENT_MAX pieces on their way from peers. What is fetched ahead is bounded in fetched-ahead.ts.
 */
import { readSync } from 'node:fs';
import type { FileHandle } from 'node:fs/promises';
import { isCode, PenstockError, systemCode } from '../../lib/errors.ts';
import type { ObjectStore } from '../../lib/store/store.ts';
import type { Extent } from '../../lib/volume/extents.ts';
import type { BlockCache } from './block-cache.ts';
import { Descriptors } from './descriptors.ts';
import { FetchedAhead } from './fetched-ahead.ts';
import { damaged, PieceStore } from './piece-store.ts';
import { inPart, isCompressed, partsOf, piecesOf, togetherWith } from './pieces.ts';
import type { Piece, PieceSlice } from './pieces.ts';
import { RecentPieces } from './recent-pieces.ts';
import { Slots } from './slots.ts';

/** As many as the client of the peers fetches at a time. */
const LENT_MAX = 16;
/** Names of local pieces that were verified: 100 bytes each. */
const VERIFIED_MAX = 65_536;

/** The nodes that share what they have fetched (peers/peer-client.ts). */
export interface PeerPieces {
  /** The piece as the node has it that keeps it for the group, verified; null: the store has to be asked. Never throws. */
  fetch(piece: Piece): Promise<Buffer | null>;
  /** This node keeps the piece for the group. */
  keeps(piece: Piece): boolean;
}

/** A piece in memory, true until it is given back, which has to be done once. */
export interface LentMemory {
  readonly data: Buffer;
  readonly giveBack: () => void;
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
  readonly #fetching = new Map<string, Promise<void>>();
  /** Of them, and of those that peers wait for, the ones that the store is asked for. */
  readonly #storing = new Map<string, Promise<Buffer>>();
  readonly #lending = new Slots(LENT_MAX);
  readonly #ahead = new FetchedAhead();
  readonly #recent: RecentPieces;
  readonly #local = new Descriptors();
  readonly #verified = new Set<string>();

  constructor({ store, cache, volumeId, peers }: BlockReaderOptions) {
    this.#store = store;
    this.#cache = cache;
    this.#volumeId = volumeId;
    this.#peers = peers;
    this.#recent = new RecentPieces(cache, this.#ahead);
    this.#pieces = new PieceStore(store);
  }

  /** Bytes fetched from the store, for statistics. */
  get fetchedBytes(): number {
    return this.#pieces.fetchedBytes;
  }

  /** Fills `target` with [from, from + target.length); holes are zeros. At once when all pieces are at hand. */
  read(extents: readonly Extent[], from: number, target: Buffer): void | Promise<void> {
    const slices = this.#slicesOf(extents, from, from + target.length);
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
    await Promise.all(slices.map((slice) => this.#obtain(slice.piece)));
    let end = slices[0]?.fileOffset ?? from;
    for (const slice of slices) {
      if (slice.fileOffset > end) target.fill(0, end - from, slice.fileOffset - from);
      end = slice.fileOffset + slice.length;
      const at = slice.fileOffset - from;
      if (!this.#readNow(slice, target, at)) await this.#readAgain(slice, target, at);
    }
    if (end < from + target.length) target.fill(0, end - from);
  }

  /** The piece went out of memory and cache between obtaining and reading it: fetch it once more. */
  async #readAgain(slice: PieceSlice, target: Buffer, at: number): Promise<void> {
    const data = await this.#fromStore(slice.piece);
    data.copy(target, at, slice.pieceOffset, slice.pieceOffset + slice.length);
  }

  /**
   * The bytes [from, to) without a copy, where one piece in memory has them all; else null. They are true until the next turn of the event loop.
   */
  view(extents: readonly Extent[], from: number, to: number): Buffer | null {
    const [slice] = this.#slicesOf(extents, from, to);
    if (slice === undefined || slice.length !== to - from) return null;
    const data = this.#inMemory(slice.piece);
    return data?.subarray(slice.pieceOffset, slice.pieceOffset + slice.length) ?? null;
  }

  /** Resolves when what `read` needs for [from, to) is at hand; undefined: it is. Rejects as `read` does. */
  bring(extents: readonly Extent[], from: number, to: number): Promise<unknown> | undefined {
    const missing = this.#slicesOf(extents, from, to).filter(({ piece }) => !this.#isAtHand(piece));
    return missing.length === 0 ? undefined : Promise.all(missing.map(({ piece }) => this.#obtain(piece)));
  }

  #slicesOf(extents: readonly Extent[], from: number, to: number): PieceSlice[] {
    return piecesOf(this.#volumeId, extents, from, to).map((slice) => this.#narrowed(slice));
  }

  /** From a part of its chunk, where nothing else of the chunk is here or on its way: whoever reads on is served by the whole chunk. */
  #narrowed(slice: PieceSlice): PieceSlice {
    const { piece } = slice;
    // A group keeps and exchanges chunks: the others would ask the store for the rest of it.
    if (this.#peers !== undefined || this.#isAtHand(piece)) return slice;
    const parts = partsOf(piece);
    const narrow = inPart(slice, parts);
    if (narrow === null || this.#isKnown(narrow.piece)) return narrow ?? slice;
    return [piece, ...parts].some((known) => this.#isKnown(known)) ? slice : narrow;
  }

  /** Here or on its way. */
  #isKnown(piece: Piece): boolean {
    return this.#recent.has(piece.name) || this.#cache.has(piece) || this.#fetching.has(piece.name);
  }

  /**
   * Starts fetching what is not at hand of [from, to), as far as there is room; returns to where. Errors are met by the reader who comes.
   */
  prefetch(extents: readonly Extent[], from: number, to: number): number {
    const nowMs = performance.now();
    this.#ahead.forgetOld(nowMs);
    const missing = new Map<string, Piece>();
    let reached = to;
    for (const { piece, fileOffset } of piecesOf(this.#volumeId, extents, from, to)) {
      // What was written into the middle of a block leaves two extents of it.
      if (missing.has(piece.name) || this.#isAtHand(piece) || this.#isKnown(piece)) continue;
      if (!this.#ahead.add(piece, nowMs)) {
        reached = fileOffset;
        break;
      }
      missing.set(piece.name, piece);
    }
    const pieces = [...missing.values()];
    for (const [index, piece] of pieces.entries()) {
      const next = pieces[index + 1];
      // A group asks each chunk of the node that keeps it.
      if (this.#peers === undefined && next !== undefined && !this.#fetching.has(piece.name))
        this.#bringBoth(piece, next);
      this.#obtain(piece).catch(() => this.#ahead.arrived(piece.name));
    }
    return reached;
  }

  /** If one GET can have both. Whoever obtains them hears of what fails. */
  #bringBoth(first: Piece, second: Piece): void {
    const both = togetherWith(first, second);
    if (both === null) return;
    const fetched = this.#fetchBoth(both, [first, second]);
    for (const piece of [first, second]) {
      void this.#await(
        piece,
        fetched.then((done) => (done ? undefined : this.#bring(piece))),
      );
    }
  }

  /** False: each has to be asked for by itself, as one of them may be whole. */
  async #fetchBoth(both: Piece, pieces: readonly Piece[]): Promise<boolean> {
    const memory = await this.#recent.whenFits(both.bytes, () => this.#recent.take(both.bytes));
    try {
      await this.#pieces.fetch(both, memory);
    } catch (error) {
      this.#recent.give(memory);
      if (isCode(error, 'corrupt')) return false;
      throw error;
    }
    for (const piece of pieces) {
      const at = piece.offset - both.offset;
      this.#keep(piece, memory.subarray(at, at + piece.bytes));
    }
    return true;
  }

  #inMemory(piece: Piece): Buffer | undefined {
    this.#ahead.arrived(piece.name);
    return this.#recent.get(piece.name);
  }

  #isAtHand(piece: Piece): boolean {
    if (this.#recent.has(piece.name) || this.#cache.isVerified(piece)) return true;
    return this.#localPath(piece) !== null && (piece.crc === null || this.#verified.has(piece.name));
  }

  #readNow(slice: PieceSlice, target: Buffer, at: number): boolean {
    const { piece } = slice;
    const recent = this.#inMemory(piece);
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
      if (this.#peers?.keeps(piece) === true) continue;
      for (const cached of [piece, ...partsOf(piece)]) this.#cache.forget(cached);
    }
  }

  /**
   * For a peer: the piece, or the open file that holds it and its checksum (block-cache.ts), from here or from the store. Throws as a
   * read does.
   */
  async lend(piece: Piece): Promise<LentMemory | FileHandle> {
    const recent = this.#recent.get(piece.name);
    if (recent !== undefined) return this.#lent(recent);
    const cached = (await this.#isCached(piece)) ? await this.#cache.open(piece) : null;
    if (cached !== null) return cached;
    return this.#lent(await this.#fromStore(piece));
  }

  #lent(data: Buffer): LentMemory {
    return { data, giveBack: this.#recent.lend(data) };
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

  /** Resolves when the piece can be read from memory, the cache or the object's local file. */
  #obtain(piece: Piece): Promise<void> {
    return this.#fetching.get(piece.name) ?? this.#await(piece, this.#bring(piece));
  }

  #await({ name }: Piece, bringing: Promise<void>): Promise<void> {
    const fetching = bringing.finally(() => this.#fetching.delete(name));
    this.#fetching.set(name, fetching);
    return fetching;
  }

  async #bring(piece: Piece): Promise<void> {
    if (this.#recent.has(piece.name) || (await this.#isCached(piece))) return;
    const peers = this.#peers;
    if (peers === undefined || !(await this.#lending.run(() => this.#borrow(peers, piece))))
      await this.#fromStore(piece);
  }

  async #borrow(peers: PeerPieces, piece: Piece): Promise<boolean> {
    const lent = await peers.fetch(piece);
    if (lent === null) return false;
    await this.#recent.whenFits(lent.length, () => this.#adopt(piece, lent));
    return true;
  }

  async #isCached(piece: Piece): Promise<boolean> {
    await this.#recent.whenPut(piece.name);
    return this.#cache.verify(piece);
  }

  #fromStore(piece: Piece): Promise<Buffer> {
    // Whoever waited for something else meanwhile finds it here: it is remembered before it is no longer being fetched.
    const recent = this.#recent.get(piece.name);
    if (recent !== undefined) return Promise.resolve(recent);
    let storing = this.#storing.get(piece.name);
    if (storing === undefined) {
      storing = this.#fetch(piece).finally(() => this.#storing.delete(piece.name));
      this.#storing.set(piece.name, storing);
    }
    return storing;
  }

  async #fetch(piece: Piece): Promise<Buffer> {
    const memory = await this.#recent.whenFits(piece.bytes, () => this.#recent.take(piece.bytes));
    try {
      await this.#pieces.fetch(piece, memory);
      this.#keep(piece, memory);
      return memory;
    } catch (error) {
      this.#recent.give(memory);
      throw error;
    }
  }

  /** What was just uploaded is at hand for the next reader, if there is room; what is on this disk anyway (`isHere`), for peers. */
  remember(piece: Piece, data: Buffer, isHere: boolean): void {
    if (this.#localPath(piece) !== null) this.#verify(piece);
    else if (!isHere || this.#peers?.keeps(piece) === true) {
      if (this.#recent.makesRoom(data.length)) this.#adopt(piece, data);
    }
  }

  #adopt(piece: Piece, data: Buffer): void {
    if (this.#localPath(piece) !== null) {
      // It need not be copied: it is read from the object's own file.
      this.#verify(piece);
      return;
    }
    const memory = this.#recent.take(data.length);
    data.copy(memory);
    this.#keep(piece, memory);
  }

  #verify(piece: Piece): void {
    if (this.#verified.size >= VERIFIED_MAX) this.#verified.clear();
    this.#verified.add(piece.name);
  }

  #keep(piece: Piece, data: Buffer): void {
    const isLocal = this.#localPath(piece) !== null;
    if (this.#recent.keep(piece, data, !isLocal) && isLocal) this.#verify(piece);
  }

  /** What was fetched is in the cache when this resolves: the next mount finds it there. */
  async close(): Promise<void> {
    await this.#recent.allPut();
    this.#local.closeAll();
    this.#cache.close();
  }
}
