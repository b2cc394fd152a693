/**
 * Open file descriptors of local files that are read again and again, least recently used closed first. Reads are synchronous, so a
 * descriptor is never closed under one. Limit: DESCRIPTORS_MAX of the process's file table.
 */
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';

const DESCRIPTORS_MAX = 256;

export class Descriptors {
  readonly #open = new Map<string, { readonly fd: number; readonly bytes: number }>();

  /** Throws Node's errors of open(2) and fstat(2). */
  get(path: string): { readonly fd: number; readonly bytes: number } {
    const known = this.#open.get(path);
    if (known !== undefined) {
      this.#open.delete(path);
      this.#open.set(path, known);
      return known;
    }
    const fd = openSync(path, 'r');
    const opened = { fd, bytes: fstatSync(fd).size };
    this.#open.set(path, opened);
    for (const [oldest, { fd: old }] of this.#open) {
      if (this.#open.size <= DESCRIPTORS_MAX) break;
      this.#open.delete(oldest);
      closeSync(old);
    }
    return opened;
  }

  close(path: string): void {
    const known = this.#open.get(path);
    if (known === undefined) return;
    this.#open.delete(path);
    closeSync(known.fd);
  }

  closeAll(): void {
    for (const path of [...this.#open.keys()]) this.close(path);
  }
}

/** The bytes read: fewer than asked only at the end of the file. */
export function readUpTo(fd: number, target: Buffer, offset: number): number {
  let done = 0;
  while (done < target.length) {
    const read = readSync(fd, target, done, target.length - done, offset + done);
    if (read === 0) break;
    done += read;
  }
  return done;
}
