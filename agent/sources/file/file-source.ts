/**
 * Files that are followed as they grow: a glob, rotation by rename and by copytruncate, also where what was rotated is compressed, exactly
 * once into the spool.
 *
 * Invariants: a file's position is stored in the same group as its readings, so a kill at any moment neither repeats nor skips a line.
 * A position moves to another file (a copy, the compressed form) in one group, before that file is read.
 * Rotation
 * - Renamed: the open handle is read to its end, until nothing came for ROTATED_WAIT_MS; a file that was renamed while the agent was
 *   down is looked for by its inode in the folder where it lay, and then by its content in what is compressed there. One that is not
 *   found may lie in a file system that is not mounted yet: its position is kept. Where a link led to it, that is the folder behind it.
 * - Copied and truncated: the copy is found by its marks, and read from where the original was; a copy that the glob matches
 *   waits for its original to be truncated (awaited-copies.ts), and is a file of its own if that does not happen.
 * - Compressed: a gzip file that the glob matches is compared with what was read (matched-archives.ts).
 * Many files: where more match than may be open, the one that rests longest is closed at its end, and opened again when it has changed.
 * Limits: FILES_MAX open files, FILES_KNOWN_MAX with those that rest and the compressed ones that are read. What is written to a file that rests,
 * and deleted between two looks, is lost. What is written between a copytruncate's copy and its truncation is lost by that method itself.
 * What matches beyond these waits, and its number is a problem of the source; looks take a tenth of the time at most, and end with the signal.
 */
import type { FileHandle } from 'node:fs/promises';
import { matchesGlob, resolve } from 'node:path';
import { describeError, PenstockError, systemCode } from '../../../lib/errors.ts';
import type { FileSourceConfig } from '../../config.ts';
import { pause, type Source, type SourceOutput } from '../source.ts';
import { assemblerOf } from './assembler.ts';
import { AwaitedCopies } from './awaited-copies.ts';
import { CompressedFile } from './compressed-file.ts';
import { Marks } from './file-marks.ts';
import { ChunkBuffer, CHUNK_BYTES_MAX, FollowedFile, rotatedFirst, type OpenFile } from './followed-file.ts';
import { compressionOf } from './gzip-content.ts';
import type { Assembler } from './line-joiner.ts';
import { LostFiles } from './lost-files.ts';
import { MatchedArchives } from './matched-archives.ts';
import { matchingFiles, NotFollowed } from './matching-files.ts';
import { isReplaced, StoredPositions } from './stored-positions.ts';
import {
  BEGINNING,
  bornOf,
  bytesAt,
  folderOf,
  isSameFile,
  movedTo,
  openFile,
  placeOf,
  withAhead,
  type FilePosition,
  type FileStats,
} from './tailed-file.ts';

const ROTATED_WAIT_MS = 5000;
/** Well below the usual limit of 1024 descriptors. */
const FILES_MAX = 800;
/** A spool takes a whole delivery while it is below its bound: in a small one, deliveries are small. */
const CHUNKS_PER_SPOOL = 16;
/** Some 300 bytes each in the head of every segment of the spool. */
const FILES_KNOWN_MAX = 2000;
/** A look at 100,000 files takes seconds, in which none of them is read: for so many times as long, no other follows. */
const READING_PER_LOOK = 9;
const LF = 10;

export async function fileSource(
  config: FileSourceConfig,
  baseDir: string,
  spoolBytesMax = Infinity,
  filesMax = FILES_MAX,
): Promise<Source> {
  const pattern = resolve(baseDir, config.path);
  const name = `file:${pattern}`;
  const chunkBytes = Math.min(CHUNK_BYTES_MAX, Math.floor(spoolBytesMax / CHUNKS_PER_SPOOL));
  const makeAssembler = await assemblerOf(config);
  const excluded = (config.exclude ?? []).map((glob) => resolve(baseDir, glob));
  const isExcluded = (path: string): boolean => excluded.some((glob) => matchesGlob(path, glob));
  return {
    name,
    run: (output, signal) =>
      new FileFollower({
        ...{ name, pattern, isExcluded, config, chunkBytes, filesMax, output, signal },
        makeJoiner: (position) => makeAssembler(position, (event) => output.count(event)),
      }).run(),
  };
}

interface Following {
  readonly name: string;
  readonly pattern: string;
  readonly isExcluded: (path: string) => boolean;
  readonly config: FileSourceConfig;
  /** What is read of a file at once. */
  readonly chunkBytes: number;
  /** So many are open. */
  readonly filesMax: number;
  readonly output: SourceOutput;
  /** Of a file that is read from there; undefined where a line is a reading. */
  readonly makeJoiner: (position: FilePosition) => Assembler | undefined;
  readonly signal: AbortSignal;
}

class FileFollower {
  readonly #options: Following;
  readonly #output: SourceOutput;
  readonly #signal: AbortSignal;
  readonly #buffer: ChunkBuffer;
  /** By inode, what had something to read last at the end. */
  readonly #files = new Map<string, OpenFile>();
  readonly #positions: StoredPositions;
  readonly #lost: LostFiles;
  readonly #copies = new AwaitedCopies();
  readonly #archives: MatchedArchives;
  /** By path, as of the last look and what was read since: of a file that is gone, none is left. */
  readonly #problems = new Map<string, string>();
  /** By folder, what keeps lost files from being looked for. */
  readonly #folderProblems = new Map<string, string>();
  /** What is there at the first look is passed over. */
  readonly #startsAtEnd: boolean;
  #isFirstLook = true;

  constructor(options: Following) {
    const { name, config, chunkBytes, output, signal } = options;
    this.#options = options;
    this.#output = output;
    this.#signal = signal;
    this.#buffer = new ChunkBuffer(chunkBytes);
    this.#positions = new StoredPositions(name, output);
    this.#lost = new LostFiles({
      ...{ positions: this.#positions, output, signal },
      isOpen: (inode) => this.#files.has(inode),
      follow: (handle, inode, position, isCompressed) => this.#followRotated(handle, inode, position, isCompressed),
      guarded: (folder, act) => this.#guarded(folder, act, this.#folderProblems),
    });
    this.#archives = new MatchedArchives({
      ...{ positions: this.#positions, lost: this.#lost, openFiles: this.#files },
      ...{ output, signal },
    });
    this.#startsAtEnd = config.start === 'end' && this.#positions.isEmpty;
  }

  async run(): Promise<void> {
    const { clock } = this.#output;
    let nextLookMs = -Infinity;
    try {
      while (!this.#isOver()) {
        const beganMs = clock.monotonicMs();
        if (beganMs >= nextLookMs) {
          await this.#look();
          const endedMs = clock.monotonicMs();
          nextLookMs = Math.max(beganMs + this.#options.config.poll, endedMs + READING_PER_LOOK * (endedMs - beganMs));
        }
        // What was left of it comes before what took its place.
        await this.#lost.find();
        let isBusy = false;
        const waitedFor = new Set<string>();
        // What was rotated away comes before what took its place.
        for (const file of rotatedFirst([...this.#files.values()])) {
          if (this.#isOver()) break;
          const { path } = file.lines.place;
          const folder = folderOf(file.lines.place);
          if (waitedFor.has(path) || waitedFor.has(folder)) continue;
          let hasMore = await this.#readOn(file);
          while (hasMore && !this.#isOver() && file.rotatedSinceMs !== undefined) hasMore = await this.#readOn(file);
          isBusy ||= hasMore;
          // Its last reading waits for its timeout. What took its place has its path, or is in its folder if the file is a copy or was renamed.
          if (file.rotatedSinceMs !== undefined && file.lines.isHolding) waitedFor.add(path).add(folder);
        }
        const [problem = null] = [this.#folderProblems, this.#problems].flatMap((problems) => [
          ...problems.values().take(1),
        ]);
        this.#output.report(problem);
        if (!isBusy) await pause(this.#options.config.poll, this.#signal);
      }
    } finally {
      for (const file of this.#files.values()) await file.close();
    }
  }

  // A method, because the type checker does not see that an await in between can change it.
  #isOver(): boolean {
    return this.#signal.aborted;
  }

  /** Which files are there now. A look that the signal broke off has seen a part of them, and concludes nothing from what it has not seen. */
  async #look(): Promise<void> {
    // What still is one is met again, here or when the files are read on.
    this.#problems.clear();
    const found = new Set<string>();
    const { pattern, isExcluded } = this.#options;
    const matches = await matchingFiles(pattern, isExcluded, (path, act) => this.#guarded(path, act), this.#signal);
    // Before any file is taken for a new one: it may be the copy of one of these.
    if (this.#isFirstLook) this.#lost.addLeft();
    for (const file of matches) {
      if (this.#isOver()) return;
      await this.#guarded(file.path, () => this.#lost.addIfReplaced(file));
    }
    await this.#lost.find();
    const waiting: string[] = [];
    let opened = 0;
    for (const { path, stats } of matches) {
      if (this.#isOver()) return;
      // Of several names, as of two links to one file, it has the first.
      const isNamed = found.has(stats.inode);
      found.add(stats.inode);
      const known = this.#files.get(stats.inode);
      if (known !== undefined) {
        const { place } = known.lines;
        if (!isNamed && place.path !== path) known.lines.place = await placeOf(path, stats.inode, place);
        known.rotatedSinceMs = undefined;
      } else if (this.#positions.isFinished(stats)) continue;
      else if (this.#mayFollow(stats.inode) && (await this.#makesRoom())) {
        opened += 1;
        await this.#guarded(path, () => this.#discover(path, stats));
      } else waiting.push(path);
    }
    if (this.#isOver()) return;
    // Where others had their turn, these will have theirs.
    if (opened === 0 || this.#knownCount >= FILES_KNOWN_MAX) this.#noteWaiting(waiting, matches.length);
    for (const file of this.#files.values()) {
      if (!found.has(file.inode)) file.rotatedSinceMs ??= this.#output.clock.monotonicMs();
    }
    this.#copies.keep(found);
    this.#archives.keep(found);
    if (this.#isFirstLook) {
      this.#isFirstLook = false;
      // Of earlier runs: renamed, and maybe compressed, while the agent was down; deleted; or not mounted yet.
      for (const [key, position] of this.#positions.entries()) {
        // What is excluded since then is not looked for: it is where it was.
        const isSought = !found.has(key) && !isReplaced(key) && !this.#options.isExcluded(position.path);
        if (isSought) this.#lost.addMissing(key, position);
      }
      await this.#positions.bound();
    }
    for (const [inode, position] of this.#positions.restingBut(found)) this.#lost.addMissing(inode, position, true);
    this.#positions.keepFinished(found);
  }

  get #knownCount(): number {
    return this.#files.size + this.#positions.finishedCount;
  }

  #mayFollow(inode: string): boolean {
    return this.#knownCount < FILES_KNOWN_MAX || this.#positions.isResting(inode);
  }

  /** Whether a file may be opened, maybe instead of one that rests. */
  async #makesRoom(): Promise<boolean> {
    if (this.#files.size < this.#options.filesMax) return true;
    for (const file of this.#files.values()) {
      const { restsAs } = file;
      if (restsAs === null || file.rotatedSinceMs !== undefined || (await file.isDeleted())) continue;
      this.#positions.finish(restsAs);
      await this.#close(file);
      return true;
    }
    return false;
  }

  /** One problem for all of them: 100,000 would be the memory of the agent. */
  #noteWaiting([first, ...others]: readonly string[], count: number): void {
    if (first === undefined) return;
    const which = others.length === 0 ? `${first} waits` : `${first} and ${others.length} others wait`;
    this.#problems.set(
      this.#options.pattern,
      `${count} files match ${this.#options.pattern}, more than are followed (${FILES_KNOWN_MAX}, ${this.#options.filesMax} of them open): ${which}`,
    );
  }

  async #discover(path: string, stats: FileStats): Promise<void> {
    const handle = await openFile(path, stats.inode);
    if (handle === null) return;
    let position: FilePosition | 'wait' | undefined;
    let isCompressed = false;
    try {
      const compression = await compressionOf(handle);
      isCompressed = compression === 'gzip';
      if (compression !== null && !isCompressed) {
        throw new NotFollowed(`${path} is compressed by ${compression}: of compressed files, those of gzip are read`);
      }
      const isPassedOver = this.#startsAtEnd && this.#isFirstLook;
      position = isCompressed
        ? await this.#archives.startOf(handle, path, stats, isPassedOver)
        : await this.#startPosition(handle, path, stats);
    } finally {
      if (position === undefined || position === 'wait') await handle.close();
    }
    if (position !== 'wait') await this.#follow(handle, stats.inode, position, isCompressed);
  }

  async #startPosition(handle: FileHandle, path: string, stats: FileStats): Promise<FilePosition | 'wait'> {
    const { inode, size } = stats;
    const remembered = this.#positions.get(inode);
    if (remembered !== undefined) {
      // If it was replaced during this look, the next one finds the copy of what it held before any file is taken for a new one.
      return (await isSameFile(handle, remembered)) ? { ...remembered, path } : 'wait';
    }
    const renumbered = await this.#positions.ofOtherDevice(inode, path, handle);
    if (renumbered !== undefined) return renumbered;
    if (!this.#startsAtEnd || !this.#isFirstLook) {
      const nowMs = this.#output.clock.monotonicMs();
      const resting = this.#positions.resting();
      if (await this.#copies.waits(handle, stats, this.#files.values(), resting, nowMs)) return 'wait';
      this.#copies.delete(inode);
      return { ...BEGINNING, path };
    }
    // In the middle of a line, its end is skipped too.
    const skipping = size > 0 && (await bytesAt(handle, size - 1, 1))[0] !== LF;
    const marks = await Marks.at(handle, size);
    const place = await placeOf(path, inode);
    const position = { ...BEGINNING, ...(await bornOf(handle)), ...marks.end(size), ...place, skipping };
    // Stored at once: what is written while the agent is down is new. It is opened when it has changed: of more than may be open, none is read
    // from its beginning.
    await this.#positions.store(inode, position);
    this.#positions.finish(stats);
    return 'wait';
  }

  async #follow(handle: FileHandle, inode: string, found: FilePosition, isCompressed: boolean): Promise<OpenFile> {
    const key = this.#positions.checkpointOf(inode);
    const moved = movedTo(found, await placeOf(found.path, inode, found));
    const position = isCompressed ? moved : await withAhead(handle, moved);
    const joiner = this.#options.makeJoiner(position);
    const context = { key, config: this.#options.config, output: this.#output, joiner };
    const file = isCompressed
      ? new CompressedFile(inode, context, handle, position)
      : await FollowedFile.at(inode, context, handle, { ...position, ...(await bornOf(handle)) }, this.#buffer);
    this.#files.set(inode, file);
    this.#positions.take(inode);
    this.#copies.delete(inode);
    return file;
  }

  /** Returns whether there is more to read at once. */
  async #readOn(file: OpenFile): Promise<boolean> {
    const isBusy = await this.#guarded(file.lines.place.path, async () => {
      const before = file.lines.position.offset;
      const result = await file.readOn(this.#signal);
      if (file.lines.position.offset > before && this.#files.delete(file.inode)) this.#files.set(file.inode, file);
      if (result === 'changed') await this.#startOver(file);
      if (result === 'finished') await this.#close(file);
      if (result !== 'end') return result !== 'finished';
      if (file.rotatedSinceMs === undefined) return false;
      const nowMs = this.#output.clock.monotonicMs();
      // Still written under its new name: the wait begins anew.
      if (file.lines.position.offset > before) file.rotatedSinceMs = nowMs;
      else if (nowMs - file.rotatedSinceMs >= ROTATED_WAIT_MS) {
        await file.lines.finish();
        await this.#close(file);
      }
      return false;
    });
    return isBusy ?? false;
  }

  async #startOver(file: OpenFile): Promise<void> {
    const { inode, lines, rotatedSinceMs } = file;
    await file.close();
    this.#files.delete(inode);
    await this.#lost.addReplaced(inode, lines.position);
    const { path } = lines.place;
    const handle = await openFile(path, inode);
    if (handle === null) return;
    const again = await this.#follow(handle, inode, { ...BEGINNING, path }, false);
    again.rotatedSinceMs = rotatedSinceMs;
  }

  async #close(file: OpenFile): Promise<void> {
    const { inode, lines } = file;
    const isDeleted = await file.isDeleted();
    await file.close();
    this.#files.delete(inode);
    await this.#positions.remember(inode, lines.position, isDeleted);
  }

  async #followRotated(
    handle: FileHandle,
    inode: string,
    position: FilePosition,
    isCompressed: boolean,
  ): Promise<boolean> {
    if (!(await this.#makesRoom())) {
      await handle.close();
      return false;
    }
    const file = await this.#follow(handle, inode, position, isCompressed);
    file.rotatedSinceMs = this.#output.clock.monotonicMs();
    return true;
  }

  /** What the file system refuses is reported and tried again at the next look (undefined); everything else goes up. */
  async #guarded<T>(path: string, act: () => Promise<T>, problems = this.#problems): Promise<T | undefined> {
    try {
      const result = await act();
      problems.delete(path);
      return result;
    } catch (error) {
      const isKnown =
        error instanceof NotFollowed || (!(error instanceof PenstockError) && systemCode(error) !== undefined);
      if (!isKnown) throw error;
      problems.set(path, describeError(error));
      return undefined;
    }
  }
}
