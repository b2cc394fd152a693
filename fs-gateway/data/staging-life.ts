/**
 * Whose the staging area is: the life of the mount that was here last, the boot of the machine, and which folder it was, in a file beside the journal. In a copy of the folder that
 * says another one.
 *
 *   <life> LF <boot> LF <inode of the folder>[-<its birth in ns>] LF
 *
 * An earlier release wrote no third line.
 */
import { existsSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs';
import type { BigIntStats } from 'node:fs';
import { join } from 'node:path';

const FILE = 'life';

export interface StagingLife {
  /** One for all workers of a mount. */
  readonly life: string;
  readonly bootId: string;
}

export function lifePath(dir: string): string {
  return join(dir, FILE);
}

/** Undefined: nobody was here. `isCopy`: of a folder that may be in use, or was used, elsewhere since. */
export function readLife(dir: string): (StagingLife & { readonly isCopy: boolean }) | undefined {
  const path = lifePath(dir);
  if (!existsSync(path)) return undefined;
  const [life = '', bootId = '', folder = ''] = readFileSync(path, 'utf8').split('\n');
  return { life, bootId, isCopy: isOfAnother(folder, folderOf(statSync(dir, { bigint: true }))) };
}

/** By the inode alone where one of the two does not know the birth. */
export function isOfAnother(folder: string, there: string): boolean {
  if (folder === '') return false;
  const [ino, birth = ''] = folder.split('-');
  const [inoThere, birthThere = ''] = there.split('-');
  return ino !== inoThere || (birth !== '' && birthThere !== '' && birth !== birthThere);
}

/** The same after a boot, and in no copy. What does not know when a file was born says 0 (the file system), or when it was changed last (a kernel without statx). */
export function folderOf({ ino, birthtimeNs, ctimeNs }: Pick<BigIntStats, 'ino' | 'birthtimeNs' | 'ctimeNs'>): string {
  const isKnown = birthtimeNs !== 0n && birthtimeNs !== ctimeNs;
  return isKnown ? `${ino}-${birthtimeNs}` : String(ino);
}

/** Where it says something else. At once: half of it would be somebody else's for whoever is started when this one is killed. */
export function writeLife(dir: string, { life, bootId }: StagingLife): void {
  const path = lifePath(dir);
  const content = `${life}\n${bootId}\n${folderOf(statSync(dir, { bigint: true }))}\n`;
  if (existsSync(path) && readFileSync(path, 'utf8') === content) return;
  writeFileSync(`${path}.new`, content, { mode: 0o600 });
  renameSync(`${path}.new`, path);
}
