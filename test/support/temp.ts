import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';

/** A fresh directory that is removed when the running test ends. */
export function tempDir(label = 'dir'): string {
  const path = makeTempDir(label);
  onTestFinished(() => rmSync(path, { recursive: true, force: true, maxRetries: 3 }));
  return path;
}

/** A fresh directory that the caller removes (for `beforeAll`). */
export function makeTempDir(label = 'dir'): string {
  return mkdtempSync(join(tmpdir(), `penstock-test-${label}-`));
}
