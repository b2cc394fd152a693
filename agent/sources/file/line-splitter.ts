/**
 * From chunks of a file to its lines, with the position of each, in memory bounded by one chunk and one line.
 *
 * A line ends with LF; a CR before it belongs to the line end. A line above `maxLineBytes` is cut into a beginning (a sample for the
 * quarantine) and a rest that is skipped up to the next LF.
 */
const LF = 10;
const CR = 13;

export interface Line {
  /** Without its line end; a view that stays valid. For an overlong line, its beginning. */
  readonly bytes: Buffer;
  /** Where the line begins. */
  readonly start: number;
  /** Behind its line end: where to go on after it. */
  readonly end: number;
  readonly isTooLong: boolean;
}

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

  /** Takes the bytes at `readPosition`; the buffer must not be written again. */
  push(chunk: Buffer): Line[] {
    const lines: Line[] = [];
    const bytes = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk]);
    // Bytes before this were looked at with the last chunk.
    let searchFrom = this.#rest.length;
    let start = 0;
    const base = this.#position;
    for (let end = bytes.indexOf(LF, searchFrom); end >= 0; end = bytes.indexOf(LF, searchFrom)) {
      if (this.#skipping) this.#skipping = false;
      else lines.push(this.#line(bytes, start, end, base));
      start = end + 1;
      searchFrom = start;
    }
    if (this.#skipping) start = bytes.length;
    else if (bytes.length - start > this.#maxLineBytes) {
      lines.push({
        bytes: bytes.subarray(start, start + this.#maxLineBytes),
        start: base + start,
        end: base + bytes.length,
        isTooLong: true,
      });
      this.#skipping = true;
      start = bytes.length;
    }
    this.#position = base + start;
    this.#rest = bytes.subarray(start);
    return lines;
  }

  /** The last line of a file that nobody writes any more, where it has no line end. */
  finish(): Line[] {
    const bytes = this.#rest;
    if (bytes.length === 0) return [];
    const start = this.#position;
    this.#position += bytes.length;
    this.#rest = Buffer.alloc(0);
    return [{ bytes, start, end: this.#position, isTooLong: false }];
  }

  #line(bytes: Buffer, start: number, end: number, base: number): Line {
    const contentEnd = end > start && bytes[end - 1] === CR ? end - 1 : end;
    const isTooLong = contentEnd - start > this.#maxLineBytes;
    const line = bytes.subarray(start, isTooLong ? start + this.#maxLineBytes : contentEnd);
    return { bytes: line, start: base + start, end: base + end + 1, isTooLong };
  }
}
