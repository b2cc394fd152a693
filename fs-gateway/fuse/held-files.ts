/**
 * Files that a worker has open, and that nobody could open again: the supervisor has them open, too, so that the next worker finds them. They are opened by their descriptors in /proc,
 * for which one has to be the same user.
 *
 * Failure: killed with its worker, the supervisor leaves what they had in them to nobody.
 */
import { closeSync, fstatSync, openSync } from 'node:fs';

/** Of the file system that it is on, and there. */
export interface HeldFile {
  readonly device: number;
  readonly file: number;
}

export class HeldFiles {
  readonly #fds = new Map<number, number>();

  /** By a number of its own. The worker may have closed the descriptor by now, and used it for another file. */
  hold(id: number, pid: number, workerFd: number, { device, file }: HeldFile): void {
    this.letGo(id);
    let fd: number;
    try {
      fd = openSync(`/proc/${pid}/fd/${workerFd}`, 'r');
    } catch {
      return; // Closed, or its worker has ended.
    }
    const { dev, ino } = fstatSync(fd);
    if (dev === device && ino === file) this.#fds.set(id, fd);
    else closeSync(fd);
  }

  letGo(id: number): void {
    const fd = this.#fds.get(id);
    if (fd !== undefined) closeSync(fd);
    this.#fds.delete(id);
  }

  /** Where each of them can be opened. */
  get paths(): readonly (readonly [id: number, path: string])[] {
    return [...this.#fds].map(([id, fd]) => [id, `/proc/${process.pid}/fd/${fd}`] as const);
  }

  close(): void {
    for (const id of this.#fds.keys()) this.letGo(id);
  }
}
