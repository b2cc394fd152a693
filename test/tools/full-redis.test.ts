/** A volume whose Redis is full: it can be dumped and backed up, and what frees memory works. */
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { createSnapshot } from '../../fs-gateway/tools/clone.ts';
import { backupVolume, destroy, dumpToFile, gcVolume, statusOf } from '../../fs-gateway/tools/main.ts';
import { systemClock } from '../../lib/clock.ts';
import { VolumeKeys } from '../../lib/volume/keys.ts';
import { openTestVolume, startServices } from '../support/fs-volume.ts';
import type { Services } from '../support/fs-volume.ts';
import { missing } from '../support/services.ts';
import { openFor } from '../support/meta-helpers.ts';
import { openEngine } from './volume-bench.ts';
import { removeFile, writeFile } from './volume-files.ts';

const { tag } = new VolumeKeys('lake');

describe.skipIf(missing('redis-server', 'versitygw'))('a full Redis', () => {
  let services: Services;
  beforeAll(async () => {
    services = await startServices();
  });
  afterAll(() => services.stop());
  afterEach(() => services.redis.admin.config('SET', 'maxmemory', '0'));

  test('is dumped, backed up and collected; files are removed from it beside a copy', async () => {
    const volume = await services.volume({ grace: '0s' });
    const { metaUrl, base } = volume;
    const open = await openTestVolume(volume);
    for (const name of ['kept', 'gone']) await writeFile(open, name, Buffer.from(name));
    const engine = await openEngine(volume);
    await services.redis.admin.config('SET', 'maxmemory', '1mb');
    const refused = createSnapshot({ engine, volume: 'lake', clock: systemClock }, 'one');
    await expect(refused).rejects.toMatchObject({ code: 'full' });
    expect(await dumpToFile({ metaUrl, path: join(base, 'dump') })).toMatchObject({ consistent: true });
    expect(await backupVolume({ metaUrl })).toMatchObject({ consistent: true });
    const instant = await engine.instant(tag);
    await removeFile(open, 'gone');
    await instant.close();
    await open.close();
    expect(await gcVolume({ metaUrl, uploadMs: 0 })).toMatchObject({ problem: null });
  });

  test('what a killed copy left is freed with the volume, and by gc', async () => {
    for (const how of ['gc', 'destroy'] as const) {
      const volume = await services.volume({ grace: '0s' });
      const { metaUrl } = volume;
      const open = await openTestVolume(volume);
      const engine = await openFor(metaUrl, { leaseMs: 600_000 });
      await engine.instant(tag);
      await writeFile(open, 'file', Buffer.from('x'));
      await open.close();
      const { admin } = services.redis;
      await admin.select(Number(new URL(metaUrl).pathname.slice(1)));
      const instants = `penstock:instants:${tag}`;
      const [id = ''] = (await admin.hkeys(instants)).filter((name) => !name.endsWith('b'));
      expect(await admin.keys('penstock:before:*')).not.toEqual([]);
      // As when nobody has renewed it.
      await admin.hset(instants, id, '1');
      if (how === 'gc') await gcVolume({ metaUrl, uploadMs: 0 });
      else await destroy({ metaUrl, id: (await statusOf({ metaUrl })).id });
      expect({ how, left: await admin.keys('penstock:*before*') }).toEqual({ how, left: [] });
      expect(await admin.exists(instants)).toBe(0);
    }
  });
});
