/**
 * How often each inode is open, over all workers of a mount, the backing id of those that the kernel has open for passthrough, and which requests
 * were counted last: the kernel sends one again whose answer died with the worker.
 */

/** More requests than the kernel has under way at a time: only those can come again. */
const RECENT_MAX = 1024;

export class OpenCounts {
  readonly #counts = new Map<number, number>();
  readonly #backing = new Map<number, number>();
  /** Opens that wait, and are counted at their end. */
  readonly #held = new Map<number, number>();
  readonly #recent = new Set<string>();

  get size(): number {
    return this.#counts.size;
  }

  has(ino: number): boolean {
    return this.#counts.has(ino) || this.#held.has(ino);
  }

  /** How often it is open, without opens that wait. */
  of(ino: number): number {
    return this.#counts.get(ino) ?? 0;
  }

  inos(): Iterable<number> {
    return this.#counts.keys();
  }

  all(): Iterable<readonly [ino: number, count: number]> {
    return this.#counts;
  }

  /** Undefined: the inode is not open, or through the daemon. */
  backingOf(ino: number): number | undefined {
    return this.#backing.get(ino);
  }

  get backed(): Iterable<number> {
    return this.#backing.keys();
  }

  get backingIds(): Iterable<number> {
    return this.#backing.values();
  }

  /** Requests that were counted, as `counted` takes them. */
  get recent(): Iterable<string> {
    return this.#recent;
  }

  counted(request: string): boolean {
    return this.#recent.has(request);
  }

  note(request: string): void {
    if (request === '') return;
    this.#recent.add(request);
    if (this.#recent.size <= RECENT_MAX) return;
    for (const oldest of this.#recent) {
      this.#recent.delete(oldest);
      break;
    }
  }

  forget(request: string): void {
    this.#recent.delete(request);
  }

  /** `backingId`: 0 through the daemon. */
  opened(ino: number, times: number, backingId: number): void {
    this.#counts.set(ino, this.of(ino) + times);
    if (backingId > 0) this.#backing.set(ino, backingId);
  }

  /** True at the last close. */
  closed(ino: number): boolean {
    const count = this.of(ino);
    if (count > 1) {
      this.#counts.set(ino, count - 1);
      return false;
    }
    this.#counts.delete(ino);
    return this.#isLast(ino) && count === 1;
  }

  hold(ino: number): void {
    this.#held.set(ino, (this.#held.get(ino) ?? 0) + 1);
  }

  /** True when that was the last that kept the inode open. */
  letGo(ino: number): boolean {
    const held = this.#held.get(ino) ?? 0;
    if (held > 1) this.#held.set(ino, held - 1);
    else this.#held.delete(ino);
    return this.#isLast(ino);
  }

  #isLast(ino: number): boolean {
    if (this.has(ino)) return false;
    this.#backing.delete(ino);
    return true;
  }

  clear(): void {
    this.#counts.clear();
    this.#backing.clear();
    this.#recent.clear();
  }
}
