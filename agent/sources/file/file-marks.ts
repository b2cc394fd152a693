/** Following the bytes of a file as they are read, to have its marks (tailed-file.ts) at hand without reading again. */
import type { FileHandle } from 'node:fs/promises';
import { bytesAt, markOf, MARK_BYTES, type FilePosition, type MarkedOffset } from './tailed-file.ts';

export class Marks {
  #head: Buffer = Buffer.alloc(0);
  #recent: Buffer = Buffer.alloc(0);
  #recentEnd: number;

  private constructor(offset: number) {
    this.#recentEnd = offset;
  }

  static async at(handle: FileHandle, offset: number): Promise<Marks> {
    const marks = new Marks(offset);
    marks.#head = await bytesAt(handle, 0, Math.min(MARK_BYTES, offset));
    const recentBytes = Math.min(MARK_BYTES, offset);
    marks.#recent = await bytesAt(handle, offset - recentBytes, recentBytes);
    return marks;
  }

  static ofBeginning(): Marks {
    return new Marks(0);
  }

  /** Takes note of the bytes that follow on what is known. Behind `keepFrom`, every offset can be marked later. */
  push(chunk: Buffer, keepFrom: number): void {
    if (this.#head.length < MARK_BYTES && this.#recentEnd === this.#head.length) {
      this.#head = Buffer.concat([this.#head, chunk.subarray(0, MARK_BYTES - this.#head.length)]);
    }
    const kept = Math.min(this.#recent.length, Math.max(0, this.#recentEnd - keepFrom) + MARK_BYTES);
    this.#recent = Buffer.concat([this.#recent.subarray(this.#recent.length - kept), chunk]);
    this.#recentEnd += chunk.length;
  }

  /** Of what stands before `offset`: what follows may still be a line that a crash of its writer takes back. */
  head(offset: number): FilePosition['head'] {
    return markOf(this.#head.subarray(0, offset));
  }

  /** `offset` must lie at or behind the `keepFrom` of the last push. */
  tail(offset: number): FilePosition['tail'] {
    const end = this.#recent.length - (this.#recentEnd - offset);
    return markOf(end <= 0 ? Buffer.alloc(0) : this.#recent.subarray(Math.max(0, end - MARK_BYTES), end));
  }

  /** Both marks of `offset`, as for `tail`. */
  end(offset: number): MarkedOffset {
    return { offset, head: this.head(offset), tail: this.tail(offset) };
  }
}
