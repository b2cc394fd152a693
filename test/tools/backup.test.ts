import { once } from 'node:events';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { runMaintenance } from '../../fs-gateway/maintenance.ts';
import { createBackup, expireBackups, listBackups } from '../../fs-gateway/tools/backup.ts';
import type { Backup } from '../../lib/volume/backups.ts';
import { backupsIn, deleteBackup, fetchBackup } from '../../fs-gateway/tools/main.ts';
import { maintain } from '../../fs-gateway/tools/maintenance.ts';
import { openMeta } from '../../lib/registry.ts';
import { VolumeKeys } from '../../lib/volume/keys.ts';
import { FaultPlan } from '../support/fault.ts';
import { faultyStore } from '../support/faulty-store.ts';
import { caller, testVolume } from '../support/fs-volume.ts';
import { bench, contentIn, LARGE, OPTIONS } from './backup-bench.ts';
import type { Bench } from './backup-bench.ts';
import { writeFile } from './volume-files.ts';
import { onBothServices, later, gcLater, countBlocks } from './volume-bench.ts';
import type { NewVolume } from './volume-bench.ts';

const keys = new VolumeKeys('lake');
const DAY_MS = 24 * 3_600_000;

function suite(newVolume: NewVolume): void {
  test('gc leaves what a backup needs until the backup is gone, and the backup loads whole', async () => {
    const all = await bench(await newVolume(OPTIONS));
    const { open, options } = all;
    const before = await writeFile(open, 'before', Buffer.alloc(100_000, 1));
    await open.operations.setattr(caller(), before, { size: 0n });
    const file = await writeFile(open, 'file', LARGE);
    const backup = await createBackup(options);
    expect(backup).toMatchObject({ volume: 'lake', consistent: true });
    await open.operations.setattr(caller(), file, { size: 0n });
    await writeFile(open, 'new', Buffer.from('new'));
    await open.close();
    for (let run = 0; run < 3; run++) {
      expect(await gcLater(all)).toMatchObject({ oldestBackup: backup.created });
    }
    expect((await contentIn(all, backup, 'loaded', 'file')).equals(LARGE)).toBe(true);
    expect(await backupsIn(open.format.store)).toEqual([backup]);
    await deleteBackup(open.format.store, backup.key);
    await expect(deleteBackup(open.format.store, `${open.format.id}/blocks/1`)).rejects.toMatchObject({
      code: 'not-found',
    });
    // The store's own times are whole seconds: until the next one an object is not older than the run.
    const objects = async (): Promise<number> => {
      await gcLater(all);
      return countBlocks(all);
    };
    await expect.poll(objects).toBe(0);
  });
}

onBothServices(suite);

test('backups are removed for their age, but for the newest of an instant', async () => {
  const all = await bench(await testVolume({ ...OPTIONS, backupKeep: '2h' }));
  const { open, store, options } = all;
  const { key } = await createBackup(options);
  const [prefix = ''] = /^.*\//.exec(key) ?? [];
  const bytes = await store.get(key);
  const hoursAgo = (hours: number): string => String(Date.now() - hours * 3_600_000).padStart(15, '0');
  for (const name of [`${hoursAgo(5)}-c`, `${hoursAgo(1)}-c`, 'something else']) await store.put(prefix + name, bytes);
  expect(await expireBackups(store, open.format, Date.now())).toBe(1);
  expect(await listBackups(store, open.format)).toHaveLength(2);
  await store.put(`${prefix}${String(Date.now() + 1).padStart(15, '0')}-f`, bytes);
  expect(await expireBackups(store, open.format, Date.now() + DAY_MS)).toBe(2);
  expect((await listBackups(store, open.format)).map((backup) => backup.key)).toEqual([key]);
});

test('what is due is done once, by whoever gets the lock, and again when its time has come', async () => {
  const volume = await testVolume({ ...OPTIONS, backup: '1h', gc: '1d' });
  const all = await bench(volume);
  const reports: string[] = [];
  const workers = await Promise.all([1, 2, 3].map(() => openMeta(volume.metaUrl, { kind: 'maintenance' })));
  onTestFinished(async () => {
    await Promise.all(workers.map((engine) => engine.close()));
  });
  const round = async (hours: number): Promise<readonly number[]> => {
    const done = await Promise.all(
      workers.map((engine) =>
        maintain({
          ...all.options,
          engine,
          clock: later(hours * 3_600_000),
          report: (message) => reports.push(message),
        }),
      ),
    );
    return [done.reduce((sum, { backups }) => sum + backups, 0), done.reduce((sum, one) => sum + one.collections, 0)];
  };
  expect((await round(0))[0]).toBe(1);
  expect((await round(0.5))[0]).toBe(0);
  expect(await round(1.1)).toEqual([1, 0]);
  expect((await round(25))[1]).toBeGreaterThan(0);
  expect(reports.filter((message) => message.startsWith('backup of the metadata'))).toHaveLength(3);
  expect(reports.join('\n')).not.toContain('failed');
});

test('a backup that fails at any call of the store leaves none, and is due again', async () => {
  const counted = new FaultPlan();
  for (let call = 0, calls = 1; call < calls; call++) {
    const all = await bench(await testVolume(OPTIONS));
    const { options, store, open, engine } = all;
    const plan = call === 0 ? counted : new FaultPlan({ call: call - 1, moment: 'before' });
    const reports: string[] = [];
    const report = (message: string): void => void reports.push(message);
    await maintain({ ...options, store: faultyStore(store, plan), report });
    if (call === 0) calls = plan.calls + 1;
    else expect(reports.some((message) => message.includes('failed')) || plan.fired === 1).toBe(true);
    for (const backup of await listBackups(store, open.format)) {
      expect(await contentIsDump(all, backup)).toBe(true);
    }
    await maintain({ ...options, report });
    expect(await listBackups(store, open.format)).toHaveLength(1);
    expect(await engine.read([keys.backupLock, keys.gcLock])).toEqual([null, null]);
    await open.close();
  }
  expect(counted.calls).toBeGreaterThan(4);
});

async function contentIsDump({ volume, open }: Bench, { key }: Backup): Promise<boolean> {
  const { bytes } = await fetchBackup(open.format.store, key, join(volume.base, 'fetched'));
  return bytes > 0;
}

test('a mount does it in a process of its own, and one that was killed leaves the lock to the next', async () => {
  const volume = await testVolume({ ...OPTIONS, gc: '0s' });
  const { store, open, engine } = await bench(volume);
  await writeFile(open, 'file', LARGE);
  const reports: string[] = [];
  const task = { metaUrl: volume.metaUrl, volume: 'lake', directory: volume.base };
  const run = async (kill: boolean): Promise<void> => {
    const ended = Promise.withResolvers<undefined>();
    const child = runMaintenance(
      task,
      (message) => reports.push(message),
      () => ended.resolve(undefined),
    );
    onTestFinished(() => void child.kill('SIGKILL'));
    if (kill) {
      await once(child, 'spawn');
      await expect.poll(async () => (await engine.read([keys.backupLock]))[0] !== null, { interval: 1 }).toBe(true);
      child.kill('SIGKILL');
    }
    await ended.promise;
  };
  await run(true);
  // Killed, it may have been done all the same.
  for (const { key } of await listBackups(store, open.format)) await store.delete([key]);
  await expect
    .poll(async () => {
      await run(false);
      return (await listBackups(store, open.format)).length;
    })
    .toBe(1);
  expect(reports.join('\n')).toContain('backup of the metadata');
});
