import { chmodSync } from 'node:fs';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { mountTestVolume } from '../support/fs-volume.ts';
import { run } from '../support/mount-guard.ts';
import { cannotMount } from '../support/services.ts';
import { tempDir } from '../support/temp.ts';

async function observations(dir: string): Promise<Record<string, unknown>> {
  const child = fileURLToPath(import.meta.resolve('./acl-child.ts'));
  const { stdout, stderr } = await run(process.execPath, [child, dir]);
  expect(stderr).toBe('');
  return JSON.parse(stdout) as Record<string, unknown>; // written by acl-child.ts
}

describe.skipIf(cannotMount())('access control lists', () => {
  test('do on a mount what they do on a local disk, the oracle', async () => {
    const local = tempDir('oracle');
    const mount = await mountTestVolume();
    // Other users have to get there.
    for (const dir of [local, dirname(mount.mountpoint)]) chmodSync(dir, 0o755);
    const expected = await observations(local);
    // The oracle knows lists at all.
    expect(expected).toMatchObject({
      set: 'ok',
      users: ['rw', 'r-', 'r-', 'r-', '--'],
      default: ['ok', expect.anything(), 'none', '755'],
    });
    expect(await observations(mount.mountpoint)).toEqual(expected);
  });
});
