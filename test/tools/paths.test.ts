import { mkdirSync, readdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { mountStats } from '../../fs-gateway/main.ts';
import { benchPath } from '../../fs-gateway/tools/bench-path.ts';
import { infoOf } from '../../fs-gateway/tools/main.ts';
import { warmTree } from '../../fs-gateway/tools/warm.ts';
import { mountTestVolume, startServices } from '../support/fs-volume.ts';
import { cannotMount, missing } from '../support/services.ts';
import { tempDir } from '../support/temp.ts';

test('warm reads every file of a tree, whatever its name, and follows no symbolic link', async () => {
  const base = tempDir('warm');
  mkdirSync(join(base, 'a/b'), { recursive: true });
  for (let n = 0; n < 20; n++) writeFileSync(join(base, n % 2 === 0 ? 'a' : 'a/b', `f${n}`), Buffer.alloc(n * 1000));
  writeFileSync(Buffer.concat([Buffer.from(`${base}/`), Buffer.from([0xff, 0xfe])]), 'bytes');
  symlinkSync('/nowhere', join(base, 'dangling'));
  expect(await warmTree({ path: base, parallel: 4 })).toMatchObject({ files: 21, bytes: 190_005, failed: 0 });
  expect(await warmTree({ path: join(base, 'a/f2'), parallel: 4 })).toMatchObject({ files: 1, bytes: 2000 });
  await expect(warmTree({ path: join(base, 'missing'), parallel: 1 })).rejects.toThrow('ENOENT');
});

test('bench leaves nothing behind', () => {
  const base = tempDir('bench');
  const report = benchPath({ path: base, bytes: 3_000_000, files: 20 });
  expect(report).toMatchObject({ bytes: 3 * 2 ** 20, files: 20 });
  expect(Object.values(report).every((value) => typeof value === 'string' || value > 0)).toBe(true);
  expect(readdirSync(base)).toEqual([]);
});

describe.skipIf(cannotMount())('paths of a mount', () => {
  test('info tells what a path is, and with the metadata where its bytes are', async () => {
    const mount = await mountTestVolume();
    mkdirSync(join(mount.mountpoint, 'd/e'), { recursive: true });
    writeFileSync(join(mount.mountpoint, 'd/large'), Buffer.alloc(100_000, 1));
    writeFileSync(join(mount.mountpoint, 'd/e/small'), 'small');
    expect(await infoOf(join(mount.mountpoint, 'd'))).toMatchObject({
      mountpoint: mount.mountpoint,
      kind: 'directory',
      links: 3,
      tree: { files: 2, directories: 1, bytes: 100_005, unreadable: 0 },
      volumeInodes: 5,
    });
    const large = await infoOf(join(mount.mountpoint, 'd/large'), { metaUrl: mount.metaUrl });
    expect(large.content?.extents).toMatchObject([{ offset: 0, bytes: 100_000, objectOffset: 0 }]);
    const [extent] = large.content?.extents ?? [];
    expect(readdirSync(mount.storeDir, { recursive: true })).toContain(extent?.object);
    const small = await infoOf(join(mount.mountpoint, 'd/e/small'), { metaUrl: mount.metaUrl });
    expect(small).toMatchObject({ bytes: 5, content: { inline: true, extents: [] } });
    await expect(infoOf('/')).rejects.toMatchObject({ code: 'not-found' });
  });

  test.skipIf(missing('redis-server', 'versitygw'))('warm fills the cache of the mount', async () => {
    const services = await startServices();
    try {
      const volume = await services.volume();
      const mount = await mountTestVolume(volume);
      for (let n = 0; n < 4; n++) writeFileSync(join(mount.mountpoint, `f${n}`), Buffer.alloc(200_000, n));
      const cold = await mountTestVolume({ ...volume });
      const fetched = async (): Promise<number> => {
        const text = JSON.stringify(await mountStats(cold.mountpoint));
        return Number(/"fetchedBytes":(\d+)/.exec(text)?.[1]);
      };
      expect(await fetched()).toBe(0);
      for (let pass = 1; pass <= 2; pass++) {
        expect(await warmTree({ path: cold.mountpoint, parallel: 2 })).toMatchObject({ files: 4, bytes: 800_000 });
        expect(await fetched()).toBe(800_000);
      }
    } finally {
      await services.stop();
    }
  });
});
