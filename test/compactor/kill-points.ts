/** Runs a program again and again in a process of its own, killed at its first, second, third ... external write, until it gets through. */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import type { FaultMoment } from '../support/fault.ts';

/** A start takes seconds, on a machine with much else to do half a minute; what is told to end later than this hangs. */
const DEADLINE_MS = 100_000;

/** Whether it died at the `call`-th `operation`; false: there is no such call and it did all of its work. */
export async function runKilledAt(
  dir: string,
  role: 'land' | 'compact' | 'replay' | 'erase',
  point: { readonly operation: string; readonly call: number; readonly moment: FaultMoment },
): Promise<boolean> {
  const { operation, call, moment } = point;
  const child = fork(join(import.meta.dirname, 'kill-point-child.ts'), [dir, role, operation, String(call), moment], {
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    execArgv: [],
  });
  onTestFinished(() => void child.kill('SIGKILL'));
  let stderr = '';
  child.stderr?.setEncoding('utf8').on('data', (text: string) => (stderr += text));
  const late = setTimeout(() => child.kill('SIGTERM'), DEADLINE_MS);
  // Unknown to the event's types: the status, or the signal.
  const [status, signal] = (await once(child, 'exit')) as [number | null, string | null];
  clearTimeout(late);
  if (signal === 'SIGKILL') return true;
  if (status !== 0)
    throw new Error(`${role} at ${operation} ${call} ended with ${signal ?? String(status)}: ${stderr}`);
  return false;
}
