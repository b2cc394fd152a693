/** What goes of the cache of a volume that nobody has used for long, and what never does. */
import { existsSync, mkdirSync, readdirSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { setAsideUnused } from '../../fs-gateway/data/abandoned.ts';
import { acquireProcessLock } from '../../lib/process-lock.ts';
import { tempDir } from '../support/temp.ts';

const LONG_AGO_MS = 1_000_000;

/** As two mounts of a volume that are over leave it. */
function makeVolume(cacheDir: string, id: string): { readonly base: string; readonly mounts: readonly string[] } {
  const base = join(cacheDir, id);
  const mounts = ['mount-a', 'mount-b'].map((name) => join(base, name));
  mkdirSync(join(base, 'blocks', '0a'), { recursive: true });
  writeFileSync(join(base, 'blocks', '0a', 'piece'), 'fetched');
  for (const folder of mounts) {
    mkdirSync(join(folder, 'whole', '00'), { recursive: true });
    for (const name of ['256', '256.ok', '512', '512.base']) writeFileSync(join(folder, 'whole', '00', name), '');
    for (const name of ['journal', '7']) writeFileSync(join(folder, name), 'staged');
  }
  age(mounts);
  return { base, mounts };
}

function age(folders: readonly string[]): void {
  for (const folder of folders) utimesSync(folder, LONG_AGO_MS / 1000, LONG_AGO_MS / 1000);
}

it('sets aside what can be fetched again of volumes that nobody used for long, and nothing that is staged or live', async () => {
  const cacheDir = tempDir('caches');
  const [old, used, held] = ['0', '1', '2'].map((n) => makeVolume(cacheDir, `0000000${n}-0000-4000-8000-000000000000`));
  if (old === undefined || used === undefined || held === undefined) throw new Error('unreachable: there are three');
  mkdirSync(join(cacheDir, 'log'));
  // One of its mounts has ended since.
  age([used.mounts[1] ?? '']);
  writeFileSync(join(used.mounts[0] ?? '', 'lock.holder'), '');
  const lock = await acquireProcessLock(join(held.mounts[1] ?? '', 'lock'), { label: 'a mount' });
  age(held.mounts);

  // One that cannot be looked at is told, and holds up none behind it.
  writeFileSync(join(cacheDir, '00000000-0000-0000-8000-000000000000'), '');

  const beforeMs = LONG_AGO_MS + 1;
  const failures: unknown[] = [];
  const sweep = (): Promise<string[]> => setAsideUnused(cacheDir, beforeMs, (error) => failures.push(error));
  const aside = await sweep();
  expect(failures).toMatchObject([{ code: 'ENOTDIR' }]);
  expect(aside).toEqual([join(old.base, 'blocks.unused')]);
  expect(readdirSync(old.base).sort()).toEqual(['blocks.unused', 'mount-a', 'mount-b']);
  for (const folder of old.mounts) {
    expect(readdirSync(join(folder, 'whole', '00'))).toEqual(['512', '512.base']);
    expect(readdirSync(folder)).toEqual(expect.arrayContaining(['7', 'journal', 'lock']));
  }
  for (const { base, mounts } of [used, held]) {
    expect(existsSync(join(base, 'blocks', '0a', 'piece'))).toBe(true);
    expect(readdirSync(join(mounts[0] ?? '', 'whole', '00'))).toEqual(['256', '256.ok', '512', '512.base']);
  }
  lock.release();
  // Whoever was killed before it removed them is followed by another; its own visit makes no volume used.
  age([...old.mounts, ...held.mounts]);
  expect((await sweep()).sort()).toEqual([join(old.base, 'blocks.unused'), join(held.base, 'blocks.unused')]);
});
