/** What the kernel says of a process (or thread) in /proc. Everything is null once it has ended. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';

const PROC = '/proc';

export interface ProcessStat {
  readonly command: string;
  /** In clock ticks since boot: with the pid it is one process for good. */
  readonly startTicks: string;
}

/** proc(5), stat: `pid (command) state ...`, 22nd field; the command may hold spaces and parentheses. */
export function parseStat(text: string): ProcessStat | null {
  const [open, close] = [text.indexOf('('), text.lastIndexOf(')')];
  if (open < 0 || close < open) return null;
  const startTicks = text.slice(close + 2).split(' ')[19];
  return startTicks === undefined ? null : { command: text.slice(open + 1, close), startTicks };
}

export async function statOf(pid: number): Promise<ProcessStat | null> {
  const text = await textOf(pid, 'stat');
  return text === null ? null : parseStat(text);
}

export async function textOf(pid: number, file: string): Promise<string | null> {
  try {
    return await readFile(join(PROC, String(pid), file), 'utf8');
  } catch {
    return null; // It has ended, or is of another pid namespace, or is not ours to look at.
  }
}
