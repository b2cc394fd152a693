/** A volume on Redis and S3: the block cache, read-ahead and verification that a local store does not need, and outages. */
import { renameSync, rmSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { formatVolume, mountVolume, umountVolume } from '../../fs-gateway/main.ts';
import { Errno } from '../../fs-gateway/vfs/operations.ts';
import { caller, mountTestVolume, openTestVolume, startServices } from '../support/fs-volume.ts';
import type { Services, TestVolume } from '../support/fs-volume.ts';
import { guardMount, killIfAlive, mountDirs, run } from '../support/mount-guard.ts';
import { startFaultProxy } from '../support/s3-fault-proxy.ts';
import { cannotMount, missing } from '../support/services.ts';

const MIB = 2 ** 20;
const PENSTOCK = join(import.meta.dirname, '../../bin/penstock');

describe.skipIf(missing('redis-server', 'versitygw'))('a volume on Redis and S3', () => {
  let services: Services;
  beforeAll(async () => {
    services = await startServices();
  });
  afterAll(() => services.stop());

  async function written(volume: TestVolume, data: Buffer): Promise<bigint> {
    const open = await openTestVolume(volume, 'writer');
    const { entry, open: file } = await open.operations.create(caller(), 1n, 'file', 0o644, 2, 0);
    const { ino } = entry.attributes;
    for (let at = 0; at < data.length; at += MIB) {
      await open.operations.write(caller(), ino, file.handle, BigInt(at), data.subarray(at, at + MIB), 2, false);
    }
    await open.operations.flush(caller(), ino, file.handle, 0n);
    await open.operations.release(caller(), ino, file.handle, undefined);
    await open.close();
    return ino;
  }

  function pattern(bytes: number): Buffer {
    const data = Buffer.alloc(bytes);
    for (let at = 0; at + 4 <= bytes; at += 4) data.writeUInt32LE(Math.imul(at, 2_654_435_761) >>> 0, at);
    return data;
  }

  test('a cold sequential read fetches each byte once, a warm one none, also after a restart', async () => {
    const volume = await services.volume({ blockSize: '1MiB' });
    const data = pattern(12 * MIB + 12_345);
    const ino = await written(volume, data);
    for (const fetches of [data.length, 0]) {
      const reader = await openTestVolume(volume, 'reader');
      const { handle } = await reader.operations.open(caller(), ino, 0);
      for (const pass of [1, 2]) {
        for (let at = 0; at < data.length; at += 128 * 1024) {
          const read = await reader.operations.read(caller(), ino, handle, BigInt(at), 128 * 1024, 0);
          expect(read.equals(data.subarray(at, at + 128 * 1024)), `pass ${pass} at ${at}`).toBe(true);
        }
      }
      expect(reader.stats()['fetchedBytes']).toBe(fetches);
      await reader.close();
    }
  });

  test('many readers of one block cause one fetch', async () => {
    const volume = await services.volume({ blockSize: '1MiB' });
    const data = pattern(MIB);
    const ino = await written(volume, data);
    const reader = await openTestVolume(volume, 'reader');
    const reads = await Promise.all(
      Array.from({ length: 32 }, async (_, n) =>
        reader.operations.read(caller(), ino, BigInt(n), BigInt(n * 4096), 4096, 0),
      ),
    );
    for (const [n, read] of reads.entries()) expect(read.equals(data.subarray(n * 4096, (n + 1) * 4096))).toBe(true);
    expect(reader.stats()['fetchedBytes']).toBe(MIB);
  });

  test('damage in the store and in the cache is found: EIO for the one, a second fetch for the other', async () => {
    const volume = await services.volume({ blockSize: '64KiB' });
    const data = pattern(65_536);
    const ino = await written(volume, data);
    const first = await openTestVolume(volume, 'reader');
    expect((await first.operations.read(caller(), ino, 0n, 0n, 65_536, 0)).equals(data)).toBe(true);
    await first.close();
    const flip = (folder: string, match: RegExp): void => {
      const files = readdirSync(folder, { recursive: true, withFileTypes: true }).filter(
        (entry) => entry.isFile() && match.test(join(entry.parentPath, entry.name)),
      );
      expect(files.length).toBeGreaterThan(0);
      for (const entry of files) {
        const path = join(entry.parentPath, entry.name);
        const bytes = readFileSync(path);
        bytes[100] = (bytes[100] ?? 0) ^ 1;
        writeFileSync(path, bytes);
      }
    };
    flip(join(volume.base, 'cache-reader'), /blocks\/../);
    const second = await openTestVolume(volume, 'reader');
    expect((await second.operations.read(caller(), ino, 0n, 0n, 65_536, 0)).equals(data)).toBe(true);
    expect(second.stats()['fetchedBytes']).toBe(65_536);
    await second.close();
    flip(volume.storeDir, /blocks\/..\/\d+$/);
    rmSync(join(volume.base, 'cache-reader'), { recursive: true });
    const reports: string[] = [];
    const third = await openTestVolume(volume, 'reader', reports);
    await expect(async () => third.operations.read(caller(), ino, 0n, 0n, 100, 0)).rejects.toMatchObject({
      errno: Errno.EIO,
    });
    expect(reports[0]).toMatch(/object \S+\/blocks\/\S+ .* does not match its checksum/);
  });

  test.skipIf(cannotMount())('carries programs through a mount', async () => {
    const mount = await mountTestVolume(await services.volume());
    const work = `cd $1; head -c 20000000 /dev/urandom > $2/source; cp $2/source big; cmp $2/source big
      git init -q r; cd r; git config user.email a@b; git config user.name n; seq 100 > f; git add .; git commit -qm one; git fsck --strict 2>/dev/null`;
    expect(await run('bash', ['-ec', work, 'bash', mount.mountpoint, mount.base])).toMatchObject({ status: 0 });
    const stats = await run('bash', [
      '-ec',
      'cd $1/r; git log --oneline | wc -l; stat -c %s $1/big',
      'bash',
      mount.mountpoint,
    ]);
    expect(stats.stdout).toBe('1\n20000000\n');
  });

  test('a mount whose bucket is missing or whose credentials are wrong is refused, and says which', async () => {
    const { metaUrl } = await services.volume();
    const { base, mountpoint } = mountDirs();
    const mount = (accessKeyId: string, secretAccessKey: string, url = metaUrl): Promise<unknown> =>
      mountVolume({
        ...{ metaUrl: url, mountpoint, cacheDir: join(base, 'cache'), background: true },
        credentials: { accessKeyId, secretAccessKey },
      });
    const denied = (text: string): object => ({
      code: 'denied',
      message: expect.stringContaining(text) as string,
    });
    const { accessKeyId, secretAccessKey } = services.s3;
    await expect(mount(accessKeyId, 'mistyped')).rejects.toMatchObject(denied('the secret for access key'));
    await expect(mount('nobody', secretAccessKey)).rejects.toMatchObject(denied('does not know access key nobody'));
    const gone = await services.volume();
    renameSync(join(services.s3.folder, 'volumes'), join(services.s3.folder, 'away'));
    onTestFinished(() => renameSync(join(services.s3.folder, 'away'), join(services.s3.folder, 'volumes')));
    await expect(mount(accessKeyId, secretAccessKey, gone.metaUrl)).rejects.toMatchObject({
      code: 'not-found',
      message: expect.stringContaining("bucket 'volumes' does not exist") as string,
    });
  });

  test.skipIf(cannotMount())(
    'a store that is away keeps no mount from coming up: it says so, and serves what it has',
    async () => {
      const volume = await services.volume();
      const first = await mountTestVolume(volume);
      const put = await run('bash', ['-ec', 'echo kept > $1/small', 'bash', first.mountpoint]);
      expect(put).toMatchObject({ status: 0 });
      expect(await umountVolume(first.mountpoint)).toMatchObject({ flushed: true });
      await services.s3.cut();
      onTestFinished(() => services.s3.restore());
      const second = await mountTestVolume(volume, { at: first });
      expect(second.storeProblem).toMatch(/does not answer|no answer/);
      expect(await run('cat', [join(second.mountpoint, 'small')])).toMatchObject({ status: 0, stdout: 'kept\n' });
    },
  );

  test.skipIf(cannotMount())('what a store says of itself gives a terminal no command', async () => {
    const { base, mountpoint } = mountDirs();
    const proxy = await startFaultProxy(services.s3.endpoint);
    onTestFinished(() => proxy.stop());
    const metaUrl = `sqlite:${join(base, 'meta.db')}`;
    const storeUrl = `s3://volumes/said?endpoint=${proxy.endpoint}&region=us-east-1`;
    await formatVolume({ metaUrl, storeUrl });
    proxy.decide = () => ({ status: 503, code: 'Slow&#x1b;[2JDown' });
    guardMount(mountpoint);
    const own = ['--cache-dir', join(base, 'cache'), '--log-file', join(base, 'mount.log')];
    const said = await run(PENSTOCK, ['fs', 'mount', metaUrl, mountpoint, '--background', '--json', ...own]);
    expect(said).toMatchObject({ status: 0 });
    const { supervisorPid } = JSON.parse(said.stdout) as { supervisorPid: number }; // what it prints
    onTestFinished(() => killIfAlive(-supervisorPid));
    expect(said.stderr).toContain('mounted, but its object store cannot be read');
    expect(said.stderr).toContain('Slow\\u001b[2JDown');
    expect(said.stderr).not.toContain('\u001b');
  });
});
