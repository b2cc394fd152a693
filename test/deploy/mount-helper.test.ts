/** `mount -t penstock`, as mount(8) calls its helper: the file is called itself, as a test may not write to /sbin. */
import { existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { umountVolume } from '../../fs-gateway/main.ts';
import { testVolume } from '../support/fs-volume.ts';
import { guardMount, isMounted, run, shell, until } from '../support/mount-guard.ts';
import { cannotMount } from '../support/services.ts';

const HELPER = join(import.meta.dirname, '../../bin/mount.penstock');

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
    const mount = (text: string) => run(HELPER, ['${WHERE}', dir, '-n', '-v', '-o', text]);

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

    expect(await run('umount', [dir])).toMatchObject({ status: 0, stderr: '' });
    expect(await mount(`${options},ro`)).toMatchObject({ status: 0 });
    expect(await shell('cat "$1/file"; touch "$1/file" 2>&1 || true', dir)).toMatch(
      /^text\n.*Read-only file system\n$/,
    );
  });

  test('a place may have spaces and a name behind a link; an environment file is text and no script', async () => {
    const { base, metaUrl } = await testVolume();
    const dir = join(base, 'my 1 \\ data');
    mkdirSync(dir);
    symlinkSync(base, join(base, 'r&d'));
    onTestFinished(() => umountVolume(dir, { force: true }).then(() => undefined));
    const marker = join(base, 'ran');
    const where = metaUrl.replace(base, join(base, 'r&d'));
    writeFileSync(join(base, 'env'), `# of lake\nWHERE=${where}\ndir="$(touch ${marker}) ;& 'x"\n`);
    const script = 'cd "$1" && shift && exec "$@"';
    const mount = (place: string, options: string) =>
      run('sh', ['-c', script, 'sh', base, HELPER, '${WHERE}', place, '-o', options]);
    const options = `cacheDir=${join(base, 'c')},environmentFile=env`;

    expect(await mount('my 1 \\ data', options)).toMatchObject({ status: 0, stdout: '', stderr: '' });
    await shell('echo text > "$1/file"', dir);
    expect(existsSync(marker)).toBe(false);
    for (const place of [dir, `${dir}/`, join('r&d', 'my 1 \\ data')]) {
      const stderr = `mount.penstock: ${place} is mounted already\n`;
      expect(await mount(place, options)).toMatchObject({ status: 0, stderr });
    }
    expect(await mount(dir, 'remount,ro')).toMatchObject({
      ...{ status: 1, stderr: expect.stringContaining('a mount keeps its options') as string },
    });
    // A folder of the volume that is shown elsewhere is not mounted at the path that it has in the volume.
    const shown = join(base, 'shown');
    onTestFinished(() => run('umount', [shown]).then(() => undefined));
    await run('sh', ['-ec', 'mkdir -p "$1$2" "$3"; mount --bind "$1$2" "$3"', 'sh', dir, base, shown]);
    expect(isMounted(shown)).toBe(true);
    expect(await mount(base, 'fast')).toMatchObject({
      status: 2,
      stderr: expect.stringContaining('-o fast') as string,
    });
    writeFileSync(join(base, 'wrong'), 'export A=1\n');
    const wrong = await mount(base, 'environmentFile=wrong');
    expect(wrong).toMatchObject({ status: 1, stderr: 'mount.penstock: wrong: expected lines NAME=VALUE\n' });
  });
});
