/**
 * A file that programs may be writing by the kernel itself (passthrough, shared mappings): its backing file is its staging file, and what
 * changed since the last flush is found by comparing the hashes of its blocks with those of the base.
 *
 * Invariants
 * - The *base* is what the bytes of the backing file were at the last flush, as content (objects that never change) and as hashes of the very bytes
 *   that were uploaded; a store that came between hashing and uploading is in the one or changes the hash of the next.
 * - What another node committed meanwhile is *merged* first: its bytes are written into the backing file where the bytes of the base still stand, so that
 *   programs here see it; then the committed content is the base. Exactly the bytes that changed there are written, because a mapping may store
 *   beside them at that moment. Two who change the same byte: the last one wins, as on a local disk; but not behind an absence (`meets`, `yieldTo`).
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
import { fdatasync, ftruncateSync, writeSync } from 'node:fs';
import { promisify } from 'node:util';
import type { Extent } from '../../lib/volume/extents.ts';
import type { Appends, Move } from './appends.ts';
import { readUpTo } from './descriptors.ts';
import { KeptBase } from './kept-base.ts';
import { LiveBytes } from './live-bytes.ts';
import { LiveComparison } from './live-comparison.ts';
import type { LiveComparisonOptions } from './live-comparison.ts';
import { findMeeting, giveUp, mergeCommitted } from './live-merge.ts';
import type { Meeting, Written } from './live-merge.ts';
import { mergeExtents } from './merge-extents.ts';
import type { Overlay, Range } from './overlay.ts';
import { PendingBase, type PendingBaseOptions } from './pending-base.ts';
import { StagedFile } from './staged-file.ts';
import type { Append, Flush } from './staged-file.ts';
import { contentKey } from './whole-record.ts';
import type { FileContent, WholeRecord } from './whole-record.ts';

const sync = promisify(fdatasync);
const SECTOR_BYTES = 512;

export interface LiveFileOptions extends PendingBaseOptions, LiveComparisonOptions {
  readonly base: WholeRecord;
  readonly appends: Appends;
  isQuiet(fd: number): boolean;
  /** Fills the buffer with the content from an offset on; zeros where it has none. */
  read(content: FileContent, from: number, target: Buffer): void | Promise<void>;
  nowNs(): bigint;
}

/** Written here, and meeting what others have committed. */
export type MetElsewhere = Written & { readonly meeting: Meeting };

export class LiveFile extends StagedFile {
  override readonly selfKept = true;
  readonly #options: LiveFileOptions;
  readonly #bytes: LiveBytes;
  #base: WholeRecord;
  /** What the flush under way commits. */
  readonly #next: LiveComparison;
  #nextId = 0n;
  readonly #pending: PendingBase;
  /** Local mtime as of the last commit, or as it was when somebody set another time. */
  #seenMtimeNs: bigint;
  #keptMtimeNs: bigint | undefined;
  /** Nobody could write it since it was found to be the base. */
  #settled = false;
  /** How often it was unsettled: a comparison that one came into settles nothing. */
  #unsettlings = 0;
  /** Since the base. The worker's death forgets it. */
  #cut = false;
  readonly #kept: KeptBase;
  #syncs = 0;
  #closed = false;
  #released = false;

  /** Throws Node's error when the backing file cannot be opened. */
  constructor(options: LiveFileOptions) {
    super(options.ino, options.base.content.size);
    this.#options = options;
    this.#base = options.base;
    this.#kept = new KeptBase({
      ino: options.ino,
      records: options.whole.records,
      base: () => this.#base,
      syncBytes: () => this.#syncBytes(),
      isWanted: () => !this.#closed,
    });
    this.promised = this.#kept.isThere;
    this.#seenMtimeNs = options.base.mtimeNs;
    this.#bytes = new LiveBytes(options.ino, options.whole);
    this.#pending = new PendingBase(options, this.#bytes);
    this.#next = new LiveComparison(options, this.#bytes.fd);
    this.#takeUp();
    this.look();
    // The worker before this one may have died between a commit and that.
    this.#keepAgain();
  }

  /** Brings to its end what the worker before this one was doing with appended bytes. */
  #takeUp(): void {
    const { append, move, cutTo } = this.#options.appends.takeUp(this.ino, this.size);
    if (cutTo < this.size) this.#setSize(cutTo);
    this.append = append;
    if (move !== undefined) this.#put(move);
  }

  override get size(): number {
    return this.#bytes.stat.size;
  }

  override get dirty(): boolean {
    return !this.#settled;
  }

  override get sentId(): bigint {
    return this.#nextId;
  }

  /** Of the content that it was last compared with. */
  get baseKey(): string {
    return contentKey(this.#base.content);
  }

  /** The base. */
  get record(): WholeRecord {
    return this.#base;
  }

  /** How long the last comparison read the file (not what it waited for). */
  get compareMs(): number {
    return this.#next.ms;
  }

  /** Which part of that found nothing. */
  get wastedMs(): number {
    return this.#next.wastedMs;
  }

  /** Somebody may write it from now on, or has committed another content elsewhere. */
  unsettle(): void {
    this.#settled = false;
    this.#unsettlings++;
  }

  /** Whether somebody has removed its backing file: then a power cut takes what is not committed. What is open of it goes on as the file. */
  isRemoved(): boolean {
    // Its descriptor may be another file's by now.
    if (this.#closed) return false;
    if (this.#bytes.look(this.#base)) this.#pending.again();
    return this.#options.whole.isRemoved(this.ino);
  }

  /** Takes over the times that the kernel gave the backing file. */
  override look(): void {
    const { mtimeNs } = this.#bytes.exactStat;
    const changed = mtimeNs !== this.#seenMtimeNs && mtimeNs !== this.#keptMtimeNs;
    this.mtimeNs = changed ? mtimeNs : null;
    this.ctimeNs = changed ? mtimeNs : 0n;
  }

  override keepMtime(): void {
    super.keepMtime();
    this.#keptMtimeNs = this.#bytes.exactStat.mtimeNs;
  }

  /** Most of it is holes. */
  get isSparse(): boolean {
    const { size, blocks } = this.#bytes.stat;
    return blocks * SECTOR_BYTES < size / 2;
  }

  override covers(): boolean {
    return true;
  }

  override overlay(from: number, target: Buffer): void {
    target.fill(0, readUpTo(this.#bytes.fd, target, from));
  }

  #writable(): number {
    this.unsettle();
    return this.#bytes.writable();
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
    this.#cut ||= exact && size < this.size;
    if (exact || size > this.size) this.#setSize(size);
  }

  #setSize(size: number): void {
    if (size < this.size) this.#options.appends.cutting(this, size);
    ftruncateSync(this.#writable(), size);
  }

  /** An append that failed: the disk may have had room for a part of it. */
  takeBack(start: number, length: number): void {
    if (this.size > start && this.size <= start + length) ftruncateSync(this.#writable(), start);
  }

  override load(offset: number, target: Buffer, at: number, length: number): void {
    this.#next.load(offset, target.subarray(at, at + length));
  }

  /** Merges what is committed now, and says what differs from it, in whole blocks; null: nothing. What was appended stands behind what is committed. */
  async compare(committed: FileContent): Promise<Flush | null> {
    await this.early.settled();
    this.isRemoved();
    this.#rebase(this.#pending.settle(committed, this.#base.content));
    if (contentKey(committed) !== contentKey(this.#base.content)) await this.#merge(committed);
    this.#bytes.closeWriter();
    const quiet = this.#options.isQuiet(this.#bytes.fd);
    const unsettlings = this.#unsettlings;
    const overlay = await this.#next.changes(this.size, this.#base.hashes);
    const { size } = this.#next;
    this.look();
    const shrunk = size < this.#base.content.size;
    const unchanged = overlay.empty && size === this.#base.content.size;
    if (unchanged && this.mtimeNs === null) {
      // Else something wrote since (this process unsettled it), or somebody may still.
      this.#settled = quiet && unsettlings === this.#unsettlings;
      this.#cut = false;
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

  /**
   * After an absence: what was written here, if others have committed to the same pages since; null: they have not. `committed`: null where the file
   * is gone. `known`: the last commit of this node, where that is known.
   */
  async meets(committed: FileContent | null, known: FileContent | null): Promise<MetElsewhere | null> {
    this.isRemoved();
    if (committed !== null) this.#rebase(this.#pending.settle(committed, this.#base.content));
    const overlay = await this.#next.changes(this.size, this.#base.hashes);
    const { size } = this.#next;
    const cut = this.#cut || size < this.#base.content.size;
    const written = { size, overlay, cut, appendedFrom: this.append?.from ?? size };
    if (committed === null) return overlay.empty && !cut ? null : { ...written, meeting: -1 };
    const meeting = await findMeeting(this, written, committed, known);
    return meeting === undefined ? null : { ...written, meeting };
  }

  /** What `meets` found is kept aside, in the file of this descriptor: takes what is committed in its place. */
  async yieldTo(committed: FileContent, met: MetElsewhere, aside: number): Promise<void> {
    const sync = async (): Promise<void> => (this.promised ? this.#syncBytes() : undefined);
    const hashes = await giveUp(this, met, committed, aside, met.meeting, sync);
    // What is longer by now was written behind what is kept aside.
    if (this.size === met.size) this.#setSize(committed.size);
    this.#bytes.closeWriter();
    // What was appended while it was given up, too, is at its place for good.
    const { append } = this;
    this.append = undefined;
    this.#options.appends.committed(this, append, 0n);
    this.#next.done();
    this.#cut = false;
    this.early.clear();
    const { mtimeNs } = this.#bytes.exactStat;
    this.#takeBase({ ...this.#base, content: committed, hashes, mtimeNs });
  }

  read(content: FileContent, from: number, target: Buffer): void | Promise<void> {
    return this.#options.read(content, from, target);
  }

  /** Takes over what another node committed since the base. */
  async #merge(committed: FileContent): Promise<void> {
    const base = this.#base.content;
    const unchanged = this.#bytes.exactStat.mtimeNs === this.#seenMtimeNs;
    this.#moveAppended(committed.size);
    const hashes = await mergeCommitted(this, committed);
    const { size } = this;
    if (size >= base.size && size < committed.size) this.#setSize(committed.size);
    if (size === base.size && size > committed.size) this.#setSize(committed.size);
    // What was written here just now is no change of this node.
    const mtimeNs = unchanged ? this.#bytes.exactStat.mtimeNs : this.#seenMtimeNs;
    this.#takeBase({ ...this.#base, content: committed, hashes, mtimeNs });
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
    return Promise.resolve(this.early.matching(overlay, this.#next.hashes));
  }

  /** These ranges are about to be committed as these extents. */
  committingExtents(ranges: readonly Range[], uploaded: readonly Extent[]): void {
    const { content } = this.#base;
    const old = content.inline === null ? content.extents : [];
    const { size } = this.#next;
    this.#committing({ size, extents: mergeExtents(old, ranges, uploaded, size), inline: null });
  }

  #committing(content: FileContent): void {
    const mtimeNs = this.mtimeNs ?? this.#seenMtimeNs;
    this.#pending.begin({ id: this.#nextId, record: { ...this.#base, content, hashes: this.#next.hashes, mtimeNs } });
  }

  /** What was about to be committed is. */
  committed(): void {
    this.#rebase(this.#pending.take());
  }

  #rebase(record: WholeRecord | undefined): void {
    if (record === undefined) return;
    this.append = this.#appendedBehind(record.content.size);
    this.#next.done();
    this.#cut = false;
    this.early.clear();
    this.#takeBase(record);
  }

  /** Known here even where the disk fails to note it. */
  #takeBase(record: WholeRecord): void {
    this.#seenMtimeNs = record.mtimeNs;
    this.#base = record;
    this.#options.whole.takeNext(this.ino, record);
    this.#keepAgain();
  }

  #keepAgain(): void {
    // What somebody has removed is found by no boot.
    if (this.promised && !this.#options.whole.isRemoved(this.ino)) this.#kept.again();
  }

  /** What a later boot finds is as of the last commit. */
  kept(): Promise<void> {
    return this.#kept.settled();
  }

  /** What a later boot finds may be of an earlier commit than the last one. */
  get isKeptLate(): boolean {
    return this.#kept.isLate;
  }

  /** What the file has now survives a power cut when this resolves, and the next mount finds it. */
  async promise(): Promise<void> {
    this.promised = true;
    await (this.#kept.isThere ? this.#syncBytes() : this.#kept.soon());
  }

  async #syncBytes(): Promise<void> {
    if (this.#released) return;
    this.#syncs++;
    try {
      await sync(this.#bytes.fd);
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
    this.#bytes.closeWriter();
    return this.#options.isQuiet(this.#bytes.fd);
  }

  isSettled(): boolean {
    return this.#settled;
  }

  /** The bytes on disk: what a record may speak of. */
  async sync(): Promise<WholeRecord> {
    await this.#syncBytes();
    return this.#base;
  }

  /** A flush under way reads on: a descriptor that is closed under it may be another file's the next moment. */
  close(): void {
    this.#closed = true;
    this.flushed();
  }

  override flushed(): void {
    if (!this.#closed || this.#released || this.flushing !== undefined || this.#syncs > 0) return;
    this.#released = true;
    this.#bytes.close();
  }

  override discard(): void {
    this.close();
    this.#options.whole.drop(this.ino);
  }
}
