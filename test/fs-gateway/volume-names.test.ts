/** Which volume a URL means that names none. */
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { findVolume, formatVolume } from '../../fs-gateway/main.ts';
import { fsckVolume, gcVolume } from '../../fs-gateway/tools/main.ts';
import { tempDir } from '../support/temp.ts';
import { startRedis } from '../support/redis.ts';
import { missing } from '../support/services.ts';

async function volumesOf(metaUrl: string, storeUrl: string): Promise<void> {
  const format = (name: string): Promise<unknown> => formatVolume({ metaUrl, storeUrl, name });
  await format('models');
  expect(await findVolume(metaUrl)).toMatchObject({ volume: 'models', format: { volume: 'models' } });
  expect((await fsckVolume({ metaUrl })).findings).toEqual([]);
  await format('scratch');
  const several = {
    code: 'config',
    message: 'the engine has the volumes models, scratch: say which, by ?volume=NAME or --name NAME',
  };
  await expect(findVolume(metaUrl)).rejects.toMatchObject(several);
  await expect(gcVolume({ metaUrl })).rejects.toMatchObject(several);
  expect(await findVolume(`${metaUrl}?volume=models`)).toMatchObject({ volume: 'models' });
  expect(await findVolume(metaUrl, 'scratch')).toMatchObject({ volume: 'scratch' });
  await expect(findVolume(metaUrl, 'other')).rejects.toMatchObject({ code: 'not-found' });
  await format('lake');
  expect(await findVolume(metaUrl)).toMatchObject({ volume: 'lake' });
}

test('it is `lake`, or the only one; of several others the message names all', async () => {
  const dir = tempDir('names');
  const storeUrl = `dir:${join(dir, 'objects')}`;
  const metaUrl = `sqlite:${join(dir, 'meta.db')}`;
  await expect(findVolume(metaUrl)).rejects.toMatchObject({ code: 'not-found' });
  await volumesOf(metaUrl, storeUrl);
});

test.skipIf(missing('redis-server'))('the same on Redis', async () => {
  const redis = await startRedis();
  try {
    const metaUrl = `redis://127.0.0.1:${redis.port}/1`;
    const none = { code: 'not-found', message: expect.stringContaining("volume 'lake' is not formatted") as string };
    await expect(findVolume(metaUrl)).rejects.toMatchObject(none);
    await volumesOf(metaUrl, `dir:${join(tempDir('names'), 'objects')}`);
  } finally {
    await redis.stop();
  }
});
