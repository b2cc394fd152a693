/** Finding and ending real processes: what the kill tests need of /proc. */
import { readdirSync, readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { HANG_MS } from './hang.ts';

export interface ProcessEntry {
  readonly pid: number;
  readonly parent: number;
  readonly command: string;
}

/** Every process, zombies left out. */
export function processes(): ProcessEntry[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => {
      try {
        const stat = readFileSync(`/proc/${name}/stat`, 'utf8');
        const [state = 'Z', parent = '0'] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
        const command = readFileSync(`/proc/${name}/cmdline`, 'utf8').replaceAll('\0', ' ');
        return state === 'Z' ? [] : [{ pid: Number(name), parent: Number(parent), command }];
      } catch {
        // It ended between the listing and the look.
        return [];
      }
    });
}

/** The children of a process, their children, and so on. */
export function descendants(root: number): ProcessEntry[] {
  const all = processes();
  const found: ProcessEntry[] = [];
  for (let parents = new Set([root]); parents.size > 0;) {
    const children = all.filter((entry) => parents.has(entry.parent));
    found.push(...children);
    parents = new Set(children.map((entry) => entry.pid));
  }
  return found;
}

export function isAlive(pid: number): boolean {
  return processes().some((entry) => entry.pid === pid);
}

export function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // Gone already.
  }
}

/** Polls until `find` gives something; throws with `what` after the deadline. */
export async function eventually<T>(what: string, find: () => T | undefined | false): Promise<T> {
  for (const end = performance.now() + HANG_MS; ;) {
    const found = find();
    if (found !== undefined && found !== false) return found;
    if (performance.now() > end) throw new Error(`${what} did not happen within ${HANG_MS} ms`);
    // A look at every process costs 4 ms, and more on a machine that is busy.
    await delay(50);
  }
}
