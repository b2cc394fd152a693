/** A server in Java that a test starts, and that ends with it. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { onTestFinished } from 'vitest';
import { HANG_MS } from './hang.ts';

/** One client, short runs: a small heap, and no time for the second compiler. */
const JVM = ['-XX:+UseSerialGC', '-XX:TieredStopAtLevel=1', '-Xshare:auto'];

export interface JavaServer {
  readonly name: string;
  readonly args: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  /** A path. */
  readonly log: string;
  readonly answers: () => Promise<boolean>;
}

/** Resolves when it answers; throws with the end of its log when it does not. */
export async function startJavaServer({ name, args, env, log, answers }: JavaServer): Promise<void> {
  const output = openSync(log, 'w');
  const child = spawn('java', [...JVM, ...args], {
    stdio: ['ignore', output, output],
    env: { ...process.env, ...env },
  });
  closeSync(output);
  onTestFinished(async () => {
    if (child.exitCode !== null) return;
    const exited = once(child, 'exit');
    child.kill('SIGKILL');
    await exited;
  });
  const deadline = performance.now() + HANG_MS;
  while (!(await answers())) {
    if (child.exitCode !== null || performance.now() > deadline) {
      throw new Error(`${name} did not start:\n${readFileSync(log, 'utf8').slice(-4000)}`);
    }
    await delay(100);
  }
}
