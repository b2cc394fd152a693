/** Reads what is new in one file that is followed as it grows. */
import type { FileHandle } from 'node:fs/promises';
import { FileLines, type LineContext } from './file-lines.ts';
import { Marks } from './file-marks.ts';
import { fits, knownBy, type FilePosition, type FileStats, type MarkedOffset } from './tailed-file.ts';

/**
 * What is read at once is delivered at once: each delivery costs a write, a sync and a read by the uplink. With 256 KiB a line of 200 bytes costs
 * 8 % more CPU; with 1 MiB 2 % less, and 15 MB more memory at the peak.
 */
export const CHUNK_BYTES_MAX = 512 * 1024;
/** At least, where less is known to be there: it may have grown meanwhile. */
const CHUNK_BYTES_MIN = 16 * 1024;
/** A file that is far behind lets the others have their turn. */
export const CHUNKS_PER_TURN = 16;

/** Into which one file after another is read: with a new one for each chunk V8 collects garbage all the time. */
export class ChunkBuffer {
  readonly #bytesMax: number;
  #buffer: Buffer = Buffer.alloc(0);

  /** So many bytes are read at once, at most. */
  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  /** Of about `bytes`, until it is asked again. */
  of(bytes: number): Buffer {
    const wanted = Math.min(this.#bytesMax, bytes);
    if (this.#buffer.length < wanted) this.#buffer = Buffer.allocUnsafeSlow(wanted);
    return this.#buffer.subarray(0, wanted);
  }
}

/** One file that is read at present. */
export interface OpenFile {
  readonly inode: string;
  readonly lines: FileLines;
  /** Since when no name of the glob leads to it, by the monotonic clock. */
  rotatedSinceMs: number | undefined;
  /**
   * Delivers what is new: `more` when there is more at once, `end` when all of it is read at present, `finished` when nothing can follow,
   * `changed` when this is no longer the file that was read (truncated or rewritten).
   */
  readOn(signal: AbortSignal): Promise<'more' | 'end' | 'finished' | 'changed'>;
  /** As what it was read to its end, if nothing of it is held; null otherwise, and where it cannot be closed and gone on with cheaply. */
  readonly restsAs: FileStats | null;
  /** Whether the file has no name any more. */
  isDeleted(): Promise<boolean>;
  close(): Promise<void>;
}

export class FollowedFile implements OpenFile {
  readonly inode: string;
  readonly lines: FileLines;
  rotatedSinceMs: number | undefined;
  readonly #handle: FileHandle;
  readonly #buffer: ChunkBuffer;
  #seen = { size: -1, modifiedMs: -1 };

  private constructor(inode: string, lines: FileLines, handle: FileHandle, buffer: ChunkBuffer) {
    this.inode = inode;
    this.lines = lines;
    this.#handle = handle;
    this.#buffer = buffer;
  }

  /** Takes over the handle. */
  static async at(
    inode: string,
    context: LineContext,
    handle: FileHandle,
    position: FilePosition,
    buffer: ChunkBuffer,
  ): Promise<FollowedFile> {
    const marks = await Marks.at(handle, position.offset);
    return new FollowedFile(inode, new FileLines(context, position, marks), handle, buffer);
  }

  async readOn(signal: AbortSignal): Promise<'more' | 'end' | 'changed'> {
    const { lines } = this;
    const stats = await this.#handle.stat();
    const seen = { size: stats.size, modifiedMs: stats.mtimeMs };
    if (seen.size === this.#seen.size && seen.modifiedMs === this.#seen.modifiedMs) {
      await lines.flushOverdue();
      await lines.settled();
      return 'end';
    }
    if (seen.size < lines.readPosition || !(await fits(this.#handle, knownBy(lines.position)))) {
      // Its lines are whole, and may be nowhere else any more.
      await lines.flushLines();
      return 'changed';
    }
    for (let count = 0; count < CHUNKS_PER_TURN && !signal.aborted; count += 1) {
      const left = Math.max(CHUNK_BYTES_MIN, seen.size - lines.readPosition);
      const chunk = this.#buffer.of(left);
      const { bytesRead } = await this.#handle.read(chunk, 0, chunk.length, lines.readPosition);
      if (bytesRead === 0) {
        await lines.settled();
        this.#seen = seen;
        return 'end';
      }
      await lines.push(chunk.subarray(0, bytesRead));
    }
    return 'more';
  }

  get restsAs(): FileStats | null {
    const { size, modifiedMs } = this.#seen;
    // As `statFile` has it.
    return size < 0 || this.lines.isHolding ? null : { inode: this.inode, size, modifiedMs: Math.floor(modifiedMs) };
  }

  /** Whether the file, as it is now, has all of a content that ends like that. */
  holds(end: MarkedOffset): Promise<boolean> {
    return fits(this.#handle, end);
  }

  async isDeleted(): Promise<boolean> {
    return (await this.#handle.stat()).nlink === 0;
  }

  async close(): Promise<void> {
    await this.lines.settled().catch(() => undefined);
    await this.#handle.close();
  }
}

/** What was rotated away comes before what took its place. */
export function rotatedFirst(files: readonly OpenFile[]): OpenFile[] {
  const rank = ({ rotatedSinceMs }: OpenFile): number => (rotatedSinceMs === undefined ? 1 : 0);
  return files.toSorted((a, b) => rank(a) - rank(b));
}
