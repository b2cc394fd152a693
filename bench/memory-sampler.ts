/** The resident memory of a process and all its descendants while they run, and the CPU that processes used (Linux). */
import { readdirSync, readFileSync } from 'node:fs';

const SAMPLE_MS = 20;

export interface MemoryPeaks {
  /** The largest sum of all at one instant, bytes. */
  readonly together: number;
  /** The kernel's own high-water mark of each process, bytes, by the file name of the program that Node runs. */
  readonly each: Readonly<Record<string, number>>;
}

/** Samples until `stop` is called, which is once the processes have ended. Pages that two processes share are counted twice. */
export function sampleMemory(rootPid: number): { stop(): MemoryPeaks } {
  let together = 0;
  const each: Record<string, number> = {};
  const timer = setInterval(() => {
    let sum = 0;
    for (const pid of familyOf(rootPid)) {
      const sizes = sizesOf(pid);
      if (sizes === null) continue;
      sum += sizes.now;
      each[sizes.program] = Math.max(each[sizes.program] ?? 0, sizes.peak);
    }
    together = Math.max(together, sum);
  }, SAMPLE_MS);
  return {
    stop: () => {
      clearInterval(timer);
      return { together, each };
    },
  };
}

/** CPU seconds that a process has used. */
export function cpuSecondsOf(pid: number): number {
  return secondsOf(pid, 14);
}

/** CPU seconds of the children of this process that have ended, and of theirs. */
export function endedChildrenCpuSeconds(): number {
  return secondsOf('self', 16);
}

/** User and system time in the fields `first` and the next of proc_pid_stat(5), which stand in hundredths. */
function secondsOf(pid: number | 'self', first: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
  // The second field is a name, which may have anything in it.
  const [user, system] = stat
    .slice(stat.lastIndexOf(')') + 2)
    .split(' ')
    .slice(first - 3);
  return (Number(user) + Number(system)) / 100;
}

/** Processes that have `text` in their command line. */
export function pidsNaming(text: string): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && read(`/proc/${name}/cmdline`).includes(text))
    .map(Number);
}

function familyOf(pid: number): number[] {
  const children = read(`/proc/${pid}/task/${pid}/children`).split(' ').map(Number);
  return [pid, ...children.filter((child) => child > 0).flatMap(familyOf)];
}

/** null: it has ended. */
function sizesOf(pid: number): { program: string; now: number; peak: number } | null {
  const status = read(`/proc/${pid}/status`);
  const bytes = (key: string): number => Number(new RegExp(`${key}:\\s+(\\d+) kB`).exec(status)?.[1] ?? 0) * 1024;
  const program = /([\w-]+)\.[jt]s\b/.exec(read(`/proc/${pid}/cmdline`))?.[1];
  return status === '' || program === undefined ? null : { program, now: bytes('VmRSS'), peak: bytes('VmHWM') };
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}
