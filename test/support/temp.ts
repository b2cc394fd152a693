import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import { thisProcess, type ProcessIdentity } from '../../lib/process-identity.ts';

/** A fresh directory that is removed when the running test ends. */
export function tempDir(label = 'dir'): string {
  const path = makeTempDir(label);
  onTestFinished(() => rmSync(path, { recursive: true, force: true, maxRetries: 3 }));
  return path;
}

/**
 * A fresh directory that the caller removes (for `beforeAll`). Its name says which process made it: whoever finds it, or a mount in it, knows
 * whether that still runs.
 */
export function makeTempDir(label = 'dir'): string {
  const { pid, born = '0' } = thisProcess;
  return mkdtempSync(join(tmpdir(), `penstock-test-${label}-${pid}-${born}-`));
}

/** The process that made the directory in which a path lies; undefined: not one of ours. */
export function makerOf(path: string): ProcessIdentity | undefined {
  const [, pid, born] = /\/penstock-test-[^/]*-(\d+)-(\d+)-[^/-]{6}(?:\/|$)/.exec(path) ?? [];
  return pid === undefined ? undefined : { space: thisProcess.space, pid: Number(pid), born };
}
