import { fork } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, onTestFinished, test } from 'vitest';
import { makeScratch } from '../../lib/sql/scratch.ts';
import { SqlWorker } from '../../lib/sql/sql-worker-client.ts';
import { tempDir } from '../support/temp.ts';
import { HANG_MS } from '../support/hang.ts';

async function startWorker(memoryBytes = 3e8, scratchBytes = 1e9): Promise<SqlWorker> {
  const worker = await SqlWorker.start({ memoryBytes, threads: 1, scratchDir: tempDir('spill'), scratchBytes });
  onTestFinished(() => worker.close());
  return worker;
}

const ENDLESS = 'SELECT count(*) FROM range(100000000000) a WHERE sqrt(range) = -1';

test('answers queries with exact integers, and errors by kind', async () => {
  const worker = await startWorker();
  expect(await worker.query("SELECT 9007199254740993::BIGINT AS n, 'x' AS s, NULL AS z")).toEqual([
    { n: 9007199254740993n, s: 'x', z: null },
  ]);
  await expect(worker.query('SELECT * FROM nothing')).rejects.toMatchObject({ code: 'io' });
  await expect(worker.run("SELECT * FROM read_parquet('/nowhere/x.parquet')")).rejects.toThrow(/nowhere/);
  expect(worker.cpuSeconds).toBeGreaterThan(0);
});

test('a time means the same instant whatever the time zone and the locale of the process', async () => {
  const before = { TZ: process.env['TZ'], LC_ALL: process.env['LC_ALL'] };
  onTestFinished(() => {
    for (const [name, value] of Object.entries(before)) {
      if (value === undefined) Reflect.deleteProperty(process.env, name);
      else process.env[name] = value;
    }
  });
  // The calendar of Thailand counts from 543 years earlier.
  Object.assign(process.env, { TZ: 'Asia/Kolkata', LC_ALL: 'th_TH.UTF-8' });
  const worker = await startWorker();
  const time = "TIMESTAMPTZ '2026-01-31 07:00:00'";
  expect(await worker.query(`SELECT epoch_ms(${time}) AS ms, ${time}::VARCHAR AS text, year(${time}) AS year`)).toEqual(
    [{ ms: BigInt(Date.UTC(2026, 0, 31, 7)), text: '2026-01-31 07:00:00+00', year: 2026n }],
  );
});

test('a query beyond its memory and scratch fails as full, and the next one works', async () => {
  const worker = await startWorker(60e6, 1e6);
  const sort =
    'CREATE TABLE t AS SELECT range AS n, repeat(md5(range::VARCHAR), 8) AS s FROM range(2000000) ORDER BY s';
  await expect(worker.run(sort)).rejects.toMatchObject({ code: 'full' });
  expect(await worker.query('SELECT 1 AS one')).toEqual([{ one: 1 }]);
});

test('close kills a running query at once', async () => {
  const worker = await startWorker();
  const query = worker.query(ENDLESS);
  const failed = expect(query).rejects.toMatchObject({ code: 'unavailable' });
  await worker.close();
  await failed;
  expect(isRunning(worker.pid ?? 0)).toBe(false);
});

test('a worker that dies fails what it was asked, by name', async () => {
  const worker = await startWorker();
  const query = worker.query(ENDLESS);
  process.kill(worker.pid ?? 0, 'SIGKILL');
  await expect(query).rejects.toThrow(/SQL worker ended with SIGKILL/);
  await expect(worker.query('SELECT 1')).rejects.toMatchObject({ code: 'unavailable', retryable: false });
});

test('a worker dies with its parent, and what the parent left on the scratch disk is removed by the next', async () => {
  const root = tempDir('scratch');
  const parent = fork(join(import.meta.dirname, 'worker-parent.ts'), [root], {
    stdio: ['ignore', 'ignore', 'ignore', 'ipc'],
    execArgv: [],
  });
  onTestFinished(() => void parent.kill('SIGKILL'));
  const [message] = (await once(parent, 'message', { signal: AbortSignal.timeout(HANG_MS) })) as [{ worker: number }];
  onTestFinished(() => {
    if (isRunning(message.worker)) process.kill(message.worker, 'SIGKILL');
  });
  expect(isRunning(message.worker)).toBe(true);
  const [left] = readdirSync(root);
  parent.kill('SIGKILL');
  await once(parent, 'exit');
  await eventually(() => !isRunning(message.worker));
  const scratch = await makeScratch(root, 'test');
  expect(existsSync(join(root, left ?? ''))).toBe(false);
  expect(existsSync(scratch.path)).toBe(true);
  scratch.remove();
  expect(readdirSync(root)).toEqual([]);
});

test('a scratch directory in use is left alone', async () => {
  const root = tempDir('scratch');
  const first = await makeScratch(root, 'first');
  mkdirSync(join(first.path, 'data'));
  const second = await makeScratch(root, 'second');
  expect(existsSync(join(first.path, 'data'))).toBe(true);
  first.remove();
  second.remove();
});

function isRunning(pid: number): boolean {
  try {
    // A killed child that nobody has waited for is still in the table, as a zombie.
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
}

async function eventually(condition: () => boolean): Promise<void> {
  const deadline = performance.now() + HANG_MS;
  while (!condition()) {
    if (performance.now() > deadline) throw new Error('it did not happen');
    await sleep(20);
  }
}
