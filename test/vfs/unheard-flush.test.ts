/**
 * A flush of staged bytes that was committed, and whose answer did not come as long as an operation waits for the metadata: its program hears EIO, and what it
 * wrote is committed once all the same, by this worker or by the next one.
 */
import { globSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { formatVolume } from '../../fs-gateway/main.ts';
import { Flusher } from '../../fs-gateway/vfs/flusher.ts';
import type { OpenVolume, VolumeOptions } from '../../fs-gateway/open-volume.ts';
import { Errno } from '../../fs-gateway/vfs/operations.ts';
import { openMeta } from '../../lib/registry.ts';
import { VolumeKeys } from '../../lib/volume/keys.ts';
import { readElsewhere } from '../fs-gateway/passthrough-volume.ts';
import { caller, openTestVolume } from '../support/fs-volume.ts';
import type { TestVolume } from '../support/fs-volume.ts';
import { replaceMethod } from '../support/replace-method.ts';
import { startRedis } from '../support/redis.ts';
import { missing } from '../support/services.ts';
import { TcpProxy } from '../support/tcp-proxy.ts';
import { tempDir } from '../support/temp.ts';
import { errnoOf, lookUp } from '../tools/volume-files.ts';

const O_RDWR = 2;
const O_RDWR_APPEND = 0o2002;
/** So many bytes of frames have the journal rewritten. */
const OVERGROWN = 33 * 2 ** 20;
const SMALL = 60_000;

interface Writer {
  readonly open: OpenVolume;
  readonly ino: bigint;
  readonly handle: bigint;
  readonly flags: number;
}

async function write({ open, ino, handle, flags }: Writer, data: Buffer | string, at = 0n): Promise<void> {
  await open.operations.write(caller(), ino, handle, at, Buffer.from(data), flags, false);
}

async function flush({ open, ino, handle }: Writer): Promise<void> {
  await open.operations.flush(caller(), ino, handle, 0n);
}

async function makeFile(open: OpenVolume, name: string, flags: number): Promise<Writer> {
  const created = await open.operations.create(caller(), 1n, name, 0o644, flags, 0);
  return { open, ino: created.entry.attributes.ino, handle: created.open.handle, flags };
}

async function openFile(open: OpenVolume, name: string, flags: number): Promise<Writer> {
  const { ino } = await lookUp(open, 1n, name);
  const { handle } = await open.operations.open(caller(), ino, flags);
  return { open, ino, handle, flags };
}

/** On two mounts: `a` reaches Redis by a link, and `b` directly. */
async function twoMounts(more: Pick<VolumeOptions, 'writeback'> = {}): Promise<{
  readonly volume: TestVolume;
  readonly proxy: TcpProxy;
  readonly a: OpenVolume;
  readonly b: OpenVolume;
  /** Resolves when the metadata have the next change of the inode; to be called before it. */
  readonly changed: (ino: bigint) => Promise<() => Promise<void>>;
}> {
  const redis = await startRedis();
  onTestFinished(() => redis.stop());
  const base = tempDir('volume');
  const volume = { base, metaUrl: redis.url(), storeDir: join(base, 'objects') };
  await formatVolume({ metaUrl: volume.metaUrl, storeUrl: `dir:${volume.storeDir}`, options: {} });
  const proxy = await TcpProxy.start(() => redis.port);
  onTestFinished(() => proxy.close());
  const linked = { ...volume, metaUrl: `redis://127.0.0.1:${proxy.port}/0` };
  const a = await openTestVolume(linked, 'a', [], 'lake', { engineDeadlineMs: 0, ...more });
  const b = await openTestVolume(volume, 'b');
  const engine = await openMeta(volume.metaUrl, { kind: 'test' });
  onTestFinished(() => engine.close());
  const version = async (ino: bigint): Promise<string | undefined> =>
    (await engine.read([new VolumeKeys('lake').inode(Number(ino))]))[0]?.version;
  return {
    volume,
    proxy,
    a,
    b,
    async changed(ino) {
      const seen = await version(ino);
      return () => expect.poll(() => version(ino)).not.toBe(seen);
    },
  };
}

type Mounts = Awaited<ReturnType<typeof twoMounts>>;

/** Its commit is made, and the answer does not come. */
async function loseAnswer({ proxy, changed }: Mounts, file: Writer): Promise<number> {
  const committed = await changed(file.ino);
  const held = proxy.swallowAnswers();
  const flushed = errnoOf(() => flush(file));
  await held;
  await committed();
  proxy.deliverAnswers();
  proxy.reset();
  return flushed;
}

/** The worker has what it needs of the metadata to go on with the file. */
async function reached({ a }: Mounts, { ino }: Writer): Promise<void> {
  await expect.poll(() => errnoOf(() => a.operations.getattr(caller(), ino, undefined))).toBe(0);
}

/** No flush is tried again until what is returned is called. */
function holdFlushes(): () => void {
  return replaceMethod(Flusher.prototype, 'flush', () => () => Promise.reject(new Error('not yet')));
}

/** The journal is rewritten: what it had said of flushes is gone, but for what it says again. */
async function rewriteJournal({ volume }: Mounts, other: Writer): Promise<void> {
  const [journal = ''] = globSync(join(volume.base, 'cache-a', '*', 'mount-*', 'journal'));
  const data = Buffer.alloc(SMALL);
  for (let bytes = 0; bytes < OVERGROWN; bytes += SMALL) await write(other, data);
  expect(statSync(journal).size).toBeLessThan(OVERGROWN / 2);
}

describe.skipIf(missing('redis-server')).each([
  ['in the metadata', 10],
  ['in objects', 100_000],
])('appended bytes %s', (_where, bytes) => {
  const [first, second, theirs] = [Buffer.alloc(bytes, '1'), Buffer.alloc(bytes, '2'), Buffer.from('theirs')];

  async function appended(mounts: Mounts): Promise<Writer> {
    const file = await makeFile(mounts.a, 'log', O_RDWR_APPEND);
    await write(file, first);
    await flush(file);
    await write(file, second);
    return file;
  }

  async function appendElsewhere({ b }: Mounts): Promise<void> {
    const there = await openFile(b, 'log', O_RDWR_APPEND);
    await write(there, theirs);
    await flush(there);
  }

  test('are there once when the worker reaches the metadata again, and what was appended meanwhile behind them', async () => {
    const mounts = await twoMounts();
    const file = await appended(mounts);
    expect(await loseAnswer(mounts, file)).toBe(Errno.EIO);
    await appendElsewhere(mounts);
    await reached(mounts, file);
    await write(file, 'later');
    await flush(file);
    const expected = Buffer.concat([first, second, theirs, Buffer.from('later')]);
    expect((await readElsewhere(mounts.b, 'log')).equals(expected)).toBe(true);
  });

  test('are there once when the worker is killed behind that, with a journal that it has rewritten', async () => {
    const mounts = await twoMounts();
    const other = await makeFile(mounts.a, 'other', O_RDWR);
    const file = await appended(mounts);
    expect(await loseAnswer(mounts, file)).toBe(Errno.EIO);
    await appendElsewhere(mounts);
    const goOn = holdFlushes();
    await reached(mounts, file);
    await write(file, 'later');
    await rewriteJournal(mounts, other);
    await mounts.a.close();
    goOn();
    const next = await openTestVolume(mounts.volume, 'a');
    await next.operations.drain();
    const expected = Buffer.concat([first, second, theirs, Buffer.from('later')]);
    expect((await readElsewhere(mounts.b, 'log')).equals(expected)).toBe(true);
  });

  test('are there once when they were not committed', async () => {
    const mounts = await twoMounts();
    const other = await makeFile(mounts.a, 'other', O_RDWR);
    const file = await appended(mounts);
    mounts.proxy.cut();
    expect(await errnoOf(() => flush(file))).toBe(Errno.EIO);
    mounts.proxy.restore();
    await appendElsewhere(mounts);
    const goOn = holdFlushes();
    await reached(mounts, file);
    await rewriteJournal(mounts, other);
    goOn();
    await flush(file);
    expect((await readElsewhere(mounts.b, 'log')).equals(Buffer.concat([first, theirs, second]))).toBe(true);
  });
});

describe.skipIf(missing('redis-server')).each([
  ['in the metadata', 10],
  ['in objects', 100_000],
])('bytes %s that were promised (`writeback`)', (_where, bytes) => {
  const [ours, theirs] = [Buffer.alloc(bytes, '1'), Buffer.alloc(bytes, '2')];

  /** Committed, and others have committed over it. */
  async function overwritten(mounts: Mounts): Promise<Writer> {
    const file = await makeFile(mounts.a, 'f', O_RDWR);
    await write(file, Buffer.alloc(bytes));
    await mounts.a.operations.drain();
    await write(file, ours);
    expect(await loseAnswer(mounts, file)).toBe(0);
    const there = await openFile(mounts.b, 'f', O_RDWR);
    await write(there, theirs);
    await flush(there);
    return file;
  }

  test('are not committed over those of others when the worker reaches the metadata again', async () => {
    const mounts = await twoMounts({ writeback: true });
    const file = await overwritten(mounts);
    await reached(mounts, file);
    await mounts.a.operations.drain();
    expect((await readElsewhere(mounts.b, 'f')).equals(theirs)).toBe(true);
  });

  test('nor when the worker is killed behind that, with a journal that it has rewritten', async () => {
    const mounts = await twoMounts({ writeback: true });
    const other = await makeFile(mounts.a, 'other', O_RDWR);
    const file = await overwritten(mounts);
    const goOn = holdFlushes();
    await reached(mounts, file);
    await write(file, 'later', BigInt(bytes));
    await rewriteJournal(mounts, other);
    await mounts.a.close();
    goOn();
    const next = await openTestVolume(mounts.volume, 'a', [], 'lake', { writeback: true });
    await next.operations.drain();
    expect((await readElsewhere(mounts.b, 'f')).equals(Buffer.concat([theirs, Buffer.from('later')]))).toBe(true);
  });
});
