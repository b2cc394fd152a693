/** A commit of a live file of which this node did not hear: it is not taken for another node's, and merged over what programs have written since. */
import { closeSync, ftruncateSync, globSync, openSync, readFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { LiveFile } from '../../fs-gateway/data/live-file.ts';
import type { StagedFile } from '../../fs-gateway/data/staged-file.ts';
import { formatVolume } from '../../fs-gateway/main.ts';
import { Change } from '../../fs-gateway/meta/change.ts';
import type { OpenVolume, VolumeOptions } from '../../fs-gateway/open-volume.ts';
import { Flusher } from '../../fs-gateway/vfs/flusher.ts';
import { Errno } from '../../fs-gateway/vfs/operations.ts';
import { openMeta } from '../../lib/registry.ts';
import { VolumeKeys } from '../../lib/volume/keys.ts';
import { readElsewhere, writeElsewhere } from '../fs-gateway/passthrough-volume.ts';
import { caller, openTestVolume, testVolume } from '../support/fs-volume.ts';
import type { TestVolume } from '../support/fs-volume.ts';
import { playKernel } from '../support/played-kernel.ts';
import { startRedis } from '../support/redis.ts';
import { replaceMethod } from '../support/replace-method.ts';
import { missing } from '../support/services.ts';
import { TcpProxy } from '../support/tcp-proxy.ts';
import { tempDir } from '../support/temp.ts';
import { errnoOf } from '../tools/volume-files.ts';

const O_RDWR = 2;
const O_CREAT = 0o100;

/** The backing file, as a program changes it by the kernel. */
class Backing {
  readonly #path: string;

  constructor(path: string) {
    this.#path = path;
  }

  write(data: Buffer, at = 0): void {
    this.#change((fd) => void writeSync(fd, data, 0, data.length, at));
  }

  cut(size: number): void {
    this.#change((fd) => ftruncateSync(fd, size));
  }

  #change(how: (fd: number) => void): void {
    const fd = openSync(this.#path, 'r+');
    how(fd);
    closeSync(fd);
  }

  read(): Buffer {
    return readFileSync(this.#path);
  }
}

interface Live {
  readonly worker: OpenVolume;
  readonly ino: bigint;
  readonly backing: Backing;
  readonly fsync: () => Promise<void>;
  /** The next worker of the same mount, when it has committed what it found. */
  readonly next: () => Promise<OpenVolume>;
}

/** A live file `f` of which this content is committed. */
async function liveFile(
  volume: TestVolume,
  content: Buffer,
  more: Pick<VolumeOptions, 'engineDeadlineMs'> = {},
): Promise<Live> {
  const kernel = playKernel(false);
  const open = (): Promise<OpenVolume> =>
    openTestVolume(volume, 'a', [], 'lake', { passthrough: 'full', kernel, cacheBytes: 256e6, ...more });
  const worker = await open();
  const { operations } = worker;
  const created = await operations.create(caller(), 1n, 'f', 0o644, O_RDWR | O_CREAT, 0o022);
  const { ino } = created.entry.attributes;
  const backing = new Backing(kernel.backing.get(created.open.backingId ?? 0) ?? '');
  const fsync = async (): Promise<void> => operations.fsync(caller(), ino, created.open.handle, false);
  backing.write(content);
  await fsync();
  return {
    worker,
    ino,
    backing,
    fsync,
    async next() {
      await worker.close();
      const next = await open();
      await next.operations.drain();
      return next;
    },
  };
}

/** The worker does nothing more from here on, whatever it hears and tries again; what is returned lets the next one work. */
function killedAt(place: 'before the commit' | 'behind the commit'): () => void {
  const kill = (): never => {
    throw new Error('killed');
  };
  const dead = new WeakSet<StagedFile>();
  replaceMethod(
    Flusher.prototype,
    'flush',
    (flush) =>
      async function (this: Flusher, file) {
        if (dead.has(file)) kill();
        try {
          return await flush.call(this, file);
        } catch (error) {
          dead.add(file);
          throw error;
        }
      },
  );
  if (place === 'behind the commit') return replaceMethod(LiveFile.prototype, 'committed', () => kill);
  return replaceMethod(Change.prototype, 'transaction', () => kill);
}

function nextRecords({ base }: TestVolume): string[] {
  return globSync(join(base, 'cache-a', '*', 'mount-*', 'whole', '*', '*.next.*'));
}

describe.each([
  ['in the metadata', 1000],
  ['in objects', 200_000],
])('of a file %s, when the worker was killed', (_where, bytes) => {
  const before = Buffer.alloc(bytes);
  const longer = Buffer.alloc(bytes * 1.5, 'a');

  test.each([
    ['what a program has rewritten with the bytes of before', (file: Backing) => file.write(before)],
    ['what a program has cut, and let grow again', (file: Backing) => [0, bytes].forEach((size) => file.cut(size))],
    ['the size that a program has cut it to', (file: Backing) => file.cut(bytes + 10)],
    ['the size of before, which a program has cut it to', (file: Backing) => file.cut(bytes)],
    ['what nobody has changed since', () => undefined],
  ])('behind the commit, %s stays', async (_what, change) => {
    const volume = await testVolume();
    const { backing, fsync, next } = await liveFile(volume, before);
    const other = await openTestVolume(volume, 'other');
    backing.write(longer);
    const revive = killedAt('behind the commit');
    await expect(fsync()).rejects.toThrow('killed');
    expect((await readElsewhere(other, 'f')).equals(longer)).toBe(true);
    change(backing);
    const expected = backing.read();
    revive();
    await next();
    expect(backing.read().length).toBe(expected.length);
    expect(backing.read().equals(expected)).toBe(true);
    expect((await readElsewhere(other, 'f')).equals(expected)).toBe(true);
  });

  test('behind the commit, what others have committed on top of it is merged, and what a program has put back stays', async () => {
    const volume = await testVolume();
    const { backing, fsync, next } = await liveFile(volume, before);
    const other = await openTestVolume(volume, 'other');
    backing.write(longer);
    const revive = killedAt('behind the commit');
    await expect(fsync()).rejects.toThrow('killed');
    backing.write(before);
    await writeElsewhere(other, 'f', Buffer.from('theirs'), bytes + 10);
    revive();
    await next();
    const expected = Buffer.concat([before, longer.subarray(bytes)]);
    expected.write('theirs', bytes + 10);
    expect(backing.read().equals(expected)).toBe(true);
    expect((await readElsewhere(other, 'f')).equals(expected)).toBe(true);
  });

  test('before the commit, what others have committed is merged, and nothing is left of what was not committed', async () => {
    const volume = await testVolume();
    const { backing, fsync, next } = await liveFile(volume, before);
    const other = await openTestVolume(volume, 'other');
    backing.write(Buffer.from('ours'));
    const revive = killedAt('before the commit');
    await expect(fsync()).rejects.toThrow('killed');
    revive();
    expect(nextRecords(volume)).toHaveLength(1);
    await writeElsewhere(other, 'f', Buffer.from('theirs'), 100);
    await next();
    const expected = Buffer.from(before);
    expected.write('ours');
    expected.write('theirs', 100);
    expect(backing.read().equals(expected)).toBe(true);
    expect((await readElsewhere(other, 'f')).equals(expected)).toBe(true);
    expect(nextRecords(volume)).toEqual([]);
  });
});

test.skipIf(missing('redis-server')).each([
  ['when its answer was lost on the way', undefined],
  ['when its answer did not come as long as fsync waits, and others have changed the file since', 0],
])('%s, what a program has rewritten with the bytes of before stays', async (_when, engineDeadlineMs) => {
  const redis = await startRedis();
  onTestFinished(() => redis.stop());
  const base = tempDir('volume');
  const direct = { base, metaUrl: redis.url(), storeDir: join(base, 'objects') };
  await formatVolume({ metaUrl: direct.metaUrl, storeUrl: `dir:${direct.storeDir}`, options: {} });
  const proxy = await TcpProxy.start(() => redis.port);
  onTestFinished(() => proxy.close());
  const before = Buffer.alloc(1000);
  const linked = { ...direct, metaUrl: `redis://127.0.0.1:${proxy.port}/0` };
  const { ino, backing, fsync } = await liveFile(
    linked,
    before,
    engineDeadlineMs === undefined ? {} : { engineDeadlineMs },
  );
  const engine = await openMeta(direct.metaUrl, { kind: 'test' });
  onTestFinished(() => engine.close());
  const version = async (): Promise<string | undefined> =>
    (await engine.read([new VolumeKeys('lake').inode(Number(ino))]))[0]?.version;
  const seen = await version();
  backing.write(Buffer.alloc(1000, 'a'));
  const held = proxy.swallowAnswers();
  const synced = errnoOf(fsync);
  await held;
  await expect.poll(version).not.toBe(seen);
  backing.write(before);
  proxy.deliverAnswers();
  proxy.reset();
  const isLate = engineDeadlineMs !== undefined;
  expect(await synced).toBe(isLate ? Errno.EIO : 0);
  // Nothing is compared before others have changed it.
  const goOn = replaceMethod(
    Flusher.prototype,
    'flush',
    (flush) =>
      async function (this: Flusher, file) {
        if (file instanceof LiveFile) throw new Error('not yet');
        return flush.call(this, file);
      },
  );
  const other = await openTestVolume(direct, 'other');
  const theirs = Buffer.from(isLate ? 'theirs' : '');
  if (isLate) await writeElsewhere(other, 'f', theirs, before.length);
  goOn();
  const expected = Buffer.concat([before, theirs]);
  // It hears of theirs in a moment.
  await expect.poll(async () => (await errnoOf(fsync)) === 0 && backing.read().equals(expected)).toBe(true);
  expect((await readElsewhere(other, 'f')).equals(expected)).toBe(true);
});
