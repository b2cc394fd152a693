/** The kernel's part in passthrough, played: it opens a backing file when the test says so. */
import { readlinkSync } from 'node:fs';
import type { KernelBacking } from '../../fs-gateway/vfs/operations.ts';

export interface PlayedKernel extends KernelBacking {
  /** The paths of the backing files that are registered, by their ids. */
  readonly backing: ReadonlyMap<number, string>;
  /** How many ids it has given, from 1 on. */
  readonly ids: number;
}

/** `quiet`: what it says of every file. */
export function playKernel(quiet: boolean): PlayedKernel {
  const backing = new Map<number, string>();
  let ids = 0;
  return {
    backing,
    get ids() {
      return ids;
    },
    register(fd) {
      backing.set(++ids, readlinkSync(`/proc/self/fd/${fd}`));
      return ids;
    },
    unregister: (id) => void backing.delete(id),
    unregisterOthers(_path, used) {
      for (const id of backing.keys()) if (!used.has(id)) backing.delete(id);
    },
    isQuiet: () => quiet,
    holes: () => [],
    omitAccessTimes: () => undefined,
  };
}
