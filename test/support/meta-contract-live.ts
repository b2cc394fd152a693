/** A part of the contract suite (meta-contract.ts): the feed, sessions, and several engines at once. */
import { expect, onTestFinished, test, vi } from 'vitest';
import { systemClock } from '../../lib/clock.ts';
import type { Minitransaction } from '../../lib/meta/engine.ts';
import { BUCKET, NUMBERS, V, apply, key, listener, openFor, put, readOne } from './meta-helpers.ts';
import { until } from './redis.ts';

export function describeFeed(freshUrl: () => Promise<string>): void {
  const [s1, s2, s3] = [`${V}s1`, `${V}s2`, `${V}\xff\x00s3`] as const;
  const say = (shard: string, text: string): Minitransaction => ({
    publish: [{ shard, message: Buffer.from(text, 'latin1') }],
  });

  test('messages come in commit order per shard, from other engines and from oneself, to subscribers of the shard only', async () => {
    const url = await freshUrl();
    const [one, two] = [await openFor(url), await openFor(url)];
    const [heard, also] = [listener(), listener()];
    await one.subscribe([s1, s3], heard.handlers);
    await one.subscribe([s2], also.handlers);
    const order: string[] = [];
    for (let i = 0; i < 60; i++) {
      const shard = i % 3 === 0 ? s2 : i % 3 === 1 ? s1 : s3;
      await apply(i % 2 === 0 ? one : two, say(shard, `m${i}\xff`));
      order.push(`${shard} m${i}\xff`);
    }
    await until(() => heard.messages.length + also.messages.length >= 60);
    expect(heard.messages.filter((text) => text.startsWith(s1))).toEqual(order.filter((text) => text.startsWith(s1)));
    expect(heard.messages.filter((text) => text.startsWith(s3))).toEqual(order.filter((text) => text.startsWith(s3)));
    expect(also.messages).toEqual(order.filter((text) => text.startsWith(s2)));
    expect([...heard.gaps, ...also.gaps]).toEqual([]);
  });

  test('concurrent commits of several engines are heard by all in one order', async () => {
    const url = await freshUrl();
    const engines = await Promise.all(Array.from({ length: 3 }, () => openFor(url)));
    const heard = engines.map(() => listener());
    for (const [i, engine] of engines.entries())
      await engine.subscribe([s1], heard[i]?.handlers ?? listener().handlers);
    const n = key('n', NUMBERS);
    await Promise.all(
      engines.map(async (engine, e) => {
        for (let i = 0; i < 40; i++) await apply(engine, { ...say(s1, `${e}-${i}`), patch: [{ number: n, add: 1n }] });
      }),
    );
    await until(() => heard.every(({ messages }) => messages.length >= 120));
    expect(heard[1]?.messages).toEqual(heard[0]?.messages);
    expect(heard[2]?.messages).toEqual(heard[0]?.messages);
    for (const e of [0, 1, 2]) {
      const own = heard[0]?.messages.filter((text) => text.startsWith(`${s1} ${e}-`));
      expect(own).toEqual(Array.from({ length: 40 }, (_, i) => `${s1} ${e}-${i}`));
    }
  });

  test('shards are added and removed; what was published before is not heard', async () => {
    const engine = await openFor(await freshUrl());
    const heard = listener();
    await apply(engine, say(s1, 'before'));
    const subscription = await engine.subscribe([s1], heard.handlers);
    await apply(engine, say(s2, 'not yet'));
    await subscription.add([s2]);
    await apply(engine, say(s2, 'added'));
    await apply(engine, say(s1, 'first'));
    await until(() => heard.messages.length >= 2);
    await subscription.remove([s1]);
    await apply(engine, say(s1, 'removed'));
    await apply(engine, say(s2, 'still'));
    await until(() => heard.messages.includes(`${s2} still`));
    await subscription.close();
    const other = listener();
    await engine.subscribe([s2], other.handlers);
    await apply(engine, say(s2, 'closed'));
    await until(() => other.messages.length > 0);
    expect([...heard.messages].sort()).toEqual([`${s1} first`, `${s2} added`, `${s2} still`]);
    expect(heard.gaps).toEqual([]);
  });
}

export function describeSessions(freshUrl: () => Promise<string>): void {
  test('a session says who it is, and ends with its engine', async () => {
    const url = await freshUrl();
    const engine = await openFor(url);
    const other = await openFor(url, { kind: 'mount', detail: { mountPoint: '/mnt/\xe4', readOnly: true, n: 3 } });
    const sessions = await engine.sessions();
    expect(sessions.map(({ id }) => id)).toEqual([engine.sessionId, other.sessionId]);
    expect(sessions[1]).toMatchObject({
      kind: 'mount',
      pid: process.pid,
      live: true,
      detail: { mountPoint: '/mnt/\xe4', readOnly: true, n: 3 },
    });
    await other.close();
    expect((await engine.sessions()).map(({ id }) => id)).toEqual([engine.sessionId]);
    const third = await openFor(url);
    expect(third.sessionId).toBeGreaterThan(other.sessionId);
  });

  test('versions of different sessions differ', async () => {
    const url = await freshUrl();
    const versions = new Set<string>();
    for (let i = 0; i < 3; i++) {
      const engine = await openFor(url);
      for (let k = 0; k < 3; k++) versions.add((await apply(engine, put('a'))).version);
      await engine.close();
    }
    expect(versions.size).toBe(9);
  });

  test('the commits of an ended session are fenced, also repeats, and its engine is lost', async () => {
    const url = await freshUrl();
    const engine = await openFor(url, { leaseMs: 60_000 });
    const admin = await openFor(url);
    const transaction = { ...put('a'), operation: 'o' };
    await apply(engine, transaction);
    await admin.endSession(engine.sessionId);
    await expect(engine.commit(put('a', 'late'))).rejects.toMatchObject({ code: 'fenced', retryable: false });
    await expect(engine.commit(transaction)).rejects.toMatchObject({ code: 'fenced' });
    expect(engine.lost.aborted).toBe(true);
    expect(engine.lost.reason).toMatchObject({ code: 'fenced' });
    expect((await readOne(admin, key('a')))?.value.toString()).toBe('a');
    await apply(admin, put('a', 'mine'));
    await admin.endSession(999_999_999); // not there: no error
  });

  test('an idle engine learns at its next renewal that its session was ended', async () => {
    const url = await freshUrl();
    const engine = await openFor(url, { leaseMs: 150 });
    const admin = await openFor(url);
    await admin.endSession(engine.sessionId);
    await until(() => engine.lost.aborted);
    await expect(engine.commit(put('a'))).rejects.toMatchObject({ code: 'fenced' });
  });

  test('a lease is renewed while the process lives', async () => {
    const url = await freshUrl();
    const admin = await openFor(url);
    // A machine that stands still for longer than a lease may lose it: its thirds pass when the test says so.
    vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] });
    onTestFinished(() => void vi.useRealTimers());
    const engine = await openFor(url, { leaseMs: 60_000 });
    const renewedAt = async (): Promise<number> =>
      (await admin.sessions()).find(({ id }) => id === engine.sessionId)?.renewedMs ?? 0;
    for (let third = 0; third < 6; third++) {
      const before = await renewedAt();
      await until(() => systemClock.nowMs() > before);
      await until(async () => {
        // Again and again: at a third in which the answer to the renewal before is still on its way, none is sent.
        vi.advanceTimersByTime(20_000);
        return (await renewedAt()) > before;
      });
    }
    expect(engine.lost.aborted).toBe(false);
    await apply(engine, put('a'));
  });

  test('ending the own session loses it at once', async () => {
    const engine = await openFor(await freshUrl());
    await engine.endSession(engine.sessionId);
    expect(engine.lost.aborted).toBe(true);
  });

  test('a closed engine refuses every call by name, and may be closed again', async () => {
    const engine = await openFor(await freshUrl());
    await apply(engine, put('a'));
    await engine.flush();
    await engine.close();
    await engine.close();
    for (const call of [
      () => engine.read([key('a')]),
      () => engine.commit(put('a')),
      () => engine.scan(BUCKET, '', 1),
      () => engine.sessions(),
      () => engine.subscribe([`${V}s`], listener().handlers),
      () => engine.flush(),
    ]) {
      await expect(call()).rejects.toMatchObject({ code: 'closed' });
    }
  });
}

export function describeConcurrency(freshUrl: () => Promise<string>): void {
  test('engines that compare and set one record lose no update', async () => {
    const url = await freshUrl();
    const engines = await Promise.all(Array.from({ length: 4 }, () => openFor(url)));
    const rounds = 25;
    await Promise.all(
      engines
        .flatMap((engine) => [engine, engine])
        .map(async (engine) => {
          for (let i = 0; i < rounds; i++) {
            let current = await readOne(engine, key('counter'));
            while (true) {
              const next = String(Number(current?.value.toString() ?? 0) + 1);
              const result = await engine.commit({
                compare: [{ key: key('counter'), version: current?.version ?? null }],
                ...put('counter', next),
              });
              if (result.ok) break;
              // The mismatch brings the fresh value: no second read.
              const mismatch = result.mismatches[0];
              current = mismatch?.kind === 'value' ? mismatch.current : null;
            }
          }
        }),
    );
    const [first] = engines;
    expect(first === undefined ? null : (await readOne(first, key('counter')))?.value.toString()).toBe(
      String(8 * rounds),
    );
  });

  test('patches never conflict', async () => {
    const url = await freshUrl();
    const engines = await Promise.all(Array.from({ length: 4 }, () => openFor(url)));
    const n = key('n', NUMBERS);
    const results = await Promise.all(
      engines.flatMap((engine) => Array.from({ length: 50 }, () => apply(engine, { patch: [{ number: n, add: 1n }] }))),
    );
    const seen = results.map(({ numbers }) => numbers[0]);
    expect(new Set(seen)).toEqual(new Set(Array.from({ length: 200 }, (_, i) => BigInt(i + 1))));
  });
}
