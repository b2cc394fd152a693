/**
 * A file that programs may be writing by the kernel itself (passthrough, shared mappings): its backing file is its staging file, and what
 * changed since the last flush is found by comparing the hashes of its blocks with those of the base.
 *
 * Invariants
 * - The *base* is what the bytes of the backing file were at the last flush, as content (objects that never change) and as hashes of the very bytes
 *   that were uploaded; a store that came between hashing and uploading is in the one or changes the hash of the next.
 * - What another node committed meanwhile is *merged* first: its bytes are written into the backing file where the bytes of the base still stand, so that
 *   programs here see it; then the committed content is the base. Exactly the bytes that changed there are written, because a mapping may store
 *   beside them at that moment. Two who change the same byte: the last one wins, as on a local disk.
 * - Changed blocks are committed whole, and only onto the version that is the base.
 * - Appended bytes stand behind what is committed, unless the file was cut here meanwhile; how far a flush commits them is in the journal before.
 * - This process keeps no descriptor for writing open over `isQuiet`: it would answer for itself.
 * - It is settled only by a comparison that began when nobody had it open here: between the answer to an open and the kernel's own open of
 *   the backing file, the lease test sees no writer.
 * - With `writeback` close and fsync *promise* the bytes (`promise`). From then on the base that a power cut leaves is saved behind the bytes that
 *   it speaks of, and synced: what differs from it then is newer than it. The one for the next worker is saved at once, beside it.
 * Failure: what becomes the base with a commit is saved before it, so that the next worker does not merge it as another node's (pending-base.ts); which
 *   appended bytes are committed the journal and the metadata say (appends.ts).
 * Limits: a flush reads the whole file but for its holes (4 GB/s from the page cache, in a thread); content kept in the metadata is held in memory.
 */
import { closeSync, constants, fdatasync, fstatSync, ftruncateSync, openSync, writeSync } from 'node:fs';
import { promisify } from 'node:util';
import type { Extent } from '../../lib/volume/extents.ts';
import { BlockHashes, HASH_BLOCK_BYTES } from './block-hashes.ts';
import type { Appends, Move } from './appends.ts';
import { readUpTo } from './descriptors.ts';
import type { FileHasher, Hole } from './file-hasher.ts';
import { mergeExtents } from './merge-extents.ts';
import { Overlay } from './overlay.ts';
import type { Range } from './overlay.ts';
import { PendingBase, type PendingBaseOptions } from './pending-base.ts';
import { StagedFile } from './staged-file.ts';
import type { Append, Flush } from './staged-file.ts';
import { blocksOf, contentKey, sameBytes } from './whole-record.ts';
import type { FileContent, WholeRecord } from './whole-record.ts';

const sync = promisify(fdatasync);
const SECTOR_BYTES = 512;

export interface LiveFileOptions extends PendingBaseOptions {
  readonly base: WholeRecord;
  readonly hasher: FileHasher;
  readonly appends: Appends;
  /** Up to this size a file's content is in the metadata. */
  readonly inlineBytes: number;
  isQuiet(fd: number): boolean;
  holes(fd: number): readonly Hole[];
  /** Fills the buffer with the content from an offset on; zeros where it has none. */
  read(content: FileContent, from: number, target: Buffer): void | Promise<void>;
  nowNs(): bigint;
}

export class LiveFile extends StagedFile {
  override readonly selfKept = true;
  readonly #options: LiveFileOptions;
  readonly #readFd: number;
  #writeFd: number | undefined;
  #base: WholeRecord;
  /** Hashes of what the flush under way commits. */
  #next = new BlockHashes(0);
  #nextSize = 0;
  #nextId = 0n;
  readonly #pending: PendingBase;
  /** Small content as it is committed. */
  #snapshot: Buffer | undefined;
  /** Local mtime as of the last commit, or as it was when somebody set another time. */
  #seenMtimeNs: bigint;
  #keptMtimeNs: bigint | undefined;
  /** Nobody could write it since it was found to be the base. */
  #settled = false;
  /** How often it was unsettled: a comparison that one came into settles nothing. */
  #unsettlings = 0;
  /** How long the last comparison read the file (not what it waited for), and which part of that found nothing. */
  compareMs = 0;
  wastedMs = 0;
  /** Also over a power cut there is a base. */
  #isKept: boolean;
  #kept: Promise<void> = Promise.resolve();
  #keeping: Promise<void> | undefined;
  #syncs = 0;
  #closed = false;
  #released = false;

  /** Throws Node's error when the backing file cannot be opened. */
  constructor(options: LiveFileOptions) {
    super(options.ino, options.base.content.size);
    this.#options = options;
    this.#base = options.base;
    this.promised = this.#isKept = options.whole.isKept(options.ino);
    this.#pending = new PendingBase(options);
    this.#seenMtimeNs = options.base.mtimeNs;
    this.#readFd = openSync(options.whole.path(options.ino), 'r');
    this.#takeUp();
    this.look();
    // The worker before this one may have died between a commit and that.
    this.#keepAgain();
  }

  /** Brings to its end what the worker before this one was doing with appended bytes. */
  #takeUp(): void {
    const { append, move, cutTo } = this.#options.appends.takeUp(this.ino, this.size);
    if (cutTo < this.size) this.resize(cutTo, true);
    this.append = append;
    if (move !== undefined) this.#put(move);
  }

  override get size(): number {
    return fstatSync(this.#readFd).size;
  }

  override get dirty(): boolean {
    return !this.#settled;
  }

  /** Of the content that it was last compared with. */
  get baseKey(): string {
    return contentKey(this.#base.content);
  }

  get baseSize(): number {
    return this.#base.content.size;
  }

  /** Somebody may write it from now on, or has committed another content elsewhere. */
  unsettle(): void {
    this.#settled = false;
    this.#unsettlings++;
  }

  /** Takes over the times that the kernel gave the backing file. */
  override look(): void {
    const { mtimeNs } = fstatSync(this.#readFd, { bigint: true });
    const changed = mtimeNs !== this.#seenMtimeNs && mtimeNs !== this.#keptMtimeNs;
    this.mtimeNs = changed ? mtimeNs : null;
    this.ctimeNs = changed ? mtimeNs : 0n;
  }

  override keepMtime(): void {
    super.keepMtime();
    this.#keptMtimeNs = fstatSync(this.#readFd, { bigint: true }).mtimeNs;
  }

  /** Most of it is holes. */
  get isSparse(): boolean {
    const { size, blocks } = fstatSync(this.#readFd);
    return blocks * SECTOR_BYTES < size / 2;
  }

  override covers(): boolean {
    return true;
  }

  override overlay(from: number, target: Buffer): void {
    target.fill(0, readUpTo(this.#readFd, target, from));
  }

  #writable(): number {
    this.unsettle();
    this.#writeFd ??= openSync(this.#options.whole.path(this.ino), constants.O_RDWR);
    return this.#writeFd;
  }

  override store(offset: number, data: Uint8Array): void {
    const fd = this.#writable();
    for (let done = 0; done < data.length;) done += writeSync(fd, data, done, data.length - done, offset + done);
  }

  zero(start: number, end: number): void {
    const zeros = Buffer.alloc(Math.min(end - start, 2 ** 20));
    for (let at = start; at < end; at += zeros.length)
      this.store(at, zeros.subarray(0, Math.min(zeros.length, end - at)));
  }

  resize(size: number, exact: boolean): void {
    if (size < this.size && exact) this.#options.appends.cutting(this, size);
    if (exact || size > this.size) ftruncateSync(this.#writable(), size);
  }

  /** An append that failed: the disk may have had room for a part of it. */
  takeBack(start: number, length: number): void {
    if (this.size > start && this.size <= start + length) ftruncateSync(this.#writable(), start);
  }

  override load(offset: number, target: Buffer, at: number, length: number): void {
    const part = target.subarray(at, at + length);
    if (this.#snapshot === undefined) part.fill(0, readUpTo(this.#readFd, part, offset));
    else part.fill(0, this.#snapshot.copy(part, 0, offset, offset + length));
    const end = Math.min(offset + length, this.#nextSize);
    for (let block = Math.floor(offset / HASH_BLOCK_BYTES); block * HASH_BLOCK_BYTES < end; block++) {
      const from = block * HASH_BLOCK_BYTES;
      const to = Math.min(from + HASH_BLOCK_BYTES, this.#nextSize);
      if (from >= offset && to <= offset + length) this.#next.put(block, part.subarray(from - offset, to - offset));
      else this.#next.putUnknown(block);
    }
  }

  /** Merges what is committed now, and says what differs from it, in whole blocks; null: nothing. What was appended stands behind what is committed. */
  async compare(committed: FileContent): Promise<Omit<Flush, 'mark'> | null> {
    await this.early.settled();
    this.#rebase(this.#pending.settle(committed, this.#base.content));
    if (contentKey(committed) !== contentKey(this.#base.content)) await this.#merge(committed);
    this.#closeWriter();
    const quiet = this.#options.isQuiet(this.#readFd);
    const unsettlings = this.#unsettlings;
    const { size, hashes, ms } = await this.#hash();
    this.compareMs = ms;
    this.#next = hashes;
    this.#nextSize = size;
    const overlay = new Overlay();
    let changed = 0;
    for (const { first, end, hole } of hashes.differences(this.#base.hashes)) {
      overlay.set(first * HASH_BLOCK_BYTES, Math.min(end * HASH_BLOCK_BYTES, size), hole ? 'hole' : 'data');
      changed += end - first;
    }
    this.wastedMs = size === 0 ? 0 : this.compareMs * (1 - changed / hashes.count);
    this.look();
    const shrunk = size < this.#base.content.size;
    const unchanged = overlay.empty && size === this.#base.content.size;
    if (unchanged && this.mtimeNs === null) {
      // Else something wrote since (this process unsettled it), or somebody may still.
      this.#settled = quiet && unsettlings === this.#unsettlings;
      this.append = this.#appendedBehind(size);
      this.early.clear();
      return null;
    }
    this.#settled = false;
    this.#nextId = this.#options.nowNs();
    if (this.append !== undefined) this.#options.appends.flushing(this, size, this.#nextId);
    // A store to a page that is dirty already changes no time.
    const mtimeNs = this.mtimeNs ?? (unchanged || this.#keptMtimeNs !== undefined ? null : this.#options.nowNs());
    return {
      overlay,
      size,
      sizeSet: shrunk,
      mtimeNs,
      mtimesKept: this.mtimesKept,
      ctimeNs: this.#options.nowNs(),
      append: this.append,
      promiseId: this.#nextId,
      whole: true,
    };
  }

  async #hash(): Promise<{ readonly size: number; readonly hashes: BlockHashes; readonly ms: number }> {
    const { size } = this;
    this.#snapshot = undefined;
    if (size > this.#options.inlineBytes) {
      // A store into a hole since this look counts as one since the block was read.
      const holes = this.#options.holes(this.#readFd);
      const { bytes, hashes, ms } = await this.#options.hasher.hash(this.#readFd, holes);
      return { size: bytes, hashes, ms };
    }
    const startedMs = performance.now();
    const snapshot = Buffer.alloc(size);
    this.overlay(0, snapshot);
    this.#snapshot = snapshot;
    return { size, hashes: BlockHashes.of(snapshot), ms: performance.now() - startedMs };
  }

  /** Takes over what another node committed since the base. */
  async #merge(committed: FileContent): Promise<void> {
    const base = this.#base.content;
    const unchanged = fstatSync(this.#readFd, { bigint: true }).mtimeNs === this.#seenMtimeNs;
    this.#moveAppended(committed.size);
    const hashes = this.#base.hashes.resized(committed.size);
    for (const block of blocksOf(base, committed)) {
      const start = block * HASH_BLOCK_BYTES;
      const end = Math.min(start + HASH_BLOCK_BYTES, committed.size);
      const sameEnd = Math.min(start + HASH_BLOCK_BYTES, base.size) === end;
      if (sameEnd && sameBytes(base, committed, start, end)) continue;
      const theirs = Buffer.alloc(end - start);
      const was = Buffer.alloc(end - start);
      await this.#options.read(committed, start, theirs);
      await this.#options.read(base, start, was);
      this.#takeOver(start, was, theirs);
      hashes.put(block, theirs);
    }
    const { size } = this;
    if (size >= base.size && size < committed.size) this.resize(committed.size, true);
    if (size === base.size && size > committed.size) this.resize(committed.size, true);
    // What was written here just now is no change of this node.
    if (unchanged) this.#seenMtimeNs = fstatSync(this.#readFd, { bigint: true }).mtimeNs;
    this.#base = { ...this.#base, content: committed, hashes, mtimeNs: this.#seenMtimeNs };
    this.#options.whole.saveBase(this.ino, this.#base);
    this.#keepAgain();
  }

  /** Writes each run of bytes that changed there and not here. */
  #takeOver(start: number, was: Buffer, theirs: Buffer): void {
    const ours = Buffer.alloc(theirs.length);
    this.overlay(start, ours);
    let from = -1;
    for (let at = 0; at <= theirs.length; at++) {
      const takes = at < theirs.length && was[at] !== theirs[at] && ours[at] === was[at];
      if (takes && from < 0) from = at;
      if (takes || from < 0) continue;
      this.store(start + from, theirs.subarray(from, at));
      from = -1;
    }
  }

  /** What was appended here goes behind what was appended there; where the file was cut here, it stays. */
  #moveAppended(to: number): void {
    if (this.append === undefined) return;
    const { from } = this.append;
    if (from >= to || from < this.#base.content.size) return;
    const bytes = Buffer.alloc(Math.max(0, this.size - from));
    this.overlay(from, bytes);
    const move = { from, to, bytes };
    this.#options.appends.moving(this, move);
    this.#put(move);
  }

  #put({ from, to, bytes }: Move): void {
    this.zero(from, to);
    this.store(to, bytes);
    this.#options.appends.note(this, { from: to, id: this.#options.nowNs() });
  }

  /** These bytes are about to be committed as its whole content. It may have become so small only while it was compared: then there is no snapshot. */
  committingInline(bytes: Buffer): void {
    this.#committing({ size: bytes.length, extents: [], inline: bytes.length === 0 ? null : bytes });
  }

  override earlyExtents(overlay: Overlay): Promise<readonly Extent[]> {
    return Promise.resolve(this.early.matching(overlay, this.#next));
  }

  /** These ranges are about to be committed as these extents. */
  committingExtents(ranges: readonly Range[], uploaded: readonly Extent[]): void {
    const { content } = this.#base;
    const old = content.inline === null ? content.extents : [];
    const size = this.#nextSize;
    this.#committing({ size, extents: mergeExtents(old, ranges, uploaded, size), inline: null });
  }

  #committing(content: FileContent): void {
    const mtimeNs = this.mtimeNs ?? this.#seenMtimeNs;
    this.#pending.begin({ id: this.#nextId, record: { ...this.#base, content, hashes: this.#next, mtimeNs } });
  }

  /** What was about to be committed is. */
  committed(): void {
    this.#rebase(this.#pending.take());
  }

  #rebase(record: WholeRecord | undefined): void {
    if (record === undefined) return;
    this.#base = record;
    this.#seenMtimeNs = record.mtimeNs;
    this.append = this.#appendedBehind(record.content.size);
    this.#snapshot = undefined;
    this.early.clear();
    // Known here even where the disk fails to note it.
    this.#options.whole.takeNext(this.ino, record);
    this.#keepAgain();
  }

  /** A disk that fails is met by the next fsync; until it is kept, a power cut has the same bytes committed again. */
  #keepAgain(): void {
    if (this.promised) this.#keepSoon().catch(() => (this.#isKept = false));
  }

  #keepSoon(): Promise<void> {
    this.#keeping ??= this.#kept
      .catch(() => undefined)
      .then(() => {
        this.#keeping = undefined;
        return (this.#kept = this.#keep());
      });
    return this.#keeping;
  }

  async #keep(): Promise<void> {
    const base = this.#base;
    await this.#syncBytes();
    if (this.#closed) return;
    await this.#options.whole.keepBase(this.ino, base, () => !this.#closed);
    this.#isKept = true;
  }

  /** Nothing is being kept any more: what a later boot finds is as of the last commit. */
  async kept(): Promise<void> {
    await (this.#keeping ?? this.#kept).catch(() => undefined);
  }

  /** What the file has now survives a power cut when this resolves, and the next mount finds it. */
  async promise(): Promise<void> {
    this.promised = true;
    await (this.#isKept ? this.#syncBytes() : this.#keepSoon());
  }

  async #syncBytes(): Promise<void> {
    if (this.#released) return;
    this.#syncs++;
    try {
      await sync(this.#readFd);
    } finally {
      this.#syncs--;
      this.flushed();
    }
  }

  /** What was appended while a flush was under way follows; it gets an id of its own. */
  #appendedBehind(committedSize: number): Append | undefined {
    return this.append !== undefined && this.size > committedSize ? { from: committedSize, id: 0n } : undefined;
  }

  /** Nobody can change it but through an open that is yet to be answered. */
  get quiet(): boolean {
    this.#closeWriter();
    return this.#options.isQuiet(this.#readFd);
  }

  isSettled(): boolean {
    return this.#settled;
  }

  /** The bytes on disk: what a record may speak of. */
  async sync(): Promise<WholeRecord> {
    await this.#syncBytes();
    return this.#base;
  }

  #closeWriter(): void {
    if (this.#writeFd !== undefined) closeSync(this.#writeFd);
    this.#writeFd = undefined;
  }

  /** A flush under way reads on: a descriptor that is closed under it may be another file's the next moment. */
  close(): void {
    this.#closed = true;
    this.flushed();
  }

  override flushed(): void {
    if (!this.#closed || this.#released || this.flushing !== undefined || this.#syncs > 0) return;
    this.#released = true;
    this.#closeWriter();
    closeSync(this.#readFd);
  }

  override discard(): void {
    this.close();
    this.#options.whole.drop(this.ino);
  }
}
