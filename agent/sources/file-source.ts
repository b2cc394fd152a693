/**
 * Files that are followed as they grow: a glob, rotation by rename and by copytruncate, exactly once into the spool.
 *
 * Invariants: a file's position is stored in the same group as its readings, so a kill at any moment neither repeats nor skips a line.
 * Rotation
 * - Renamed: the open handle is read to its end, until nothing came for ROTATED_WAIT_MS; a file that was renamed while the agent was
 *   down is looked for by its inode in the folder where it lay.
 * - Copied and truncated: the copy is found by its marks, and read from where the original was; a copy that the glob matches
 *   waits COPY_WAIT_MS for its original to be truncated, and is a file of its own if that does not happen.
 * Limits: FILES_MAX open files. What is written between a copytruncate's copy and its truncation is lost by that method itself.
 */
import { glob, readdir, type FileHandle } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { describeError, PenstockError, systemCode } from '../../lib/errors.ts';
import type { FileSourceConfig } from '../config.ts';
import { FollowedFile } from './followed-file.ts';
import type { LineJoiner } from './line-joiner.ts';
import { pause, type Source, type SourceOutput } from './source.ts';
import {
  BEGINNING,
  bytesAt,
  fits,
  openFile,
  parsePosition,
  statFile,
  type FilePosition,
  type FileStats,
} from './tailed-file.ts';

const ROTATED_WAIT_MS = 5000;
const COPY_WAIT_MS = 5000;
/** Well below the usual limit of 1024 descriptors. */
const FILES_MAX = 800;
const LF = 10;
const GZIP = Buffer.from([0x1f, 0x8b]);

/** Why a file that the glob matches is left alone. */
class NotFollowed extends Error {}

export async function fileSource(config: FileSourceConfig, baseDir: string): Promise<Source> {
  const pattern = resolve(baseDir, config.path);
  const name = `file:${pattern}`;
  const { multiline } = config;
  const joining = multiline === undefined ? undefined : await import('./line-joiner.ts');
  return {
    name,
    run: (output, signal) => {
      const makeJoiner = (): LineJoiner | undefined =>
        joining && multiline && new joining.LineJoiner(multiline, () => output.count('multiline_cut'));
      return new FileFollower(name, pattern, config, output, makeJoiner).run(signal);
    },
  };
}

class FileFollower {
  readonly #name: string;
  readonly #pattern: string;
  readonly #config: FileSourceConfig;
  readonly #output: SourceOutput;
  readonly #makeJoiner: () => LineJoiner | undefined;
  /** By inode. */
  readonly #files = new Map<string, FollowedFile>();
  /** Positions of files that are not open: of earlier runs, and rotated away. */
  readonly #remembered = new Map<string, FilePosition>();
  /** Copies of a followed file, since when they are seen. */
  readonly #copies = new Map<string, number>();
  readonly #problems = new Map<string, string>();
  #isFirstLook = true;

  constructor(
    name: string,
    pattern: string,
    config: FileSourceConfig,
    output: SourceOutput,
    makeJoiner: () => LineJoiner | undefined,
  ) {
    this.#name = name;
    this.#pattern = pattern;
    this.#config = config;
    this.#output = output;
    this.#makeJoiner = makeJoiner;
    for (const key of output.checkpointKeys(`${name}|`)) {
      const position = parsePosition(output.checkpoint(key));
      if (position !== undefined) this.#remembered.set(key.slice(name.length + 1), position);
    }
  }

  async run(signal: AbortSignal): Promise<void> {
    const { clock } = this.#output;
    // A function, because the type checker does not see that an await in between can change it.
    const isOver = (): boolean => signal.aborted;
    let lookedMs = -Infinity;
    try {
      while (!signal.aborted) {
        if (clock.monotonicMs() - lookedMs >= this.#config.poll) {
          lookedMs = clock.monotonicMs();
          await this.#look();
        }
        let isBusy = false;
        // What was rotated away comes before what took its place.
        for (const file of rotatedFirst([...this.#files.values()])) {
          let hasMore = await this.#readOn(file, signal);
          while (hasMore && !isOver() && file.rotatedSinceMs !== undefined) {
            hasMore = await this.#readOn(file, signal);
          }
          isBusy ||= hasMore;
          // Its last reading waits for its timeout.
          if (file.rotatedSinceMs !== undefined && file.isHolding) break;
        }
        this.#output.report([...this.#problems.values()][0] ?? null);
        if (!isBusy) await pause(this.#config.poll, signal);
      }
    } finally {
      for (const file of this.#files.values()) await file.close();
    }
  }

  /** Which files are there now. */
  async #look(): Promise<void> {
    const found = new Set<string>();
    for (const { path, stats } of await this.#matches()) {
      found.add(stats.inode);
      const known = this.#files.get(stats.inode);
      if (known === undefined) await this.#guarded(path, () => this.#discover(path, stats.inode, stats.size));
      else {
        known.path = path;
        known.rotatedSinceMs = undefined;
      }
    }
    for (const file of this.#files.values()) {
      if (!found.has(file.inode)) file.rotatedSinceMs ??= this.#output.clock.monotonicMs();
    }
    if (this.#isFirstLook) {
      this.#isFirstLook = false;
      for (const [inode, position] of this.#remembered) await this.#findRenamed(inode, position);
    }
  }

  /** The oldest first, so that rotated files come in the order in which they were written. */
  async #matches(): Promise<{ path: string; stats: FileStats }[]> {
    // A name that exists is meant as it stands, whatever characters are in it.
    const isLiteral = (await statFile(this.#pattern)) !== null;
    const matches: { path: string; stats: FileStats }[] = [];
    for await (const path of isLiteral ? [this.#pattern] : glob(this.#pattern)) {
      const stats = await this.#guarded(path, () => statFile(path));
      if (stats !== null && stats !== undefined) matches.push({ path, stats });
    }
    return matches.sort((a, b) => a.stats.modifiedMs - b.stats.modifiedMs);
  }

  async #discover(path: string, inode: string, size: number): Promise<void> {
    if (this.#files.size >= FILES_MAX) {
      throw new NotFollowed(`more than ${FILES_MAX} files match ${this.#pattern}: ${path} waits`);
    }
    const handle = await openFile(path, inode);
    if (handle === null) return;
    let position: FilePosition | 'wait' | undefined;
    try {
      if ((await bytesAt(handle, 0, GZIP.length)).equals(GZIP)) {
        throw new NotFollowed(`${path} is compressed: a file is read before that, and \`path\` should leave it out`);
      }
      position = await this.#startPosition(handle, path, inode, size);
    } finally {
      if (position === undefined || position === 'wait') await handle.close();
    }
    if (position !== 'wait') await this.#follow(handle, inode, position);
  }

  async #startPosition(handle: FileHandle, path: string, inode: string, size: number): Promise<FilePosition | 'wait'> {
    const remembered = this.#remembered.get(inode);
    if (remembered !== undefined) {
      if (await fits(handle, remembered)) return { ...remembered, path };
      // Truncated, or the inode is used again, while nobody looked.
      await this.#drainCopyOf(remembered, inode);
      return { ...BEGINNING, path };
    }
    for (const original of this.#files.values()) {
      if (original.position.tail.bytes === 0 || !(await fits(handle, original.position))) continue;
      const now = this.#output.clock.monotonicMs();
      const since = this.#copies.get(inode) ?? now;
      this.#copies.set(inode, since);
      if (now - since < COPY_WAIT_MS) return 'wait';
    }
    this.#copies.delete(inode);
    const atEnd = this.#config.start === 'end' && this.#isFirstLook && this.#remembered.size === 0 && size > 0;
    if (!atEnd) return { ...BEGINNING, path };
    // In the middle of a line, its end is skipped too.
    const skipping = (await bytesAt(handle, size - 1, 1))[0] !== LF;
    const position = { ...BEGINNING, path, offset: size, skipping };
    // Stored at once: what is written while the agent is down is new.
    await this.#output.deliver([], [{ source: `${this.#name}|${inode}`, state: position }]);
    return position;
  }

  async #follow(handle: FileHandle, inode: string, position: FilePosition, rotatedSinceMs?: number): Promise<void> {
    const key = `${this.#name}|${inode}`;
    const file = await FollowedFile.at(key, inode, this.#config, this.#output, handle, position, this.#makeJoiner());
    file.rotatedSinceMs = rotatedSinceMs;
    this.#files.set(inode, file);
    this.#remembered.delete(inode);
    this.#copies.delete(inode);
  }

  /** Returns whether there is more to read at once. */
  async #readOn(file: FollowedFile, signal: AbortSignal): Promise<boolean> {
    const isBusy = await this.#guarded(file.path, async () => {
      const before = file.position.offset;
      const result = await file.readOn(signal);
      if (result === 'changed') await this.#startOver(file);
      if (result !== 'end') return true;
      if (file.rotatedSinceMs === undefined) return false;
      const nowMs = this.#output.clock.monotonicMs();
      // Still written under its new name: the wait begins anew.
      if (file.position.offset > before) file.rotatedSinceMs = nowMs;
      else if (nowMs - file.rotatedSinceMs >= ROTATED_WAIT_MS) await this.#letGo(file);
      return false;
    });
    return isBusy ?? false;
  }

  async #startOver(file: FollowedFile): Promise<void> {
    const { position, inode, path, rotatedSinceMs } = file;
    await file.close();
    this.#files.delete(inode);
    await this.#drainCopyOf(position, inode);
    const handle = await openFile(path, inode);
    if (handle !== null) await this.#follow(handle, inode, { ...BEGINNING, path }, rotatedSinceMs);
  }

  async #letGo(file: FollowedFile): Promise<void> {
    await file.finish();
    const isDeleted = await file.isDeleted();
    await file.close();
    this.#files.delete(file.inode);
    if (isDeleted) await this.#forget(file.inode);
    else this.#remembered.set(file.inode, file.position);
  }

  /** Looks in the folder of a truncated file for the copy that was made of it, and reads it from where the original was. */
  async #drainCopyOf(position: FilePosition, original: string): Promise<void> {
    if (position.tail.bytes === 0) return;
    for (const [path, inode, size] of await filesBeside(position.path)) {
      if (inode === original || this.#files.has(inode) || this.#remembered.has(inode)) continue;
      if (size < position.offset) continue;
      const handle = await openFile(path, inode);
      if (handle === null) continue;
      if (await fits(handle, position)) {
        await this.#follow(handle, inode, { ...position, path }, this.#output.clock.monotonicMs());
        return;
      }
      await handle.close();
    }
  }

  /** A file of an earlier run that the glob does not find: renamed while the agent was down, or deleted. */
  async #findRenamed(inode: string, position: FilePosition): Promise<void> {
    await this.#guarded(position.path, async () => {
      for (const [path, candidate, size] of await filesBeside(position.path)) {
        if (candidate !== inode) continue;
        if (size <= position.offset) return;
        const handle = await openFile(path, inode);
        if (handle === null) return;
        if (await fits(handle, position)) {
          await this.#follow(handle, inode, { ...position, path }, this.#output.clock.monotonicMs());
        } else await handle.close();
        return;
      }
      await this.#forget(inode);
    });
  }

  async #forget(inode: string): Promise<void> {
    this.#remembered.delete(inode);
    await this.#output.deliver([], [{ source: `${this.#name}|${inode}`, state: null }]);
  }

  /** What the file system refuses is reported and tried again at the next look (undefined); everything else goes up. */
  async #guarded<T>(path: string, act: () => Promise<T>): Promise<T | undefined> {
    try {
      const result = await act();
      this.#problems.delete(path);
      return result;
    } catch (error) {
      const isKnown =
        error instanceof NotFollowed || (!(error instanceof PenstockError) && systemCode(error) !== undefined);
      if (!isKnown) throw error;
      this.#problems.set(path, describeError(error));
      return undefined;
    }
  }
}

function rotatedFirst(files: readonly FollowedFile[]): FollowedFile[] {
  const rank = ({ rotatedSinceMs }: FollowedFile): number => (rotatedSinceMs === undefined ? 1 : 0);
  return files.toSorted((a, b) => rank(a) - rank(b));
}

/** Path, inode and size of the regular files in the folder of `path`. */
async function filesBeside(path: string): Promise<[path: string, inode: string, size: number][]> {
  const folder = dirname(path);
  const names = await readdir(folder).catch((error: unknown) => {
    if (systemCode(error) === 'ENOENT') return [];
    throw error;
  });
  const files: [string, string, number][] = [];
  for (const name of names) {
    const stats = await statFile(join(folder, name));
    if (stats !== null) files.push([join(folder, name), stats.inode, stats.size]);
  }
  return files;
}
