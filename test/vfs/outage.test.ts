/** What changes do while the metadata engine is away: they wait, are made once, and programs see no error. */
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { formatVolume } from '../../fs-gateway/main.ts';
import type { OpenVolume } from '../../fs-gateway/open-volume.ts';
import { Errno } from '../../fs-gateway/vfs/operations.ts';
import { openMeta } from '../../lib/registry.ts';
import { takeIds } from '../../lib/volume/ids.ts';
import { VolumeKeys } from '../../lib/volume/keys.ts';
import { caller, openTestVolume } from '../support/fs-volume.ts';
import type { TestVolume } from '../support/fs-volume.ts';
import { HANG_MS } from '../support/hang.ts';
import { startRedis } from '../support/redis.ts';
import type { RedisServer } from '../support/redis.ts';
import { missing } from '../support/services.ts';
import { TcpProxy } from '../support/tcp-proxy.ts';
import { tempDir } from '../support/temp.ts';

const keys = new VolumeKeys('lake');

async function redisVolume(...args: readonly string[]): Promise<{ redis: RedisServer; volume: TestVolume }> {
  const redis = await startRedis(...args);
  onTestFinished(() => redis.stop());
  const base = tempDir('volume');
  const volume = { base, metaUrl: redis.url(), storeDir: join(base, 'objects') };
  await formatVolume({ metaUrl: volume.metaUrl, storeUrl: `dir:${volume.storeDir}` });
  return { redis, volume };
}

async function linked(redis: RedisServer): Promise<TcpProxy> {
  const proxy = await TcpProxy.start(() => redis.port);
  onTestFinished(() => proxy.close());
  return proxy;
}

async function names(open: OpenVolume): Promise<string[]> {
  const { handle } = await open.operations.opendir(caller(), 1n, 0);
  const found: string[] = [];
  await open.operations.readdir(caller(), 1n, handle, 0n, false, ({ name }) => found.push(name) > 0);
  return found.filter((name) => !name.startsWith('.')).sort();
}

test.skipIf(missing('redis-server'))(
  'changes that are under way when Redis is killed are made when it is back, each once',
  async () => {
    const { redis, volume } = await redisVolume('--appendonly', 'yes', '--appendfsync', 'always');
    const open = await openTestVolume(volume);
    const expected: string[] = [];
    let stop = false;
    // Eight programs that make, move and remove names without a pause; an error of any ends the test.
    const programs = Array.from({ length: 8 }, async (_, program) => {
      for (let n = 0; !stop; n++) {
        const name = `${program}-${n}`;
        await open.operations.mkdir(caller(), 1n, name, 0o755, 0);
        if (n % 3 === 0) await open.operations.rmdir(caller(), 1n, name);
        else if (n % 3 === 1) await open.operations.rename(caller(), 1n, name, 1n, `${name}-moved`, 0);
        if (n % 3 !== 0) expected.push(n % 3 === 1 ? `${name}-moved` : name);
      }
    });
    const all = Promise.all(programs);
    all.catch(() => undefined); // awaited below
    for (let kill = 0; kill < 2; kill++) {
      const before = expected.length;
      await expect.poll(() => expected.length, { interval: 5 }).toBeGreaterThan(before + 20);
      await redis.kill();
      await redis.start();
    }
    const before = expected.length;
    await expect.poll(() => expected.length, { interval: 5 }).toBeGreaterThan(before + 20);
    stop = true;
    await all;
    expect(await names(open)).toEqual(expected.sort());
  },
);

test.skipIf(missing('redis-server'))('a change whose answer is lost is not made twice, and not lost', async () => {
  const { redis, volume } = await redisVolume();
  const proxy = await linked(redis);
  const open = await openTestVolume({ ...volume, metaUrl: `redis://127.0.0.1:${proxy.port}/0` });
  await open.operations.mkdir(caller(), 1n, 'warm', 0o755, 0);
  await open.operations.mkdir(caller(), 1n, 'other', 0o755, 0);
  await open.operations.rmdir(caller(), 1n, 'other'); // Redis knows the scripts
  await open.operations.lookup(caller(), 1n, 'made'); // nothing is left to be read before the commit
  const held = proxy.swallowAnswers();
  const made = (async () => open.operations.mkdir(caller(), 1n, 'made', 0o755, 0))();
  const removed = (async () => open.operations.rmdir(caller(), 1n, 'warm'))();
  await held;
  const engine = await openMeta(volume.metaUrl, { kind: 'test' });
  onTestFinished(() => engine.close());
  await expect.poll(async () => (await engine.read([keys.entry(1, 'made')]))[0]).not.toBeNull();
  await expect.poll(async () => (await engine.read([keys.entry(1, 'warm')]))[0]).toBeNull();
  proxy.deliverAnswers();
  proxy.reset();
  const { attributes } = await made;
  await removed;
  expect(await names(open)).toEqual(['made']);
  expect(await open.operations.lookup(caller(), 1n, 'made')).toMatchObject({ attributes: { ino: attributes.ino } });
});

test.skipIf(missing('redis-server'))(
  'a link that is cut while changes are under way: they wait, and each is made once',
  async () => {
    const { redis, volume } = await redisVolume();
    const proxy = await linked(redis);
    const open = await openTestVolume({ ...volume, metaUrl: `redis://127.0.0.1:${proxy.port}/0` });
    const made: string[] = [];
    for (let round = 0; round < 12; round++) {
      const wave = Array.from({ length: 16 }, async (_, n) => {
        await open.operations.mkdir(caller(), 1n, `${round}-${n}`, 0o755, 0);
        made.push(`${round}-${n}`);
      });
      // At another point of the wave each time.
      for (let turn = 0; turn < round; turn++) await new Promise(setImmediate);
      proxy.reset();
      await Promise.all(wave);
    }
    expect(await names(open)).toEqual(made.sort());
  },
);

test.skipIf(missing('redis-server'))(
  'a lock whose holder ends while Redis is away for longer than programs wait is given back when it is back',
  async () => {
    const { redis, volume } = await redisVolume('--appendonly', 'yes', '--appendfsync', 'always');
    const reports: string[] = [];
    const open = await openTestVolume(volume, 'a', reports, 'lake', { engineDeadlineMs: 1000 });
    const whole = { type: 'write', start: 0n, end: 2n ** 63n - 1n, pid: 1 } as const;
    const lock = async (on: OpenVolume, wait: boolean): Promise<void> =>
      on.operations.setlk(caller(), 5n, 7n, 1n, whole, { wait, flock: true });
    await lock(open, false);
    await redis.kill();
    // The session is over: nobody has one to unlock with.
    await expect.poll(() => reports.join('\n'), { timeout: HANG_MS }).toContain('metadata session lost');
    const closed = (async () => open.operations.release(caller(), 5n, 7n, 1n))();
    await expect(closed).rejects.toMatchObject({ errno: Errno.EIO });
    await redis.start();
    await expect.poll(() => reports.join('\n'), { timeout: HANG_MS }).toContain('metadata session renewed');
    await lock(await openTestVolume(volume, 'b'), true);
  },
);

test.skipIf(missing('redis-server'))(
  'after a failover that lost commits: caches are dropped, no old compare passes, no id is given twice',
  async () => {
    const { redis: master, volume } = await redisVolume('--repl-diskless-sync', 'yes');
    const replica = await startRedis();
    onTestFinished(() => replica.stop());
    await replica.follow(master);
    let port = master.port;
    const proxy = await TcpProxy.start(() => port);
    onTestFinished(() => proxy.close());
    const reports: string[] = [];
    const open = await openTestVolume({ ...volume, metaUrl: `redis://127.0.0.1:${proxy.port}/0` }, 'a', reports);
    await open.operations.mkdir(caller(), 1n, 'kept', 0o755, 0);
    const { attributes: before } = await open.operations.mknod(caller(), 1n, 'file', 0o100644, 0, 0);
    await master.admin.set('marker', '1'); // WAIT is for the writes of its own connection
    expect(await master.admin.wait(1, HANG_MS)).toBe(1);
    // From here on the replica knows nothing of what the master acknowledges.
    await replica.admin.call('REPLICAOF', 'NO', 'ONE');
    const { attributes: lost } = await open.operations.mkdir(caller(), 1n, 'lost', 0o755, 0);
    const taking = await openMeta(master.url(), { kind: 'test' });
    const lostIds = await takeIds(taking, keys, 'object', 10_000);
    await taking.close();
    await open.operations.setattr(caller(), before.ino, { mode: 0o600 });
    await open.operations.rmdir(caller(), 1n, 'kept');
    expect(await names(open)).toEqual(['file', 'lost']);
    port = replica.port;
    // Whoever comes first, and never knew of what was lost.
    const newcomer = await openMeta(replica.url(), { kind: 'test' });
    onTestFinished(() => newcomer.close());
    expect(await takeIds(newcomer, keys, 'object', 1)).toBeGreaterThan(lostIds + 10_000);
    await master.kill();
    proxy.reset();
    // The mount still believes what was lost: a change under it must not pass, and one that is right must not fail.
    await expect((async () => open.operations.mkdir(caller(), lost.ino, 'inside', 0o755, 0))()).rejects.toMatchObject({
      errno: 2,
    });
    const made = await open.operations.mkdir(caller(), 1n, 'lost', 0o755, 0);
    expect(await names(open)).toEqual(['file', 'kept', 'lost']);
    expect(await open.operations.getattr(caller(), before.ino, undefined)).toMatchObject({
      attributes: { mode: 0o100644 },
    });
    expect(made.attributes.ino).not.toBe(lost.ino);
    // Another client's ids come from the counter as the replica knows it.
    const other = await openTestVolume({ ...volume, metaUrl: replica.url() }, 'b');
    const second = await other.operations.mkdir(caller(), 1n, 'second', 0o755, 0);
    expect([lost.ino, made.attributes.ino, before.ino]).not.toContain(second.attributes.ino);
    expect(reports.join('\n')).toMatch(/session lost/);
  },
);

test.skipIf(missing('redis-server'))(
  'a node that sleeps with unwritten data overwrites nothing of others when it is back',
  async () => {
    const { redis, volume } = await redisVolume();
    const proxy = await linked(redis);
    const reports: string[] = [];
    const open = await openTestVolume({ ...volume, metaUrl: `redis://127.0.0.1:${proxy.port}/0` }, 'a', reports);
    const other = await openTestVolume(volume, 'b');
    const staged = async (name: string): Promise<{ readonly ino: bigint; readonly handle: bigint }> => {
      const { entry, open: file } = await open.operations.create(caller(), 1n, name, 0o644, 2, 0);
      const { ino } = entry.attributes;
      await open.operations.write(caller(), ino, file.handle, 0n, Buffer.from('0123456789'), 2, false);
      await open.operations.flush(caller(), ino, file.handle, 0n);
      await open.operations.write(caller(), ino, file.handle, 0n, Buffer.from('mine'), 2, false);
      return { ino, handle: file.handle };
    };
    const [shared, removed] = [await staged('shared'), await staged('removed')];
    // Asleep for longer than its lease.
    proxy.cut();
    await expect.poll(() => reports.join('\n')).toContain('metadata session lost');
    const { handle } = await other.operations.open(caller(), shared.ino, 2);
    await other.operations.write(caller(), shared.ino, handle, 6n, Buffer.from('OTHER'), 2, false);
    await other.operations.flush(caller(), shared.ino, handle, 0n);
    await other.operations.unlink(caller(), 1n, 'removed');
    proxy.restore();
    await open.operations.flush(caller(), shared.ino, shared.handle, 0n);
    await expect
      .poll(async () => (await other.operations.read(caller(), shared.ino, handle, 0n, 100, 0)).toString())
      .toBe('mine45OTHER');
    await open.operations.flush(caller(), removed.ino, removed.handle, 0n);
    expect(await names(other)).toEqual(['shared']);
    expect(await names(open)).toEqual(['shared']);
  },
);
