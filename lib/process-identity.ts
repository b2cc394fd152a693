/**
 * Which process wrote a record, so that another one on the same machine knows for certain, and at once, that it is gone: nobody has to wait
 * for the end of a lease behind a kill -9.
 *
 * A process id is given out again; together with the moment of its start it is not. Machines may share a name, and pid namespaces a number: ids are
 * compared within one `space` only.
 * Limits: of a process of another space, and elsewhere than on Linux of an id that was given out again, nothing is known: it may live.
 */
import { readFileSync, readlinkSync } from 'node:fs';
import { hostname } from 'node:os';
import { systemBoot } from './boot-time.ts';
import { systemCode } from './errors.ts';

export interface ProcessIdentity {
  /** A boot of a machine and a pid namespace. */
  readonly space: string;
  readonly pid: number;
  /** When it was started, as the kernel counts; absent where that is not known. */
  readonly born?: string | undefined;
}

export const thisProcess: ProcessIdentity = {
  space: `${hostname()} ${systemBoot.id.toString('hex')} ${pidNamespace()}`,
  pid: process.pid,
  born: look(process.pid)?.born,
};

/** True: there is no such process any more. */
export function isGone({ space, pid, born }: ProcessIdentity): boolean {
  if (space !== thisProcess.space) return false;
  if (!isAlive(pid)) return true;
  const now = look(pid);
  // One that was killed stays as a zombie until its parent has asked for it.
  return now !== undefined && (now.isZombie || (born !== undefined && now.born !== born));
}

/** Whether there is a process of this id on this machine. */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return systemCode(error) === 'EPERM';
  }
}

/** proc(5), stat: `pid (name) state …`, and as the 22nd field the start in clock ticks since the boot; undefined where it cannot be read. */
function look(pid: number): { readonly born: string; readonly isZombie: boolean } | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    const born = fields[22 - 3];
    return born === undefined ? undefined : { born, isZombie: fields[0] === 'Z' };
  } catch {
    return undefined;
  }
}

function pidNamespace(): string {
  try {
    return readlinkSync('/proc/self/ns/pid');
  } catch {
    // Not Linux: a machine is one space.
    return '';
  }
}
