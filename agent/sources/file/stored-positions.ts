/**
 * The positions of a source's files that are not open, as the spool has them: of earlier runs, rotated away, deleted, of files that rest (closed
 * at their end, because too many are open), and of compressed files that were read to their end.
 *
 * A position has the file's inode as its key. That of a file that is deleted, or whose content was replaced, gets a key of its own, because the
 * inode is or will be another content's. A deleted one is kept to recognise the file when it comes back compressed, a replaced one until its
 * copy was looked for: what a kill left of these is looked for at the next start, before any file is taken for a new one.
 * Limits: REMEMBERED_MAX of files that the glob does not match; the oldest are forgotten.
 */
import type { FileHandle } from 'node:fs/promises';
import type { SourceOutput } from '../source.ts';
import { endOf } from './gzip-content.ts';
import { isSameFile, knownBy, parsePosition, type FilePosition, type FileStats } from './tailed-file.ts';

const REMEMBERED_MAX = 1000;
const DELETED = 'deleted:';
const REPLACED = 'replaced:';

export class StoredPositions {
  readonly #name: string;
  readonly #output: SourceOutput;
  readonly #positions = new Map<string, FilePosition>();
  /** Files that the glob matches and that are read to their end, by inode, as they were then. */
  readonly #finished = new Map<string, FileStats>();

  constructor(name: string, output: SourceOutput) {
    this.#name = name;
    this.#output = output;
    for (const key of output.checkpointKeys(`${name}|`)) {
      const position = parsePosition(output.checkpoint(key));
      if (position !== undefined) this.#positions.set(key.slice(name.length + 1), position);
    }
  }

  get isEmpty(): boolean {
    return this.#positions.size === 0;
  }

  get finishedCount(): number {
    return this.#finished.size;
  }

  /** Under which the spool has the position of a file. */
  checkpointOf(key: string): string {
    return `${this.#name}|${key}`;
  }

  get(key: string): FilePosition | undefined {
    return this.#positions.get(key);
  }

  entries(): [key: string, position: FilePosition][] {
    return [...this.#positions];
  }

  /** Makes it durable that a file is read up to `position`, which was that of `from` if there is one: the same content under another key. */
  async store(key: string, position: FilePosition, from = key): Promise<void> {
    const checkpoints = [{ source: this.checkpointOf(key), state: position }];
    const moved = from === key ? [] : [{ source: this.checkpointOf(from), state: null }];
    await this.#output.deliver([], [...checkpoints, ...moved]);
    this.#positions.delete(from);
    this.#positions.delete(key);
    this.#positions.set(key, position);
  }

  /** Its file is open, and keeps its position itself. */
  take(inode: string): void {
    this.#positions.delete(inode);
    this.#finished.delete(inode);
  }

  /** Takes back the position of a file that was open, as it is stored. */
  async remember(inode: string, position: FilePosition, isDeleted: boolean): Promise<void> {
    if (isDeleted) await this.store(`${DELETED}${inode}`, position, inode);
    else this.#positions.set(inode, position);
    await this.bound();
  }

  /** Another content has this inode. Returns the key under which the position is now. */
  async setAside(inode: string, position: FilePosition): Promise<string> {
    const key = `${REPLACED}${inode}`;
    await this.store(key, position, inode);
    return key;
  }

  /** Forgets the oldest of those that are too many. */
  async bound(): Promise<void> {
    const unmatched = [...this.#positions.keys()].filter((key) => !this.#finished.has(key));
    await this.forget(unmatched.slice(0, Math.max(0, unmatched.length - REMEMBERED_MAX)));
  }

  /** Devices may have other numbers after a start or a mount: a file of the same path, inode number and content is the same. */
  async ofOtherDevice(inode: string, path: string, handle: FileHandle): Promise<FilePosition | undefined> {
    const number = inode.slice(inode.indexOf(':'));
    for (const [key, position] of this.#positions) {
      if (key.startsWith(DELETED) || isReplaced(key) || !key.endsWith(number) || position.path !== path) continue;
      if (knownBy(position).tail.bytes === 0 || !(await isSameFile(handle, position))) continue;
      await this.store(inode, position, key);
      return position;
    }
    return undefined;
  }

  async forget(keys: readonly string[]): Promise<void> {
    for (const key of keys) this.#positions.delete(key);
    await this.#output.deliver(
      [],
      keys.map((key) => ({ source: this.checkpointOf(key), state: null })),
    );
  }

  /** As long as the file is as `stats` says, there is nothing in it to read. */
  finish(stats: FileStats): void {
    this.#finished.set(stats.inode, stats);
  }

  isFinished({ inode, size, modifiedMs }: FileStats): boolean {
    const then = this.#finished.get(inode);
    return then !== undefined && then.size === size && then.modifiedMs === modifiedMs;
  }

  /** Whether this is the inode of a file that was read to its end, and may have changed. */
  isResting(inode: string): boolean {
    return this.#finished.has(inode);
  }

  /** Of those that were not compressed. */
  *resting(): Generator<[inode: string, position: FilePosition], void> {
    for (const inode of this.#finished.keys()) {
      const position = this.#positions.get(inode);
      if (position !== undefined && position.ended === undefined) yield [inode, position];
    }
  }

  /** The same without those in `found`. */
  restingBut(found: ReadonlySet<string>): [inode: string, position: FilePosition][] {
    return [...this.resting()].filter(([inode]) => !found.has(inode));
  }

  /** The glob matches `found`, and no other file. */
  keepFinished(found: ReadonlySet<string>): void {
    for (const inode of this.#finished.keys()) if (!found.has(inode)) this.#finished.delete(inode);
  }

  /** Whether a compressed file still is the one that was read to its end, in this run or an earlier one. */
  async isReadToItsEnd(inode: string, handle: FileHandle): Promise<boolean> {
    const ended = this.#positions.get(inode)?.ended;
    if (ended === undefined) return false;
    const { bytes, crc } = await endOf(handle);
    return bytes === ended.bytes && crc === ended.crc;
  }
}

/** There is other content in its place: the file is not merely out of sight (not mounted yet). */
export function isReplaced(key: string): boolean {
  return key.startsWith(REPLACED);
}
