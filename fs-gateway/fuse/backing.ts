/** Backing files of a mount: the ids under which the kernel reads and writes files of the cache directory by itself. */
import type { KernelBacking } from '../vfs/operations.ts';
import type { Native } from './native.ts';

export class DeviceBacking implements KernelBacking {
  readonly #sys: Native;
  readonly #device: number;

  constructor(sys: Native, device: number) {
    this.#sys = sys;
    this.#device = device;
  }

  register(fd: number): number {
    return this.#sys.backingOpen(this.#device, fd);
  }

  unregister(id: number): void {
    this.#sys.backingClose(this.#device, id);
  }

  isQuiet(fd: number): boolean {
    return this.#sys.testReadLease(fd) === 0;
  }
}
