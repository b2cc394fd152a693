/** Following the bytes of a file as they are read, to have its marks (tailed-file.ts) at hand without reading again. */
import type { FileHandle } from 'node:fs/promises';
import { bytesAt, markOf, MARK_BYTES, type FilePosition, type MarkedOffset } from './tailed-file.ts';

export class Marks {
  #head: Buffer = Buffer.alloc(0);
  /** What was read last: what is kept of it, and what came since. */
  #recent: readonly Buffer[] = [];
  #recentEnd: number;
  /** Of offsets that lie before that: the text from there on, which has no bound, need not be kept. */
  #tails: ReadonlyMap<number, FilePosition['tail']> = new Map();

  private constructor(offset: number) {
    this.#recentEnd = offset;
  }

  static async at(handle: FileHandle, offset: number): Promise<Marks> {
    const marks = new Marks(offset);
    marks.#head = await bytesAt(handle, 0, Math.min(MARK_BYTES, offset));
    const recentBytes = Math.min(MARK_BYTES, offset);
    marks.#recent = [await bytesAt(handle, offset - recentBytes, recentBytes)];
    return marks;
  }

  static ofBeginning(): Marks {
    return new Marks(0);
  }

  /** Takes note of the bytes that follow on what is known: they can be marked until the caller writes there again, and kept before. */
  push(chunk: Buffer): void {
    if (this.#head.length < MARK_BYTES && this.#recentEnd === this.#head.length) {
      this.#head = Buffer.concat([this.#head, chunk.subarray(0, MARK_BYTES - this.#head.length)]);
    }
    this.#recent = [...this.#recent, chunk];
    this.#recentEnd += chunk.length;
  }

  /** Keeps a copy of what it takes to mark each offset from `offset` on, and the marks of `others`, which can be marked at present. */
  keep(offset: number, others: readonly number[] = []): void {
    this.#tails = new Map(others.map((other) => [other, this.tail(other)]));
    this.#recent = [lastOf(this.#recent, Math.max(0, this.#recentEnd - offset) + MARK_BYTES)];
  }

  /** Of what stands before `offset`: what follows may still be a line that a crash of its writer takes back. */
  head(offset: number): FilePosition['head'] {
    return markOf(this.#head.subarray(0, offset));
  }

  /** `offset` must be one of the others that were kept, or lie at or behind what was. */
  tail(offset: number): FilePosition['tail'] {
    const kept = this.#tails.get(offset);
    if (kept !== undefined) return kept;
    const behind = this.#recentEnd - offset;
    const bytes = lastOf(this.#recent, behind + MARK_BYTES);
    return markOf(bytes.subarray(0, Math.max(0, bytes.length - behind)));
  }

  /** Both marks of `offset`, as for `tail`. */
  end(offset: number): MarkedOffset {
    return { offset, head: this.head(offset), tail: this.tail(offset) };
  }
}

/** The last `count` bytes of the pieces together; all where there are not so many. */
function lastOf(pieces: readonly Buffer[], count: number): Buffer {
  const last: Buffer[] = [];
  let left = count;
  for (const piece of pieces.toReversed()) {
    const taken = piece.subarray(Math.max(0, piece.length - left));
    last.unshift(taken);
    left -= taken.length;
  }
  return Buffer.concat(last);
}
