import { spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync, readFileSync, renameSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { describe, expect, onTestFinished, test } from 'vitest';
import { InstantLostError } from '../../lib/meta/instant-lost.ts';
import { openMeta } from '../../lib/registry.ts';
import { HANG_MS } from '../support/hang.ts';
import { Worker, expectWhole } from '../support/meta-crash.ts';
import { NUMBERS, V, apply, key, listener, openFor, put, readNumber, readOne } from '../support/meta-helpers.ts';
import { until } from '../support/redis.ts';
import { tempDir } from '../support/temp.ts';

const SHARD = `${V}s`;

function freshPath(): string {
  return join(tempDir('meta'), 'meta.db');
}

function openRaw(path: string): DatabaseSync {
  const database = new DatabaseSync(path, { timeout: 5000 });
  onTestFinished(() => {
    if (database.isOpen) database.close();
  });
  return database;
}

test('what waits is answered between the pages of a long scan', async () => {
  const engine = await openFor(`sqlite:${freshPath()}`);
  const write = Array.from({ length: 9 }, (_, n) => ({ key: key(`field ${n}`), value: Buffer.of(n) }));
  await engine.commit({ write });
  let turns = 0;
  let isOver = false;
  const turn = (): void => {
    turns++;
    if (!isOver) setImmediate(turn);
  };
  setImmediate(turn);
  for (let cursor: string | null = ''; cursor !== null;) ({ cursor } = await engine.scan(key('').bucket, cursor, 3));
  isOver = true;
  expect(turns).toBeGreaterThanOrEqual(2);
});

test('an instant beside which the write-ahead log grows too much is lost, and the log can be cut again', async () => {
  const path = freshPath();
  const engine = await openFor(`sqlite:${path}`);
  await apply(engine, put('a', 'old'));
  const instant = await engine.instant(V);
  await apply(engine, put('a', 'new'));
  expect((await instant.read([key('a')]))[0]?.value.toString()).toBe('old');
  // As after very many commits: SQLite reads nothing behind its last frame.
  truncateSync(`${path}-wal`, 3 * 2 ** 30);
  const untilLost = async (): Promise<never> => {
    for (;;) await instant.read([key('a')]);
  };
  await expect(untilLost()).rejects.toBeInstanceOf(InstantLostError);
  await expect(instant.scan(key('a').bucket, '', 10)).rejects.toThrow('write-ahead log has grown too much');
  openRaw(path).exec('PRAGMA wal_checkpoint(TRUNCATE)');
  expect(statSync(`${path}-wal`).size).toBe(0);
  await instant.close();
  expect((await readOne(engine, key('a')))?.value.toString()).toBe('new');
});

describe('processes on one file', () => {
  test('two processes that are killed in the middle of their commits leave whole commits, and all that were acknowledged', async () => {
    const url = `sqlite:${freshPath()}`;
    const workers = [new Worker(url, 'a'), new Worker(url, 'b')];
    for (const worker of workers) await worker.hasCommitted(60);
    await Promise.all(workers.map((worker) => worker.end()));
    const engine = await openFor(url);
    await expectWhole(engine, workers);
    await apply(engine, put('goes on'));
  });

  test('the session of a killed process is dead when its lease is over, and can be ended', async () => {
    const url = `sqlite:${freshPath()}`;
    const worker = new Worker(url, 'a');
    await worker.hasCommitted(1);
    const engine = await openFor(url);
    const session = async () => (await engine.sessions()).find(({ id }) => id === worker.sessionId);
    expect(await session()).toMatchObject({ kind: 'worker', live: true });
    await worker.end();
    await until(async () => (await session())?.live === false);
    await engine.endSession(worker.sessionId);
    expect(await session()).toBeUndefined();
  });

  test('a stopped process whose lease ran out is refused when it wakes', async () => {
    const path = freshPath();
    const engine = await openFor(`sqlite:${path}`, { leaseMs: 60_000 });
    // What the passing of the lease leaves in the file, without waiting for it.
    openRaw(path)
      .prepare('UPDATE sessions SET renewed_up_ms = renewed_up_ms - 60000 WHERE id = ?')
      .run(engine.sessionId);
    await expect(engine.commit(put('a'))).rejects.toMatchObject({ code: 'fenced' });
    expect(engine.lost.aborted).toBe(true);
  });

  test('a file that others keep locked is unavailable after the deadline, and the event loop runs meanwhile', async () => {
    const path = freshPath();
    const engine = await openFor(`sqlite:${path}?deadline=300ms`, { leaseMs: 60_000 });
    await apply(engine, put('a'));
    const other = openRaw(path);
    other.exec('BEGIN IMMEDIATE');
    await expect(engine.commit(put('b'))).rejects.toMatchObject({ code: 'unavailable', retryable: true });
    expect((await readOne(engine, key('a')))?.value.toString()).toBe('a'); // readers are not blocked
    // Given back by this process, while it waits for it.
    setTimeout(() => other.exec('ROLLBACK'), 50);
    const patient = await openFor(`sqlite:${path}?deadline=${HANG_MS}ms`, { leaseMs: 60_000 });
    await apply(patient, put('b'));
    await apply(engine, put('c'));
  });
});

describe('the feed', () => {
  test('a reader that was overtaken by pruning is told of a gap and goes on', async () => {
    const path = freshPath();
    const engine = await openFor(`sqlite:${path}`);
    const heard = listener();
    await engine.subscribe([SHARD], heard.handlers);
    // Another process wrote and pruned far more than this one has read.
    const other = openRaw(path);
    other.exec(`
      BEGIN IMMEDIATE;
      INSERT INTO feed (sequence, shard, message) VALUES (500000, CAST('${SHARD}' AS BLOB), CAST('new' AS BLOB));
      COMMIT`);
    await until(() => heard.messages.length > 0);
    expect(heard).toMatchObject({ gaps: [SHARD], messages: [`${SHARD} new`] });
    await apply(engine, { publish: [{ shard: SHARD, message: Buffer.from('next') }] });
    await until(() => heard.messages.length > 1);
    expect(heard).toMatchObject({ gaps: [SHARD], messages: [`${SHARD} new`, `${SHARD} next`] });
  });

  test('old messages are pruned', async () => {
    const path = freshPath();
    const engine = await openFor(`sqlite:${path}?durability=flush`);
    const publish = Array.from({ length: 1000 }, (_, i) => ({ shard: SHARD, message: Buffer.from(String(i)) }));
    for (let i = 0; i < 34; i++) await apply(engine, { publish });
    const { count } = openRaw(path).prepare('SELECT count(*) AS count FROM feed').get() ?? {};
    expect(Number(count)).toBeLessThan(2 * 16_384);
    expect(Number(count)).toBeGreaterThanOrEqual(16_384);
  });

  test('results of repeated operations are bounded in the file', async () => {
    const path = freshPath();
    const engine = await openFor(`sqlite:${path}?durability=flush`);
    const n = { number: key('n', NUMBERS), add: 1n };
    for (let i = 0; i < 6000; i += 1000) {
      await Promise.all(Array.from({ length: 1000 }, (_, k) => apply(engine, { patch: [n], operation: `${i + k}` })));
    }
    const { count } = openRaw(path).prepare('SELECT count(*) AS count FROM operations').get() ?? {};
    expect(Number(count)).toBeLessThan(4096 + 512);
    expect(await apply(engine, { patch: [n], operation: '0' })).toMatchObject({ repeated: false });
    expect(await readNumber(engine, n.number)).toBe(6001n);
  });
});

describe('the file', () => {
  test('an engine whose file was replaced by another is fenced', async () => {
    const path = freshPath();
    const engine = await openFor(`sqlite:${path}`, { leaseMs: 60_000 });
    await apply(engine, put('a'));
    renameSync(path, `${path}.old`);
    writeFileSync(path, '');
    await expect(engine.commit(put('b'))).rejects.toMatchObject({ code: 'fenced' });
    expect(engine.lost.aborted).toBe(true);
  });

  test('a restored copy has another epoch: no sessions, and new ids', async () => {
    const path = freshPath();
    const first = await openFor(`sqlite:${path}`);
    await apply(first, { ...put('a'), operation: 'o' });
    // A crashed process leaves its session in the file.
    openRaw(path).exec('PRAGMA wal_checkpoint(TRUNCATE)');
    copyFileSync(path, `${path}.backup`);
    const restored = await openFor(`sqlite:${path}.backup`);
    expect((await restored.sessions()).map(({ id }) => id)).toEqual([restored.sessionId]);
    expect(restored.sessionId).toBeGreaterThan(first.sessionId);
    expect((await readOne(restored, key('a')))?.value.toString()).toBe('a');
    await apply(first, put('b'));
  });

  test('an epoch that was changed in the file fences', async () => {
    const path = freshPath();
    const engine = await openFor(`sqlite:${path}`, { leaseMs: 60_000 });
    openRaw(path).exec("UPDATE engine SET epoch = 'another'");
    await expect(engine.commit(put('b'))).rejects.toMatchObject({ code: 'fenced' });
  });

  test('a file of something else is refused by name', async () => {
    const path = freshPath();
    writeFileSync(path, 'This is a letter, not a database. '.repeat(100));
    await expect(openMeta(`sqlite:${path}`, { kind: 'test' })).rejects.toMatchObject({
      code: 'corrupt',
      message: expect.stringContaining(path) as string,
    });
    expect(readFileSync(path, 'utf8')).toContain('a letter');
  });

  test("another program's SQLite database is refused and left as it is", async () => {
    const path = freshPath();
    const foreign = openRaw(path);
    foreign.exec('CREATE TABLE theirs (x)');
    foreign.close();
    await expect(openMeta(`sqlite:${path}`, { kind: 'test' })).rejects.toMatchObject({ code: 'corrupt' });
    const tables = openRaw(path).prepare('SELECT name FROM sqlite_schema').all();
    expect(tables.map(({ name }) => name)).toEqual(['theirs']);
  });

  test('a file of a newer version is refused by name', async () => {
    const path = freshPath();
    await (await openFor(`sqlite:${path}`)).close();
    openRaw(path).exec('PRAGMA user_version = 99');
    await expect(openMeta(`sqlite:${path}`, { kind: 'test' })).rejects.toMatchObject({ code: 'unsupported' });
  });

  test('a truncated file is corrupt, by name', async () => {
    const path = freshPath();
    const engine = await openFor(`sqlite:${path}`);
    for (let i = 0; i < 50; i++) await apply(engine, put(`f${i}`, Buffer.alloc(4000, i)));
    await engine.close();
    truncateSync(path, Math.floor(statSync(path).size / 2));
    const opening = (async () => {
      const damaged = await openFor(`sqlite:${path}`);
      for (let i = 0; i < 50; i++) await readOne(damaged, key(`f${i}`));
    })();
    await expect(opening).rejects.toMatchObject({ code: 'corrupt', message: expect.stringContaining(path) as string });
  });

  test('a missing folder is made; a folder in place of the file is refused', async () => {
    const dir = tempDir('meta');
    await openFor(`sqlite:${dir}/some/where/meta.db`);
    mkdirSync(join(dir, 'folder'));
    await expect(openMeta(`sqlite:${dir}/folder`, { kind: 'test' })).rejects.toMatchObject({
      message: expect.stringContaining(join(dir, 'folder')) as string,
    });
  });

  test('processes that create the file at once make it once', async () => {
    const url = `sqlite:${freshPath()}`;
    const workers = ['a', 'b', 'c'].map((name) => new Worker(url, name));
    for (const worker of workers) await worker.hasCommitted(5);
    expect(new Set(workers.map(({ sessionId }) => sessionId)).size).toBe(3);
  });

  test.each(['?durability=sometimes', '?color=blue', '?deadline=soon'])('%s is refused', async (query) => {
    await expect(openMeta(`sqlite:${freshPath()}${query}`, { kind: 'test' })).rejects.toMatchObject({ code: 'config' });
  });

  test('with durability=flush, what was flushed is in the files', async () => {
    const path = freshPath();
    const engine = await openFor(`sqlite:${path}?durability=flush`);
    await apply(engine, put('a'));
    await engine.flush();
    await engine.flush();
    const copy = freshPath();
    for (const suffix of ['', '-wal']) copyFileSync(path + suffix, copy + suffix);
    expect((await readOne(await openFor(`sqlite:${copy}`), key('a')))?.value.toString()).toBe('a');
    await apply(engine, put('b'));
  });
});

test.skipIf(process.getuid?.() !== 0)('a full disk is called that when the file is opened', async ({ skip }) => {
  const folder = tempDir('full');
  const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', folder], { stdio: 'ignore' });
  if (mounted.status !== 0) skip('no right to mount a tmpfs');
  onTestFinished(() => void spawnSync('umount', ['-l', folder], { stdio: 'ignore' }));
  const path = join(folder, 'meta.db');
  await (await openMeta(`sqlite:${path}`, { kind: 'test' })).close();
  expect(() => writeFileSync(join(folder, 'rest'), Buffer.alloc(2_000_000))).toThrow('ENOSPC');
  await expect(openMeta(`sqlite:${path}`, { kind: 'test' })).rejects.toMatchObject({
    code: 'full',
    message: `${path} cannot be used: no space left on its disk`,
  });
});

test.skipIf(process.getuid?.() !== 0)('a read-only folder is called that', async ({ skip }) => {
  const folder = tempDir('ro');
  const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'ro', 'tmpfs', folder], { stdio: 'ignore' });
  if (mounted.status !== 0) skip('no right to mount a tmpfs');
  onTestFinished(() => void spawnSync('umount', ['-l', folder], { stdio: 'ignore' }));
  await expect(openMeta(`sqlite:${join(folder, 'meta.db')}`, { kind: 'test' })).rejects.toMatchObject({
    code: 'denied',
    message: expect.stringMatching(/may not be written by this process, or is read-only$/) as string,
  });
});
