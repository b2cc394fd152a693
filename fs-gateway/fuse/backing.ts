/** Backing files of a mount: the ids under which the kernel reads and writes files of the cache directory by itself. */
import { closeSync, openSync } from 'node:fs';
import type { KernelBacking } from '../vfs/operations.ts';
import type { Native } from './native.ts';

/** So many of the latest ids are looked at when a worker starts, a microsecond each. What is older and was closed in the moment of a kill stays until the umount. */
const LATEST = 4096;

type BackingCalls = Pick<Native, 'backingOpen' | 'backingClose' | 'testReadLease'>;

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

  isQuiet(fd: number): boolean {
    return this.#sys.testReadLease(fd) === 0;
  }
}
