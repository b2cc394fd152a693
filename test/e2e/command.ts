/** A `penstock` command as a child process that is told to end. */
import { fork, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { onTestFinished } from 'vitest';
import { descendants, kill } from '../support/processes.ts';
import { BESIDE_MS } from '../support/hang.ts';

const penstock = fileURLToPath(new URL('../../bin/penstock.ts', import.meta.url));

export interface RunningCommand {
  readonly child: ChildProcess;
  readonly pid: number;
  /** The exit status. */
  readonly exit: Promise<unknown>;
  readonly stdout: () => string;
  readonly stderr: () => string;
}

/** With a channel, on which the command tells of its progress. */
export function startCommand(args: readonly string[], env: Readonly<Record<string, string>> = {}): RunningCommand {
  const child = fork(penstock, args, { stdio: ['ignore', 'pipe', 'pipe', 'ipc'], env: { ...process.env, ...env } });
  const pid = child.pid ?? 0;
  onTestFinished(() => {
    for (const entry of child.exitCode === null ? [...descendants(pid), { pid }] : []) kill(entry.pid);
  });
  let [stdout, stderr] = ['', ''];
  child.stdout?.on('data', (text: Buffer) => (stdout += text.toString()));
  child.stderr?.on('data', (text: Buffer) => (stderr += text.toString()));
  const exit = once(child, 'close', { signal: AbortSignal.timeout(BESIDE_MS) }).then(([code]) => code as unknown);
  return { child, pid, exit, stdout: () => stdout, stderr: () => stderr };
}

/** Resolves at the next status of that kind. */
export function statusOf({ child, stderr }: RunningCommand, kind: string): Promise<void> {
  return new Promise((resolve, reject) => {
    child.on('message', (message) => {
      if (typeof message === 'object' && 'kind' in message && message.kind === kind) resolve();
    });
    child.once('exit', () => reject(new Error(`it ended before its first ${kind}: ${stderr()}`)));
  });
}
