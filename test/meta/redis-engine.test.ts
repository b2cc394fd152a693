import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, onTestFinished, test, vi } from 'vitest';
import { COMMIT_RECORDS_MAX, type MetaEngine } from '../../lib/meta/engine.ts';
import { openMeta } from '../../lib/registry.ts';
import { makeCertificates } from '../support/certificates.ts';
import { Worker, expectWhole } from '../support/meta-crash.ts';
import { V, apply, key, listener, openFor, put, readNumber, readOne } from '../support/meta-helpers.ts';
import { RedisServer, startRedis, until } from '../support/redis.ts';
import { missing } from '../support/services.ts';
import { tempDir } from '../support/temp.ts';
import { freePort } from '../support/ports.ts';
import { inTurns } from '../support/turns.ts';

const SHARD = `${V}s`;
const say = (text: string) => ({ publish: [{ shard: SHARD, message: Buffer.from(text) }] });

async function ownRedis(...args: readonly string[]): Promise<RedisServer> {
  const server = await startRedis(...args);
  onTestFinished(() => server.stop());
  return server;
}

describe.skipIf(missing('redis-server'))('with a redis-server', () => {
  let server: RedisServer;
  beforeAll(async () => {
    server = await startRedis();
  });
  afterAll(() => server.stop());
  beforeEach(async () => {
    await server.admin.flushall();
  });

  /** Cuts the connections of all engines: of subscribers (`pubsub`) or of the others. */
  async function cut(type: 'normal' | 'pubsub'): Promise<void> {
    await server.admin.call('CLIENT', 'KILL', 'TYPE', type, 'SKIPME', 'yes');
  }

  describe('commits', () => {
    test('a commit is one round trip and one command', async () => {
      const engine = await openFor(server.url(), { leaseMs: 60_000 });
      await apply(engine, put('warm'));
      await server.admin.config('RESETSTAT');
      for (let i = 0; i < 10; i++)
        await apply(engine, { compare: [{ key: key(`f${i}`), version: null }], ...put(`f${i}`), operation: `${i}` });
      await engine.read([key('f1'), key('f2'), key('f3')]);
      const stats = await server.admin.info('commandstats');
      const calls = Object.fromEntries(
        [...stats.matchAll(/cmdstat_(\w+):calls=(\d+)/g)].map(([, name, count]) => [name ?? '', Number(count)]),
      );
      expect(calls).toMatchObject({ evalsha: 10, hmget: 11 }); // 10 of them inside the script
      expect(calls['eval']).toBeUndefined();
    });

    test('the server may forget its scripts', async () => {
      const engine = await openFor(server.url());
      await apply(engine, put('a'));
      await server.admin.script('FLUSH');
      await apply(engine, put('b'));
      await server.admin.script('FLUSH');
      expect(await engine.follow(key('a'), { bucketPrefix: `${V}i:`, shift: 8 })).toMatchObject({ target: null });
    });

    test('databases of one server do not hear each other', async () => {
      const [one, two] = [await openFor(server.url(1)), await openFor(server.url(2))];
      const heard = listener();
      await one.subscribe([SHARD], heard.handlers);
      await apply(two, say('other database'));
      await apply(one, say('own'));
      await until(() => heard.messages.length > 0);
      expect(heard).toMatchObject({ gaps: [], messages: [`${SHARD} own`] });
      expect(await two.sessions()).toHaveLength(1);
    });

    test('a lost answer is a timeout, and a repeat of the operation gets the first result', async () => {
      const engine = await openFor(server.url(0, '?deadline=2s'));
      const transaction = { ...put('a'), patch: [{ number: key('n', `${V}n`), add: 1n }], operation: 'o' };
      // The server reads the command and is stopped before it answers.
      await server.admin.call('CLIENT', 'PAUSE', '60000', 'WRITE');
      const lost = engine.commit(transaction);
      const seen = expect(lost).rejects.toMatchObject({ code: 'timeout', retryable: true });
      await cut('normal');
      await server.admin.call('CLIENT', 'UNPAUSE');
      await seen;
      await apply(engine, transaction);
      expect(await apply(engine, transaction)).toMatchObject({ repeated: true });
      expect(await readNumber(engine, key('n', `${V}n`))).toBe(1n);
    });

    test('a server that is silent for the deadline is a timeout; when it answers again, the engine goes on', async () => {
      const engine = await openFor(server.url(0, '?deadline=2s'), { leaseMs: 60_000 });
      await apply(engine, put('a'));
      process.kill(server.pid, 'SIGSTOP');
      try {
        await expect(engine.commit(put('b'))).rejects.toMatchObject({ code: 'timeout' });
        await expect(engine.read([key('a')])).rejects.toMatchObject({ retryable: true });
      } finally {
        process.kill(server.pid, 'SIGCONT');
      }
      await until(() =>
        engine.commit(put('c')).then(
          ({ ok }) => ok,
          () => false,
        ),
      );
    });

    test('a full Redis refuses what grows and takes what frees', async () => {
      const full = await ownRedis('--maxmemory-policy', 'noeviction');
      const engine = await openFor(full.url());
      for (let i = 0; i < 20; i++) await apply(engine, put(`f${i}`, Buffer.alloc(100_000)));
      await full.admin.config('SET', 'maxmemory', '1mb');
      await expect(engine.commit(put('more', Buffer.alloc(1000)))).rejects.toMatchObject({ code: 'full' });
      // As an unlink does it: the entry goes, an orphan record comes, times are patched.
      await apply(engine, {
        ...say('unlinked'),
        write: [...(put('f0', null).write ?? []), { key: key('orphan', `${V}o`), value: Buffer.alloc(60) }],
        patch: [{ number: key('m', `${V}t:1`), max: 5n }],
        operation: 'unlink f0',
      });
      await apply(engine, { write: Array.from({ length: 15 }, (_, i) => ({ key: key(`f${i + 1}`), value: null })) });
      await full.admin.config('SET', 'maxmemory', '100mb');
      await apply(engine, put('more', Buffer.alloc(1000)));
    });

    test('the ring of results is bounded', async () => {
      const engine = await openFor(server.url());
      const patch = [{ number: key('n', `${V}n`), add: 1n }];
      for (let i = 0; i < 6000; i += 1000) {
        await Promise.all(Array.from({ length: 1000 }, (_, k) => apply(engine, { patch, operation: `${i + k}` })));
      }
      expect(await server.admin.hlen(`penstock:session:${engine.sessionId}`)).toBeLessThan(4096 + 256 + 2);
      expect(await apply(engine, { patch, operation: '0' })).toMatchObject({ repeated: false });
    });

    test('the largest commit holds Redis for milliseconds only', async () => {
      const engine = await openFor(server.url());
      const fields = Array.from({ length: COMMIT_RECORDS_MAX }, (_, i) => `f${i}`);
      await apply(engine, {
        compare: fields.map((field) => ({ key: key(field), version: null })),
        write: fields.map((field) => ({ key: key(field), value: Buffer.alloc(40) })),
      });
      expect(await engine.count(key('').bucket)).toBe(COMMIT_RECORDS_MAX);
    });
  });

  describe('the feed', () => {
    test('a lost subscriber connection is a gap at the loss and when the feed is back', async () => {
      const engine = await openFor(server.url());
      const heard = listener();
      await engine.subscribe([SHARD], heard.handlers);
      await apply(engine, say('one'));
      await until(() => heard.messages.length === 1);
      await cut('pubsub');
      await until(() => heard.gaps.length === 2);
      await apply(engine, say('two'));
      await until(() => heard.messages.length === 2);
      expect(heard).toMatchObject({ gaps: [SHARD, SHARD], messages: [`${SHARD} one`, `${SHARD} two`] });
    });

    test('a hole in the sequence is a gap', async () => {
      const engine = await openFor(server.url());
      const heard = listener();
      await engine.subscribe([SHARD, `${V}other`], heard.handlers);
      await apply(engine, say('one'));
      await server.admin.incr(`penstock:feed:${SHARD}`);
      await apply(engine, say('three'));
      await until(() => heard.messages.length === 2);
      expect(heard.gaps).toEqual([SHARD]);
    });

    test('a cut command connection leaves the feed alone, and commits go on', async () => {
      const engine = await openFor(server.url());
      const heard = listener();
      await engine.subscribe([SHARD], heard.handlers);
      await cut('normal');
      await until(() =>
        engine.commit(say('back')).then(
          ({ ok }) => ok,
          () => false,
        ),
      );
      await until(() => heard.messages.length > 0);
      expect(heard.gaps).toEqual([]);
      expect(engine.lost.aborted).toBe(false);
    });
  });

  describe('the epoch', () => {
    test('after a failover every engine is fenced: by its next commit, whatever its compare says', async () => {
      const master = await ownRedis();
      const replica = await ownRedis();
      await replica.follow(master);
      const engine = await openFor(master.url(), { leaseMs: 60_000 });
      const { version } = await apply(engine, put('a'));
      await until(async () => (await replica.admin.hget(key('a').bucket, 'a')) !== null);
      await replica.admin.call('REPLICAOF', 'NO', 'ONE');
      const promoted = await openFor(replica.url());
      expect((await readOne(promoted, key('a')))?.version).toBe(version);
      expect(promoted.sessionId).not.toBe(engine.sessionId);
      // The old master takes the new one's state and is promoted back: the engine's connection has seen none of it, and by its
      // compare alone the commit would pass.
      await master.follow(replica);
      await master.admin.call('REPLICAOF', 'NO', 'ONE');
      await expect(engine.commit({ compare: [{ key: key('a'), version }], ...put('a', 'old') })).rejects.toMatchObject({
        code: 'fenced',
      });
      expect(engine.lost.aborted).toBe(true);
      expect((await readOne(await openFor(master.url()), key('a')))?.value.toString()).toBe('a');
    });

    test('an idle engine notices with its renewal', async () => {
      const own = await ownRedis('--enable-debug-command', 'yes');
      const engine = await openFor(own.url(), { leaseMs: 300 });
      await own.admin.call('DEBUG', 'CHANGE-REPL-ID');
      await until(() => engine.lost.aborted);
      expect(engine.lost.reason).toMatchObject({ code: 'fenced' });
    });

    test('killed and restarted with its append-only file, Redis has every acknowledged commit, whole, and fences old sessions', async () => {
      const own = await ownRedis('--appendonly', 'yes', '--appendfsync', 'always');
      const workers = [new Worker(own.url(), 'a'), new Worker(own.url(), 'b')];
      const engine = await openFor(own.url(0, '?deadline=5s'), { leaseMs: 60_000 });
      for (const worker of workers) await worker.hasCommitted(100);
      await own.kill('SIGKILL');
      await own.start();
      await Promise.all(workers.map((worker) => worker.end()));
      await until(() => engine.lost.aborted);
      await expect(engine.read([key('a')])).rejects.toMatchObject({ code: 'fenced' });
      const after = await openFor(own.url());
      await expectWhole(after, workers);
      expect(after.sessionId).toBeGreaterThan(engine.sessionId);
      await apply(after, put('goes on'));
    });
  });

  describe('sessions', () => {
    test('a killed process is dead when its lease is over, and can be ended', async () => {
      const worker = new Worker(server.url(), 'a');
      await worker.hasCommitted(1);
      const engine = await openFor(server.url());
      const session = async () => (await engine.sessions()).find(({ id }) => id === worker.sessionId);
      expect(await session()).toMatchObject({ kind: 'worker', live: true });
      await worker.end();
      await until(async () => (await session())?.live === false);
      await engine.endSession(worker.sessionId);
      expect(await session()).toBeUndefined();
      expect(await server.admin.exists(`penstock:session:${worker.sessionId}`)).toBe(0);
    });

    test('a commit after the lease ran out is refused', async () => {
      const engine = await openFor(server.url(), { leaseMs: 60_000 });
      await server.admin.hset(`penstock:session:${engine.sessionId}`, 'x', '1000');
      await expect(engine.commit(put('a'))).rejects.toMatchObject({ code: 'fenced' });
    });

    test('an engine that cannot reach Redis for its lease is lost', async () => {
      const own = await ownRedis();
      const engine = await openFor(own.url(), { leaseMs: 300 });
      await own.kill();
      await until(() => engine.lost.aborted);
      expect(engine.lost.reason).toMatchObject({ code: 'fenced' });
    });
  });

  describe('durability', () => {
    test('wait: flush waits for the replica, and says so when there is none', async () => {
      const master = await ownRedis();
      const replica = await ownRedis();
      await replica.follow(master);
      const engine = await openFor(master.url(0, '?durability=wait&replicas=1&deadline=2s'), { leaseMs: 60_000 });
      for (let i = 0; i < 50; i++) await apply(engine, put(`f${i}`));
      await engine.flush();
      expect(await replica.admin.hlen(key('').bucket)).toBe(50);
      await replica.admin.call('REPLICAOF', 'NO', 'ONE');
      await until(async () => (await master.admin.info('replication')).includes('connected_slaves:0'));
      await expect(engine.flush()).rejects.toMatchObject({ code: 'unavailable' });
    });

    test('a flush that reaches another epoch says nothing of the commits before it', async () => {
      const own = await ownRedis();
      const engine = await openFor(own.url(0, '?durability=wait&replicas=0'), { leaseMs: 60_000 });
      await apply(engine, put('a'));
      await engine.flush();
      await own.kill();
      await own.start();
      await expect(engine.flush()).rejects.toMatchObject({ code: 'fenced' });
    });

    test('waitaof is refused by name where Redis is older than 7.2 or keeps no append-only file', async () => {
      await expect(openMeta(server.url(0, '?durability=waitaof'), { kind: 'test' })).rejects.toMatchObject({
        code: 'unsupported',
        message: expect.stringMatching(/7\.2 or newer|appendonly yes/) as string,
      });
    });
  });

  describe('what is refused at open', () => {
    async function refusal(url: string): Promise<unknown> {
      return openMeta(url, { kind: 'test' }).then(
        (engine: MetaEngine) => engine.close(),
        (error: unknown) => error,
      );
    }

    test('a policy that evicts records', async () => {
      const own = await ownRedis('--maxmemory-policy', 'allkeys-lru');
      expect(await refusal(own.url())).toMatchObject({
        code: 'unsupported',
        message: expect.stringContaining('allkeys-lru') as string,
      });
      await own.admin.config('SET', 'maxmemory-policy', 'volatile-lru');
      await openFor(own.url());
    });

    test('Redis Cluster', async () => {
      const own = await ownRedis('--cluster-enabled', 'yes');
      expect(await refusal(own.url())).toMatchObject({
        code: 'unsupported',
        message: expect.stringContaining('Cluster') as string,
      });
    });

    test('a read-only replica', async () => {
      const replica = await ownRedis();
      await replica.follow(server);
      expect(await refusal(replica.url(0, '?deadline=2s'))).toMatchObject({
        code: 'unavailable',
        message: expect.stringContaining('read-only replica') as string,
      });
    });

    test('wrong credentials, and right ones are not shown', async () => {
      const own = await ownRedis('--requirepass', 'p@ss');
      expect(await refusal(own.url(0, '?deadline=5s'))).toMatchObject({ code: 'denied' });
      const wrong = `redis://:wrong@127.0.0.1:${own.port}/0`;
      expect(await refusal(wrong)).toMatchObject({
        code: 'denied',
        message: expect.not.stringContaining('wrong@') as string,
      });
      const engine = await openFor(`redis://default:p%40ss@127.0.0.1:${own.port}/0`);
      await apply(engine, put('a'));
      expect(engine.url).toBe(own.url());
    });

    test('a server that is not there', async () => {
      const port = await freePort();
      const error = await inTurns(() => refusal(`redis://127.0.0.1:${port}/0?deadline=200ms`));
      expect(error).toMatchObject({ code: 'unavailable', message: expect.stringContaining('ECONNREFUSED') as string });
    });

    test('Sentinels that ask for a password over TLS, and one that does not answer', async () => {
      const certificates = makeCertificates(tempDir('tls'));
      const { cert, key: certificateKey } = certificates.server;
      const guarded = async (...args: string[]): Promise<number> => {
        const tlsPort = await freePort();
        const tls = ['--tls-port', String(tlsPort), '--tls-cert-file', cert, '--tls-key-file', certificateKey];
        const access = ['--tls-ca-cert-file', certificates.ca, '--tls-auth-clients', 'no', '--requirepass', 'p@ss'];
        await ownRedis(...args, ...tls, ...access);
        return tlsPort;
      };
      const config = join(tempDir('sentinel'), 'sentinel.conf');
      writeFileSync(config, `sentinel monitor lake 127.0.0.1 ${await guarded()} 1\n`);
      const sentinelPort = await guarded(config, '--sentinel');
      const silent = await ownRedis();
      process.kill(silent.pid, 'SIGSTOP');
      const url = `redis+sentinel://:p%40ss@127.0.0.1:${silent.port},127.0.0.1:${sentinelPort}/0?master=lake&deadline=4s&tls=true&sentinelTls=true&ca=${certificates.ca}`;
      const engine = await openFor(`${url}&sentinelAuth=true`);
      await apply(engine, put('a'));
      expect(engine.url).not.toContain('p%40ss');
      expect(await refusal(url)).toMatchObject({
        code: 'unavailable',
        message: expect.stringContaining('NOAUTH') as string,
      });
    });

    test('a Sentinel that is down is listened to without a word on the console', async () => {
      const printed = vi.spyOn(console, 'error');
      onTestFinished(() => printed.mockRestore());
      const config = join(tempDir('sentinel'), 'sentinel.conf');
      writeFileSync(config, `sentinel monitor lake 127.0.0.1 ${server.port} 1\n`);
      const sentinel = await ownRedis(config, '--sentinel');
      let asked = 0;
      const down = createServer((socket) => {
        asked++;
        socket.resetAndDestroy();
      }).listen(0, '127.0.0.1');
      await once(down, 'listening');
      onTestFinished(() => void down.close());
      const { port } = down.address() as AddressInfo; // of a TCP server
      const engine = await openFor(`redis+sentinel://127.0.0.1:${port},127.0.0.1:${sentinel.port}/0?master=lake`);
      // For the master, then for failovers. The reset comes before the answer to what is sent after it.
      await until(() => asked === 2);
      await apply(engine, put('a'));
      expect(printed).not.toHaveBeenCalled();
    });

    test.each([
      'redis://127.0.0.1/zero',
      'redis://127.0.0.1/0?color=blue',
      'redis://127.0.0.1/0?durability=paper',
      'redis://127.0.0.1/0?ca=/nowhere.pem',
      'redis://a:1,b:2/0',
      'redis+sentinel://a:1,b:2/0',
      'redis+sentinel://a:1,b:2/0?master=m&tls=yes',
      'redis+sentinel://a:1,b:2/0?master=m&sentinelAuth=true',
      'redis+sentinel://a:1,b:2/0?master=m&ca=/nowhere.pem',
      'redis://a:1/0?sentinelTls=true',
    ])('%s', async (url) => {
      expect(await refusal(url)).toMatchObject({ code: 'config' });
    });
  });
});
