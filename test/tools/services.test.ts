/** The volume tools on Redis and S3, where scans repeat and listings come in pages. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest';
import { findVolume, formatVolume } from '../../fs-gateway/main.ts';
import { dumpToFile, fsckVolume, gcVolume, loadFromFile } from '../../fs-gateway/tools/main.ts';
import { openMeta } from '../../lib/registry.ts';
import { VolumeKeys } from '../../lib/volume/keys.ts';
import { caller, openTestVolume, startServices } from '../support/fs-volume.ts';
import type { Services } from '../support/fs-volume.ts';
import { missing } from '../support/services.ts';
import { lookUp, writeFile } from './volume-files.ts';

const keys = new VolumeKeys('lake');

describe.skipIf(missing('redis-server', 'versitygw'))('volume tools on Redis and S3', () => {
  let services: Services;
  beforeAll(async () => {
    services = await startServices();
  });
  afterAll(() => services.stop());

  test('a volume is not made over a bucket that is missing, or that takes nothing from these credentials', async () => {
    const { metaUrl } = await services.volume();
    const other = metaUrl.replace(/\d+$/, '15');
    const format = (bucket: string): Promise<unknown> =>
      formatVolume({ metaUrl: other, storeUrl: `s3://${bucket}?endpoint=${services.s3.endpoint}&region=us-east-1` });
    await expect(format('mistyped/lake')).rejects.toMatchObject({
      code: 'not-found',
      message: expect.stringContaining("bucket 'mistyped' does not exist") as string,
    });
    vi.stubEnv('AWS_SECRET_ACCESS_KEY', 'mistyped');
    onTestFinished(() => void vi.unstubAllEnvs());
    await expect(format('volumes/lake')).rejects.toMatchObject({ code: 'denied' });
    vi.unstubAllEnvs();
    await expect(findVolume(other)).rejects.toMatchObject({ code: 'not-found' });
    await format('volumes/lake');
    expect(readdirSync(join(services.s3.folder, 'volumes'))).not.toContain('lake');
  });

  test('gc, fsck, dump and load', async () => {
    const volume = await services.volume({ blockSize: '64KiB', inlineBytes: '100', grace: '0s' });
    const open = await openTestVolume(volume);
    const data = Buffer.alloc(100_000, 'data');
    const { attributes: d } = await open.operations.mkdir(caller(), 1n, 'd', 0o755, 0);
    for (let n = 0; n < 300; n++) await writeFile(open, `small${n}`, Buffer.from('small'), d.ino);
    const kept = await writeFile(open, 'kept', data);
    await writeFile(open, 'gone', data);
    await open.operations.unlink(caller(), 1n, 'gone');
    await open.close();
    expect(await fsckVolume(volume)).toMatchObject({ inodes: 303, directories: 2, objects: 2, findings: [] });
    expect(await gcVolume({ uploadMs: 0, ...volume, dryRun: true })).toMatchObject({ objects: 4, deletedObjects: 2 });
    expect(await gcVolume({ ...volume, uploadMs: 0 })).toMatchObject({ objects: 4, deletedObjects: 2, problem: null });

    const path = join(volume.base, 'dump');
    expect(await dumpToFile({ ...volume, path })).toMatchObject({ consistent: true });
    const restored = { ...volume, metaUrl: `sqlite:${join(volume.base, 'restored.db')}` };
    await loadFromFile({ ...restored, path });
    expect(await fsckVolume(restored)).toMatchObject({ inodes: 303, directories: 2, objects: 2, findings: [] });
    const back = { ...volume, metaUrl: volume.metaUrl.replace(/\d+$/, '14') };
    await dumpToFile({ ...restored, path });
    await loadFromFile({ ...back, path });

    const engine = await openMeta(back.metaUrl, { kind: 'test' });
    await engine.commit({ write: [{ key: keys.entry(1, 'kept'), value: null }] });
    await engine.close();
    const { findings } = await fsckVolume({ ...back, repair: true });
    expect(findings.map(({ kind, repaired }) => [kind, repaired])).toEqual([['unnamed-inode', true]]);
    const again = await openTestVolume(back, 'again');
    const found = await lookUp(again, 1n, 'lost+found');
    const file = await lookUp(again, found.ino, `#${kept}`);
    expect((await again.operations.read(caller(), file.ino, 0n, 0n, 200_000, 0)).equals(data)).toBe(true);
  });
});
