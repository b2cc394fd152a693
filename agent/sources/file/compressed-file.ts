/**
 * Reads a gzip file once, to its end, from a position in its content: what was read before is inflated again and passed over.
 *
 * Failure: a file that is cut off or damaged gives what could be read of it; the rest of a line, and the reason, go to the quarantine. Its
 * end is stored all the same: as long as the file stays as it is, it is not looked at again.
 */
import type { FileHandle } from 'node:fs/promises';
import { CHUNKS_PER_TURN, type OpenFile } from './followed-file.ts';
import { FileLines, type LineContext } from './file-lines.ts';
import { Marks } from './file-marks.ts';
import { endOf, gzipContent, GzipError } from './gzip-content.ts';
import type { FilePosition } from './tailed-file.ts';

export class CompressedFile implements OpenFile {
  readonly inode: string;
  readonly lines: FileLines;
  readonly restsAs = null;
  rotatedSinceMs: number | undefined;
  readonly #context: LineContext;
  readonly #handle: FileHandle;
  readonly #content: AsyncGenerator<Buffer, void>;
  readonly #marks = Marks.ofBeginning();
  /** Of the content, before the position. */
  #bytesToPass: number;

  /** Takes over the handle. */
  constructor(inode: string, context: LineContext, handle: FileHandle, position: FilePosition) {
    this.inode = inode;
    this.lines = new FileLines(context, position, this.#marks);
    this.#context = context;
    this.#handle = handle;
    this.#content = gzipContent(handle);
    this.#bytesToPass = position.offset;
  }

  async readOn(signal: AbortSignal): Promise<'more' | 'finished'> {
    for (let count = 0; count < CHUNKS_PER_TURN && !signal.aborted; count += 1) {
      const next = await this.#next();
      if (next === null) {
        await this.lines.storeEnd(await endOf(this.#handle));
        return 'finished';
      }
      const passed = next.subarray(0, this.#bytesToPass);
      this.#bytesToPass -= passed.length;
      // What a position is marked with lies before it.
      if (passed.length > 0) {
        this.#marks.push(passed);
        this.#marks.keep(Infinity);
      }
      if (passed.length < next.length) await this.lines.push(next.subarray(passed.length));
    }
    return 'more';
  }

  async isDeleted(): Promise<boolean> {
    return (await this.#handle.stat()).nlink === 0;
  }

  async close(): Promise<void> {
    await this.lines.settled().catch(() => undefined);
    await this.#content.return();
    await this.#handle.close();
  }

  /** The next piece of the content; null at its end, when the lines before are delivered. */
  async #next(): Promise<Buffer | null> {
    try {
      const { value } = await this.#content.next();
      if (value !== undefined) return value;
      await this.lines.finish();
    } catch (error) {
      if (!(error instanceof GzipError)) throw error;
      this.#context.output.count('gzip_damaged');
      await this.lines.breakOff(`${error.message}; the lines before this are read`);
    }
    return null;
  }
}
