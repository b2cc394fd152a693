/**
 * Checksums of what this worker has staged in a segment (segments.ts), one for each SUM_BYTES of it, so that a disk that gives other bytes back is found before they are uploaded.
 *
 * Invariants: a sum is of bytes that came one behind the other, as they came. Where a program wrote over them there is none, because what is on the disk would have to be read to
 * make it, and might be wrong by then.
 * Limits: they are in memory, so the next worker has none of what it finds; 64 for a segment.
 */
import { crc32c } from '@node-rs/crc32';

const SUM_BYTES = 256 * 1024;

/** Of the bytes [start, end) of the segment. */
export interface Sum {
  readonly start: number;
  readonly end: number;
  readonly crc: number;
}

export class SegmentSums {
  /** Null: it was written over. */
  readonly #sums = new Map<number, Sum | null>();

  wrote(at: number, data: Uint8Array): void {
    for (let done = 0; done < data.length;) {
      const start = at + done;
      const part = data.subarray(done, done + SUM_BYTES - (start % SUM_BYTES));
      this.#wrote(start, part);
      done += part.length;
    }
  }

  #wrote(start: number, data: Uint8Array): void {
    const index = Math.floor(start / SUM_BYTES);
    const known = this.#sums.get(index);
    const end = start + data.length;
    if (known === undefined) this.#sums.set(index, { start, end, crc: crc32c(asBuffer(data)) });
    else if (known?.end === start) this.#sums.set(index, { ...known, end, crc: crc32c(asBuffer(data), known.crc) });
    else this.#sums.set(index, null);
  }

  /** Those of which all bytes lie in [from, to). */
  within(from: number, to: number): readonly Sum[] {
    const found: Sum[] = [];
    for (let index = Math.floor(from / SUM_BYTES); index * SUM_BYTES < to; index++) {
      const sum = this.#sums.get(index);
      if (sum !== undefined && sum !== null && sum.start >= from && sum.end <= to) found.push(sum);
    }
    return found;
  }

  /** The first of these, as they were before the bytes from `from` on were read, that does not hold for them, and for which nothing was written since. */
  firstOff(before: readonly Sum[], from: number, bytes: Uint8Array): Sum | undefined {
    return before.find(
      (sum) =>
        this.#sums.get(Math.floor(sum.start / SUM_BYTES)) === sum &&
        crc32c(asBuffer(bytes.subarray(sum.start - from, sum.end - from))) !== sum.crc,
    );
  }
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
}
