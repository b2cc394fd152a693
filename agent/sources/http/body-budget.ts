/**
 * The memory that bodies of requests take together. A request reserves the most it can need before its first byte is read, so requests
 * that were let in can always be finished: none waits half-read for memory that another half-read one holds.
 *
 * Limits: `bytesMax` in all; whoever waits is served in order and gives up after its own time.
 */
export class BodyBudget {
  readonly #bytesMax: number;
  #bytesUsed = 0;
  readonly #waiting: { readonly bytes: number; readonly go: () => void }[] = [];

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  /** Resolves to whether there is room now or within `waitMs`; what was reserved is given back by `release`. */
  async reserve(bytes: number, waitMs: number): Promise<boolean> {
    if (this.#waiting.length === 0 && this.#fits(bytes)) {
      this.#bytesUsed += bytes;
      return true;
    }
    return new Promise((resolve) => {
      const entry = {
        bytes,
        go: () => {
          clearTimeout(timer);
          resolve(true);
        },
      };
      const timer = setTimeout(() => {
        this.#waiting.splice(this.#waiting.indexOf(entry), 1);
        resolve(false);
        this.#serve();
      }, waitMs);
      this.#waiting.push(entry);
    });
  }

  release(bytes: number): void {
    this.#bytesUsed -= bytes;
    this.#serve();
  }

  #serve(): void {
    for (let next = this.#waiting[0]; next !== undefined && this.#fits(next.bytes); next = this.#waiting[0]) {
      this.#waiting.shift();
      this.#bytesUsed += next.bytes;
      next.go();
    }
  }

  #fits(bytes: number): boolean {
    return this.#bytesUsed + bytes <= this.#bytesMax;
  }
}
