/**
 * Gzip files that the glob matches: where each is read from, if there is something in it that was not read before it was compressed.
 *
 * One is looked at once it has not changed for SETTLED_MS. Where the file is still open that it was made of, that one is read, and then there is
 * nothing left in this one; where it is gone, this one goes on in its place; else it is a file of its own.
 * Limits: while the content of one is compared (100 MB take a second or less), the other files of the source wait.
 */
import type { FileHandle } from 'node:fs/promises';
import type { SourceOutput } from '../source.ts';
import { FollowedFile, type OpenFile } from './followed-file.ts';
import { contentEnd, endOf, matchContent, type ContentEnd, type Match } from './gzip-content.ts';
import type { LostFiles } from './lost-files.ts';
import type { StoredPositions } from './stored-positions.ts';
import {
  BEGINNING,
  knownBy,
  movedTo,
  placeOf,
  type FilePlace,
  type FilePosition,
  type FileStats,
} from './tailed-file.ts';

/** A compressor writes all the time; one that pauses longer only makes the file come in two parts. */
const SETTLED_MS = 10_000;

interface Original extends ContentEnd {
  readonly inode: string;
}

export interface MatchedArchivesHost {
  readonly positions: StoredPositions;
  readonly lost: LostFiles;
  readonly output: SourceOutput;
  readonly signal: AbortSignal;
  /** By inode. */
  readonly openFiles: ReadonlyMap<string, OpenFile>;
}

export class MatchedArchives {
  readonly #host: MatchedArchivesHost;
  /** By inode, since when they are as they are. */
  readonly #settling = new Map<string, FileStats & { readonly sinceMs: number }>();
  /** By inode, the open file that each was made of and the end of what it holds. */
  readonly #originals = new Map<string, Original>();

  constructor(host: MatchedArchivesHost) {
    this.#host = host;
  }

  /** `wait` also when there is nothing in it to read. */
  async startOf(
    handle: FileHandle,
    path: string,
    stats: FileStats,
    isPassedOver: boolean,
  ): Promise<FilePosition | 'wait'> {
    const { positions, openFiles } = this.#host;
    const { inode } = stats;
    if (await positions.isReadToItsEnd(inode, handle)) {
      positions.finish(stats);
      return 'wait';
    }
    const place = await placeOf(path, inode);
    const beginning = { ...BEGINNING, ...place };
    if (isPassedOver) return this.#setAside(handle, stats, beginning);
    if (!this.#isSettled(stats)) return 'wait';
    const original = this.#originals.get(inode);
    const made = original === undefined ? undefined : openFiles.get(original.inode);
    if (original !== undefined && made !== undefined) {
      const { position } = made.lines;
      const isRead = original.isWhole && position.offset >= original.end.offset;
      return isRead ? this.#setAside(handle, stats, movedTo({ ...position, ...original.end }, place)) : 'wait';
    }
    this.#originals.delete(inode);
    const match = await this.#matchOriginal(handle, inode);
    if (this.#isOver() || this.#originals.has(inode)) return 'wait';
    if (match.key !== null || !match.isShort) return this.#goOn(inode, match.key, place);
    const reason = 'the gzip file is damaged or cut off, within what was read before it was compressed';
    await this.#host.output.quarantine([{ reason, position: path, input: Buffer.alloc(0) }]);
    this.#host.output.count('gzip_damaged');
    return this.#setAside(handle, stats, beginning);
  }

  /** Forgets those that the glob does not match any more. */
  keep(found: ReadonlySet<string>): void {
    for (const seen of [this.#settling, this.#originals]) {
      for (const inode of seen.keys()) if (!found.has(inode)) seen.delete(inode);
    }
  }

  // A method, because the type checker does not see that an await in between can change it.
  #isOver(): boolean {
    return this.#host.signal.aborted;
  }

  /** Behind what was read under `key`; from the beginning if that is null. */
  async #goOn(inode: string, key: string | null, place: FilePlace): Promise<FilePosition | 'wait'> {
    const { positions, lost } = this.#host;
    const before = positions.get(inode);
    if (before !== undefined && key !== inode) await lost.addReplaced(inode, before);
    const from = key === null ? { ...BEGINNING, ...place } : positions.get(key);
    if (from === undefined) return 'wait';
    const position = movedTo(from, place);
    if (key !== null && key !== inode) await positions.store(inode, position, key);
    return position;
  }

  /** By content, the file that a compressed one was made of: of those that were not compressed when they were read, and what was read of it. */
  async #matchOriginal(handle: FileHandle, inode: string): Promise<Match<string>> {
    const { positions, openFiles, signal } = this.#host;
    const closed = positions.entries().filter(([key, { ended }]) => key === inode || ended === undefined);
    const open = new Map<string, FollowedFile>();
    for (const file of openFiles.values()) if (file instanceof FollowedFile) open.set(file.inode, file);
    let content: ContentEnd | undefined;
    for (;;) {
      const ofOpen = [...open.values()].map((file): [string, FilePosition] => [file.inode, file.lines.position]);
      const match = await matchContent(handle, [...ofOpen, ...closed], signal);
      const file = open.get(match.key ?? '');
      if (file === undefined || this.#isOver()) return match;
      content ??= await contentEnd(handle);
      // What was read of it so far (a header, say) may be the beginning of many files. One that was truncated is about to be looked for.
      if ((await file.holds(content.end)) || !(await file.holds(knownBy(file.lines.position)))) {
        this.#originals.set(inode, { ...content, inode: file.inode });
        return match;
      }
      open.delete(file.inode);
    }
  }

  /** Nothing of the file is read; if it changes, it goes on behind `position`. */
  async #setAside(handle: FileHandle, stats: FileStats, position: FilePosition): Promise<'wait'> {
    await this.#host.positions.store(stats.inode, { ...position, ended: await endOf(handle) });
    this.#host.positions.finish(stats);
    return 'wait';
  }

  #isSettled(stats: FileStats): boolean {
    const nowMs = this.#host.output.clock.monotonicMs();
    const before = this.#settling.get(stats.inode);
    if (before?.size === stats.size && before.modifiedMs === stats.modifiedMs) {
      return nowMs - before.sinceMs >= SETTLED_MS;
    }
    this.#settling.set(stats.inode, { ...stats, sinceMs: nowMs });
    this.#originals.delete(stats.inode);
    return false;
  }
}
