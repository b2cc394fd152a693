/** How often each inode is open, over all workers of a mount, and the backing id of those that the kernel has open for passthrough. */
export class OpenCounts {
  readonly #counts = new Map<number, number>();
  readonly #backing = new Map<number, number>();

  get size(): number {
    return this.#counts.size;
  }

  has(ino: number): boolean {
    return this.#counts.has(ino);
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

  /** `backingId`: 0 through the daemon. */
  opened(ino: number, times: number, backingId: number): void {
    this.#counts.set(ino, (this.#counts.get(ino) ?? 0) + times);
    if (backingId > 0) this.#backing.set(ino, backingId);
  }

  /** True at the last close. */
  closed(ino: number): boolean {
    const count = this.#counts.get(ino) ?? 0;
    if (count > 1) {
      this.#counts.set(ino, count - 1);
      return false;
    }
    this.#counts.delete(ino);
    this.#backing.delete(ino);
    return count === 1;
  }

  clear(): void {
    this.#counts.clear();
    this.#backing.clear();
  }
}
