/**
 * Landers as processes that share the partitions of a dataset, and what is true of them whatever is killed, paused, started or ended: each
 * known record lands once, in the order of its partition.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { setTimeout as delay } from 'node:timers/promises';
import { expect, onTestFinished } from 'vitest';
import { landersBucket, parseLander } from '../../lib/lake/landers.ts';
import { readOffsets } from '../../lib/lake/offsets.ts';
import { loadTable } from '../../lib/table/table.ts';
import { until } from '../support/mount-guard.ts';
import { checkSnapshot, countRepeats, knownRecord } from './known-records.ts';
import { compactAll, DATASET, expectAccounts, landOnce, TestProducer, type TestPipeline } from './pipeline.ts';
import { HANG_MS } from '../support/hang.ts';

export const LEASE_MS = 1000;
const BURST = 50;

/** The same acts each time, as far as a machine repeats itself. */
let seed = 20260131;
const random = (below: number): number => Math.floor(((seed = (seed * 48271) % 2147483647) / 2147483647) * below);

function isLocked(engineFile: string): boolean {
  if (!existsSync(engineFile)) return false;
  const database = new DatabaseSync(engineFile, { timeout: 500 });
  try {
    database.exec('BEGIN IMMEDIATE; ROLLBACK');
    return false;
  } catch {
    return true;
  } finally {
    database.close();
  }
}

class Lander {
  readonly child: ChildProcess;
  readonly #engineFile: string;
  paused = false;

  constructor(pipeline: TestPipeline) {
    this.#engineFile = join(pipeline.dir, 'meta.db');
    this.child = fork(join(import.meta.dirname, 'sharing-child.ts'), [pipeline.dir, String(LEASE_MS)], {
      stdio: ['ignore', 'ignore', 'ignore', 'ipc'],
      execArgv: [],
    });
    onTestFinished(() => void this.child.kill('SIGKILL'));
  }

  /** From here on it ends by SIGTERM as it should. */
  async started(): Promise<this> {
    await once(this.child, 'message', { signal: AbortSignal.timeout(HANG_MS) });
    return this;
  }

  get pid(): number {
    return this.child.pid ?? 0;
  }

  /** SIGSTOP, at another moment where it would keep the lock of an SQLite file. */
  async pause(): Promise<void> {
    this.paused = true;
    for (this.child.kill('SIGSTOP'); isLocked(this.#engineFile); this.child.kill('SIGSTOP')) {
      this.child.kill('SIGCONT');
      await delay(10);
    }
  }

  wake(): void {
    this.paused = false;
    this.child.kill('SIGCONT');
  }

  async kill(): Promise<void> {
    const exit = once(this.child, 'exit', { signal: AbortSignal.timeout(HANG_MS) });
    this.child.kill('SIGKILL');
    await exit;
  }

  /** SIGTERM: it commits, gives its share up and has no problem to tell. */
  async end(): Promise<void> {
    const exit = once(this.child, 'exit', { signal: AbortSignal.timeout(HANG_MS) });
    const words = once(this.child, 'message', { signal: AbortSignal.timeout(HANG_MS) });
    this.child.kill('SIGTERM');
    expect(await words).toEqual([[], undefined]);
    expect(await exit).toEqual([0, null]);
  }
}

export class SharedLanding {
  readonly #pipeline: TestPipeline;
  readonly #producer: TestProducer;
  readonly #partitions: number;
  landers: Lander[] = [];
  /** Records in each partition. */
  produced = 0;

  constructor(pipeline: TestPipeline, partitions: number) {
    this.#pipeline = pipeline;
    this.#producer = new TestProducer(pipeline.log);
    this.#partitions = partitions;
  }

  async start(): Promise<Lander> {
    const lander = await new Lander(this.#pipeline).started();
    this.landers.push(lander);
    return lander;
  }

  remove(lander: Lander): void {
    this.landers = this.landers.filter((one) => one !== lander);
  }

  async produce(): Promise<void> {
    for (let partition = 0; partition < this.#partitions; partition++) {
      const records = Array.from({ length: BURST }, (_, n) => knownRecord(partition, this.produced + n));
      await this.#producer.append(partition, records);
    }
    this.produced += BURST;
  }

  /** How many partitions the process of each lander has, by process id. */
  async shares(): Promise<ReadonlyMap<number, number>> {
    const { engine, volume } = this.#pipeline.lake;
    const partitions = Array.from({ length: this.#partitions }, (_, partition) => partition);
    const offsets = await readOffsets(engine, volume, DATASET, partitions);
    const { entries } = await engine.scan(landersBucket(volume), '', 1000);
    const pids = new Map(entries.map(([id, { value }]) => [id, parseLander(value)?.pid]));
    const shares = new Map<number, number>();
    for (const { landed } of offsets) {
      const pid = pids.get(landed?.lander ?? '') ?? 0;
      shares.set(pid, (shares.get(pid) ?? 0) + 1);
    }
    return shares;
  }

  /** Until those that are not paused have equal shares, and nobody else has any. */
  async evenly(): Promise<void> {
    const awake = this.landers.filter(({ paused }) => !paused).map(({ pid }) => pid);
    const each = this.#partitions / awake.length;
    await until(`${each} partitions for each of ${awake.join(', ')}`, async () => {
      const shares = await this.shares();
      return awake.every((pid) => shares.get(pid) === each);
    });
  }

  /** Until everything that was produced has landed. */
  async landed(): Promise<void> {
    const { engine, volume } = this.#pipeline.lake;
    const partitions = Array.from({ length: this.#partitions }, (_, partition) => partition);
    await until(`${this.produced} records of each partition`, async () => {
      const offsets = await readOffsets(engine, volume, DATASET, partitions);
      return offsets.every(({ landed }) => landed?.next === this.produced);
    });
    await checkSnapshot(this.#pipeline);
  }

  /** Kills, pauses, wakes, ends or starts one of them while records keep coming; three at most live. */
  async anything(): Promise<void> {
    const lander = this.landers[random(this.landers.length)];
    const act = random(5);
    if (lander === undefined || act === 0) {
      if (this.landers.length < 3) await this.start();
    } else if (act === 1) {
      this.remove(lander);
      await lander.kill();
    } else if (act === 2 && !lander.paused) {
      this.remove(lander);
      await lander.end();
    } else if (lander.paused) lander.wake();
    else await lander.pause();
    await this.produce();
    // Sometimes longer than the lease: how long a pause lasts, not a wait for something.
    await delay(random(LEASE_MS));
    await checkSnapshot(this.#pipeline);
  }

  /** Every range of offsets that a commit landed begins where the one before ended, in each partition. */
  async expectOrder(): Promise<void> {
    const table = await loadTable(this.#pipeline.lake, DATASET);
    const next = new Map<number, number>();
    for (const { summary } of table?.metadata.snapshots ?? []) {
      for (const range of (summary['penstock.offsets'] ?? '').split(',').filter((text) => text !== '')) {
        const [partition = NaN, first = NaN, last = NaN] = range.split(/[:-]/).map(Number);
        expect([partition, first]).toEqual([partition, next.get(partition) ?? 0]);
        next.set(partition, last + 1);
      }
    }
    expect([...next.values()]).toEqual(new Array(this.#partitions).fill(this.produced));
  }
}

/** `pipeline.yaml` is in the directory of the pipeline; its topic has 6 partitions. */
export async function expectSharedLanding(pipeline: TestPipeline, acts: number): Promise<void> {
  const landing = new SharedLanding(pipeline, 6);
  const [first, second, third] = await Promise.all([landing.start(), landing.start(), landing.start()]);
  await landing.evenly();
  await landing.produce();
  await landing.landed();

  await second.pause();
  await landing.produce();
  await landing.evenly();
  await landing.landed();
  second.wake();
  await landing.produce();
  await landing.evenly();
  await landing.landed();

  landing.remove(first);
  await first.kill();
  await landing.produce();
  await landing.evenly();
  landing.remove(third);
  await third.end();
  await landing.evenly();
  await landing.landed();

  for (let act = 0; act < acts; act++) await landing.anything();
  for (const lander of landing.landers) lander.wake();
  while (landing.landers.length < 2) await landing.start();
  // Beside others: what they have is theirs to land, and waited for.
  await landing.produce();
  expect((await landOnce(pipeline, { leaseMs: LEASE_MS })).problems).toEqual([]);
  await landing.landed();
  await Promise.all(landing.landers.map((lander) => lander.end()));
  await landing.expectOrder();

  expect((await compactAll(pipeline)).problems).toEqual([]);
  const { produced } = landing;
  const bad = Math.floor(produced / 50);
  const repeats = countRepeats(produced);
  await expectAccounts(pipeline.lake, {
    landed: 6 * produced,
    quarantined: 6 * bad,
    duplicates: 6 * repeats,
    liveRows: 6 * (produced - bad - repeats),
    smallFiles: 0,
  });
}
