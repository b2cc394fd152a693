/** Where the processes of this user's mounts find each other: a private directory that does not outlive the machine's run. */
import { lstatSync, mkdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PenstockError } from '../lib/errors.ts';

export function runtimeDir(): string {
  const uid = process.getuid?.() ?? 0;
  const base = process.env['XDG_RUNTIME_DIR'];
  if (base !== undefined && base !== '') return join(base, 'penstock');
  return uid === 0 ? '/run/penstock' : join(tmpdir(), `penstock-${uid}`);
}

/** Throws `denied` when others may write there. */
export function ensureRuntimeDir(): void {
  const dir = runtimeDir();
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  const { uid, mode } = lstatSync(dir);
  if (uid !== process.getuid?.() || (mode & 0o077) !== 0) {
    throw new PenstockError('denied', `${dir} must be a directory of this user with mode 0700`);
  }
}
