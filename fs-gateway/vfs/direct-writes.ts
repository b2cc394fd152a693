/**
 * Direct writes beside programs that read the same file through the kernel's pages.
 *
 * Behind a direct write the kernel drops its pages, but not behind one that its program does not wait for (io_submit, io_uring; Linux 6.18): what a reader brought there before the write
 * came would stay (xfstests, generic/451). So while such a reader may have the file open, a direct write is answered when the kernel has dropped them.
 * Limits: who has opened with O_DIRECT and reads through pages all the same (a mapping, F_SETFL) is not taken for a reader.
 */
import { constants } from 'node:fs';
import type { OpenCounts } from '../data/open-counts.ts';
import type { KernelNotifier, Result } from './operations.ts';

const { O_DIRECT } = constants;

export class DirectWrites {
  readonly #counts: Pick<OpenCounts, 'of'>;
  readonly #notifier: Pick<KernelNotifier, 'invalidateInode' | 'settled'> | undefined;
  /** By inode, the handles of this worker that were opened with O_DIRECT. */
  readonly #direct = new Map<number, Set<bigint>>();

  /** Without a notifier there is no kernel, and no page of it. */
  constructor(
    counts: Pick<OpenCounts, 'of'>,
    notifier: Pick<KernelNotifier, 'invalidateInode' | 'settled'> | undefined,
  ) {
    this.#counts = counts;
    this.#notifier = notifier;
  }

  opened(ino: number, handle: bigint, flags: number): void {
    if ((flags & O_DIRECT) === 0) return;
    const handles = this.#direct.get(ino);
    if (handles === undefined) this.#direct.set(ino, new Set([handle]));
    else handles.add(handle);
  }

  released(ino: number, handle: bigint): void {
    const handles = this.#direct.get(ino);
    if (handles?.delete(handle) === true && handles.size === 0) this.#direct.delete(ino);
  }

  /** The answer to a write of `length` bytes. */
  answer(ino: number, flags: number, offset: number, length: number, written: Result<number>): Result<number> {
    const notifier = this.#notifier;
    if ((flags & O_DIRECT) === 0 || notifier === undefined || !this.#isReadByPages(ino)) return written;
    const dropped = (bytes: number): Result<number> => {
      notifier.invalidateInode(BigInt(ino), BigInt(offset), BigInt(length));
      return notifier.settled(BigInt(ino))?.then(() => bytes) ?? bytes;
    };
    return written instanceof Promise ? written.then(dropped) : dropped(written);
  }

  /** An open that an earlier worker has counted may be of such a reader. */
  #isReadByPages(ino: number): boolean {
    return this.#counts.of(ino) > (this.#direct.get(ino)?.size ?? 0);
  }
}
