/**
 * From chunks of a file to its lines, with the position of each, in memory bounded by one chunk and one line. No object is made of a line.
 *
 * A line ends with LF; a CR before it belongs to the line end. A line above `maxLineBytes` is cut into a beginning (a sample for the
 * quarantine) and a rest that is skipped up to the next LF.
 */
const LF = 10;
const CR = 13;

/**
 * Is told of each line: it stands in `text` from `from` to `to`, without its line end (of an overlong one, its beginning), and begins at `start` in
 * the file. The bytes are those that were pushed.
 */
export type LineSink = (text: Buffer, from: number, to: number, start: number, isTooLong: boolean) => void;

export class LineSplitter {
  readonly #maxLineBytes: number;
  /** The file offset behind the last line that was given out. */
  #position: number;
  /** The beginning of a line whose end is still to come. */
  #rest: Buffer = Buffer.alloc(0);
  /** The rest of an overlong line is being skipped. */
  #skipping: boolean;

  constructor(position: number, skipping: boolean, maxLineBytes: number) {
    this.#position = position;
    this.#skipping = skipping;
    this.#maxLineBytes = maxLineBytes;
  }

  /** Where a reader that has nothing of this file goes on. */
  get position(): number {
    return this.#position;
  }

  get isSkipping(): boolean {
    return this.#skipping;
  }

  /** Where the next chunk is read. */
  get readPosition(): number {
    return this.#position + this.#rest.length;
  }

  /** Of a line whose end has not come. */
  get rest(): Buffer {
    return this.#rest;
  }

  /** Takes the bytes at `readPosition`; when it returns, they may be written again. */
  push(chunk: Buffer, sink: LineSink): void {
    const firstEnd = this.#rest.length === 0 ? -1 : chunk.indexOf(LF);
    if (firstEnd >= 0) {
      // The line that began in the last chunk by itself, so that the others need not be copied.
      this.#split(Buffer.concat([this.#rest, chunk.subarray(0, firstEnd + 1)]), this.#rest.length, sink);
      this.#split(chunk.subarray(firstEnd + 1), 0, sink);
    } else {
      this.#split(this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk]), this.#rest.length, sink);
    }
  }

  /** The last line of a file that nobody writes any more, where it has no line end. */
  finish(sink: LineSink): void {
    const bytes = this.#rest;
    if (bytes.length === 0) return;
    const start = this.#position;
    this.#position += bytes.length;
    this.#rest = Buffer.alloc(0);
    sink(bytes, 0, bytes.length, start, false);
  }

  /** The lines of the bytes at `position`, which have no line end before `searchFrom`; what is left of them is the rest. */
  #split(bytes: Buffer, searchFrom: number, sink: LineSink): void {
    const base = this.#position;
    let start = 0;
    for (let end = bytes.indexOf(LF, searchFrom); end >= 0; end = bytes.indexOf(LF, start)) {
      if (this.#skipping) this.#skipping = false;
      else {
        const contentEnd = end > start && bytes[end - 1] === CR ? end - 1 : end;
        const isTooLong = contentEnd - start > this.#maxLineBytes;
        sink(bytes, start, isTooLong ? start + this.#maxLineBytes : contentEnd, base + start, isTooLong);
      }
      start = end + 1;
    }
    if (this.#skipping) start = bytes.length;
    else if (bytes.length - start > this.#maxLineBytes) {
      sink(bytes, start, start + this.#maxLineBytes, base + start, true);
      this.#skipping = true;
      start = bytes.length;
    }
    this.#position = base + start;
    this.#rest = Buffer.from(bytes.subarray(start));
  }
}
