/** Backing files of a mount: the ids under which the kernel reads and writes files of the cache directory by itself. */
import { closeSync, fstatSync, openSync } from 'node:fs';
import { Errno } from '../vfs/operations.ts';
import type { KernelBacking } from '../vfs/operations.ts';
import { SEEK_DATA, SEEK_HOLE } from './native.ts';
import type { Native } from './native.ts';

/** So many of the latest ids are looked at when a worker starts, a microsecond each. What is older and was closed in the moment of a kill stays until the umount. */
const LATEST = 4096;
/** Two microseconds each, at every flush; what is behind them is read. */
const HOLES_MAX = 32_768;
/** The unit of `st_blocks`. */
const SECTOR_BYTES = 512;

type BackingCalls = Pick<Native, 'backingOpen' | 'backingClose' | 'testReadLease' | 'seek' | 'omitAccessTimes'>;

export class DeviceBacking implements KernelBacking {
  readonly #sys: BackingCalls;
  readonly #device: number;

  constructor(sys: BackingCalls, device: number) {
    this.#sys = sys;
    this.#device = device;
  }

  register(fd: number): number {
    return this.#sys.backingOpen(this.#device, fd);
  }

  unregister(id: number): void {
    this.#sys.backingClose(this.#device, id);
  }

  /** The kernel counts ids up, so a new one is behind all others. One that is not known to it is no error. */
  unregisterOthers(path: string, used: ReadonlySet<number>): void {
    const fd = openSync(path, 'r');
    const newest = this.register(fd);
    closeSync(fd);
    for (let id = newest; id > Math.max(0, newest - LATEST); id--) if (!used.has(id)) this.unregister(id);
  }

  /** The kernel looks at them with each read of a backing file, 4 % of one from the page cache, and nobody sees them. */
  omitAccessTimes(dir: string): void {
    const fd = openSync(dir, 'r');
    // A file system that has no such flag serves as well.
    this.#sys.omitAccessTimes(fd);
    closeSync(fd);
  }

  isQuiet(fd: number): boolean {
    return this.#sys.testReadLease(fd) === 0;
  }

  /** A file that is at least half there is read instead: nothing is gained by asking the disk's file system, which may be wrong (OpenZFS was, before 2.2.2). */
  holes(fd: number): ReturnType<KernelBacking['holes']> {
    const { size, blocks } = fstatSync(fd);
    const holes: { start: number; end: number }[] = [];
    if (blocks * SECTOR_BYTES >= size / 2) return holes;
    for (let at = 0; at < size && holes.length < HOLES_MAX;) {
      const start = this.#sys.seek(fd, at, SEEK_HOLE);
      if (start < 0 || start >= size) break; // Cut meanwhile, or a file system that knows of no holes.
      const data = this.#sys.seek(fd, start, SEEK_DATA);
      const end = data === -Errno.ENXIO ? size : data;
      if (end <= start) break; // Written meanwhile.
      holes.push({ start, end });
      at = end;
    }
    return holes;
  }
}
