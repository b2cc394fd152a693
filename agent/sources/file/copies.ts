/**
 * Looking for files that are not where they were, by what was read of them: the copies that were made before they were truncated or deleted,
 * as they stand or compressed.
 *
 * Limits: however many are sought, each file of a folder is opened once, twice if it is compressed, and then inflated no further than the last
 * position whose beginning is that of its content.
 */
import { readdir, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { systemCode } from '../../../lib/errors.ts';
import { compressionIn, matchContent } from './gzip-content.ts';
import {
  bytesAt,
  fits,
  isSameFile,
  knownBy,
  markOf,
  MARK_BYTES,
  openFile,
  statFile,
  type FilePosition,
  type FileStats,
} from './tailed-file.ts';

export interface FoundFile {
  readonly path: string;
  readonly stats: FileStats;
}

/** A position whose file does not have this content any more, or is not found. */
export interface Lost {
  /** Under which it is stored. */
  readonly key: string;
  readonly position: FilePosition;
  /** Its writer may have it open still. */
  readonly mayGrow?: boolean;
}

export interface FoundCopy {
  readonly file: FoundFile;
  readonly lost: Lost;
  /** Whoever takes the copy closes it. */
  readonly handle: FileHandle;
  readonly isCompressed: boolean;
}

/** The regular files in a folder that can be looked at; none if it is not there. A link to nowhere beside them is not in their way. */
export async function filesIn(folder: string): Promise<FoundFile[]> {
  const names = await readdir(folder).catch((error: unknown) => {
    if (systemCode(error) === 'ENOENT') return [];
    throw error;
  });
  const files: FoundFile[] = [];
  for (const name of names) {
    const stats = await statFile(join(folder, name)).catch((error: unknown) => {
      if (['ELOOP', 'EACCES', 'EPERM'].includes(systemCode(error) ?? '')) return null;
      throw error;
    });
    if (stats !== null) files.push({ path: join(folder, name), stats });
  }
  return files;
}

/**
 * Those of the files in which a position lies, each with the furthest one and each position once. Files that may not be read are given to
 * `onRefused`. Ends early when the signal fires.
 */
export async function* findCopies(
  files: readonly FoundFile[],
  lost: readonly Lost[],
  signal: AbortSignal,
  onRefused: (path: string) => void,
): AsyncGenerator<FoundCopy, void> {
  const sought = new Sought(lost);
  const compressed: FoundFile[] = [];
  // A compressed one last: it may be made of the copy at this moment.
  for (const isCompressed of [false, true]) {
    for (const file of isCompressed ? compressed : files) {
      if (sought.isEmpty || signal.aborted) return;
      const handle = await opened(file, onRefused);
      if (handle === null) continue;
      let found: Lost | undefined;
      try {
        if (isCompressed) found = await sought.inContent(handle, signal);
        else {
          const head = await bytesAt(handle, 0, MARK_BYTES);
          if (compressionIn(head) === 'gzip') compressed.push(file);
          else found = await sought.in(handle, head, file.stats.inode);
        }
      } finally {
        if (found === undefined) await handle.close();
      }
      if (found === undefined) continue;
      sought.remove(found);
      yield { file, lost: found, handle, isCompressed };
    }
  }
}

async function opened({ path, stats }: FoundFile, onRefused: (path: string) => void): Promise<FileHandle | null> {
  try {
    return await openFile(path, stats.inode);
  } catch (error) {
    if (systemCode(error) !== 'EACCES' && systemCode(error) !== 'EPERM') throw error;
    onRefused(path);
    return null;
  }
}

class Sought {
  /** By the mark of their beginning, the furthest first. */
  readonly #byHead = new Map<string, Lost[]>();
  readonly #headLengths = new Set<number>();

  constructor(lost: readonly Lost[]) {
    for (const one of lost.toSorted(byFurthest)) {
      // A position without marks says nothing about a content, and what was compressed and read to its end is not copied.
      const { head, tail, ended } = knownBy(one.position);
      if (tail.bytes === 0 || ended !== undefined) continue;
      this.#headLengths.add(head.bytes);
      const same = this.#byHead.get(keyOf(head));
      if (same === undefined) this.#byHead.set(keyOf(head), [one]);
      else same.push(one);
    }
  }

  get isEmpty(): boolean {
    return this.#byHead.size === 0;
  }

  remove(one: Lost): void {
    const key = keyOf(knownBy(one.position).head);
    const others = this.#byHead.get(key)?.filter((other) => other !== one) ?? [];
    if (others.length === 0) this.#byHead.delete(key);
    else this.#byHead.set(key, others);
  }

  /** Of the positions in a file that begins with `head`, the furthest. One of a file whose inode this one got may be in the same content by chance. */
  async in(handle: FileHandle, head: Buffer, inode: string): Promise<Lost | undefined> {
    const candidates: Lost[] = [];
    for (const length of this.#headLengths) {
      if (length <= head.length) candidates.push(...(this.#byHead.get(keyOf(markOf(head.subarray(0, length)))) ?? []));
    }
    for (const candidate of candidates.sort(byFurthest)) {
      const isOfInode = candidate.key.endsWith(inode);
      if (await (isOfInode ? isSameFile : fits)(handle, knownBy(candidate.position))) return candidate;
    }
    return undefined;
  }

  /** The same of what a gzip file holds. Nothing is found when the signal fired. */
  async inContent(handle: FileHandle, signal: AbortSignal): Promise<Lost | undefined> {
    const positions = [...this.#byHead.values()].flat().map((one): [Lost, FilePosition] => [one, one.position]);
    const { key } = await matchContent(handle, positions, signal);
    return signal.aborted ? undefined : (key ?? undefined);
  }
}

function byFurthest(a: Lost, b: Lost): number {
  return knownBy(b.position).offset - knownBy(a.position).offset;
}

function keyOf({ bytes, crc }: FilePosition['head']): string {
  return `${bytes}:${crc}`;
}
