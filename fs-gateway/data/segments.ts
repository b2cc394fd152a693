/**
 * The bytes of staged files that have left memory: a local file for each SEGMENT_BYTES of a staged file (segment-file.ts).
 *
 * What is committed gives its segments back while the file is still being written, so the disk holds what is not committed yet and no more. Some are kept,
 * as `<dir>/free.<number>`, and serve the next bytes: to write over pages that the page cache has takes half the CPU of new ones, and where a virtual machine
 * has to fetch new memory from its host a tenth or less.
 *
 * Invariants
 * - What is in a segment counts only where the journal says that it was written: one that served before has other bytes in it. So one that somebody removes is never made
 *   anew: it would have zeros where bytes were staged. As long as it is open here, its bytes are there, and are put back.
 * - Each has a generation, in its name and in the journal before its first byte. Where frames of the journal are lost, one that is newer than the journal knows may have other
 *   bytes than those that the journal speaks of: they are doubtful, and nobody uploads them.
 * - A segment serves another file only behind the journal's word, in the journal, that its bytes are committed; and never where they were promised over a
 *   power cut (`-o writeback`), as the journal's word and the new name may reach the disk without one another.
 * - That one is removed may reach the disk before the word for the commit: a promise that covers its bytes has the id of that commit, or is behind its FLUSH in
 *   the journal, and the metadata tell by the id that they are committed (docs/decisions/0051).
 * - The file that was opened first counts: where a disk is unmounted under the mount, and mounted again, its path may have an older one.
 * - What an earlier version staged is in one file for all of it, `<dir>/<inode>`: it stays the one segment of that inode until it is given back.
 * Failure: the next worker finds segments by their names; those of no staged file are removed.
 * Limits: of segments that serve nobody FREE_MAX (256 MiB), and no more than `SegmentRoom` allows: they count to the cache's bytes, go when the disk is short of
 * room, and when none was wanted for `idleMs`. DESCRIPTORS_MAX open.
 */
import {
  closeSync,
  constants,
  copyFileSync,
  fdatasyncSync,
  fstatSync,
  mkdirSync,
  openSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from 'node:fs';
import { open } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { FoundSegments } from './found-segments.ts';
import type { AdoptedFile, DoubtfulSegment, JournalOrigin } from './found-segments.ts';
import { isSameFile, syncFolder } from './journal.ts';
import { asLost, endsEarly, expectSame, expectSums, SEGMENT_BYTES, segmentName } from './segment-file.ts';
import type { Generations, Segment } from './segment-file.ts';
import { SegmentSums } from './segment-sums.ts';
import { Slots } from './slots.ts';

/** More than any file has. */
const UNDIVIDED_BYTES = 2 ** 53;
/** What one file stages before it is flushed, and what is uploaded meanwhile. */
const FREE_MAX = 16;
const DESCRIPTORS_MAX = 128;
const SYNCS_MAX = 4;

/** What segments that serve nobody may take. */
export interface SegmentRoom {
  readonly idleBytesMax: number;
  /** So long after the last of them was wanted, or came. */
  readonly idleMs: number;
  /** The disk has what it is to keep free for others. */
  hasReserve(): boolean;
  idleChanged(bytes: number): void;
}

const AS_IT_COMES: SegmentRoom = {
  idleBytesMax: Infinity,
  idleMs: 30_000,
  hasReserve: () => true,
  idleChanged: () => undefined,
};

export interface SegmentsOptions {
  readonly room?: SegmentRoom | undefined;
  /** What is staged stays long, and is checked before it is uploaded. */
  readonly sums?: boolean;
  /** The journal hears of each that is begun. */
  readonly begun?: (ino: number, index: number, generation: number) => void;
}

export class Segments {
  readonly #dir: string;
  readonly #ofFiles = new Map<number, Map<number, Segment>>();
  /** In the order of use. */
  readonly #descriptors = new Map<string, number>();
  readonly #room: SegmentRoom;
  readonly #free: string[] = [];
  #idle: NodeJS.Timeout | undefined;
  /** Inodes with one segment for all. */
  readonly #undivided = new Set<number>();
  #names = 0;
  /** Of the segment that was begun last. */
  #generation = 0;
  /** Names that a power cut could take. */
  readonly #unnamed = new Set<Segment>();

  readonly #options: SegmentsOptions;

  constructor(dir: string, options: SegmentsOptions = {}) {
    this.#dir = dir;
    this.#options = options;
    this.#room = options.room ?? AS_IT_COMES;
  }

  /** Finds those of an earlier worker's files, and removes the others. Returns what is doubtful. */
  adopt(
    files: ReadonlyMap<number, AdoptedFile>,
    generations: Generations,
    origin: JournalOrigin,
  ): readonly DoubtfulSegment[] {
    const found = new FoundSegments(this.#dir, generations);
    this.#generation = found.lastGeneration;
    found.adopt(files, origin);
    for (const ino of found.undivided) this.#undivided.add(ino);
    for (const { ino, index, generation, name } of found.adopted)
      this.#register(ino, { index, generation, path: join(this.#dir, name), unsynced: 1 });
    return found.doubtful;
  }

  /** Of those that have bytes of the file, by index. */
  generationsOf(ino: number): ReadonlyMap<number, number> {
    return new Map(
      this.#ofFiles
        .get(ino)
        ?.values()
        .map(({ index, generation }) => [index, generation]),
    );
  }

  #bytesOf(ino: number): number {
    return this.#undivided.has(ino) ? UNDIVIDED_BYTES : SEGMENT_BYTES;
  }

  #register(ino: number, segment: Segment): void {
    const { index } = segment;
    const segments = this.#ofFiles.get(ino);
    if (segments === undefined) this.#ofFiles.set(ino, new Map([[index, segment]]));
    else segments.set(index, segment);
    this.#unnamed.add(segment);
  }

  /** The segment and the place in it for the byte at `offset`, and how many can follow it there. */
  #placeOf(ino: number, offset: number): { readonly index: number; readonly at: number; readonly room: number } {
    const bytes = this.#bytesOf(ino);
    const index = Math.floor(offset / bytes);
    const at = offset - index * bytes;
    return { index, at, room: bytes - at };
  }

  /** Throws Node's errors. */
  write(ino: number, offset: number, data: Uint8Array): void {
    for (let done = 0; done < data.length;) {
      const { index, at, room } = this.#placeOf(ino, offset + done);
      const segment = this.#ofFiles.get(ino)?.get(index) ?? this.#begin(ino, index);
      segment.unsynced++;
      const written = writeSync(this.#fd(ino, segment), data, done, Math.min(data.length - done, room), at);
      segment.sums?.wrote(at, data.subarray(done, done + written));
      done += written;
    }
  }

  #begin(ino: number, index: number): Segment {
    const generation = ++this.#generation;
    const path = join(this.#dir, segmentName(ino, index, generation));
    this.#options.begun?.(ino, index, generation);
    const free = this.#free.pop();
    if (free !== undefined) {
      try {
        renameSync(free, path);
      } catch {
        // Somebody has removed it: a new one does as well.
      }
      this.#idleChanged();
    }
    mkdirSync(this.#dir, { recursive: true, mode: 0o700 });
    const sums = this.#options.sums === true && { sums: new SegmentSums() };
    const segment: Segment = { index, generation, path, unsynced: 1, ...sums };
    // Here only. It is never truncated: what an earlier worker staged may be in it.
    try {
      this.#open(ino, segment, constants.O_CREAT);
    } catch (error) {
      // The next try has another name, and only the next worker would remove this one.
      this.#remove(path);
      throw error;
    }
    this.#register(ino, segment);
    return segment;
  }

  #idleChanged(): void {
    this.#room.idleChanged(this.#free.length * SEGMENT_BYTES);
    clearTimeout(this.#idle);
    if (this.#free.length > 0) this.#idle = setTimeout(() => this.giveBackIdle(), this.#room.idleMs).unref();
  }

  /** Those that serve nobody give their place on the disk back. False: there were none. */
  giveBackIdle(): boolean {
    const free = this.#free.splice(0);
    if (free.length === 0) return false;
    for (const path of free) this.#remove(path);
    this.#idleChanged();
    return true;
  }

  #remove(path: string): void {
    try {
      rmSync(path, { force: true });
    } catch {
      // A disk that became read-only, or a directory that is gone: the next worker removes it.
    }
  }

  /** Fills `target` from `at` on with bytes that were written. `isChecked`: throws StagedDamageError where they are not. */
  read(ino: number, offset: number, target: Buffer, at: number, length: number, isChecked = true): void {
    for (let done = 0; done < length;) {
      const { index, at: from, room } = this.#placeOf(ino, offset + done);
      const segment = this.#ofFiles.get(ino)?.get(index);
      const most = Math.min(length - done, room);
      const read = segment === undefined ? 0 : readSync(this.#fd(ino, segment), target, at + done, most, from);
      if (segment === undefined || read === 0) throw endsEarly(ino, offset + done);
      const bytes = target.subarray(at + done, at + done + read);
      if (isChecked) expectSums(ino, segment, segment.sums?.within(from, from + read), from, bytes);
      done += read;
    }
  }

  /** Fills all of `target` while programs are served. Of a write that comes meanwhile it may have a part. */
  async readBeside(ino: number, offset: number, target: Buffer): Promise<void> {
    for (let done = 0; done < target.length;) {
      const { index, at, room } = this.#placeOf(ino, offset + done);
      const segment = this.#ofFiles.get(ino)?.get(index);
      if (segment === undefined) throw endsEarly(ino, offset + done);
      const most = Math.min(target.length - done, room);
      const sums = segment.sums?.within(at, at + most);
      const file = await this.#openBeside(ino, segment);
      try {
        const { bytesRead } = await file.read(target, done, most, at);
        if (bytesRead === 0) throw endsEarly(ino, offset + done);
        // A part is rare, and checked no less in what it has whole.
        const whole = sums?.filter(({ end }) => end <= at + bytesRead);
        expectSums(ino, segment, whole, at, target.subarray(done, done + bytesRead));
        done += bytesRead;
      } finally {
        await file.close();
      }
    }
  }

  #fd(ino: number, segment: Segment): number {
    const { path } = segment;
    const known = this.#descriptors.get(path);
    if (known !== undefined) {
      this.#descriptors.delete(path);
      this.#descriptors.set(path, known);
      return known;
    }
    return this.#open(ino, segment);
  }

  /** Of its own: one of ours may be closed meanwhile, and be another file's the next moment. */
  async #openBeside(ino: number, segment: Segment): Promise<FileHandle> {
    this.#restore(ino, segment);
    let file: FileHandle | undefined;
    try {
      file = await open(segment.path, 'r');
      expectSame(ino, segment, fstatSync(file.fd));
      return file;
    } catch (error) {
      await file?.close();
      throw asLost(error, ino, segment.path);
    }
  }

  /** Puts back what somebody has removed. */
  restore(): void {
    for (const [ino, segments] of this.#ofFiles) for (const segment of segments.values()) this.#restore(ino, segment);
  }

  /** What is not at its path any more is there for as long as we have it open. */
  #restore(ino: number, segment: Segment): void {
    const { path } = segment;
    const fd = this.#descriptors.get(path);
    if (fd === undefined) return;
    const there = statSync(path, { throwIfNoEntry: false });
    if (there !== undefined && isSameFile(there, fstatSync(fd))) return;
    mkdirSync(this.#dir, { recursive: true, mode: 0o700 });
    const temporary = `${path}.new`;
    try {
      copyFileSync(`/proc/self/fd/${fd}`, temporary);
      renameSync(temporary, path);
    } catch (error) {
      rmSync(temporary, { force: true });
      throw error;
    }
    this.#close(path);
    delete segment.file;
    this.#open(ino, segment);
    segment.unsynced++;
    this.#unnamed.add(segment);
  }

  #open(ino: number, segment: Segment, flags = 0): number {
    const { path } = segment;
    let fd: number;
    try {
      fd = openSync(path, constants.O_RDWR | flags, 0o600);
    } catch (error) {
      throw asLost(error, ino, path);
    }
    try {
      expectSame(ino, segment, fstatSync(fd));
    } catch (error) {
      closeSync(fd);
      throw error;
    }
    this.#descriptors.set(path, fd);
    for (const oldest of this.#descriptors.keys()) {
      if (this.#descriptors.size <= DESCRIPTORS_MAX) break;
      this.#close(oldest);
    }
    return fd;
  }

  #close(path: string): void {
    const fd = this.#descriptors.get(path);
    this.#descriptors.delete(path);
    if (fd !== undefined) closeSync(fd);
  }

  /** All that was written survives a power cut when this resolves. */
  async sync(ino: number): Promise<void> {
    const segments = [...(this.#ofFiles.get(ino)?.values() ?? [])];
    const slots = new Slots(SYNCS_MAX);
    await Promise.all(segments.map((segment) => slots.run(() => this.#sync(ino, segment))));
    this.#syncNames();
  }

  async #sync(ino: number, segment: Segment): Promise<void> {
    const { unsynced } = segment;
    if (unsynced === 0) return;
    const file = await this.#openBeside(ino, segment).catch((error: unknown) => {
      if (this.#ofFiles.get(ino)?.get(segment.index) === segment) throw error;
    });
    // Given back meanwhile: it is committed.
    if (file === undefined) return;
    try {
      await file.datasync();
    } finally {
      await file.close();
    }
    if (segment.unsynced === unsynced) segment.unsynced = 0;
  }

  /** The same at once. */
  syncNow(ino: number): void {
    for (const segment of this.#ofFiles.get(ino)?.values() ?? []) {
      if (segment.unsynced > 0) fdatasyncSync(this.#fd(ino, segment));
      segment.unsynced = 0;
    }
    this.#syncNames();
  }

  #syncNames(): void {
    if (this.#unnamed.size > 0) syncFolder(this.#dir);
    this.#unnamed.clear();
  }

  /** Of the file's segments those that `isWanted` does not ask for are given back. `mayServe`: another file (see above). */
  release(ino: number, mayServe: boolean, isWanted: (from: number, to: number) => boolean = () => false): void {
    const segments = this.#ofFiles.get(ino);
    const bytes = this.#bytesOf(ino);
    for (const [index, segment] of segments ?? []) {
      if (isWanted(index * bytes, (index + 1) * bytes)) continue;
      segments?.delete(index);
      this.#unnamed.delete(segment);
      this.#close(segment.path);
      // One that is larger would keep more of the disk than FREE_MAX says.
      if (mayServe && bytes === SEGMENT_BYTES && this.#keepsAnother()) this.#keep(segment.path);
      else this.#remove(segment.path);
    }
    if (segments?.size !== 0) return;
    this.#ofFiles.delete(ino);
    this.#undivided.delete(ino);
  }

  #keepsAnother(): boolean {
    const { idleBytesMax } = this.#room;
    const count = this.#free.length + 1;
    return count <= FREE_MAX && count * SEGMENT_BYTES <= idleBytesMax && this.#room.hasReserve();
  }

  #keep(path: string): void {
    const free = join(this.#dir, `free.${this.#names++}`);
    try {
      renameSync(path, free);
    } catch {
      // As of `#remove`.
      return;
    }
    this.#free.push(free);
    this.#idleChanged();
  }

  /** Without removing anything. */
  close(): void {
    clearTimeout(this.#idle);
    for (const path of [...this.#descriptors.keys()]) this.#close(path);
  }
}
