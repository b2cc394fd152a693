/** `penstock fs status` and `destroy`: what a volume is, and that it goes whole, alone, and only when nobody needs it. */
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { formatVolume } from '../../fs-gateway/main.ts';
import { destroyVolume } from '../../fs-gateway/tools/destroy.ts';
import { backupVolume, destroy, setVolumeQuota, snapshotVolume, statusOf } from '../../fs-gateway/tools/main.ts';
import type { MetaEngine } from '../../lib/meta/engine.ts';
import { openStore } from '../../lib/registry.ts';
import type { ObjectStore } from '../../lib/store/store.ts';
import { ensureHourDirectories } from '../../lib/volume/lake-directories.ts';
import { VolumeKeys } from '../../lib/volume/keys.ts';
import { FaultPlan } from '../support/fault.ts';
import { faultyEngine } from '../support/faulty-engine.ts';
import { faultyStore } from '../support/faulty-store.ts';
import { caller, openTestVolume, testVolume } from '../support/fs-volume.ts';
import type { TestVolume } from '../support/fs-volume.ts';
import { onBothServices, openBench, openEngine } from './volume-bench.ts';
import { readElsewhere } from '../fs-gateway/passthrough-volume.ts';
import { HOUR_MS, sleeper } from '../vfs/sleeper.ts';
import { lookUp, makeDirectory, writeFile } from './volume-files.ts';

const OTHER_ID = '0f0f0f0f-1111-4222-8333-444444444444';

/** What a volume is made of: small and large files, a directory, a quota, a snapshot and a backup. Nothing is open afterwards. */
async function fill(volume: TestVolume): Promise<void> {
  const open = await openTestVolume(volume);
  await writeFile(open, 'small', Buffer.from('in the metadata'));
  const directory = await makeDirectory(open, 'directory');
  await writeFile(open, 'large', Buffer.alloc(200_000, 7), directory);
  await open.close();
  await setVolumeQuota({ metaUrl: volume.metaUrl, path: '/', limits: { bytesMax: 1e9 } });
  await snapshotVolume({ metaUrl: volume.metaUrl, snapshot: 'before' });
  await backupVolume({ metaUrl: volume.metaUrl });
}

async function recordsOf(engine: MetaEngine, volume = 'lake'): Promise<string[]> {
  const buckets: string[] = [];
  for await (const bucket of engine.buckets(`{${volume}}`)) buckets.push(bucket);
  return buckets;
}

async function keysOf(store: ObjectStore): Promise<string[]> {
  const keys: string[] = [];
  for await (const { key } of store.list('')) keys.push(key);
  return keys;
}

onBothServices((newVolume) => {
  test('a volume is shown with its mounts, refused while it has one, and removed without a rest', async () => {
    const volume = await newVolume();
    const { metaUrl } = volume;
    await fill(volume);
    const { open, engine, store } = await openBench(volume);
    const status = await statusOf({ metaUrl });
    expect(status).toMatchObject({
      ...{ volume: 'lake', id: open.format.id, bytesMax: 1e9, inodesMax: null },
      mounts: [{ mountpoint: '/nowhere/a', pid: process.pid, since: expect.stringMatching(/^20..-.*Z$/) as string }],
    });
    expect(status.usedInodes).toBeGreaterThanOrEqual(4);
    expect(status.usedBytes).toBeGreaterThanOrEqual(200_015);
    const { id } = status;
    await expect(destroy({ metaUrl, id })).rejects.toMatchObject({
      code: 'held',
      message: expect.stringContaining('/nowhere/a') as string,
    });
    await open.close();
    await expect(destroy({ metaUrl, id: OTHER_ID })).rejects.toThrow(/no volume 'lake' has the id 0f0f.*fs status/);
    expect(await keysOf(store)).not.toEqual([]);

    await store.put('tables/plant/data.parquet', Buffer.from("the lake's own"));
    expect(await destroy({ metaUrl, id })).toEqual({ volume: 'lake', id });
    expect(await recordsOf(engine)).toEqual([]);
    expect(await keysOf(store)).toEqual(['tables/plant/data.parquet']);
    await expect(statusOf({ metaUrl })).rejects.toMatchObject({ code: 'not-found' });
    await expect(destroy({ metaUrl, id })).rejects.toMatchObject({ code: 'not-found' });
  });
});

test('another volume of the engine and the store keeps all that it has', async () => {
  const volume = await testVolume();
  await formatVolume({ metaUrl: volume.metaUrl, name: 'lake2', storeUrl: `dir:${volume.storeDir}`, options: {} });
  const { id } = await statusOf({ metaUrl: volume.metaUrl, name: 'lake' });
  const other = await openTestVolume(volume, 'a', [], 'lake2');
  await writeFile(other, 'kept', Buffer.alloc(200_000, 1));
  await fill(volume);
  const engine = await openEngine(volume);
  const before = await recordsOf(engine, 'lake2');
  await destroy({ metaUrl: volume.metaUrl, name: 'lake', id });
  expect(await recordsOf(engine, 'lake2')).toEqual(before);
  const store = await openStore(`dir:${volume.storeDir}`);
  const keys = await keysOf(store);
  await store.close();
  expect(keys.length).toBeGreaterThan(0);
  expect(keys.filter((key) => !key.startsWith(`${other.format.id}/`))).toEqual([]);
});

test.each(['commit', 'delete'])('a removal that ends at any %s is gone on with by the next one', async (operation) => {
  let fired = 1;
  for (let call = 0; fired > 0; call++) {
    const volume = await testVolume();
    await fill(volume);
    const engine = await openEngine(volume);
    const { id } = await statusOf({ metaUrl: volume.metaUrl });
    const plan = new FaultPlan({ operation, call, moment: call % 2 === 0 ? 'before' : 'after' });
    const removal = destroyVolume({
      ...{ engine: faultyEngine(engine, plan), volume: 'lake', id },
      openStore: async (url) => faultyStore(await openStore(url), plan),
    });
    await removal.catch(() => undefined);
    ({ fired } = plan);
    // Where the answer to the last commit was lost there is nothing left to remove.
    const left = (await recordsOf(engine)).length > 0;
    if (left) expect(await destroy({ metaUrl: volume.metaUrl, id })).toEqual({ volume: 'lake', id });
    expect(left && fired === 0, 'one that nothing ended').toBe(false);
    expect(await recordsOf(engine), `${operation} ${call}`).toEqual([]);
    const store = await openStore(`dir:${volume.storeDir}`);
    expect(await keysOf(store), `${operation} ${call}`).toEqual([]);
    await store.close();
  }
});

test('a volume that shows the datasets of a lake is refused, and a mistyped database is not made', async () => {
  const volume = await testVolume();
  const engine = await openEngine(volume);
  const keys = new VolumeKeys('lake');
  const [directory = 0] = await ensureHourDirectories(engine, keys, 'plant', [473_352], 0);
  await engine.commit({ compare: [], write: [{ key: keys.listingPointer(directory), value: Buffer.from('x') }] });
  const { id } = await statusOf({ metaUrl: volume.metaUrl });
  await expect(destroy({ metaUrl: volume.metaUrl, id })).rejects.toMatchObject({
    code: 'held',
    message: expect.stringContaining('datasets of a lake') as string,
  });
  const metaUrl = `sqlite:${join(volume.base, 'none.db')}`;
  await expect(destroy({ metaUrl, id })).rejects.toThrow(/none.db does not exist/);
});

test('a mount that was away while its volume was removed writes nothing into another one that was made under the name', async () => {
  const { volume, open, other, reports, sleep } = await sleeper();
  const { operations } = open;
  const { metaUrl, storeDir } = volume;
  await writeFile(open, 'f', Buffer.alloc(200_000, 1));
  const { ino } = await lookUp(open, 1n, 'f');
  const { handle } = await operations.open(caller(), ino, 2);
  await other.close();
  await sleep(HOUR_MS);
  expect(await destroy({ metaUrl, id: open.format.id })).toMatchObject({ volume: 'lake' });
  await formatVolume({ metaUrl, storeUrl: `dir:${storeDir}`, options: {} });
  const anew = await openTestVolume(volume, 'anew');
  const content = Buffer.alloc(200_000, 2);
  for (const name of ['f', 'g', 'h']) await writeFile(anew, name, content);
  const write = async (): Promise<void> => {
    await operations.write(caller(), ino, handle, 0n, Buffer.from('mine'), 2, false);
    await operations.flush(caller(), ino, handle, 0n);
  };
  const written = write().then(
    () => 'written',
    () => 'refused',
  );
  await expect.poll(() => reports.join('\n')).toMatch(/volume 'lake' is another one now/);
  for (const name of ['f', 'g', 'h']) expect((await readElsewhere(anew, name)).equals(content)).toBe(true);
  // It waits for a session, and is refused when none comes.
  expect(await Promise.race([written, Promise.resolve('waiting')])).toBe('waiting');
});

test('a worker that follows another one serves no other volume than that did; a new mount does', async () => {
  const volume = await testVolume();
  const { metaUrl, storeDir } = volume;
  const open = await openTestVolume(volume, 'a', [], 'lake', { mountLife: 'one' });
  const { id } = open.format;
  await open.close();
  await destroy({ metaUrl, id });
  await formatVolume({ metaUrl, storeUrl: `dir:${storeDir}`, options: {} });
  await expect(openTestVolume(volume, 'a', [], 'lake', { mountLife: 'one' })).rejects.toThrow(`of volume ${id}, and`);
  const next = await openTestVolume(volume, 'a', [], 'lake', { mountLife: 'two' });
  expect(next.format.id).not.toBe(id);
});
