/**
 * The staging area of a mount: every file with uncommitted changes, in memory and in the journal.
 *
 * Failure: the worker killed at any point, the next one finds what was answered (staging-start.ts): ranges, bytes, sizes, which inodes were open. On a full disk too:
 * bytes stay until the journal has the word that they are committed.
 * Limits: the bytes staged are bounded by who writes (vfs/ flushes early and waits above its bound), the journal by its rewriting.
 */
import { mkdirSync } from 'node:fs';
import { fromSystemError } from '../../lib/errors.ts';
import type { PenstockError } from '../../lib/errors.ts';
import type { ProcessLock } from '../../lib/process-lock.ts';
import { appendFrame, Appends, flushFrame } from './appends.ts';
import { DiskRoom } from './disk-room.ts';
import type { StagingRoom } from './disk-room.ts';
import { Journal } from './journal.ts';
import { FrameKind } from './journal-frames.ts';
import { JournalSyncs } from './journal-syncs.ts';
import { JournalUpkeep } from './journal-upkeep.ts';
import { idBytes, segmentFrame } from './live-frames.ts';
import { LiveFile } from './live-file.ts';
import { Opens } from './opens.ts';
import { Overlay } from './overlay.ts';
import { Segments } from './segments.ts';
import { Bases } from './staged-base.ts';
import { MEMORY_BYTES_MAX, StagedFile } from './staged-file.ts';
import type { Flush } from './staged-file.ts';
import { writeLife } from './staging-life.ts';
import type { StagingLife } from './staging-life.ts';
import { findStaged } from './staging-start.ts';
import type { StagedLoss } from './staging-start.ts';
import { StagingWatch } from './staging-watch.ts';

const NO_BYTES = Buffer.alloc(0);

/** What an earlier life of the mount had open is closed; of what an earlier boot had staged only what was synced counts. */
export interface StagingOptions extends StagingLife {
  readonly dir: string;
  /** close and fsync are answered when the local disk has the bytes (`-o writeback`). */
  readonly promises: boolean;
  /** Whether an earlier worker has committed a flush under this id. */
  readonly isCommitted: (ino: number, id: bigint) => boolean;
  readonly room?: StagingRoom;
  /** A file of the cache directory that says whose it is. */
  readonly identity?: string;
  /** Of `dir`. */
  readonly lock?: ProcessLock;
  readonly report?: (message: string) => void;
  /** Somebody had removed it, or its disk. */
  readonly putBack?: (() => void) | undefined;
}

export class Staging {
  readonly #dir: string;
  readonly #segments: Segments;
  readonly #promises: boolean;
  readonly #room: DiskRoom;
  readonly #journal: Journal;
  readonly #syncs: JournalSyncs;
  readonly #upkeep: JournalUpkeep;
  readonly #watch: StagingWatch;
  readonly #files: Map<number, StagedFile>;
  /** What an earlier worker left and is not there any more. */
  readonly losses: readonly StagedLoss[];
  readonly appends: Appends;
  readonly bases: Bases;
  readonly opens: Opens;

  constructor({ dir, life, bootId, promises, isCommitted, room, identity, lock, report, putBack }: StagingOptions) {
    this.#dir = dir;
    this.#promises = promises;
    mkdirSync(dir, { recursive: true, mode: 0o700 });
    this.#journal = new Journal(dir);
    this.#syncs = new JournalSyncs(this.#journal);
    this.#segments = new Segments(dir, {
      room,
      sums: promises,
      begun: (ino, index, generation) => this.#journal.append(segmentFrame(ino, index, generation)),
    });
    this.#room = new DiskRoom(this.#journal, this.#segments, room, report);
    const found = findStaged({
      dir,
      life: { life, bootId },
      journal: this.#journal,
      segments: this.#segments,
      isCommitted,
      report,
    });
    const { recovered } = found;
    this.#files = recovered.files;
    this.losses = found.losses;
    this.appends = new Appends(recovered, this.#room);
    this.bases = new Bases(recovered.bases, this.#room);
    this.opens = new Opens({
      counts: recovered.open,
      room: this.#room,
      journal: this.#journal,
      lastClosed: (ino) => this.appends.closed(ino),
      closed: () => this.#upkeep.tidy(),
    });
    this.#upkeep = new JournalUpkeep({
      journal: this.#journal,
      syncs: this.#syncs,
      room: this.#room,
      files: this.#files,
      appends: this.appends,
      bases: this.bases,
      opens: this.opens,
    });
    if (!found.goesOn) this.#upkeep.rewrite();
    // A copy is none any more behind that.
    if (!found.goesOn || this.#goOn(recovered.committed)) writeLife(dir, { life, bootId });
    this.#watch = new StagingWatch({
      journal: this.#journal,
      segments: this.#segments,
      lock,
      life: { life, bootId },
      files: identity === undefined ? [] : [identity],
      report: report ?? (() => undefined),
      putBack,
      looked: () => this.#upkeep.catchUp(),
    });
  }

  /** What the disk of the cache directory says to whoever writes to it; undefined: it takes that, or is only full. */
  get failure(): PenstockError | undefined {
    return this.#room.failure;
  }

  /** Before what is followed by a write. Throws what that would. */
  expectWritable(): void {
    if (this.failure !== undefined) throw this.failure;
  }

  /**
   * A worker whose journal is right as it stands starts on a full disk, too. What the metadata told is in it before they forget it. True: it is written
   * anew.
   */
  #goOn(committed: ReadonlyMap<number, number>): boolean {
    if (this.#upkeep.tryRewrite()) return true;
    for (const [ino, offset] of committed)
      this.#room.owe({ kind: FrameKind.CLEAN, ino, timeNs: 0n, offset, length: 0 });
    this.#syncs.unknown();
    return false;
  }

  get files(): ReadonlyMap<number, StagedFile> {
    return this.#files;
  }

  get journalPath(): string {
    return this.#journal.path;
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
    // A file that is written over for days, and neither synced nor closed, would fill the disk with what it was.
    if (this.#journal.overgrown) this.#upkeep.tidy();
    return this.#files.get(ino) ?? this.#create(ino, size);
  }

  #create(ino: number, size: number): StagedFile {
    this.#upkeep.beforeAnew(ino);
    // A later worker learns from it that the file is longer than what it finds staged.
    if (size > 0) this.#room.append({ kind: FrameKind.SIZE, ino, timeNs: 0n, offset: 0, length: size });
    const file = new StagedFile(ino, size, this.#segments);
    this.#files.set(ino, file);
    return file;
  }

  /** A change was refused. A file of which nothing is staged is none, and would keep its size as of now. */
  refused(file: StagedFile, nowNs: bigint): void {
    if (!file.selfKept && !file.dirty && file.flushing === undefined) this.drop(file, nowNs);
  }

  /** A live file takes the place of what would be staged. */
  adopt(file: LiveFile): void {
    this.#files.set(file.ino, file);
  }

  /** The live file is complete: its backing file stays. */
  release(file: LiveFile): void {
    this.#files.delete(file.ino);
    // Whose base the journal has, and who is not there any more, is lost (vfs/removed-files.ts).
    this.bases.set(file, undefined);
    file.close();
  }

  /** At the end of the file. Throws as `write` does. */
  append(file: StagedFile, data: Buffer, nowNs: bigint, request: string): void {
    const { size } = file;
    this.appends.begin(file, data.length, request, nowNs);
    try {
      this.write(file, size, data, nowNs, request);
    } catch (error) {
      if (file instanceof LiveFile) file.takeBack(size, data.length);
      throw error;
    }
    this.appends.done(file, request);
  }

  /** `request`: of an append. Throws `full` and `io` when the local disk does; then nothing was written, but maybe a part in a live file. */
  write(file: StagedFile, offset: number, data: Buffer, nowNs: bigint, request = ''): void {
    const end = offset + data.length;
    if (file.selfKept) {
      this.#room.in(() => file.store(offset, data), `writing a file in the cache directory, ${this.#dir}`);
      return;
    }
    const frame = { ino: file.ino, timeNs: nowNs, offset, length: data.length };
    const id = request === '' ? NO_BYTES : idBytes(request);
    const stage = (): void => {
      if (file.inMemory && end > MEMORY_BYTES_MAX) {
        file.spill();
        this.#journal.append({ ...frame, kind: FrameKind.SPILL });
      }
      file.store(offset, data);
      if (file.inMemory) {
        const bytes = id.length === 0 ? data : Buffer.concat([data, id]);
        this.#journal.append({ ...frame, kind: FrameKind.DATA, bytes });
      } else if (id.length > 0 || !file.active.coversWithData(offset, end)) {
        this.#journal.append({ ...frame, kind: FrameKind.RANGE, bytes: id });
      }
    };
    this.#room.in(stage, `staging in the cache directory, ${this.#dir}`);
    file.wrote(offset, data.length);
    file.touched(nowNs);
  }

  punch(file: StagedFile, start: number, end: number, nowNs: bigint): void {
    if (file instanceof LiveFile) {
      file.zero(start, end);
      return;
    }
    this.#room.append({ kind: FrameKind.HOLE, ino: file.ino, timeNs: nowNs, offset: start, length: end - start });
    file.punched(start, end);
    file.touched(nowNs);
  }

  /** `exact`: truncate; else the size is raised to it at least. */
  resize(file: StagedFile, size: number, exact: boolean, nowNs: bigint): void {
    if (file instanceof LiveFile) {
      file.resize(size, exact);
      return;
    }
    this.#room.append({ kind: FrameKind.SIZE, ino: file.ino, timeNs: nowNs, offset: exact ? 1 : 0, length: size });
    file.setSize(size, exact);
    file.touched(nowNs);
  }

  /** Somebody sets another mtime. */
  keepMtime(file: StagedFile, nowNs: bigint): void {
    if (!file.selfKept) this.#room.append({ kind: FrameKind.KEEP, ino: file.ino, timeNs: nowNs, offset: 0, length: 0 });
    file.keepMtime();
  }

  /**
   * Moves what is staged now to `flushing`; writes from here on belong to the next flush. What is appended meanwhile does not have the id of
   * this one: when it was committed and this process was killed, only that much of the file is taken for committed.
   */
  beginFlush(file: StagedFile, nowNs: bigint): Flush {
    // Nothing of it may be promised yet: what is promised while it is under way is committed by it all the same.
    const promiseId = file.promiseId ?? (this.#promises && !file.selfKept ? nowNs : undefined);
    if (!file.selfKept) this.#noteFlush(file, promiseId ?? nowNs);
    const { active: overlay, size, sizeSet, mtimeNs, mtimesKept, ctimeNs, append } = file;
    const flush = { overlay, size, sizeSet, mtimeNs, mtimesKept, ctimeNs, append, promiseId, whole: false };
    file.beginFlush();
    file.sizeSet = false;
    file.promiseId = undefined;
    file.flush = flush;
    file.flushMark = this.#journal.end;
    return flush;
  }

  #noteFlush(file: StagedFile, id: bigint): void {
    if (file.append !== undefined) this.appends.flushing(file, file.size, id);
    // A full disk gets room by the commit.
    else if (this.#promises) this.#room.owe(flushFrame(file, file.size, id));
  }

  /**
   * What is staged of the file now survives a power cut when this resolves. The promise has the id of the next commit: a flush that begins meanwhile
   * commits all that had been staged at the call.
   */
  async sync(file: StagedFile, nowNs: bigint): Promise<void> {
    try {
      await this.#syncs.during(() => this.#sync(file, nowNs));
    } catch (error) {
      throw fromSystemError(error, 'syncing the cache directory');
    }
  }

  async #sync(file: StagedFile, nowNs: bigint): Promise<void> {
    this.#journal.pay();
    const mark = this.#journal.end;
    if (file instanceof LiveFile) {
      await this.#syncLive(file);
      return;
    }
    const id = (file.promiseId ??= nowNs);
    file.promised = true;
    if (!file.inMemory) {
      await file.syncSegments();
      // Dropped meanwhile, it would only bring back what nobody wants.
      if (this.#files.get(file.ino) !== file) return;
    }
    this.#room.append({ kind: FrameKind.SYNC, ino: file.ino, timeNs: id, offset: mark, length: 0 });
    await this.#syncs.sync();
    this.#watch.look();
    // Else a flush took the id meanwhile, and that may have failed.
    if (file.promiseId === id) file.promiseAgain = false;
  }

  /**
   * Before a commit whose id is in no promise: after a power cut the journal knows of it. A disk that fails is met by the next promise, and no reason
   * to commit nothing.
   */
  syncFlush(): Promise<void> {
    return this.#syncs.try();
  }

  /** Before a flush: what the metadata remember of commits is to be known by the journal on the disk before they forget it. */
  keepUp(): Promise<void> | undefined {
    return this.#syncs.keepUp();
  }

  /** Where appended bytes begin, and the base, are in the journal; one flush of the disk is for both. */
  async #syncLive(file: LiveFile): Promise<void> {
    const appends = file.append !== undefined;
    if (appends) this.#room.append({ kind: FrameKind.SYNC, ino: file.ino, timeNs: 0n, offset: 0, length: 0 });
    // Else, after a power cut, what was committed here last would be taken for another node's.
    const noted = appends || file.isKeptLate;
    await Promise.all([file.promise(), noted ? this.#syncs.sync() : undefined]);
  }

  /** The flush failed, and may have been committed: until one of the next two is called, its ranges and its id stay apart, also in a new journal. */
  unsettledFlush(file: StagedFile, flush: Flush): void {
    if (file.selfKept) this.failedFlush(file, flush);
    file.isUnsettled = true;
  }

  /** The flush failed: all is as before it. */
  failedFlush(file: StagedFile, flush: Flush): void {
    const older = new Overlay();
    older.add(flush.overlay);
    older.add(file.active);
    file.active = older;
    this.#flushed(file);
    file.sizeSet ||= flush.sizeSet;
    file.promiseAgain ||= file.promised && !file.selfKept;
  }

  /** What was flushed is committed. */
  committed(file: StagedFile, flush: Flush, nowNs: bigint): void {
    const { flushMark: mark } = file;
    this.#flushed(file);
    if (this.#promises) this.#syncs.committed();
    if (file.selfKept) {
      this.appends.committed(file, flush.append, nowNs);
      if (flush.append !== undefined) this.#syncSoon(file);
      this.#upkeep.tidy();
      return;
    }
    if (file.mtimeNs === flush.mtimeNs) file.mtimeNs = null;
    if (file.dirty) {
      if (flush.append !== undefined) {
        // What was appended meanwhile follows what is committed now.
        file.append = { from: flush.size, id: nowNs };
        this.#room.owe(appendFrame(file.ino, file.append));
      }
      this.#room.owe({ kind: FrameKind.CLEAN, ino: file.ino, timeNs: nowNs, offset: mark, length: 0 });
      // Until the journal has it, the next worker commits all of it once more, and needs the bytes.
      if (!this.#journal.owes) file.release(this.#mayServe(file));
      this.#syncSoon(file);
      return;
    }
    this.drop(file, nowNs);
  }

  #flushed(file: StagedFile): void {
    file.flushing = file.flush = undefined;
    file.isUnsettled = false;
    file.flushed();
  }

  /** Nothing of the file is wanted any more. */
  drop(file: StagedFile, nowNs: bigint): void {
    this.#files.delete(file.ino);
    this.#room.owe({ kind: FrameKind.DROP, ino: file.ino, timeNs: nowNs, offset: 0, length: 0 });
    if (this.#journal.owes && !file.inMemory) this.#upkeep.discardLater(file);
    else file.discard(this.#mayServe(file));
    this.#upkeep.tidy();
    this.#syncSoon(file);
  }

  /** Whether the bytes of a file that are committed may be written over with those of another one (segments.ts). */
  #mayServe(file: StagedFile): boolean {
    return !file.promised && !this.#journal.owes;
  }

  /** What is committed must not be committed again after a power cut: another node may have changed it since. */
  #syncSoon(file: StagedFile): void {
    if (file.promised) this.#syncs.soon();
  }

  close(): void {
    this.#watch.close();
    this.#syncs.close();
    this.#segments.close();
    this.#journal.close();
  }
}
