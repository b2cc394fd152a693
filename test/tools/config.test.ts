import { expect, test } from 'vitest';
import { configure } from '../../fs-gateway/tools/main.ts';
import { TrashCan } from '../../fs-gateway/tools/trash.ts';
import { systemClock } from '../../lib/clock.ts';
import { openTestVolume, testVolume } from '../support/fs-volume.ts';
import { openEngine } from './volume-bench.ts';
import { removeFile, writeFile } from './volume-files.ts';

test('options change under a mount, which is named when it goes on as before, and goes by them the next time', async () => {
  const volume = await testVolume({ grace: '1h' });
  const set = (options: Record<string, string>): Promise<unknown> => configure({ metaUrl: volume.metaUrl, options });
  const open = await openTestVolume(volume);
  for (const name of ['one', 'two']) await writeFile(open, name, Buffer.from(name));
  expect(await set({ grace: '2h', gc: '0s', backup: '10m', backupKeep: '3h' })).toMatchObject({
    graceMs: 7.2e6,
    gcMs: 0,
    backupMs: 600_000,
    backupKeepMs: 1.08e7,
    outdatedMounts: [],
  });
  expect(await set({ trash: '7d' })).toMatchObject({
    trashMs: 604_800_000,
    graceMs: 7.2e6,
    outdatedMounts: [expect.stringContaining('/nowhere/a')],
  });
  await removeFile(open, 'one');
  await open.close();
  const next = await openTestVolume(volume);
  await removeFile(next, 'two');
  const trash = await TrashCan.open(await openEngine(volume), 'lake', systemClock);
  expect((await trash.list()).map(({ path }) => path)).toEqual(['/two']);
  expect(await set({})).toMatchObject({ trashMs: 604_800_000, outdatedMounts: [] });
});

test('what cannot be changed, or not now, is refused by name and with the reason, and nothing of it is done', async () => {
  const volume = await testVolume({ grace: '1h' });
  const open = await openTestVolume(volume);
  const refused = async (options: Record<string, string>, code: string, ...parts: string[]): Promise<void> => {
    const refusal = configure({ metaUrl: volume.metaUrl, options });
    await expect(refusal).rejects.toMatchObject({ code });
    for (const part of parts) await expect(refusal).rejects.toThrow(part);
  };
  await refused({ trash: '1d', blockSize: '1MiB' }, 'config', 'blockSize', 'for its life');
  await refused({ trash: '1d', inlineBytes: '1MiB' }, 'config', 'inlineBytes');
  await refused({ trash: 'long' }, 'config', "'long' is not a duration");
  await refused({ Trash: '1d' }, 'config', "no option 'Trash'", 'trash');
  await refused({ trash: '1d', grace: '1m' }, 'held', 'grace period', '/nowhere/a');
  await refused({ compression: 'zstd' }, 'held', 'compression', '/nowhere/a');
  expect(await configure({ metaUrl: volume.metaUrl, options: {} })).toMatchObject({ trashMs: 0, graceMs: 3.6e6 });
  await open.close();
  expect(await configure({ metaUrl: volume.metaUrl, options: { grace: '1m', blockSize: '8MiB' } })).toMatchObject({
    graceMs: 60_000,
  });
});
