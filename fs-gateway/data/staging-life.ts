/**
 * Whose the staging area is: the life of the mount that was here last, the boot of the machine, and which folder it was, in a file beside the journal. In a copy of the folder that
 * says another one.
 */
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
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
  return { life, bootId, isCopy: folder !== folderOf(dir) };
}

/** The same after a boot, and in no copy. */
function folderOf(dir: string): string {
  const { ino, birthtimeNs } = statSync(dir, { bigint: true });
  return `${ino}-${birthtimeNs}`;
}

/** Written while it is needed, it would be empty for whoever is started when this one is killed: so only when it is another. */
export function writeLife(dir: string, { life, bootId }: StagingLife): void {
  writeFileSync(lifePath(dir), `${life}\n${bootId}\n${folderOf(dir)}\n`, { mode: 0o600 });
}
