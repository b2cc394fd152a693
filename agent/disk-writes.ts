/**
 * What this process has written to disks: flash wears out by it.
 *
 * The kernel's own count (proc_pid_io(5), `write_bytes`): everything, also what rewrites a file, in the pages (most have 4 KiB) in which it
 * reaches the disk. A counter at our writes was rejected: it would miss whoever forgets it, and take 100 bytes that are synced by themselves for 100.
 * Limits: not in it are folders and a file system's journal, what the flash itself moves about, and a child process that has not ended. Nothing is
 * counted for a file system in memory, or for one over the network.
 */
import { readFileSync } from 'node:fs';

/** Bytes since this call, at each call of the result; null where the kernel keeps no account (not Linux, or without TASK_IO_ACCOUNTING). */
export function countDiskWrites(): () => number | null {
  const before = writtenByProcess();
  return () => {
    const now = writtenByProcess();
    return before === null || now === null ? null : now - before;
  };
}

function writtenByProcess(): number | null {
  try {
    // 20 us, and it never waits for a disk.
    const bytes = /^write_bytes: (\d+)$/m.exec(readFileSync('/proc/self/io', 'latin1'))?.[1];
    return bytes === undefined ? null : Number(bytes);
  } catch {
    return null;
  }
}
