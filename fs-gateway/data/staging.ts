/**
 * The staging area of a mount: every file with uncommitted changes, in memory and in the journal.
 *
 * Failure: the worker killed at any point, `recover` brings back what was answered: ranges, bytes, sizes, and which inodes were open.
 * Limits: the bytes staged are bounded by who writes (vfs/ flushes early and waits above its bound), the journal by its rewriting.
 */
import {
  existsSync,
  fdatasync,
  fdatasyncSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { fromSystemError } from '../../lib/errors.ts';
import { FrameKind, Journal, syncFolder } from './journal.ts';
import type { Frame } from './journal.ts';
import { LiveFile } from './live-file.ts';
import { Overlay } from './overlay.ts';
import { MEMORY_BYTES_MAX, StagedFile } from './staged-file.ts';
import type { Append, FileChange } from './staged-file.ts';

const syncData = promisify(fdatasync);
const SYNC_SOON_MS = 500;
/** In a frame: what was appended is committed. */
const NO_APPEND: Append = { from: 0, id: 0n };

/** What one flush commits. */
export interface Flush extends FileChange {
  /** Frames of the journal up to here are committed with it. */
  readonly mark: number;
}

export interface StagingOptions {
  readonly dir: string;
  /** One for all workers of a mount: what an earlier mount had open is closed. */
  readonly life: string;
  /** What an earlier boot had staged is there only as far as it was synced. */
  readonly bootId: string;
  /** `sync` is used: what was synced survives also a rewriting of the journal. */
  readonly durable: boolean;
}

export class Staging {
  readonly #dir: string;
  readonly #durable: boolean;
  /** Staging files whose names are on the disk. */
  readonly #named = new WeakSet<StagedFile>();
  #syncs = 0;
  #syncTimer: NodeJS.Timeout | undefined;
  readonly #journal: Journal;
  readonly #files = new Map<number, StagedFile>();
  /** How often each inode is open, over all workers of the mount. */
  readonly #open = new Map<number, number>();
  /** The backing id of each inode that is open for passthrough. */
  readonly #backing = new Map<number, number>();
  /** What the worker before this one had appended to files that were live. */
  readonly #appends = new Map<number, Append>();

  constructor({ dir, life, bootId, durable }: StagingOptions) {
    this.#dir = dir;
    this.#durable = durable;
    mkdirSync(dir, { recursive: true, mode: 0o700 });
    this.#journal = new Journal(dir);
    const path = join(dir, 'life');
    const [earlierLife = '', earlierBoot = ''] = existsSync(path) ? readFileSync(path, 'utf8').split('\n') : [];
    this.#recover(earlierLife === life, earlierBoot === bootId);
    writeFileSync(path, `${life}\n${bootId}\n`, { mode: 0o600 });
  }

  get files(): ReadonlyMap<number, StagedFile> {
    return this.#files;
  }

  isOpen(ino: number): boolean {
    return this.#open.has(ino);
  }

  openInos(): Iterable<number> {
    return this.#open.keys();
  }

  /** Under which id the kernel has the inode open; undefined: it is not open, or through the daemon. */
  backingOf(ino: number): number | undefined {
    return this.#backing.get(ino);
  }

  get backed(): Iterable<number> {
    return this.#backing.keys();
  }

  get bytes(): number {
    let bytes = 0;
    for (const file of this.#files.values()) bytes += file.stagedBytes;
    return bytes;
  }

  get(ino: number): StagedFile | undefined {
    return this.#files.get(ino);
  }

  /** The staged file of an inode whose committed size is `size`. */
  begin(ino: number, size: number): StagedFile {
    return this.#files.get(ino) ?? this.#create(ino, size);
  }

  #create(ino: number, size: number): StagedFile {
    // A later worker learns from it that the file is longer than what it finds staged.
    if (size > 0) this.#append({ kind: FrameKind.SIZE, ino, timeNs: 0n, offset: 0, length: size });
    const file = new StagedFile(ino, size, this.#dir);
    this.#files.set(ino, file);
    return file;
  }

  /** A live file takes the place of what would be staged. */
  adopt(file: LiveFile): void {
    file.append = this.#appends.get(file.ino);
    this.#appends.delete(file.ino);
    this.#files.set(file.ino, file);
  }

  /** The live file is complete: its backing file stays. */
  release(file: LiveFile): void {
    this.#files.delete(file.ino);
    file.close();
  }

  /** `backingId`: 0 through the daemon. It is in the journal before the kernel hears of it. */
  opened(ino: number, nowNs: bigint, backingId = 0): void {
    this.#append({ kind: FrameKind.OPEN, ino, timeNs: nowNs, offset: backingId, length: 1 });
    this.#countOpen(ino, 1, backingId);
  }

  #countOpen(ino: number, count: number, backingId: number): void {
    this.#open.set(ino, (this.#open.get(ino) ?? 0) + count);
    if (backingId > 0) this.#backing.set(ino, backingId);
  }

  #countClose(ino: number): void {
    const count = this.#open.get(ino) ?? 0;
    if (count > 1) {
      this.#open.set(ino, count - 1);
      return;
    }
    this.#open.delete(ino);
    this.#backing.delete(ino);
  }

  /** True at the last close. */
  closed(ino: number, nowNs: bigint): boolean {
    const count = this.#open.get(ino) ?? 0;
    if (count === 0) return false;
    this.#append({ kind: FrameKind.CLOSE, ino, timeNs: nowNs, offset: 0, length: 1 });
    this.#countClose(ino);
    this.#tidy();
    return count === 1;
  }

  /** Throws `full` and `io` when the local disk does; then nothing was written. */
  write(file: StagedFile, offset: number, data: Buffer, nowNs: bigint): void {
    const end = offset + data.length;
    if (file.selfKept) {
      this.#store(file, offset, data);
      return;
    }
    const frame = { ino: file.ino, timeNs: nowNs, offset, length: data.length };
    try {
      if (file.inMemory && end > MEMORY_BYTES_MAX) {
        file.spill();
        this.#journal.append({ ...frame, kind: FrameKind.SPILL });
      }
      file.store(offset, data);
      if (file.inMemory) this.#journal.append({ ...frame, kind: FrameKind.DATA, bytes: data });
      else if (!file.active.coversWithData(offset, end)) this.#journal.append({ ...frame, kind: FrameKind.RANGE });
    } catch (error) {
      throw fromSystemError(error, 'staging in the cache directory');
    }
    file.active.set(offset, end, 'data');
    file.activeBytes += data.length;
    file.size = Math.max(file.size, end);
    this.#touched(file, nowNs);
  }

  #store(file: StagedFile, offset: number, data: Buffer): void {
    try {
      file.store(offset, data);
    } catch (error) {
      throw fromSystemError(error, 'writing a file in the cache directory');
    }
  }

  /** What is written at the end from here on is appended. */
  beginAppend(file: StagedFile, nowNs: bigint): void {
    if (file.append !== undefined) return;
    this.#noteAppend(file, file.size, nowNs);
  }

  #noteAppend(file: StagedFile, from: number, id: bigint): void {
    file.append = { from, id };
    this.#append(appendFrame(file.ino, file.append));
  }

  punch(file: StagedFile, start: number, end: number, nowNs: bigint): void {
    if (file instanceof LiveFile) {
      file.zero(start, end);
      return;
    }
    this.#append({ kind: FrameKind.HOLE, ino: file.ino, timeNs: nowNs, offset: start, length: end - start });
    file.active.set(start, end, 'hole');
    this.#touched(file, nowNs);
  }

  /** `exact`: truncate; else the size is raised to it at least. */
  resize(file: StagedFile, size: number, exact: boolean, nowNs: bigint): void {
    if (file instanceof LiveFile) {
      file.resize(size, exact);
      return;
    }
    this.#append({ kind: FrameKind.SIZE, ino: file.ino, timeNs: nowNs, offset: exact ? 1 : 0, length: size });
    applySize(file, size, exact);
    this.#touched(file, nowNs);
  }

  #touched(file: StagedFile, nowNs: bigint): void {
    file.mtimeNs = nowNs;
    file.ctimeNs = nowNs;
  }

  /** Moves what is staged now to `flushing`; writes from here on belong to the next flush. */
  beginFlush(file: StagedFile): Flush {
    const { active, size, sizeSet, mtimeNs, ctimeNs, append } = file;
    file.flushing = active;
    file.active = new Overlay();
    file.flushingBytes = file.activeBytes;
    file.activeBytes = 0;
    file.sizeSet = false;
    return { overlay: active, size, sizeSet, mtimeNs, ctimeNs, append, mark: this.#journal.frames, whole: false };
  }

  /** What is staged of the file now survives a power cut when this resolves. */
  async sync(file: StagedFile): Promise<void> {
    this.#syncs++;
    try {
      const mark = this.#journal.frames;
      if (file.fd !== undefined) {
        await syncData(file.fd);
        if (!this.#named.has(file)) syncFolder(this.#dir);
        this.#named.add(file);
        // Dropped meanwhile, it would only bring back what nobody wants.
        if (this.#files.get(file.ino) !== file) return;
        this.#append({ kind: FrameKind.SYNC, ino: file.ino, timeNs: 0n, offset: mark, length: 0 });
      }
      await this.#journal.sync();
    } catch (error) {
      throw fromSystemError(error, 'syncing the cache directory');
    } finally {
      this.#syncs--;
    }
  }

  /** The flush failed: all is as before it. */
  failedFlush(file: StagedFile, flush: Flush): void {
    const older = new Overlay();
    older.add(flush.overlay);
    older.add(file.active);
    file.active = older;
    file.activeBytes += file.flushingBytes;
    this.#flushed(file);
    file.sizeSet ||= flush.sizeSet;
  }

  /** What was flushed is committed. */
  committed(file: StagedFile, flush: Flush, nowNs: bigint): void {
    this.#flushed(file);
    if (file.selfKept) {
      if (file.append?.id === 0n) this.#noteAppend(file, file.append.from, nowNs);
      else if (flush.append !== undefined && file.append === undefined) this.#append(appendFrame(file.ino, NO_APPEND));
      return;
    }
    if (file.mtimeNs === flush.mtimeNs) file.mtimeNs = null;
    if (file.dirty) {
      // What was appended meanwhile follows what is committed now.
      if (flush.append !== undefined) this.#noteAppend(file, flush.size, nowNs);
      this.#append({ kind: FrameKind.CLEAN, ino: file.ino, timeNs: nowNs, offset: flush.mark, length: 0 });
      this.#syncSoon();
      return;
    }
    this.drop(file, nowNs);
  }

  #flushed(file: StagedFile): void {
    file.flushing = undefined;
    file.flushingBytes = 0;
    file.flushed();
  }

  /** Nothing of the file is wanted any more. */
  drop(file: StagedFile, nowNs: bigint): void {
    this.#files.delete(file.ino);
    this.#append({ kind: FrameKind.DROP, ino: file.ino, timeNs: nowNs, offset: 0, length: 0 });
    file.discard();
    this.#tidy();
    this.#syncSoon();
  }

  /** What is committed must not be committed again after a power cut: another node may have changed it since. */
  #syncSoon(): void {
    if (!this.#durable || this.#syncTimer !== undefined) return;
    this.#syncTimer = setTimeout(() => {
      this.#syncTimer = undefined;
      this.#syncs++;
      // It comes again with the next commit; a disk that fails is met by the next write.
      const done = (): number => this.#syncs--;
      this.#journal.sync().then(done, done);
    }, SYNC_SOON_MS).unref();
  }

  #append(frame: Frame): void {
    try {
      this.#journal.append(frame);
    } catch (error) {
      throw fromSystemError(error, 'journal in the cache directory');
    }
  }

  #tidy(): void {
    if (this.#files.size === 0 && this.#open.size === 0) {
      // Only now and then: truncating costs as much as some frames.
      if (this.#journal.frames > 1000) this.#journal.clear();
      return;
    }
    // The marks of flushes under way count frames of the journal as it is.
    const flushing = this.#files.values().some((file) => file.flushing !== undefined);
    if (this.#journal.overgrown && !flushing && this.#syncs === 0) this.#journal.rewrite(this.#live());
  }

  *#live(): Iterable<Frame> {
    for (const [ino, count] of this.#open) {
      yield { kind: FrameKind.OPEN, ino, timeNs: 0n, offset: this.#backing.get(ino) ?? 0, length: count };
    }
    for (const [ino, append] of this.#appends) yield appendFrame(ino, append);
    for (const file of this.#files.values()) {
      if (file.selfKept) {
        if (file.append !== undefined) yield appendFrame(file.ino, file.append);
        continue;
      }
      const { ino, ctimeNs: timeNs } = file;
      const all = new Overlay();
      if (file.flushing !== undefined) all.add(file.flushing);
      all.add(file.active);
      if (!file.inMemory) yield { kind: FrameKind.SPILL, ino, timeNs, offset: 0, length: 0 };
      for (const { start, end, kind } of all.ranges) {
        const frame = { ino, timeNs, offset: start, length: end - start };
        if (kind === 'hole') yield { ...frame, kind: FrameKind.HOLE };
        else if (!file.inMemory) yield { ...frame, kind: FrameKind.RANGE };
        else {
          const bytes = Buffer.alloc(end - start);
          file.load(start, bytes, 0, bytes.length);
          yield { ...frame, kind: FrameKind.DATA, bytes };
        }
      }
      if (file.append !== undefined) yield appendFrame(ino, file.append);
      if (this.#durable && file.fd !== undefined) {
        fdatasyncSync(file.fd);
        yield { kind: FrameKind.SYNC, ino, timeNs: 0n, offset: 0, length: 0 };
      }
      yield { kind: FrameKind.SIZE, ino, timeNs, offset: file.sizeSet ? 1 : 0, length: file.size };
    }
  }

  #recover(sameLife: boolean, sameBoot: boolean): void {
    const frames = this.#journal.read();
    const cleanBefore = new Map<number, number>();
    const syncedBefore = new Map<number, number>();
    for (const [index, { kind, ino, offset }] of frames.entries()) {
      if (kind === FrameKind.CLEAN) cleanBefore.set(ino, offset);
      if (kind === FrameKind.SYNC) syncedBefore.set(ino, offset === 0 ? index : offset);
    }
    for (const [index, frame] of frames.entries()) {
      if (frame.kind === FrameKind.OPEN) this.#countOpen(frame.ino, frame.length, frame.offset);
      else if (frame.kind === FrameKind.CLOSE) this.#countClose(frame.ino);
      else if (frame.kind === FrameKind.DROP) {
        this.#files.get(frame.ino)?.close();
        this.#files.delete(frame.ino);
      } else if (frame.kind !== FrameKind.CLEAN && frame.kind !== FrameKind.SYNC) {
        const synced = sameBoot || index < (syncedBefore.get(frame.ino) ?? 0);
        this.#replay(frame, index < (cleanBefore.get(frame.ino) ?? 0), synced);
      }
    }
    if (!sameLife) {
      this.#open.clear();
      this.#backing.clear();
    }
    for (const [ino, file] of this.#files) {
      if (file.dirty) continue;
      if (file.append !== undefined) this.#appends.set(ino, file.append);
      file.discard();
      this.#files.delete(ino);
    }
    for (const name of readdirSync(this.#dir)) {
      if (/^\d+$/.test(name) && !this.#files.has(Number(name))) rmSync(join(this.#dir, name), { force: true });
    }
    this.#journal.rewrite(this.#live());
  }

  /** A frame that is committed still matters for where the bytes are. */
  #replay(frame: Frame, committed: boolean, synced: boolean): void {
    const { kind, ino, offset, length, timeNs, bytes } = frame;
    let file = this.#files.get(ino);
    if (file === undefined) this.#files.set(ino, (file = new StagedFile(ino, 0, this.#dir)));
    if (kind === FrameKind.SPILL) {
      if (synced) file.openFile();
      else file.spill();
    }
    // The staging file of an earlier boot has these bytes or not: nobody was promised them.
    if (kind === FrameKind.RANGE && !synced) return;
    if (kind === FrameKind.DATA && bytes !== undefined && file.inMemory) file.store(offset, bytes);
    if (kind === FrameKind.APPEND) {
      file.append = timeNs === NO_APPEND.id ? undefined : { from: offset, id: timeNs };
      return;
    }
    if (committed) {
      // What follows was done to a file of this size.
      if (kind === FrameKind.DATA || kind === FrameKind.RANGE) file.size = Math.max(file.size, offset + length);
      else if (kind === FrameKind.SIZE) file.size = offset === 1 ? length : Math.max(file.size, length);
      return;
    }
    if (kind === FrameKind.DATA || kind === FrameKind.RANGE) {
      file.active.set(offset, offset + length, 'data');
      file.activeBytes += length;
      file.size = Math.max(file.size, offset + length);
    } else if (kind === FrameKind.HOLE) file.active.set(offset, offset + length, 'hole');
    else if (kind === FrameKind.SIZE) applySize(file, length, offset === 1);
    // The first size that is noted is the committed one: no change.
    if (kind !== FrameKind.SPILL && timeNs !== 0n) this.#touched(file, timeNs);
  }

  close(): void {
    clearTimeout(this.#syncTimer);
    this.#journal.close();
  }
}

function appendFrame(ino: number, { from, id }: Append): Frame {
  return { kind: FrameKind.APPEND, ino, timeNs: id, offset: from, length: 0 };
}

function applySize(file: StagedFile, size: number, exact: boolean): void {
  if (!exact) {
    file.size = Math.max(file.size, size);
    return;
  }
  // Whatever was behind it, staged, committed or being flushed, reads as zeros when the file grows again.
  file.active.set(size, file.sizeMax, 'hole');
  file.size = size;
  file.sizeSet = true;
}
