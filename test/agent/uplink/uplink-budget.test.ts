import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { expect, onTestFinished, test, vi } from 'vitest';
import { UplinkBudget, type BudgetOptions } from '../../../agent/uplink/uplink-budget.ts';
import { HANG_MS } from '../../support/hang.ts';
import { tempDir } from '../../support/temp.ts';

const HOUR_MS = 3_600_000;
const LIVE = { isReplay: false, priority: 4 };
const REPLAY = { isReplay: true, priority: 4 };

class TestClock {
  wallMs = 1_800_000_000_000;
  elapsedMs = 0;

  nowMs(): number {
    return this.wallMs;
  }

  monotonicMs(): number {
    return this.elapsedMs;
  }

  pass(ms: number): void {
    this.wallMs += ms;
    this.elapsedMs += ms;
  }
}

class TestBoot {
  id = Buffer.from('first');
  readonly #clock: TestClock;
  #bootedMs = 0;

  constructor(clock: TestClock) {
    this.#clock = clock;
  }

  uptimeMs(): number {
    return this.#clock.elapsedMs - this.#bootedMs;
  }

  reboot(): void {
    this.id = Buffer.from('second');
    this.#bootedMs = this.#clock.elapsedMs;
  }
}

class Bench {
  readonly clock = new TestClock();
  readonly boot = new TestBoot(this.clock);
  readonly path = join(tempDir(), 'budget.json');
  budget!: UplinkBudget; // set by `open`, which every test begins with

  constructor() {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    onTestFinished(() => void vi.useRealTimers());
  }

  async open(options: Partial<BudgetOptions>): Promise<void> {
    const { clock, boot, path } = this;
    this.budget = await UplinkBudget.open({ bytesPerSecond: 0, bytesPerDay: 0, path, clock, boot, ...options });
  }

  /** Whether so much may be sent now. A claim that has to wait is taken back. */
  async may(bytes: number, claim = LIVE): Promise<boolean> {
    const stop = new AbortController();
    const before = this.budget.status().usedToday;
    const claimed = this.budget.take(bytes, claim, stop.signal);
    // However long the disk takes: it is granted, or a timer is set.
    while (this.budget.status().waiting > 0 && vi.getTimerCount() === 0) await setImmediate();
    stop.abort();
    await claimed;
    return this.budget.status().usedToday > before;
  }
}

test('the second: a batch may overdraw it, and the next one waits until it is made up for', async () => {
  const bench = new Bench();
  await bench.open({ bytesPerSecond: 1000 });
  expect(await bench.may(5000)).toBe(true);
  bench.clock.pass(3900);
  expect(await bench.may(1)).toBe(false);
  bench.clock.pass(200);
  expect(await bench.may(1)).toBe(true);
  // Idle time is not saved up for longer than a second.
  bench.clock.pass(HOUR_MS);
  expect(await bench.may(1001)).toBe(true);
  expect(await bench.may(1)).toBe(false);
});

test('the present goes before a backlog that waits longer, and the higher priority before the lower', async () => {
  const bench = new Bench();
  await bench.open({ bytesPerSecond: 1_000_000 });
  const { signal } = new AbortController();
  const order: string[] = [];
  const claim = (name: string, isReplay: boolean, priority: number): Promise<void> =>
    bench.budget.take(100, { isReplay, priority }, signal).then(() => void order.push(name));
  await bench.may(1_000_001);
  const all = [
    claim('old', true, 4),
    claim('old alarm', true, 9),
    claim('new', false, 4),
    claim('new alarm', false, 9),
  ];
  bench.clock.pass(1000);
  await vi.advanceTimersByTimeAsync(2000);
  await Promise.all(all);
  expect(order).toEqual(['new alarm', 'new', 'old alarm', 'old']);
});

test('the day: its budget is spent once, over restarts and clock jumps, and comes again after 24 hours', async () => {
  const bench = new Bench();
  const options = { bytesPerDay: 100_000 };
  await bench.open(options);
  expect(await bench.may(60_000)).toBe(true);
  // As after a kill: what the file grants counts as used, at most a thousandth more than what was.
  await bench.open(options);
  expect(bench.budget.status().usedToday).toBe(60_100);
  expect(await bench.may(39_000)).toBe(true);
  expect(await bench.may(1000)).toBe(false);
  bench.clock.pass(20 * HOUR_MS);
  expect(await bench.may(1000)).toBe(false);
  // Set back by years: the window goes on, and is not years long.
  bench.clock.wallMs -= 3 * 365 * 24 * HOUR_MS;
  await bench.open(options);
  expect(await bench.may(1000)).toBe(false);
  bench.clock.pass(4 * HOUR_MS);
  expect(await bench.may(90_000)).toBe(true);
  // Set ahead by years while it runs: no new day.
  bench.clock.wallMs += 3 * 365 * 24 * HOUR_MS;
  expect(await bench.may(90_000)).toBe(false);
  expect(bench.budget.status().dayEndsInMs).toBe(24 * HOUR_MS);
  bench.clock.pass(24 * HOUR_MS + 1);
  expect(await bench.may(90_000)).toBe(true);
});

test('a backlog leaves the present its share of the day', async () => {
  const bench = new Bench();
  await bench.open({ bytesPerDay: 240_000 });
  expect(await bench.may(20_000, REPLAY)).toBe(true);
  expect(await bench.may(1000, REPLAY)).toBe(false);
  expect(await bench.may(100_000)).toBe(true);
  bench.clock.pass(10 * HOUR_MS);
  expect(await bench.may(1000, REPLAY)).toBe(false);
  bench.clock.pass(2 * HOUR_MS);
  expect(await bench.may(1000, REPLAY)).toBe(true);
});

test('a damaged file is nothing used; a batch larger than a day takes a whole one', async () => {
  const bench = new Bench();
  writeFileSync(bench.path, '{"startedMs":');
  await bench.open({ bytesPerDay: 1000 });
  expect(await bench.may(5000)).toBe(true);
  expect(JSON.parse(readFileSync(bench.path, 'utf8'))).toMatchObject({ startedMs: bench.clock.wallMs });
  expect(await bench.may(1)).toBe(false);
  bench.clock.pass(24 * HOUR_MS);
  expect(await bench.may(5000)).toBe(true);
});

test('a day that was spent at a clock of 1970 is not granted again after NTP set the clock and the agent was restarted', async () => {
  const bench = new Bench();
  const options = { bytesPerDay: 100_000 };
  bench.clock.wallMs = 5000;
  await bench.open(options);
  expect(await bench.may(99_000)).toBe(true);
  bench.clock.wallMs = 1_800_000_000_000;
  await bench.open(options);
  expect(await bench.may(2000)).toBe(false);
  // The clock was right when the batch that waits was looked at: another boot knows the window too.
  bench.boot.reboot();
  await bench.open(options);
  expect(await bench.may(2000)).toBe(false);
  bench.clock.pass(24 * HOUR_MS);
  expect(await bench.may(2000)).toBe(true);
});

test('a machine that was off for a day has a new budget, also by the file of an earlier version', async () => {
  const bench = new Bench();
  const options = { bytesPerDay: 100_000 };
  writeFileSync(bench.path, JSON.stringify({ startedMs: bench.clock.wallMs - HOUR_MS, used: 99_000 }));
  await bench.open(options);
  expect(await bench.may(2000)).toBe(false);
  expect(bench.budget.status().dayEndsInMs).toBe(23 * HOUR_MS);
  bench.clock.pass(23 * HOUR_MS);
  expect(await bench.may(99_000)).toBe(true);
  bench.clock.wallMs += 30 * HOUR_MS;
  bench.boot.reboot();
  await bench.open(options);
  expect(await bench.may(99_000)).toBe(true);
});

test('a batch that waits for the next day does not miss that the clock was set meanwhile', async () => {
  const bench = new Bench();
  const options = { bytesPerDay: 100_000 };
  bench.clock.wallMs = 5000;
  await bench.open(options);
  expect(await bench.may(99_000)).toBe(true);
  const stop = new AbortController();
  const waiting = bench.budget.take(2000, LIVE, stop.signal);
  bench.clock.wallMs = 1_800_000_000_000;
  await vi.advanceTimersByTimeAsync(60_000);
  await vi.waitFor(() => expect(readFileSync(bench.path, 'utf8')).toContain('"startedMs":1800000000000'), {
    timeout: HANG_MS,
  });
  stop.abort();
  await waiting;
  bench.boot.reboot();
  await bench.open(options);
  expect(await bench.may(2000)).toBe(false);
});
