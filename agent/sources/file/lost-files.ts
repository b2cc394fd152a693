/**
 * Finds what was read before and is not where it was: renamed, copied and truncated, or compressed, while nobody looked or just now.
 *
 * Invariants: a position whose file has other content moves to a key of its own on the disk before that content is read, and from there to
 * the file that is found; so a kill at any moment leaves it under one of them. It is forgotten only when a search that met no error has not found it.
 * Failure: where the file system refuses a search, it is repeated after RETRY_MS; what a single refused file may hold is looked for again at the next
 * start.
 * Limits: one listing of a folder, and one search (copies.ts), for all that is lost in it; LOOKS_MAX where something replaced is not found and
 * other files have come meanwhile.
 */
import type { FileHandle } from 'node:fs/promises';
import type { SourceOutput } from '../source.ts';
import { filesIn, findCopies, type FoundFile, type Lost } from './copies.ts';
import { compressionOf, matchContent } from './gzip-content.ts';
import { isReplaced, type StoredPositions } from './stored-positions.ts';
import { bornOf, folderOf, isSameFile, movedTo, openFile, type FilePosition } from './tailed-file.ts';

/** At a folder in which more and more files appear. */
const LOOKS_MAX = 4;
/** A folder that cannot be read is in most cases one that somebody has to repair. */
const RETRY_MS = 5000;

export interface LostFilesHost {
  readonly positions: StoredPositions;
  readonly output: SourceOutput;
  readonly signal: AbortSignal;
  readonly isOpen: (inode: string) => boolean;
  /** Takes over the handle. False where there is no room for another open file. */
  readonly follow: (
    handle: FileHandle,
    inode: string,
    position: FilePosition,
    isCompressed: boolean,
  ) => Promise<boolean>;
  /** Keeps what the file system refuses, as a problem of this path. */
  readonly guarded: (path: string, act: () => Promise<true>) => Promise<true | undefined>;
}

export class LostFiles {
  readonly #host: LostFilesHost;
  #lost: Lost[] = [];
  /** Whose search the file system refused. */
  #refused: Lost[] = [];
  #refusedMs = 0;

  constructor(host: LostFilesHost) {
    this.#host = host;
  }

  /**
   * A file of an earlier run that is not found by its name, and may be in a file system that is not mounted yet; or, which `mayGrow`, one that was
   * renamed just now, or waits for room.
   */
  addMissing(key: string, position: FilePosition, mayGrow = false): void {
    this.#lost.push({ key, position, mayGrow });
  }

  /** Whose search was broken off, as by a kill. */
  addLeft(): void {
    for (const [key, position] of this.#host.positions.entries()) {
      if (isReplaced(key)) this.#lost.push({ key, position });
    }
  }

  /** The file was truncated or rewritten, or another one has its inode. */
  async addReplaced(inode: string, position: FilePosition): Promise<void> {
    const key = await this.#host.positions.setAside(inode, position);
    this.#lost.push({ key, position });
  }

  /** The same, if a file that the glob matches is not the one of its stored position. What is compressed is compared when it has settled. */
  async addIfReplaced({ path, stats }: FoundFile): Promise<void> {
    const { inode } = stats;
    const { positions, isOpen } = this.#host;
    const position = isOpen(inode) || positions.isFinished(stats) ? undefined : positions.get(inode);
    const handle = position === undefined ? null : await openFile(path, inode);
    if (position === undefined || handle === null) return;
    try {
      const isOther = (await compressionOf(handle)) === null && !(await isSameFile(handle, position));
      if (isOther) await this.addReplaced(inode, position);
    } finally {
      await handle.close();
    }
  }

  /** What is found is followed from where it was left. */
  async find(): Promise<void> {
    const nowMs = this.#host.output.clock.monotonicMs();
    if (this.#refused.length > 0 && nowMs - this.#refusedMs >= RETRY_MS) this.#lost.push(...this.#refused.splice(0));
    const byFolder = Map.groupBy(this.#lost, ({ position }) => folderOf(position));
    this.#lost = [];
    for (const [folder, lost] of byFolder) {
      const sought = new Map(lost.map((one) => [one.key, one]));
      if (await this.#host.guarded(folder, () => this.#findIn(folder, sought))) continue;
      this.#refused.push(...sought.values());
      this.#refusedMs = nowMs;
    }
  }

  /** What is found, or is where it was, is not in `sought` any more. */
  async #findIn(folder: string, sought: Map<string, Lost>): Promise<true> {
    const { positions, signal, isOpen } = this.#host;
    const files = await filesIn(folder);
    const byInode = new Map(files.map((file) => [file.stats.inode, file]));
    for (const one of [...sought.values()]) {
      const same = byInode.get(one.key);
      // One that had to wait for room may have been met by the glob meanwhile.
      if (isOpen(one.key)) sought.delete(one.key);
      if (same === undefined || isOpen(one.key)) continue;
      const goesOn = await this.#goesOn(same, one);
      if (!goesOn && signal.aborted) return true;
      if (!goesOn) {
        const key = await positions.setAside(one.key, one.position);
        sought.set(key, { key, position: one.position });
      }
      sought.delete(one.key);
    }
    await this.#findAmong(files, sought);
    // What is not replaced is kept, whether it is found or not.
    const isLeft = (): boolean => !signal.aborted && sought.keys().some(isReplaced);
    for (let seen = files, looks = 1; isLeft() && looks < LOOKS_MAX; looks += 1) {
      const others = await this.#comeSince(seen, folder);
      if (others.length === 0) break;
      await this.#findAmong(others, sought);
      seen = [...seen, ...others];
    }
    // A comparison that was broken off has found nothing, nor has one in a file system that is not mounted yet.
    if (!signal.aborted && files.length > 0) await positions.forget([...sought.keys()].filter(isReplaced));
    return true;
  }

  /** What is found is not in `sought` any more. */
  async #findAmong(files: readonly FoundFile[], sought: Map<string, Lost>): Promise<void> {
    const { positions, output, signal, isOpen } = this.#host;
    const others = files.filter(({ stats: { inode } }) => !isOpen(inode) && positions.get(inode) === undefined);
    const onRefused = (): void => output.count('copy_unreadable');
    for await (const { file, lost, handle, isCompressed } of findCopies(
      others,
      [...sought.values()],
      signal,
      onRefused,
    )) {
      const position = movedTo({ ...lost.position, ...(await bornOf(handle)) }, { path: file.path });
      await positions.store(file.stats.inode, position, lost.key);
      sought.delete(lost.key);
      await this.#follow(handle, file.stats.inode, position, isCompressed);
    }
  }

  /** Where there is no room for it now, its position is kept, and it is looked for again. */
  async #follow(handle: FileHandle, inode: string, position: FilePosition, isCompressed: boolean): Promise<void> {
    if (!(await this.#host.follow(handle, inode, position, isCompressed))) this.addMissing(inode, position, true);
  }

  /** A copy may have been compressed, or renamed, while it was looked for. */
  async #comeSince(seen: readonly FoundFile[], folder: string): Promise<FoundFile[]> {
    const known = new Set(seen.map(({ path, stats }) => `${stats.inode} ${path}`));
    return (await filesIn(folder)).filter(({ path, stats }) => !known.has(`${stats.inode} ${path}`));
  }

  /** Whether a file of an earlier run still is the one it was, under another name; it is read on where there is more in it. */
  async #goesOn({ path, stats }: FoundFile, { position, mayGrow = false }: Lost): Promise<boolean> {
    if (position.ended !== undefined) return true;
    const handle = await openFile(path, stats.inode);
    if (handle === null) return false;
    const isCompressed = (await compressionOf(handle)) === 'gzip';
    const isIt = isCompressed
      ? (await matchContent(handle, [[stats.inode, position]], this.#host.signal)).key !== null
      : await isSameFile(handle, position);
    if (isIt && (isCompressed || mayGrow || stats.size !== position.offset)) {
      await this.#follow(handle, stats.inode, { ...position, path }, isCompressed);
    } else await handle.close();
    return isIt;
  }
}
