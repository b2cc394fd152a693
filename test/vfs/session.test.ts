import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { formatVolume } from '../../fs-gateway/main.ts';
import { openMeta } from '../../lib/registry.ts';
import { Errno } from '../../fs-gateway/vfs/operations.ts';
import { VolumeKeys } from '../../lib/volume/keys.ts';
import { startRedis } from '../support/redis.ts';
import { missing } from '../support/services.ts';
import { tempDir } from '../support/temp.ts';
import { caller, openTestVolume, testVolume } from '../support/fs-volume.ts';

test('a session that is ended is replaced: caches are dropped, operations go on, staged data is committed', async () => {
  const volume = await testVolume();
  const reports: string[] = [];
  const open = await openTestVolume(volume, 'a', reports);
  const { entry, open: file } = await open.operations.create(caller(), 1n, 'file', 0o644, 2, 0);
  const { ino } = entry.attributes;
  await open.operations.write(caller(), ino, file.handle, 0n, Buffer.from('staged'), 2, false);
  const engine = await openMeta(volume.metaUrl, { kind: 'admin' });
  const mount = (await engine.sessions()).find((session) => session.kind === 'mount');
  await engine.endSession(mount?.id ?? 0);
  // The commit that meets the loss is made again on the new session.
  await open.operations.mkdir(caller(), 1n, 'd', 0o755, 0);
  await expect.poll(() => reports.join('\n')).toContain('metadata session renewed');
  await open.operations.flush(caller(), ino, file.handle, 0n);
  await engine.close();
  const other = await openTestVolume(volume, 'b');
  expect((await other.operations.read(caller(), ino, 0n, 0n, 100, 0)).toString()).toBe('staged');
});

test('the commits of a worker that is gone, still on their way when the next one has looked, do not arrive', async () => {
  const volume = await testVolume();
  const first = await openTestVolume(volume, 'a');
  const admin = await openMeta(volume.metaUrl, { kind: 'admin' });
  onTestFinished(() => admin.close());
  const [session] = (await admin.sessions()).filter(({ kind }) => kind === 'mount');
  await first.close();
  // What the worker's connection would still deliver.
  const gone = await openMeta(volume.metaUrl, { kind: 'mount', detail: session?.detail ?? {} });
  onTestFinished(() => gone.close());
  await openTestVolume(volume, 'a');
  const late = { key: new VolumeKeys('lake').inlineData(99), value: Buffer.from('late') };
  await expect(gone.commit({ write: [late] })).rejects.toMatchObject({ code: 'fenced' });
  expect(await admin.read([late.key])).toEqual([null]);
});

test.skipIf(missing('redis-server'))(
  'a look that is under way when Redis dies gets its answer when it is back',
  async () => {
    const redis = await startRedis('--appendonly', 'yes');
    onTestFinished(() => redis.stop());
    const base = tempDir('volume');
    const volume = { base, metaUrl: redis.url(), storeDir: join(base, 'objects') };
    await formatVolume({ metaUrl: volume.metaUrl, storeUrl: `dir:${volume.storeDir}` });
    const reports: string[] = [];
    const open = await openTestVolume(volume, 'a', reports);
    await redis.kill();
    const looked = (async () => open.operations.lookup(caller(), 1n, 'nothing'))();
    // Longer than the lease: the connection is closed under it.
    await expect.poll(() => reports.join('\n')).toContain('metadata session lost');
    await redis.start();
    // There is no such name, for as long as this may be believed.
    expect(await looked).toHaveProperty('negativeTtlMs');
  },
);

test('a request that was applied by a worker that died is not applied again by the next', async () => {
  const volume = await testVolume();
  const first = await openTestVolume(volume);
  const [make, remove, move] = [caller(), caller(), caller()];
  const made = await first.operations.mkdir(make, 1n, 'made', 0o755, 0);
  await first.operations.mknod(caller(), 1n, 'removed', 0o100644, 0, 0);
  await first.operations.unlink(remove, 1n, 'removed');
  await first.operations.mknod(caller(), 1n, 'from', 0o100644, 0, 0);
  await first.operations.rename(move, 1n, 'from', 1n, 'to', 0);
  await first.close();
  const second = await openTestVolume(volume);
  expect((await second.operations.mkdir(make, 1n, 'made', 0o755, 0)).attributes.ino).toBe(made.attributes.ino);
  await second.operations.unlink(remove, 1n, 'removed');
  await second.operations.rename(move, 1n, 'from', 1n, 'to', 0);
  await expect(async () => second.operations.mkdir(caller(), 1n, 'made', 0o755, 0)).rejects.toMatchObject({
    errno: Errno.EEXIST,
  });
  await expect(async () => second.operations.unlink(caller(), 1n, 'removed')).rejects.toMatchObject({
    errno: Errno.ENOENT,
  });
});
