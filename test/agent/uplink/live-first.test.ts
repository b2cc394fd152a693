import { join } from 'node:path';
import { expect, onTestFinished, test, vi } from 'vitest';
import { PenstockError } from '../../../lib/errors.ts';
import type { Log } from '../../../lib/log/log.ts';
import type { SpoolEntry } from '../../../agent/spool/spool-reader.ts';
import type { UplinkOptions } from '../../../agent/uplink/uplink.ts';
import { FaultPlan, type FaultMoment } from '../../support/fault.ts';
import { faultyLog } from '../../support/log-faulty.ts';
import { tempDir } from '../../support/temp.ts';
import { delivered, outOfOrder, type Delivered } from './delivered.ts';
import { placeOf } from './place-of.ts';
import { GeneratedSpool } from './generated-spool.ts';
import { closing, openLog, startUplink } from './start-uplink.ts';
import { HANG_MS } from '../../support/hang.ts';

const LIVE_FIRST = { order: 'liveFirst' } satisfies Partial<UplinkOptions>;

/** `backlog` readings of an earlier run; those that are added arrive now. Small reads, so that a drain takes many steps. */
function spoolWith(directory: string, backlog: number, readBytes = 4000): GeneratedSpool {
  if (backlog > 0) new GeneratedSpool('t', join(directory, 'acknowledged'), 0).grow(backlog);
  const spool = new GeneratedSpool('t', join(directory, 'acknowledged'), 0);
  spool.arrivesNow = true;
  const read = spool.read.bind(spool);
  spool.read = (topic, afterSeq, maxBytes) => read(topic, afterSeq, Math.min(maxBytes, readBytes));
  return spool;
}

const marked = (found: readonly Delivered[], flag: '0' | '1'): Delivered[] =>
  found.filter(({ headers }) => headers['replayed'] === flag);

function expectEachOnce(found: readonly Delivered[], count: number): void {
  expect(found.map(({ seq }) => seq).sort((a, b) => a - b)).toEqual(Array.from({ length: count }, (_, i) => i + 1));
  for (const flag of ['0', '1'] as const) expect(outOfOrder(marked(found, flag))).toEqual([]);
}

/** A log whose appends can be held back, and that says what order they came in. */
function gate(log: Log): { log: Log; open: () => void; close: () => void } {
  let isOpen = true;
  const producer = async (): ReturnType<Log['producer']> => {
    const inner = await log.producer();
    return {
      ...inner,
      append: async (topic, partition, batch) => {
        if (!isOpen) throw new PenstockError('unavailable', 'down');
        return inner.append(topic, partition, batch);
      },
    };
  };
  return {
    log: { ...faultyLog(log, new FaultPlan()), producer },
    open: () => (isOpen = true),
    close: () => (isOpen = false),
  };
}

test('what arrives now overtakes a backlog, which is marked; without a backlog nothing is marked', async () => {
  const directory = tempDir();
  const log = await openLog(directory);
  const spool = spoolWith(directory, 20_000);
  const uplink = await startUplink(log, spool, directory, LIVE_FIRST);
  onTestFinished(() => uplink.close());
  for (let step = 0; step < 20; step += 1) {
    spool.grow(10);
    await new Promise((resolve) => setImmediate(resolve));
  }
  expect(await uplink.drain(HANG_MS)).toBe(true);
  spool.grow(100);
  expect(await uplink.drain(HANG_MS)).toBe(true);
  const found = await delivered(log, 't');
  expectEachOnce(found, 20_300);
  expect(
    marked(found, '1')
      .map(({ seq }) => seq)
      .sort((a, b) => a - b)
      .at(-1),
  ).toBe(20_000);
  expect(outOfOrder(found).length).toBeGreaterThan(1000);
  expect(uplink.status()).toMatchObject({ lag: 0n, backlog: false, delivered: 20_300 });
  expect(spool.durablyAcknowledged('t')).toBe(20_300n);
  // While the backlog drained, the spool was told what of the present it need not keep.
  expect(spool.ranges.length).toBeGreaterThan(0);
  for (const [first, last] of spool.ranges) expect(first > 20_000n && last >= first).toBe(true);
});

test('after an outage under a running agent the newest goes first, and what was left behind follows, marked', async () => {
  const directory = tempDir();
  const inner = await openLog(directory);
  const { log, open, close } = gate(inner);
  let aheadMs = 0;
  const clock = { nowMs: () => Date.now(), monotonicMs: () => performance.now() + aheadMs };
  const spool = spoolWith(directory, 0, 1 << 20);
  const uplink = await startUplink(log, spool, directory, { ...LIVE_FIRST, clock });
  onTestFinished(() => uplink.close());
  spool.grow(100);
  expect(await uplink.drain(HANG_MS)).toBe(true);
  close();
  spool.grow(50);
  await expect.poll(() => uplink.status().lastError?.message).toBe('down');
  aheadMs += 60_000;
  spool.grow(5000);
  // It tries what it has, and takes nothing new into memory meanwhile.
  await expect.poll(() => uplink.status().lag).toBe(5050n);
  open();
  expect(await uplink.drain(HANG_MS)).toBe(true);
  spool.grow(10);
  expect(await uplink.drain(HANG_MS)).toBe(true);
  const found = await delivered(inner, 't');
  expectEachOnce(found, 5160);
  expect(marked(found, '1').length).toBeGreaterThanOrEqual(5000);
  expect(marked(found, '0').map(({ seq }) => seq)).toEqual(expect.arrayContaining([1, 150, 5160]));
});

test.each(['before', 'after'] as const)(
  'an append of either lane that fails %s its effect is repeated and stored once',
  async (moment: FaultMoment) => {
    for (let call = 0; call < 14; call += 1) {
      const directory = tempDir();
      const log = await openLog(directory);
      const plan = new FaultPlan(
        { operation: 'append', call, moment },
        { operation: 'append', call: call + 2, moment },
        { operation: 'producer', call: 4, moment },
      );
      const spool = spoolWith(directory, 1500, 1000);
      const uplink = await startUplink(faultyLog(log, plan), spool, directory, LIVE_FIRST);
      for (let round = 0; round < 10; round += 1) {
        spool.grow(20);
        if (round > 4) expect(await uplink.drain(HANG_MS)).toBe(true);
        else await new Promise((resolve) => setImmediate(resolve));
      }
      expect(await uplink.drain(HANG_MS)).toBe(true);
      expectEachOnce(await delivered(log, 't'), 1700);
      expect(plan.fired, `call ${call}`).toBe(3);
      await uplink.close();
    }
  },
);

test('batches of both lanes in doubt are settled by the next start under their old identities, with the marks they had', async () => {
  const directory = tempDir();
  const log = await openLog(directory);
  const lost = Array.from({ length: 300 }, (_, call) => ({ operation: 'append', call, moment: 'after' as const }));
  const spooled = spoolWith(directory, 600);
  spooled.grow(50);
  const first = await startUplink(faultyLog(log, new FaultPlan(...lost)), spooled, directory, LIVE_FIRST);
  await expect.poll(async () => (await delivered(log, 't')).length).toBe(650);
  await first.close();
  const before = await delivered(log, 't');
  expect(marked(before, '0')).toHaveLength(50);
  for (const order of ['oldestFirst', 'liveFirst'] as const) {
    const spool = spoolWith(directory, 0);
    const next = await startUplink(log, spool, directory, { order });
    spool.grow(50);
    expect(await next.drain(HANG_MS)).toBe(true);
    await next.close();
  }
  const found = await delivered(log, 't');
  expectEachOnce(found, 750);
  for (const { seq, headers } of before) {
    expect(found.find((other) => other.seq === seq)?.headers['replayed']).toBe(headers['replayed']);
  }
});

/** A log that takes no batch of a backlog: it says what was tried, and answers as `answer` says. */
function withoutBacklog(log: Log, answer: () => Promise<never>): { log: Log; tried: () => number } {
  let tried = 0;
  const producer = async (options?: Parameters<Log['producer']>[0]): ReturnType<Log['producer']> => {
    const inner = await log.producer(options);
    if (options?.isBacklog !== true) return inner;
    const append = (): Promise<never> => {
      tried += 1;
      return answer();
    };
    return { ...inner, append };
  };
  return { log: { ...faultyLog(log, new FaultPlan()), producer }, tried: () => tried };
}

test('a batch of the backlog in doubt, on both sides of what was delivered before, is sent without that by the next start', async () => {
  const directory = tempDir();
  const log = await openLog(directory);
  const refuse = (): Promise<never> => Promise.reject(new PenstockError('unavailable', 'down'));
  const presentOnly = {
    ...faultyLog(log, new FaultPlan()),
    producer: (options?: Parameters<Log['producer']>[0]) =>
      options?.isBacklog === true ? refuse() : log.producer(options),
  };
  const spooled = spoolWith(directory, 300);
  spooled.grow(100);
  const first = await startUplink(presentOnly, spooled, directory, LIVE_FIRST);
  await expect.poll(() => first.status().delivered, { timeout: HANG_MS }).toBe(100);
  await first.close();
  // A run that sent nothing.
  spoolWith(directory, 0).grow(300);
  const { log: halfDown, tried } = withoutBacklog(log, refuse);
  const second = await startUplink(halfDown, spoolWith(directory, 0, 1 << 20), directory, LIVE_FIRST);
  await expect.poll(() => tried() >= 3 && !second.status().backlog, { timeout: HANG_MS }).toBe(true);
  await second.close();
  expect((await delivered(log, 't')).map(({ seq }) => seq).sort((a, b) => a - b)).toEqual(
    Array.from({ length: 100 }, (_, i) => 301 + i),
  );
  const third = await startUplink(log, spoolWith(directory, 0), directory, LIVE_FIRST);
  onTestFinished(() => third.close());
  expect(await third.drain(HANG_MS)).toBe(true);
  expectEachOnce(await delivered(log, 't'), 700);
});

test('what falls behind while the end of a backlog waits for its place in flight does not share a batch with it', async () => {
  const directory = tempDir();
  const log = await openLog(directory);
  const down = Promise.withResolvers<never>();
  down.promise.catch(() => {
    // Of those who wait for it.
  });
  const { log: halfDown, tried } = withoutBacklog(log, () => down.promise);
  let aheadMs = 0;
  const clock = { nowMs: () => Date.now(), monotonicMs: () => performance.now() + aheadMs };
  const backlog = 30_000;
  const spool = spoolWith(directory, backlog, 1 << 20);
  const read = vi.spyOn(spool, 'read');
  const first = await startUplink(halfDown, spool, directory, {
    ...LIVE_FIRST,
    clock,
    topics: { partitions: 1, retentionMs: 3_600_000 },
    bytesInMemoryMax: 64 << 20,
  });
  // Two batches are out; the others wait, and the rest of the backlog is gathered.
  await expect.poll(() => tried() === 2 && !first.status().backlog, { timeout: HANG_MS }).toBe(true);
  spool.grow(100);
  await expect.poll(() => first.status().delivered, { timeout: HANG_MS }).toBe(100);
  aheadMs += 60_000;
  spool.grow(50);
  const isRead = (): boolean => read.mock.results.some(({ value }) => (value as SpoolEntry[]).length === 50);
  await expect.poll(() => isRead() && !first.status().backlog, { timeout: HANG_MS }).toBe(true);
  // All of it has an intent once the log has refused it.
  down.reject(new PenstockError('unavailable', 'down'));
  await expect.poll(tried, { timeout: HANG_MS }).toBeGreaterThan(3);
  await first.close();
  const second = await startUplink(log, spoolWith(directory, 0), directory, LIVE_FIRST);
  onTestFinished(() => second.close());
  expect(await second.drain(HANG_MS)).toBe(true);
  expectEachOnce(await delivered(log, 't'), backlog + 150);
});

test('of several topics the one with the higher priority drains first', async () => {
  const directory = tempDir();
  const log = await openLog(directory);
  const { log: gated, open, close } = gate(log);
  close();
  const low = spoolWith(join(directory, '.'), 0);
  const order: string[] = [];
  const topics = new Map<string, bigint>([
    ['low', 0n],
    ['high', 0n],
  ]);
  low.topics = () => [...topics].filter(([, acknowledged]) => acknowledged < 2000n).map(([name]) => name);
  low.read = (topic, afterSeq) => {
    order.push(topic);
    return Array.from({ length: Number(2000n - afterSeq > 500n ? 500n : 2000n - afterSeq) }, (_, index) => ({
      kind: 'reading' as const,
      topic,
      agent: 'a',
      incarnation: 'i',
      seq: afterSeq + BigInt(index) + 1n,
      key: null,
      value: Buffer.from('1'),
      place: placeOf(null, Buffer.from('1')),
      eventUs: 1,
      arrivalUs: 1,
      priority: topic === 'high' ? 7 : 2,
      replayed: true,
    }));
  };
  low.firstOfRun = () => 2001n;
  low.lastSeq = () => 2000n;
  low.durablyAcknowledged = (topic) => topics.get(topic) ?? 0n;
  low.acknowledge = (topic, upto) => void topics.set(topic, upto);
  const uplink = await startUplink(gated, low, directory, LIVE_FIRST);
  onTestFinished(() => uplink.close());
  open();
  expect(await uplink.drain(HANG_MS)).toBe(true);
  const steps = order.filter((topic, index) => index > 0 && topic !== '');
  // The first step of a topic tells its priority; from then on `high` goes to its end before `low` goes on.
  expect(steps.lastIndexOf('high')).toBeLessThan(steps.lastIndexOf('low'));
  expect((await delivered(log, 'high')).length + (await delivered(log, 'low')).length).toBe(4000);
});

test('what waited longer than the maxAge of its topic is recorded as a gap; alarms, and what a wrong clock made old, are sent', async () => {
  const directory = tempDir();
  const log = await openLog(directory);
  const hourAgoUs = (Date.now() - 3_600_000) * 1000;
  const special = new Map(
    [1n, 2n, 3n, 5n, 6n, 9n].map((seq) => [seq, { arrivalUs: hourAgoUs, ...(seq === 5n ? { priority: 9 } : {}) }]),
  );
  special.set(4n, { arrivalUs: 1_000_000 });
  const spool = new GeneratedSpool('t', join(directory, 'acknowledged'), 20, special);
  spool.arrivesNow = true;
  const uplink = await startUplink(log, spool, directory, { ...LIVE_FIRST, maxAgeMs: { t: 60_000 } });
  onTestFinished(() => uplink.close());
  expect(await uplink.drain(HANG_MS)).toBe(true);
  expect(spool.gaps.map(({ fromSeq, toSeq, reason }) => [fromSeq, toSeq, reason])).toEqual([
    [1n, 3n, 'expired: older than the maxAge of its topic'],
    [6n, 6n, 'expired: older than the maxAge of its topic'],
    [9n, 9n, 'expired: older than the maxAge of its topic'],
  ]);
  const kept = (await delivered(log, 't')).map(({ seq }) => seq).sort((a, b) => a - b);
  expect(kept).toEqual([4, 5, 7, 8, ...Array.from({ length: 11 }, (_, index) => index + 10)]);
});

test('a clock that is set ahead makes no reading of this run older than the run; one of an earlier run has only the clock', async () => {
  const directory = tempDir();
  const log = await openLog(directory);
  const dayAgoUs = (Date.now() - 86_400_000) * 1000;
  const arrived = { arrivalUs: dayAgoUs };
  const special = new Map<bigint, { arrivalUs: number; replayed?: boolean }>([
    [1n, { ...arrived, replayed: true }],
    [2n, arrived],
    [3n, arrived],
  ]);
  const spool = new GeneratedSpool('t', join(directory, 'acknowledged'), 3, special);
  spool.runsForMs = 59_000;
  const uplink = closing(await startUplink(log, spool, directory, { ...LIVE_FIRST, maxAgeMs: { t: 60_000 } }));
  expect(await uplink.drain(HANG_MS)).toBe(true);
  expect(spool.gaps.map(({ fromSeq, toSeq }) => [fromSeq, toSeq])).toEqual([[1n, 1n]]);
  expect((await delivered(log, 't')).map(({ seq }) => seq).toSorted()).toEqual([2, 3]);
});

test('readings of an agent that started with a clock of 1970 are sent when NTP sets it, also where it has run for longer than maxAge', async () => {
  const directory = tempDir();
  const log = await openLog(directory);
  const special = new Map([
    [1n, { arrivalUs: 1_000_000 }],
    [2n, { arrivalUs: (Date.now() - 86_400_000) * 1000 }],
  ]);
  const spool = new GeneratedSpool('t', join(directory, 'acknowledged'), 2, special);
  spool.runsForMs = 2 * 86_400_000;
  const uplink = closing(await startUplink(log, spool, directory, { ...LIVE_FIRST, maxAgeMs: { t: 60_000 } }));
  expect(await uplink.drain(HANG_MS)).toBe(true);
  expect(spool.gaps.map(({ fromSeq, toSeq }) => [fromSeq, toSeq])).toEqual([[2n, 2n]]);
  expect((await delivered(log, 't')).map(({ seq }) => seq)).toEqual([1]);
});
