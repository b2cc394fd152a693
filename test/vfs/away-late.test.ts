/** An absence that comes between: into a flush, before the last close, between a commit and its answer, before somebody else's fsync. */
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import type { OpenVolume } from '../../fs-gateway/open-volume.ts';
import { Uploader } from '../../fs-gateway/data/uploader.ts';
import { formatVolume } from '../../fs-gateway/main.ts';
import { VolumeView } from '../../fs-gateway/meta/view.ts';
import { Errno } from '../../fs-gateway/vfs/operations.ts';
import { openMeta } from '../../lib/registry.ts';
import { VolumeKeys } from '../../lib/volume/keys.ts';
import { readElsewhere, writeElsewhere } from '../fs-gateway/passthrough-volume.ts';
import { caller } from '../support/fs-volume.ts';
import { startRedis } from '../support/redis.ts';
import { replaceMethod } from '../support/replace-method.ts';
import { missing } from '../support/services.ts';
import { TcpProxy } from '../support/tcp-proxy.ts';
import { tempDir } from '../support/temp.ts';
import { errnoOf, lookUp } from '../tools/volume-files.ts';
import { BLOCK, HOUR_MS, sleeper, SMALL } from './sleeper.ts';

const O_RDWR = 2;
const O_APPEND = 0o2000;

test('what was written while a flush hung through the absence is as old as the flush: it is kept aside, too', async () => {
  const { open, other, sleep, write } = await sleeper();
  const content = Buffer.alloc(3 * BLOCK, 'a');
  await writeElsewhere(other, 'f', content);
  const ino = await write('f', 0, Buffer.from('flushed'));
  const reached: PromiseWithResolvers<void> = Promise.withResolvers();
  const gate: PromiseWithResolvers<void> = Promise.withResolvers();
  let uploads = 0;
  replaceMethod(
    Uploader.prototype,
    'upload',
    (upload) =>
      async function (this: Uploader, ...args) {
        if (uploads++ === 0) {
          reached.resolve();
          await gate.promise;
        }
        return upload.apply(this, args);
      },
  );
  const flushing = errnoOf(() => open.operations.flush(caller(), ino, 0n, 0n));
  await reached.promise;
  await write('f', BLOCK, Buffer.from('late'));
  await sleep(HOUR_MS);
  await writeElsewhere(other, 'f', Buffer.from('theirs'), BLOCK);
  gate.resolve();
  expect(await flushing).toBe(0);
  expect(await errnoOf(() => open.operations.flush(caller(), ino, 0n, 0n))).toBe(Errno.EIO);
  content.write('flushed', 0);
  content.write('theirs', BLOCK);
  await expect.poll(async () => (await readElsewhere(other, 'f')).equals(content)).toBe(true);
  expect(open.stats()).toMatchObject({ keptAside: 1, stagedFiles: 0 });
});

test('the last close of a file that others removed, before the node has noticed that its session is over: its bytes are kept aside', async () => {
  const { open, other, reports, sleep } = await sleeper();
  const { operations } = open;
  await writeElsewhere(other, 'f', Buffer.alloc(3 * BLOCK, 'a'));
  const { ino } = await lookUp(open, 1n, 'f');
  const { handle } = await operations.open(caller(), ino, O_RDWR);
  await operations.write(caller(), ino, handle, 0n, Buffer.alloc(BLOCK, 'm'), O_RDWR, false);
  await sleep(HOUR_MS);
  // The feed has brought the removal, and the node's answer to it, which tells it of its session, is still on its way.
  const gate: PromiseWithResolvers<void> = Promise.withResolvers();
  replaceMethod(
    VolumeView.prototype,
    'nodes',
    (nodes) =>
      async function (this: VolumeView, inos) {
        await gate.promise;
        return nodes.call(this, inos);
      },
  );
  await other.operations.unlink(caller(), 1n, 'f');
  await expect.poll(async () => 'attributes' in (await operations.lookup(caller(), 1n, 'f'))).toBe(false);
  expect(reports.join('\n')).not.toContain('session lost');
  await operations.flush(caller(), ino, handle, 0n);
  await operations.release(caller(), ino, handle, undefined);
  gate.resolve();
  await expect.poll(() => open.stats()).toMatchObject({ stagedFiles: 0, keptAside: 1 });
});

test('a line that others appended is theirs, though it says the same: what this node appended with other changes is kept aside', async () => {
  const { open, other, sleep } = await sleeper();
  const { operations } = open;
  const content = Buffer.alloc(2 * BLOCK, 'a');
  await writeElsewhere(other, 'f', content);
  const { ino } = await lookUp(open, 1n, 'f');
  const { handle } = await operations.open(caller(), ino, O_RDWR);
  const append = async (on: OpenVolume): Promise<void> => {
    const flags = O_RDWR | O_APPEND;
    const opened = await on.operations.open(caller(), ino, flags);
    await on.operations.write(caller(), ino, opened.handle, BigInt(content.length), Buffer.from('line'), flags, false);
    if (on === open) return;
    await on.operations.flush(caller(), ino, opened.handle, 0n);
    await on.operations.release(caller(), ino, opened.handle, undefined);
  };
  await operations.write(caller(), ino, handle, 0n, Buffer.from('head'), O_RDWR, false);
  await append(open);
  await sleep(HOUR_MS);
  await writeElsewhere(other, 'f', Buffer.from('head'));
  await append(other);
  expect(await errnoOf(() => operations.flush(caller(), ino, handle, 0n))).toBe(Errno.EIO);
  expect(open.stats()).toMatchObject({ keptAside: 1, stagedFiles: 0 });
});

test('every handle that was open is told by its next fsync or close, once, whoever met the error first', async () => {
  const { open, other, sleep } = await sleeper();
  const { operations } = open;
  await writeElsewhere(other, 'f', Buffer.alloc(3 * BLOCK, 'a'));
  const { ino } = await lookUp(open, 1n, 'f');
  const openFile = async (): Promise<bigint> => (await operations.open(caller(), ino, O_RDWR)).handle;
  const [writer, second] = [await openFile(), await openFile()];
  await operations.write(caller(), ino, writer, 0n, Buffer.from('mine'), O_RDWR, false);
  await sleep(HOUR_MS);
  await writeElsewhere(other, 'f', Buffer.from('theirs'));
  // In the background, as far as programs know.
  await expect(operations.drain()).rejects.toThrow('while this node was away');
  const later = await openFile();
  const fsync = (handle: bigint): Promise<number> => errnoOf(() => operations.fsync(caller(), ino, handle, false));
  const close = (handle: bigint): Promise<number> => errnoOf(() => operations.flush(caller(), ino, handle, 0n));
  expect(await fsync(writer)).toBe(Errno.EIO);
  expect(await fsync(writer)).toBe(0);
  expect(await close(second)).toBe(Errno.EIO);
  expect(await close(second)).toBe(0);
  expect(await close(writer)).toBe(0);
  expect(await fsync(later)).toBe(0);
  expect(open.stats()).toMatchObject({ keptAside: 1 });
});

test.skipIf(missing('redis-server'))(
  'a commit whose answer was lost with the absence is found to be made: no error, and nothing is kept aside',
  async () => {
    const redis = await startRedis();
    onTestFinished(() => redis.stop());
    const base = tempDir('volume');
    const volume = { base, metaUrl: redis.url(), storeDir: join(base, 'objects') };
    await formatVolume({ metaUrl: volume.metaUrl, storeUrl: `dir:${volume.storeDir}`, options: SMALL });
    const proxy = await TcpProxy.start(() => redis.port);
    onTestFinished(() => proxy.close());
    const { open, other, sleep, write } = await sleeper({ metaUrl: `redis://127.0.0.1:${proxy.port}/0` }, volume);
    const content = Buffer.alloc(3 * BLOCK, 'a');
    for (const name of ['f', 'small']) await writeElsewhere(other, name, name === 'f' ? content : Buffer.from('small'));
    const engine = await openMeta(volume.metaUrl, { kind: 'test' });
    onTestFinished(() => engine.close());
    // Redis knows the scripts, and nothing is left to be read before the commits.
    for (const name of ['f', 'small']) {
      await open.operations.flush(caller(), await write(name, 2, Buffer.from('w')), 0n, 0n);
      await readElsewhere(open, name);
    }
    const inos = [await write('f', 10, Buffer.from('mine')), await write('small', 0, Buffer.from('S'))];
    const versions = async (): Promise<(string | undefined)[]> =>
      (await engine.read(inos.map((ino) => new VolumeKeys('lake').inode(Number(ino))))).map(
        (stored) => stored?.version,
      );
    const before = await versions();
    const held = proxy.swallowAnswers();
    const flushed = inos.map((ino) => errnoOf(() => open.operations.flush(caller(), ino, 0n, 0n)));
    await held;
    await expect.poll(async () => (await versions()).every((version, n) => version !== before[n])).toBe(true);
    await sleep(HOUR_MS);
    proxy.deliverAnswers();
    proxy.reset();
    expect(await Promise.all(flushed)).toEqual([0, 0]);
    expect(open.stats()).toMatchObject({ keptAside: 0, stagedFiles: 0 });
    content.write('w', 2);
    content.write('mine', 10);
    expect((await readElsewhere(other, 'f')).equals(content)).toBe(true);
    expect((await readElsewhere(other, 'small')).toString()).toBe('Smwll');
  },
);
