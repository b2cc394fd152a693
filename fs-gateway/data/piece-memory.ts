/**
 * The memory of pieces: how much of it is in use, and large buffers that are used again. Memory that is new for each block costs a page fault per
 * 4 KiB and has V8 collect garbage all the time; with these, a cold read makes none.
 *
 * Invariants: what is given back is written to again in a later turn of the event loop at the earliest, so a view of it that was handed out
 * stays true for the rest of this turn. What was lent is never used again.
 * Limits: `bytesMax` in use, or one piece; what is not in use counts with it.
 */

/** Below, an allocation is cheap. Larger ones are rounded up to a power of two, so that blocks and their tails share buffers. */
const REUSED_MIN = 2 ** 18;

export class PieceMemory {
  readonly #bytesMax: number;
  readonly #free = new Map<number, ArrayBuffer[]>();
  #freeBytes = 0;
  /** Given back in this turn. */
  #resting: Buffer[] = [];
  #restingBytes = 0;
  readonly #lent = new WeakSet<ArrayBufferLike>();
  #used = 0;
  readonly #waiting = new Set<() => void>();

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  /** There is room for a piece of so many bytes, or would be but for what is `apart`. */
  fits(bytes: number, apart: readonly Buffer[] = []): boolean {
    const used = apart.reduce((sum, data) => sum - capacityOf(data), this.#used);
    return used === 0 || used + capacityFor(bytes) <= this.#bytesMax;
  }

  /** There will be, in the next turn. */
  willFit(bytes: number): boolean {
    const used = this.#used - this.#restingBytes;
    return used === 0 || used + capacityFor(bytes) <= this.#bytesMax;
  }

  /** Resolves when it is worth asking again, and after so long at the latest. */
  async changed(msMax: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<undefined>();
    const wake = (): void => resolve(undefined);
    this.#waiting.add(wake);
    const timer = setTimeout(wake, msMax);
    await promise;
    clearTimeout(timer);
    this.#waiting.delete(wake);
  }

  /** Something may fit, or may be given back, that did not. */
  wake(): void {
    for (const wake of this.#waiting) wake();
    this.#waiting.clear();
  }

  take(bytes: number): Buffer {
    const capacity = capacityFor(bytes);
    this.#used += capacity;
    if (capacity < REUSED_MIN) return Buffer.allocUnsafeSlow(bytes);
    const free = this.#free.get(capacity)?.pop();
    if (free !== undefined) {
      this.#freeBytes -= capacity;
      return Buffer.from(free, 0, bytes);
    }
    // What is free is of other sizes.
    if (this.#used + this.#freeBytes > this.#bytesMax) this.#dropFree();
    return Buffer.allocUnsafeSlow(capacity).subarray(0, bytes);
  }

  /** Counts memory that came from elsewhere. */
  adopt(data: Buffer): void {
    this.#used += capacityOf(data);
  }

  /** It goes to somebody who may keep it: it is never used for another piece. */
  lend(data: Buffer): void {
    this.#lent.add(data.buffer);
  }

  give(data: Buffer): void {
    this.#restingBytes += capacityOf(data);
    if (this.#resting.push(data) === 1) setImmediate(() => this.#rest());
  }

  #rest(): void {
    for (const data of this.#resting) {
      const capacity = capacityOf(data);
      this.#used -= capacity;
      const { buffer } = data;
      const whole = capacity >= REUSED_MIN && buffer.byteLength === capacity && buffer instanceof ArrayBuffer;
      if (!whole || this.#lent.has(buffer)) continue;
      if (this.#used + this.#freeBytes + capacity > this.#bytesMax) continue;
      const free = this.#free.get(capacity);
      if (free === undefined) this.#free.set(capacity, [buffer]);
      else free.push(buffer);
      this.#freeBytes += capacity;
    }
    this.#resting = [];
    this.#restingBytes = 0;
    this.wake();
  }

  #dropFree(): void {
    this.#free.clear();
    this.#freeBytes = 0;
  }
}

function capacityFor(bytes: number): number {
  return bytes < REUSED_MIN ? bytes : 2 ** Math.ceil(Math.log2(bytes));
}

/** Of memory of its own, all of it; of a part of other memory, that part. */
function capacityOf(data: Buffer): number {
  const capacity = capacityFor(data.length);
  return data.byteOffset === 0 && data.buffer.byteLength === capacity ? capacity : data.length;
}
