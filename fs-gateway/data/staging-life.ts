/** Whose the staging area is: the life of the mount that was here last, and the boot of the machine, in a file beside the journal. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
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

/** Undefined: nobody was here. */
export function readLife(dir: string): StagingLife | undefined {
  const path = lifePath(dir);
  if (!existsSync(path)) return undefined;
  const [life = '', bootId = ''] = readFileSync(path, 'utf8').split('\n');
  return { life, bootId };
}

/** Written while it is needed, it would be empty for whoever is started when this one is killed: so only when it is another. */
export function writeLife(dir: string, { life, bootId }: StagingLife): void {
  writeFileSync(lifePath(dir), `${life}\n${bootId}\n`, { mode: 0o600 });
}
