/**
 * The files that are read and written most at present: bytes by inode, a minute ago half of what they are now, so that yesterday's do not stay on top.
 *
 * Limits: FILES_MAX; when they are full, the coldest quarter goes. A file that is used more than those is never among it.
 */

const FILES_MAX = 1024;
const HALF_LIFE_MS = 60_000;
/** Newer bytes weigh more, by 2 to the number of half-lives since the origin; above this a new origin is taken. */
const WEIGHT_MAX = 2 ** 40;

export interface HotFile {
  readonly ino: number;
  /** Decayed: a weight, not a count. */
  readonly readBytes: number;
  readonly writtenBytes: number;
}

interface Heat {
  read: number;
  written: number;
}

const total = ({ read, written }: Heat): number => read + written;

export class HotFiles {
  readonly #heat = new Map<number, Heat>();
  #originMs = performance.now();

  /** `nowMs`: monotonic, as of performance.now(). */
  add(ino: number, readBytes: number, writtenBytes: number, nowMs: number): void {
    let heat = this.#heat.get(ino);
    if (heat === undefined) {
      if (this.#heat.size >= FILES_MAX) this.#cool();
      this.#heat.set(ino, (heat = { read: 0, written: 0 }));
    }
    const weight = this.#weight(nowMs);
    heat.read += readBytes * weight;
    heat.written += writtenBytes * weight;
  }

  /** The hottest first. */
  top(count: number, nowMs: number): HotFile[] {
    const weight = this.#weight(nowMs);
    return [...this.#heat]
      .sort(([, a], [, b]) => total(b) - total(a))
      .slice(0, count)
      .map(([ino, { read, written }]) => ({
        ino,
        readBytes: Math.round(read / weight),
        writtenBytes: Math.round(written / weight),
      }))
      .filter(({ readBytes, writtenBytes }) => readBytes + writtenBytes > 0);
  }

  #cool(): void {
    const coldest = [...this.#heat].sort(([, a], [, b]) => total(a) - total(b));
    for (const [ino] of coldest.slice(0, FILES_MAX / 4)) this.#heat.delete(ino);
  }

  #weight(nowMs: number): number {
    const weight = 2 ** ((nowMs - this.#originMs) / HALF_LIFE_MS);
    if (weight < WEIGHT_MAX) return weight;
    for (const heat of this.#heat.values()) {
      heat.read /= weight;
      heat.written /= weight;
    }
    this.#originMs = nowMs;
    return 1;
  }
}
