/** `mount -t penstock`, as mount(8) calls its helper: the file is called itself, as a test may not write to /sbin. */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { umountVolume } from '../../fs-gateway/main.ts';
import { testVolume } from '../support/fs-volume.ts';
import { guardMount, isMounted, run, shell, until } from '../support/mount-guard.ts';
import { cannotMount } from '../support/services.ts';

const HELPER = join(import.meta.dirname, '../../bin/mount.penstock');
const HANG_MS = 120_000;

describe.skipIf(cannotMount())('the helper of mount(8)', () => {
  test('mounts with the options of fstab, leaves what is mounted, and refuses what it does not know', async () => {
    const { base, metaUrl } = await testVolume();
    const dir = join(base, 'mnt');
    mkdirSync(dir);
    guardMount(dir);
    onTestFinished(() => umountVolume(dir, { force: true }).then(() => undefined));
    writeFileSync(join(base, 'env'), `WHERE=${metaUrl}\n`);
    const log = join(base, 'access.log');
    const own = `cacheDir=${join(base, 'c')},cacheSize=100MB,accesslog=${log},environmentFile=${join(base, 'env')}`;
    const options = `rw,_netdev,nofail,nosuid,x-systemd.requires=redis.service,${own}`;
    const mount = (text: string) => run(HELPER, ['${WHERE}', dir, '-n', '-v', '-o', text], HANG_MS);

    const refused = await mount(`${options},fast`);
    expect(refused).toMatchObject({ status: 2, stdout: '' });
    expect(refused.stderr).toMatch(/-o fast: expected accesslog=FILE/);
    expect(isMounted(dir)).toBe(false);

    expect(await mount(options)).toMatchObject({ status: 0, stdout: '', stderr: '' });
    await shell('echo text > "$1/file"; cat "$1/file"', dir);
    await until('the access log has it', () => readFileSync(log, 'utf8').includes('create'));
    expect(existsSync(join(base, 'c'))).toBe(true);
    const again = await mount(options);
    expect(again).toMatchObject({ status: 0, stderr: `mount.penstock: ${dir} is mounted already\n` });

    expect(await run('umount', [dir], HANG_MS)).toMatchObject({ status: 0, stderr: '' });
    expect(await mount(`${options},ro`)).toMatchObject({ status: 0 });
    expect(await shell('cat "$1/file"; touch "$1/file" 2>&1 || true', dir)).toMatch(
      /^text\n.*Read-only file system\n$/,
    );
  });
});
