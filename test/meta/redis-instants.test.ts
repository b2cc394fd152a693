/** What ends an instant on Redis, and what is left of one. */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { MetaEngine } from '../../lib/meta/engine.ts';
import { InstantLostError } from '../../lib/meta/instant-lost.ts';
import { BUCKET, V, apply, key, openFor, put, readOne } from '../support/meta-helpers.ts';
import { startRedis } from '../support/redis.ts';
import type { RedisServer } from '../support/redis.ts';
import { missing } from '../support/services.ts';

const INSTANTS = `penstock:instants:${V}`;
const MIB = 1 << 20;

describe.skipIf(missing('redis-server'))('with a redis-server', () => {
  let server: RedisServer;
  beforeAll(async () => {
    server = await startRedis();
  });
  afterAll(() => server.stop());
  beforeEach(async () => {
    await server.admin.flushall();
  });

  async function keptKeys(): Promise<number> {
    return (await server.admin.keys('penstock:before:*')).length;
  }

  test('a closed instant leaves nothing, and commits keep nothing any more', async () => {
    const engine = await openFor(server.url());
    await apply(engine, put('a', 'old'));
    const instant = await engine.instant(V);
    await apply(engine, put('a', 'new'));
    expect(await keptKeys()).toBe(2);
    await instant.close();
    await apply(engine, put('a', 'newer'));
    expect(await server.admin.keys('penstock:*before*')).toEqual([]);
    expect(await server.admin.exists(INSTANTS)).toBe(0);
  });

  test('an instant whose process was killed ends with its lease, and the next one clears what was kept for it', async () => {
    const [killed, engine] = [await openFor(server.url(), { leaseMs: 600_000 }), await openFor(server.url())];
    await apply(engine, put('a', 'old'));
    const instant = await killed.instant(V);
    await apply(engine, put('a', 'new'));
    // As when nobody has renewed it.
    const [id = ''] = (await server.admin.hkeys(INSTANTS)).filter((name) => !name.endsWith('b'));
    await server.admin.hset(INSTANTS, id, '1');
    expect((await instant.read([key('a')]))[0]?.value.toString()).toBe('old');
    await apply(engine, put('b'));
    expect(await server.admin.hget(INSTANTS, id)).toBe('0');
    await expect(instant.read([key('a')])).rejects.toBeInstanceOf(InstantLostError);
    await expect(instant.scan(key('a').bucket, '', 10)).rejects.toBeInstanceOf(InstantLostError);
    await expect(instant.numbers(`${V}n`)).rejects.toBeInstanceOf(InstantLostError);
    const next = await engine.instant(V);
    expect(await keptKeys()).toBe(0);
    expect(await server.admin.hkeys(INSTANTS)).toHaveLength(1);
    expect((await next.read([key('a')]))[0]?.value.toString()).toBe('new');
  });

  test('what is kept for one instant is bounded: the instant is lost, the commits go on', async () => {
    const engine = await openFor(server.url());
    for (let n = 0; n < 70; n++) await apply(engine, put(`f${n}`, Buffer.alloc(MIB)));
    const instant = await engine.instant(V);
    for (let n = 0; n < 60; n++) await apply(engine, put(`f${n}`, 'small'));
    expect((await instant.read([key('f3')]))[0]?.value).toHaveLength(MIB);
    for (let n = 60; n < 70; n++) await apply(engine, put(`f${n}`, 'small'));
    await expect(instant.read([key('f3')])).rejects.toBeInstanceOf(InstantLostError);
    await instant.close();
    expect(await keptKeys()).toBe(0);
  });

  describe('where Redis is full', () => {
    afterEach(() => server.admin.config('SET', 'maxmemory', '0'));

    async function fill(records: number): Promise<MetaEngine> {
      // Longer than a busy machine keeps a process from renewing it.
      const engine = await openFor(server.url(), { leaseMs: 600_000 });
      for (let n = 0; n < records; n++) await apply(engine, put(`f${n}`, Buffer.alloc(MIB)));
      return engine;
    }

    async function full(): Promise<void> {
      await server.admin.config('SET', 'maxmemory', '1mb');
    }

    async function usedBytes(): Promise<number> {
      return Number(/used_memory:(\d+)/.exec(await server.admin.info('memory'))?.[1]);
    }

    test('an instant is opened, read beside commits that change little, and closed', async () => {
      const engine = await fill(4);
      await apply(engine, put('small', 'old'));
      await full();
      const instant = await engine.instant(V);
      await apply(engine, put('small', null));
      await expect(engine.commit(put('more'))).rejects.toMatchObject({ code: 'full' });
      expect((await instant.read([key('small')]))[0]?.value.toString()).toBe('old');
      await instant.close();
      expect(await keptKeys()).toBe(0);
    });

    test('commits that free memory do free it while an instant stands: it is lost instead', async () => {
      const engine = await fill(20);
      const instant = await engine.instant(V);
      await full();
      const before = await usedBytes();
      for (let n = 0; n < 20; n++) await apply(engine, put(`f${n}`, null));
      // What one commit deleted may still be kept: the next one would end that.
      expect(await usedBytes()).toBeLessThan(before - 15 * MIB);
      await expect(instant.read([key('f3')])).rejects.toBeInstanceOf(InstantLostError);
      await instant.close();
      expect(await keptKeys()).toBe(0);
    });

    test('a commit that grows is not refused for what is kept for an instant: it is lost instead', async () => {
      const engine = await fill(20);
      const instant = await engine.instant(V);
      for (let n = 0; n < 20; n++) await apply(engine, put(`f${n}`, 'small'));
      // The records are small now, and what was kept for the instant is all.
      await server.admin.config('SET', 'maxmemory', '15mb');
      await apply(engine, put('more', Buffer.alloc(1000)));
      await expect(instant.read([key('f3')])).rejects.toBeInstanceOf(InstantLostError);
    });

    test('a lock and a commit that only compares are not refused', async () => {
      const engine = await fill(2);
      await full();
      await apply(engine, { ...put('lock', 'mine'), whenFull: true });
      const held = await readOne(engine, key('lock'));
      await apply(engine, { compare: [{ key: key('lock'), version: held?.version ?? null }] });
    });
  });

  test('what was kept for an instant whose process was killed is cleared without another instant, and without a commit', async () => {
    const [killed, engine] = [await openFor(server.url(), { leaseMs: 600_000 }), await openFor(server.url())];
    await apply(engine, put('a', 'old'));
    await killed.instant(V);
    await apply(engine, put('a', 'new'));
    await engine.clearInstants(V);
    expect(await keptKeys()).toBe(2);
    // As when nobody has renewed it.
    const [id = ''] = (await server.admin.hkeys(INSTANTS)).filter((name) => !name.endsWith('b'));
    await server.admin.hset(INSTANTS, id, '1');
    await engine.clearInstants(V);
    expect(await keptKeys()).toBe(0);
    expect(await server.admin.exists(INSTANTS)).toBe(0);
  });

  test('a session of an older Penstock, whose commits keep nothing, is refused by its number until it is over', async () => {
    const [old, engine] = [await openFor(server.url()), await openFor(server.url())];
    const record = String(await server.admin.hget('penstock:sessions', String(old.sessionId)));
    await server.admin.hset('penstock:sessions', String(old.sessionId), record.replace(',"instants":true', ''));
    await expect(engine.instant(V)).rejects.toMatchObject({ code: 'unsupported' });
    await expect(engine.instant(V)).rejects.toThrow(`session ${old.sessionId} is of an older Penstock`);
    await old.close();
    await (await engine.instant(V)).close();
  });

  test.each(['lives', 'has ended', 'has ended, and others were opened'])(
    'a session of an older Penstock that is opened while an instant stands ends it: its commits would be mixed in (%s)',
    async (state) => {
      const engine = await openFor(server.url());
      await apply(engine, put('a', 'old'));
      const instant = await engine.instant(V);
      await (await openFor(server.url())).close();
      expect((await instant.read([key('a')]))[0]?.value.toString()).toBe('old');
      // What the opening of a former version does, a commit that keeps nothing, and its end.
      const id = await server.admin.incr('penstock:last-session');
      await server.admin.hset('penstock:sessions', String(id), '{"kind":"mount"}');
      await server.admin.hset(`penstock:session:${id}`, 'x', '9999999999999');
      await server.admin.hset(BUCKET, 'a', '0123456789mixed in');
      if (state !== 'lives') {
        await server.admin.hdel('penstock:sessions', String(id));
        await server.admin.del(`penstock:session:${id}`);
      }
      if (state.endsWith('opened')) await openFor(server.url());
      await expect(instant.read([key('a')])).rejects.toThrow('a session of an older Penstock was opened');
      await expect(instant.scan(BUCKET, '', 10)).rejects.toBeInstanceOf(InstantLostError);
      if (state === 'lives') return;
      const next = await engine.instant(V);
      expect((await next.read([key('a')]))[0]?.value.toString()).toBe('mixed in');
    },
  );
});
