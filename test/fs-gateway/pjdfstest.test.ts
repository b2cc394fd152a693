/** The POSIX file-system test suite `pjdfstest` (the Rust one), whole, as root, on both pairs of engine and store. */
import { chmodSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { mountTestVolume, startServices, testVolume } from '../support/fs-volume.ts';
import type { Services, TestMountOptions, TestVolume } from '../support/fs-volume.ts';
import { run } from '../support/mount-guard.ts';
import { cannotPassThrough } from '../support/passthrough.ts';
import { cannotMount, missing, requireService } from '../support/services.ts';

/** Cases that need a remount read-only, a second file system, or a limit that the C library knows for FUSE. */
const SKIPPED = [
  'chmod::erofs_named',
  'chown::erofs_named',
  'chown::lchown::erofs_named',
  'link::erofs_named',
  'link::exdev_target',
  'link::link_count_max',
  'mkdir::erofs_new_file',
  'mkfifo::erofs_new_file',
  'open::erofs_named',
  'open::erofs_new_file',
  'rename::erofs_named',
  'rename::exdev_target',
  'rmdir::erofs_named',
  'symlink::erofs_new_file',
  'truncate::erofs_named',
  'unlink::erofs_named',
];

async function suite(
  volume: TestVolume,
  options: TestMountOptions = {},
): Promise<{ readonly failed: string[]; readonly skipped: string[]; readonly passed: number }> {
  const { mountpoint } = await mountTestVolume(volume, options);
  // Temporary directories are private; the suite acts as other users too.
  chmodSync(dirname(mountpoint), 0o755);
  const folder = join(mountpoint, 'p');
  expect((await run('mkdir', [folder])).status).toBe(0);
  // A short path: the suite makes sockets, whose paths are at most 107 bytes.
  const path = join(tmpdir(), `pj${process.pid}`);
  rmSync(path, { force: true });
  symlinkSync(folder, path);
  onTestFinished(() => rmSync(path, { force: true }));
  const config = join(import.meta.dirname, '../support/pjdfstest.toml');
  const { stdout } = await run(requireService('pjdfstest'), ['-c', config, '-p', path]);
  const cases = [...stdout.matchAll(/^(\S+::\S+) +(ok|skipped|FAILED|\S+)$/gm)];
  const names = (result: string): string[] =>
    cases
      .filter((match) => match[2] === result)
      .map((match) => match[1] ?? '')
      .sort();
  const failed = cases.filter((match) => match[2] !== 'ok' && match[2] !== 'skipped').map((match) => match[1] ?? '');
  expect(stdout).toContain(`${failed.length} failed, `);
  return { failed, skipped: names('skipped'), passed: names('ok').length };
}

describe.skipIf(cannotMount() || missing('pjdfstest'))('pjdfstest', () => {
  test('passes on SQLite and a directory', async () => {
    expect(await suite(await testVolume())).toEqual({ failed: [], skipped: SKIPPED, passed: 382 });
  });

  test('passes with writeback', async () => {
    const options = { writeback: true } as const;
    expect(await suite(await testVolume(), options)).toEqual({ failed: [], skipped: SKIPPED, passed: 382 });
  });

  test.skipIf(cannotPassThrough()).each(['read', 'full'] as const)(
    'passes with passthrough=%s',
    async (passthrough) => {
      expect(await suite(await testVolume(), { passthrough })).toEqual({ failed: [], skipped: SKIPPED, passed: 382 });
    },
  );

  describe.skipIf(missing('redis-server', 'versitygw'))('on real services', () => {
    let services: Services;
    beforeAll(async () => {
      services = await startServices();
    });
    afterAll(() => services.stop());

    test('passes on Redis and S3', async () => {
      expect(await suite(await services.volume())).toEqual({ failed: [], skipped: SKIPPED, passed: 382 });
    });

    test.skipIf(cannotPassThrough()).each(['read', 'full'] as const)(
      'passes on Redis and S3 with passthrough=%s',
      async (passthrough) => {
        const volume = await services.volume();
        expect(await suite(volume, { passthrough })).toEqual({ failed: [], skipped: SKIPPED, passed: 382 });
      },
    );
  });
});
