/**
 * One file with uncommitted changes: its overlay of exact ranges, and the bytes, in memory while they are few, else in segments (segments.ts).
 *
 * Invariants
 * - What `active` covers is newer than what `flushing` covers, and that is newer than the committed extents. The bytes of both lie at
 *   their file offsets in one place: a write during a flush changes only what will be flushed again.
 */
import type { Extent } from '../../lib/volume/extents.ts';
import { EarlyBlocks } from './early-blocks.ts';
import { Overlay } from './overlay.ts';
import type { Range } from './overlay.ts';
import type { Segments } from './segments.ts';
import type { StagedBase } from './staged-base.ts';

/** A file that ends within it has no segments: opening one costs more than writing it. */
export const MEMORY_BYTES_MAX = 64 * 1024;
/** To hand less to another thread takes longer than to copy it. */
const BESIDE_MIN = 256 * 1024;

export interface Append {
  readonly from: number;
  /** Unique: a commit carries it, so that it is not made twice. */
  readonly id: bigint;
  /** Of a live file: up to where the last flush under this id goes. */
  readonly to?: number;
}

/** What a flush of a file commits. */
export interface FileChange {
  readonly overlay: Overlay;
  readonly size: number;
  readonly sizeSet: boolean;
  readonly mtimeNs: bigint | null;
  /** `StagedFile.mtimesKept` at that time: when somebody has set another mtime since, that one stays. */
  readonly mtimesKept: number;
  readonly ctimeNs: bigint;
  /** Where what was appended begins; it belongs behind the end of the file, wherever that is at the commit. */
  readonly append: Append | undefined;
  /** The ranges are whole blocks of which not every byte was written: they hold only for the version that they were compared with. */
  readonly whole: boolean;
}

/** What one flush commits. */
export interface Flush extends FileChange {
  /** The commit carries it when some of it was promised, so that after a power cut it is known to be made; that of a live file always. */
  readonly promiseId: bigint | undefined;
}

/** Under which the metadata know of its commit; undefined: under none. */
export function flushId({ append, promiseId }: Pick<Flush, 'append' | 'promiseId'>): bigint | undefined {
  return append?.id ?? promiseId;
}

export class StagedFile {
  readonly ino: number;
  /** A live file (live-file.ts): it finds out by itself what changed, and is neither in the journal nor dropped by a commit. */
  readonly selfKept: boolean = false;
  active = new Overlay();
  flushing: Overlay | undefined;
  /** The same flush; what is before the byte `flushMark` of the journal is committed with it. */
  flush: Flush | undefined;
  flushMark = 0;
  /** The last flush has failed, and may have been committed. It is under way until the metadata tell; but of a live file, which compares itself then. */
  isUnsettled = false;
  /** Of `active`. */
  early = new EarlyBlocks();
  base: StagedBase | undefined;
  /** Set by the first O_APPEND write: from there on the bytes belong behind the end of the file, wherever that is at the commit. */
  append: Append | undefined;
  #size: number;
  #sizeMax: number;
  /** The size was set (truncate), so a commit sets it too; else a commit only raises it. */
  sizeSet = false;
  /** The time of the last change that is not committed; null: none, or somebody set another time since. */
  mtimeNs: bigint | null = null;
  ctimeNs = 0n;
  /** How often somebody has set another time. */
  mtimesKept = 0;
  /** A close or fsync was answered because the local disk has what is staged, or is about to be. */
  promised = false;
  /** Under which all that was promised since the last flush is committed next; the journal has it with each promise. */
  promiseId: bigint | undefined;
  /** A flush of what was promised failed: the next one has another id, of which the journal does not know yet. */
  promiseAgain = false;
  /** How often its bytes have changed. */
  changes = 0;
  readonly #segments: Segments | undefined;
  /** Of `flushing`. */
  #flushingEarly: EarlyBlocks | undefined;
  #memory: Buffer | undefined;
  #spilled = false;

  /** `segments`: of all staged files; a live file has none. */
  constructor(ino: number, size: number, segments?: Segments) {
    this.ino = ino;
    this.#size = size;
    this.#sizeMax = size;
    this.#segments = segments;
  }

  /** The file's size as programs see it. */
  get size(): number {
    return this.#size;
  }

  set size(size: number) {
    this.#size = size;
    this.#sizeMax = Math.max(this.#sizeMax, size);
  }

  /** The largest size the file had meanwhile: no byte of it, committed or staged, is behind. */
  get sizeMax(): number {
    return this.#sizeMax;
  }

  get inMemory(): boolean {
    return !this.#spilled;
  }

  get dirty(): boolean {
    return !this.active.empty || this.sizeSet || this.mtimeNs !== null || this.isUnsettled;
  }

  /** Under which the flush under way is committed. */
  get sentId(): bigint | undefined {
    return this.flush === undefined ? undefined : flushId(this.flush);
  }

  /** What was written again while it is flushed counts twice. */
  get stagedBytes(): number {
    return this.active.dataBytes + (this.flushing?.dataBytes ?? 0);
  }

  /** Brings the times up to date. */
  look(): void {
    return;
  }

  /** What is flushed is no longer what is staged from here on. */
  beginFlush(): void {
    this.flushing = this.active;
    this.active = new Overlay();
    if (this.selfKept) return;
    this.#flushingEarly = this.early;
    this.early = new EarlyBlocks();
  }

  /** What the flush under way, which commits `overlay`, has in the store already. */
  async earlyExtents(overlay: Overlay): Promise<readonly Extent[]> {
    await this.#flushingEarly?.settled();
    return this.#flushingEarly?.matching(overlay) ?? [];
  }

  /** A flush of it has ended. */
  flushed(): void {
    this.#flushingEarly = undefined;
  }

  /** Somebody has set another time; a flush that has begun leaves it, too. */
  keepMtime(): void {
    this.mtimeNs = null;
    this.mtimesKept++;
  }

  /** Bytes that are stored are to be committed. */
  wrote(offset: number, length: number): void {
    this.#changed(offset, offset + length, 'data');
    this.size = Math.max(this.size, offset + length);
  }

  /** These bytes read as zeros. */
  punched(start: number, end: number): void {
    this.#changed(start, end, 'hole');
  }

  #changed(start: number, end: number, kind: Range['kind']): void {
    this.changes++;
    this.active.set(start, end, kind);
    this.early.changed(start, end);
  }

  touched(nowNs: bigint): void {
    this.mtimeNs = nowNs;
    this.ctimeNs = nowNs;
  }

  /** `exact`: truncate; else the size is raised to it at least. */
  setSize(size: number, exact: boolean): void {
    if (!exact) {
      this.size = Math.max(this.size, size);
      return;
    }
    // Whatever was behind it, staged, committed or being flushed, reads as zeros when the file grows again.
    this.punched(size, this.sizeMax);
    this.size = size;
    this.sizeSet = true;
  }

  /** Stores bytes at their offset; the caller has made sure that they fit where they go. */
  store(offset: number, data: Uint8Array): void {
    if (this.#spilled) {
      this.#segments?.write(this.ino, offset, data);
      return;
    }
    const end = offset + data.length;
    if (this.#memory === undefined || this.#memory.length < end) {
      const larger = Buffer.alloc(Math.min(MEMORY_BYTES_MAX, Math.max(end, (this.#memory?.length ?? 0) * 2)));
      this.#memory?.copy(larger);
      this.#memory = larger;
    }
    this.#memory.set(data, offset);
  }

  /** Moves the bytes from memory to segments. Throws Node's errors; then they are in memory still. */
  spill(): void {
    if (this.#memory !== undefined) this.#segments?.write(this.ino, 0, this.#memory);
    this.takeSegments();
  }

  /** The bytes are in segments: those of an earlier worker. */
  takeSegments(): void {
    this.#spilled = true;
    this.#memory = undefined;
  }

  /** Nothing of it is in segments any more: the next bytes are in memory. */
  takeMemory(): void {
    this.active = this.active.withoutData(0, Infinity);
    this.#spilled = false;
  }

  /** Those that have bytes of it, by index, with the generation of each. */
  get segments(): ReadonlyMap<number, number> {
    return this.#segments?.generationsOf(this.ino) ?? new Map();
  }

  /** Copies staged bytes; the range must be covered by `data`. */
  load(offset: number, target: Buffer, at: number, length: number): void {
    if (this.#spilled) this.#segments?.read(this.ino, offset, target, at, length);
    else this.#memory?.copy(target, at, offset, offset + length);
  }

  /** The same as they are, also where they are damaged: for who looks after them. */
  loadDamaged(offset: number, target: Buffer, at: number, length: number): void {
    this.#segments?.read(this.ino, offset, target, at, length, false);
  }

  /**
   * Copies staged bytes of the flush under way; a large range while programs are served: the page cache takes milliseconds for a block. What they write
   * meanwhile is in `active`, and is read again at once, as a write is seen whole or not at all; also one of which a hole was made since.
   */
  async loadFlushing(offset: number, target: Buffer): Promise<void> {
    if (!this.#spilled || target.length < BESIDE_MIN) {
      this.load(offset, target, 0, target.length);
      return;
    }
    await this.#segments?.readBeside(this.ino, offset, target);
    for (const { start, end } of this.active.within(offset, offset + target.length)) {
      this.load(start, target, start - offset, end - start);
    }
  }

  /** Lays what is staged of [from, from + target.length) over `target`. */
  overlay(from: number, target: Buffer): void {
    for (const layer of this.flushing === undefined ? [this.active] : [this.flushing, this.active]) {
      for (const { start, end, kind } of layer.within(from, from + target.length)) {
        if (kind === 'hole') target.fill(0, start - from, end - from);
        else this.load(start, target, start - from, end - start);
      }
    }
  }

  /** Nothing of the range has to be read from the committed content. */
  covers(from: number, to: number): boolean {
    if (this.active.covers(from, to)) return true;
    if (this.flushing === undefined) return false;
    const both = new Overlay();
    for (const layer of [this.flushing, this.active]) {
      for (const { start, end, kind } of layer.within(from, to)) both.set(start, end, kind);
    }
    return both.covers(from, to);
  }

  /** What is staged in segments survives a power cut when this resolves. */
  async syncSegments(): Promise<void> {
    await this.#segments?.sync(this.ino);
  }

  syncSegmentsNow(): void {
    this.#segments?.syncNow(this.ino);
  }

  /** What was flushed is committed: gives back what is staged no more. `mayServe`: as of `Segments.release`. */
  release(mayServe: boolean): void {
    const isWanted = (from: number, to: number): boolean =>
      this.active.within(from, to).some(({ kind }) => kind === 'data');
    this.#segments?.release(this.ino, mayServe, isWanted);
  }

  /** Nothing of it is wanted any more. */
  discard(mayServe: boolean): void {
    this.#memory = undefined;
    this.#segments?.release(this.ino, mayServe);
  }
}
