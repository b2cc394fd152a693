/** Starts programs of an installed Penstock, with nothing of this checkout in reach. */
import { spawn } from 'node:child_process';
import { mkdirSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import { run } from '../support/mount-guard.ts';
import type { Finished } from '../support/mount-guard.ts';
import { eventually } from '../support/processes.ts';
import { BESIDE_MS } from '../support/hang.ts';

/** A PATH on which Node and the system's own tools are, and an environment with nothing else. */
export function bareEnvironment(base: string): Record<string, string> {
  const bin = join(base, 'bin');
  mkdirSync(bin, { recursive: true });
  symlinkSync(process.execPath, join(bin, 'node'));
  return { PATH: `${bin}:/usr/bin:/bin`, HOME: base, TMPDIR: process.env['TMPDIR'] ?? '/tmp' };
}

/** Runs with exactly this environment. */
export function runBare(
  environment: Readonly<Record<string, string>>,
  command: string,
  args: readonly string[],
  deadlineMs = BESIDE_MS,
): Promise<Finished> {
  const pairs = Object.entries(environment).map(([name, value]) => `${name}=${value}`);
  return run('env', ['-i', ...pairs, command, ...args], deadlineMs);
}

/** A program that serves; ended with the test. Resolves when `pattern` is in its output, with what it matched. */
export async function startServer(
  command: string,
  args: readonly string[],
  pattern: RegExp,
  environment: Readonly<Record<string, string>> = {},
): Promise<RegExpExecArray> {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, ...environment } });
  let output = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => (output += text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => (output += text));
  onTestFinished(() => {
    child.kill('SIGKILL');
  });
  return eventually(`${args.join(' ')} serving (${pattern.source})`, () => {
    if (child.exitCode !== null) throw new Error(`it ended with ${child.exitCode}: ${output}`);
    return pattern.exec(output) ?? undefined;
  });
}
