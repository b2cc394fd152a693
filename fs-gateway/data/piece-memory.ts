/**
 * The memory of pieces: how much of it is in use, and one arena (arena.ts) that it is cut from, so that reads make no garbage.
 *
 * Invariants: what is given back is written to again in a later turn of the event loop at the earliest, so a view of it that was handed out
 * stays true for the rest of this turn; and what was lent, not before its borrower has given it back too.
 * Limits: `bytesMax` in use, a power of two, or one piece. Beside that, what is lent and no longer in use here. Where the arena is cut too small for a piece, or
 * lent, that piece has memory of its own.
 */
import { Arena, blockFor } from './arena.ts';

interface Loan {
  borrowers: number;
  /** Given back by us. */
  isOver: boolean;
}

export class PieceMemory {
  readonly #bytesMax: number;
  /** Made for the first piece: a mount of a local directory has none. */
  #arena: Arena | undefined;
  /** Given back in this turn. */
  #resting: Buffer[] = [];
  #restingBytes = 0;
  readonly #loans = new Map<Buffer, Loan>();
  #used = 0;
  readonly #waiting = new Set<() => void>();

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  /** There is room for a piece of so many bytes, or would be but for what is `apart`. */
  fits(bytes: number, apart: readonly Buffer[] = []): boolean {
    const used = apart.reduce((sum, data) => sum - blockFor(data.length), this.#used);
    return used === 0 || used + blockFor(bytes) <= this.#bytesMax;
  }

  /** There will be, in the next turn. */
  willFit(bytes: number): boolean {
    const used = this.#used - this.#restingBytes;
    return used === 0 || used + blockFor(bytes) <= this.#bytesMax;
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

  /** With whatever was in it before. */
  take(bytes: number): Buffer {
    this.#used += blockFor(bytes);
    this.#arena ??= new Arena(this.#bytesMax);
    return this.#arena.take(bytes) ?? Buffer.allocUnsafeSlow(bytes);
  }

  /** It goes to somebody who reads it longer than it is in use here, until the returned function is called. */
  lend(data: Buffer): () => void {
    const loan = this.#loans.get(data) ?? { borrowers: 0, isOver: false };
    this.#loans.set(data, loan);
    loan.borrowers++;
    return () => {
      if (--loan.borrowers > 0) return;
      this.#loans.delete(data);
      if (loan.isOver) this.#arena?.give(data);
    };
  }

  /** What `take` gave. */
  give(data: Buffer): void {
    this.#restingBytes += blockFor(data.length);
    if (this.#resting.push(data) === 1) setImmediate(() => this.#rest());
  }

  #rest(): void {
    for (const data of this.#resting) {
      this.#used -= blockFor(data.length);
      const loan = this.#loans.get(data);
      if (loan === undefined) this.#arena?.give(data);
      else loan.isOver = true;
    }
    this.#resting = [];
    this.#restingBytes = 0;
    this.wake();
  }
}
