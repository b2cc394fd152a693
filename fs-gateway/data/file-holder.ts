/** Files that were removed while they are open here: who keeps them open over the death of this process, and how they are told. */
import { fstatSync, statSync } from 'node:fs';
import { isSameFile } from './journal.ts';

export interface FileHolder {
  /** What a worker before this one gave it, by inode: where that can be opened. */
  readonly held: ReadonlyMap<number, string>;
  hold(ino: number, fd: number): void;
  letGo(ino: number): void;
}

/** The file of the descriptor is the one at this path. Where the disk fails to tell, it is taken to be. */
export function isAt(path: string, fd: number): boolean {
  try {
    const there = statSync(path, { throwIfNoEntry: false });
    return there !== undefined && isSameFile(there, fstatSync(fd));
  } catch {
    return true;
  }
}
