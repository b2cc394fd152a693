import { spawnSync } from 'node:child_process';
import { readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, onTestFinished, test } from 'vitest';
import type { NewReading } from '../../../agent/spool/frame.ts';
import { openSpool, type Spool } from '../../../agent/spool/spool.ts';
import type { Receipt } from '../../../agent/spool/spool-state.ts';
import { isCode } from '../../../lib/errors.ts';
import { heldBytes } from '../../support/held-memory.ts';
import { tempDir } from '../../support/temp.ts';
import { contentOf, readAll, readingOf, spoolIn } from './support.ts';
import { HANG_MS } from '../../support/hang.ts';

const segmentsIn = (dir: string): string[] => readdirSync(dir).filter((name) => name.endsWith('.seg'));

test('what is appended is read back with key, times, priority, in order, over a restart', async () => {
  const dir = tempDir();
  const first = await spoolIn(dir);
  await first.append([
    { topic: 't', key: null, value: '{"grüße":"°C"}', eventUs: -1, arrivalUs: 2 ** 52 + 1, priority: 9 },
    { topic: 'u', key: 'sensor-ü', value: Buffer.from([0, 255, 1]), eventUs: 5, arrivalUs: 6, priority: 0 },
    { topic: 't', key: 'x', value: '', eventUs: 7, arrivalUs: 8, priority: 4 },
  ]);
  const { incarnation } = first.identity;
  await first.close();
  const spool = await spoolIn(dir);
  await spool.append([readingOf('later')]);
  const common = { kind: 'reading', topic: 't', agent: 'a', incarnation };
  expect(await readAll(spool)).toMatchObject([
    {
      ...common,
      seq: 1n,
      key: null,
      value: Buffer.from('{"grüße":"°C"}'),
      eventUs: -1,
      arrivalUs: 2 ** 52 + 1,
      priority: 9,
      replayed: true,
    },
    {
      ...common,
      seq: 2n,
      key: Buffer.from('x'),
      value: Buffer.alloc(0),
      eventUs: 7,
      arrivalUs: 8,
      priority: 4,
      replayed: true,
    },
    { seq: 3n, value: Buffer.from('later'), replayed: false, incarnation: spool.identity.incarnation },
  ]);
  const [other] = await readAll(spool, 'u');
  expect(other).toMatchObject({ seq: 1n, key: Buffer.from('sensor-ü'), value: Buffer.from([0, 255, 1]), priority: 0 });
});

test('any mix of appends, restarts and read sizes gives every reading once, in order', async () => {
  const step = fc.oneof(
    {
      weight: 6,
      arbitrary: fc.record({
        count: fc.integer({ min: 1, max: 40 }),
        topic: fc.constantFrom('t', 'u'),
        bytes: fc.integer({ min: 0, max: 3000 }),
      }),
    },
    { weight: 1, arbitrary: fc.constant('reopen' as const) },
  );
  await fc.assert(
    fc.asyncProperty(
      fc.array(step, { maxLength: 25 }),
      fc.integer({ min: 1, max: 20_000 }),
      async (steps, maxBytes) => {
        const dir = tempDir();
        const options = {
          dir,
          agent: 'a',
          maxBytes: 1e9,
          whenFull: 'reject',
          segmentBytes: 20_000,
        } as const;
        let spool = await openSpool(options);
        const expected: Record<string, string[]> = { t: [], u: [] };
        for (const action of steps) {
          if (action === 'reopen') {
            await spool.close();
            spool = await openSpool(options);
            continue;
          }
          const list = expected[action.topic] ?? [];
          const values = Array.from({ length: action.count }, () =>
            `${action.topic}${list.push('')}`.padEnd(action.bytes, '.'),
          );
          list.splice(-action.count, action.count, ...values);
          await spool.append(values.map((value) => readingOf(value, action.topic)));
        }
        for (const topic of ['t', 'u'])
          expect(contentOf(await readAll(spool, topic, maxBytes))).toEqual(expected[topic]);
        await spool.close();
      },
    ),
    { numRuns: 15 },
  );
});

test('appends of one turn share a group and keep their order', async () => {
  const spool = await spoolIn(tempDir());
  await Promise.all(Array.from({ length: 500 }, (_, index) => spool.append([readingOf(String(index))])));
  expect(contentOf(await readAll(spool))).toEqual(Array.from({ length: 500 }, (_, index) => String(index)));
});

test('a checkpoint is stored with its readings and forgotten by null', async () => {
  const dir = tempDir();
  const first = await spoolIn(dir);
  await first.append([readingOf('a')], [{ source: 'file:1', state: { offset: 10 } }]);
  await first.append([], [{ source: 'file:2', state: { offset: 20 } }]);
  await first.append([], [{ source: 'file:2', state: null }]);
  await first.close();
  const spool = await spoolIn(dir);
  expect(spool.checkpoint('file:1')).toEqual({ offset: 10 });
  expect(spool.checkpointSources('file:')).toEqual(['file:1']);
});

test('receipts are kept by age over new segments and restarts, and forgotten by null; a refused append leaves none', async () => {
  const dir = tempDir();
  const small = { maxBytes: 100_000 };
  const first = await spoolIn(dir, small);
  const receipt = (id: string, content: string | null = `of ${id}`): Receipt => ({ source: 's', id, content });
  for (let index = 0; index < 40; index += 1) {
    await first.append([readingOf('.'.repeat(1000))], [], [receipt(String(index)), receipt(String(index - 4), null)]);
  }
  expect(segmentsIn(dir).length).toBeGreaterThan(2);
  await first.append([], [], [receipt('37', 'again'), { source: 'other', id: '1', content: '' }]);
  const fill = async (): Promise<void> => {
    for (;;) await first.append([readingOf('.'.repeat(10_000))]);
  };
  await expect(fill()).rejects.toMatchObject({ code: 'full' });
  await expect(first.append([readingOf('x')], [], [receipt('refused')])).rejects.toMatchObject({ code: 'full' });
  await first.close();
  const spool = await spoolIn(dir, { maxBytes: 1e9 });
  expect([...spool.receipts('s')]).toEqual([
    ['36', 'of 36'],
    ['38', 'of 38'],
    ['39', 'of 39'],
    ['37', 'again'],
  ]);
  expect([...spool.receipts('other')]).toEqual([['1', '']]);
  expect(spool.receipts('unknown').size).toBe(0);
});

test('acknowledgements survive a restart and free the segments', async () => {
  const dir = tempDir();
  const first = await spoolIn(dir, { segmentBytes: 10_000 });
  for (let index = 0; index < 50; index += 1) await first.append([readingOf(String(index).padEnd(1000, '.'))]);
  expect(segmentsIn(dir).length).toBeGreaterThan(4);
  expect(first.topics()).toEqual(['t']);
  first.acknowledge('t', 45n);
  await first.sync();
  expect(first.durablyAcknowledged('t')).toBe(45n);
  expect(segmentsIn(dir).length).toBeLessThan(3);
  await first.close();
  const spool = await spoolIn(dir, { segmentBytes: 10_000 });
  expect(spool.durablyAcknowledged('t')).toBe(45n);
  expect(spool.lastSeq('t')).toBe(50n);
  expect((await spool.read('t', 45n, 1e6)).map((entry) => entry.kind === 'reading' && entry.seq)).toEqual([
    46n,
    47n,
    48n,
    49n,
    50n,
  ]);
  spool.acknowledge('t', 50n);
  await spool.sync();
  expect(spool.topics()).toEqual([]);
  await spool.append([readingOf('next')]);
  expect(spool.lastSeq('t')).toBe(51n);
});

test('a reading that no batch can carry is refused by name, and the others stay possible', async () => {
  const spool = await spoolIn(tempDir());
  await expect(spool.append([readingOf('x'.repeat(2_000_000))])).rejects.toMatchObject({ code: 'too-large' });
  await expect(spool.append([{ ...readingOf('x'), eventUs: NaN }])).rejects.toMatchObject({ code: 'too-large' });
  await spool.append([readingOf('y'.repeat(1_000_000)), readingOf('z')]);
  expect(contentOf(await readAll(spool)).map((value) => value.length)).toEqual([1_000_000, 1]);
});

test('wait resolves for a new reading and rejects when the signal fires', async () => {
  const spool = await spoolIn(tempDir());
  const woken = spool.wait(AbortSignal.timeout(HANG_MS));
  await spool.append([readingOf('x')]);
  await woken;
  await expect(spool.wait(AbortSignal.abort())).rejects.toMatchObject({ code: 'aborted' });
  const controller = new AbortController();
  const waiting = spool.wait(controller.signal);
  controller.abort();
  await expect(waiting).rejects.toMatchObject({ code: 'aborted' });
});

test('a second process is told who has the spool', async () => {
  const dir = tempDir();
  await spoolIn(dir);
  await expect(spoolIn(dir)).rejects.toThrow(`held by process ${process.pid} (agent a)`);
});

describe('a full spool', () => {
  const small = { maxBytes: 1_000_000 };

  test('rejects, loses nothing that was accepted, and takes readings again once some are delivered', async () => {
    const spool = await spoolIn(tempDir(), small);
    let accepted = 0;
    const fill = async (): Promise<void> => {
      for (;;) {
        await spool.append([readingOf(String(accepted).padEnd(10_000, '.'))]);
        accepted += 1;
      }
    };
    await expect(fill()).rejects.toMatchObject({ code: 'full', retryable: true });
    expect(accepted).toBeGreaterThan(90);
    expect(contentOf(await readAll(spool))).toHaveLength(accepted);
    const room = spool.waitForRoom(AbortSignal.timeout(HANG_MS));
    spool.acknowledge('t', BigInt(accepted));
    await room;
    await spool.append([readingOf('again')]);
    expect(spool.lastSeq('t')).toBe(BigInt(accepted + 1));
  });

  test('dropOldest gives up the oldest, never an alarm, and records the ranges over a restart', async () => {
    const dir = tempDir();
    const options = { ...small, whenFull: 'dropOldest' } as const;
    const first = await spoolIn(dir, options);
    for (let index = 1; index <= 400; index += 1) {
      await first.append([readingOf(String(index).padEnd(10_000, '.'), 't', index % 100 === 1 ? 9 : 4)]);
      expect(first.stats().bytes).toBeLessThan(1_150_000);
    }
    await first.close();
    const spool = await spoolIn(dir, options);
    const entries = await readAll(spool);
    const kept = contentOf(entries).filter((value) => typeof value === 'string');
    const numbers = kept.map((value) => Number.parseInt(value, 10));
    const alarms = [1, 101, 201, 301];
    expect(numbers.filter((number) => alarms.includes(number))).toEqual(alarms);
    const ordinary = numbers.filter((number) => !alarms.includes(number));
    expect(ordinary.length).toBeGreaterThan(60);
    // What is left are the newest.
    const oldest = Math.min(...ordinary);
    expect(ordinary).toEqual(
      Array.from({ length: 401 - oldest }, (_, i) => oldest + i).filter((n) => !alarms.includes(n)),
    );
    const gaps = entries.filter((entry) => entry.kind === 'gap');
    expect(new Set(gaps.map(({ reason }) => reason))).toEqual(new Set(['dropped: the spool was full']));
    expect(spool.stats().dropped).toBe(400 - numbers.length);
    spool.acknowledge('t', 400n);
    await spool.sync();
    expect(spool.stats().dropped).toBe(0);
    await spool.append([readingOf('next')]);
    expect(spool.lastSeq('t')).toBe(401n);
  });

  test('dropLowestPriority keeps the higher priorities, while they are read, and refuses what is lower than all that is stored', async () => {
    const spool = await spoolIn(tempDir(), { ...small, whenFull: 'dropLowestPriority' });
    const priorities = [2, 5, 7];
    const append = (index: number, priority: number): Promise<void> =>
      spool.append([readingOf(`${priority}:${index}`.padEnd(10_000, '.'), 't', priority)]);
    let after = 0n;
    const read: string[] = [];
    for (let index = 0; index < 90; index += 1) {
      await append(index, priorities[index % 3] ?? 0);
      // A reader in the middle of segments that are written anew under it.
      const [entry] = index % 5 === 0 ? await spool.read('t', after, 1) : [];
      if (entry !== undefined) after = entry.kind === 'reading' ? entry.seq : entry.toSeq;
      if (entry?.kind === 'reading') read.push(entry.value.toString().split('.', 1)[0] ?? '');
    }
    for (let index = 90; index < 200; index += 1) await append(index, 7);
    expect(read.length).toBeGreaterThan(3);
    expect(new Set(read).size).toBe(read.length);
    const entries = await readAll(spool);
    const left = contentOf(entries).filter((value) => typeof value === 'string');
    expect(left.filter((value) => value.startsWith('2:'))).toEqual([]);
    const fives = left.filter((value) => value.startsWith('5:')).length;
    const sevens = left.filter((value) => value.startsWith('7:')).length;
    expect(fives).toBe(0);
    expect(sevens).toBeGreaterThan(60);
    // Once the room that the last thinning left is used up.
    const fillWithTwos = async (): Promise<void> => {
      for (let index = 0; index < 100; index += 1) await append(index, 2);
    };
    await expect(fillWithTwos()).rejects.toMatchObject({ code: 'full' });
    await append(201, 8);
    expect(contentOf(await readAll(spool)).at(-1)).toContain('8:201');
  });
});

/** A spool on a disk of 2 MB. */
async function spoolOnSmallDisk(): Promise<{ readonly dir: string; readonly spool: Spool }> {
  const mount = tempDir('tmpfs');
  const run = (command: string, ...args: string[]): number | null =>
    spawnSync(command, args, { timeout: HANG_MS }).status;
  expect(run('mount', '-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', mount)).toBe(0);
  onTestFinished(() => void run('umount', '-l', mount));
  const dir = join(mount, 'spool');
  return {
    dir,
    spool: await openSpool({ dir, agent: 'a', maxBytes: 1e9, whenFull: 'reject', segmentBytes: 200_000 }),
  };
}

test.skipIf(process.platform !== 'linux' || process.getuid?.() !== 0)(
  'a full disk refuses readings, keeps the accepted ones, and still takes the acknowledgement that frees it (needs root for a tmpfs)',
  async () => {
    const { dir, spool } = await spoolOnSmallDisk();
    let accepted = 0;
    let refused = 0;
    while (refused < 5) {
      try {
        await spool.append([readingOf(String(accepted).padEnd(20_000, '.'))]);
        accepted += 1;
      } catch (error) {
        if (!isCode(error, 'full')) throw error;
        refused += 1;
      }
    }
    expect(accepted).toBeGreaterThan(50);
    const content = contentOf(await readAll(spool));
    expect(content.map((value) => Number.parseInt(String(value), 10))).toEqual(
      Array.from({ length: accepted }, (_, i) => i),
    );
    spool.acknowledge('t', BigInt(accepted - 1));
    await expect.poll(() => spool.durablyAcknowledged('t')).toBe(BigInt(accepted - 1));
    await spool.append([readingOf('after')]);
    await spool.close();
    const again = await openSpool({ dir, agent: 'a', maxBytes: 1e9, whenFull: 'reject' });
    expect(contentOf(await again.read('t', BigInt(accepted - 1), 1e6), BigInt(accepted)).at(-1)).toBe('after');
    await again.close();
  },
);

test.skipIf(process.platform !== 'linux' || process.getuid?.() !== 0)(
  'sources that try again and again on a full disk leave the room that an acknowledgement needs (needs root for a tmpfs)',
  async () => {
    const { spool } = await spoolOnSmallDisk();
    const fill = async (bytes: number): Promise<void> => {
      for (;;) await spool.append([readingOf('.'.repeat(bytes))]);
    };
    for (const bytes of [20_000, 20_000, 1000, 1000, 100, 10, 10, 0, 0]) {
      await expect(fill(bytes)).rejects.toMatchObject({ code: 'full' });
    }
    const last = spool.lastSeq('t');
    spool.acknowledge('t', last);
    await expect.poll(() => spool.durablyAcknowledged('t')).toBe(last);
    await spool.append([readingOf('after')]);
    await spool.close();
  },
);

test.skipIf(process.platform !== 'linux' || process.getuid?.() !== 0)(
  'a start on a disk that others filled takes the room of the reserve, so that what it holds is delivered (needs root for a tmpfs)',
  async () => {
    const { dir, spool } = await spoolOnSmallDisk();
    await spool.append([readingOf('before')]);
    await spool.close();
    const others = join(dir, '..', 'others');
    expect(() => writeFileSync(others, Buffer.alloc(4e6))).toThrow(/ENOSPC/);
    const again = await spoolIn(dir);
    expect(contentOf(await readAll(again))).toEqual(['before']);
    await expect(again.append([readingOf('refused')])).rejects.toMatchObject({ code: 'full' });
    again.acknowledge('t', 1n);
    await again.sync();
    expect(again.durablyAcknowledged('t')).toBe(1n);
    rmSync(others);
    await again.append([readingOf('after')]);
    await again.close();
  },
);

test('memory stays flat while a backlog far larger than the windows is read', async () => {
  const dir = tempDir();
  const spool = await spoolIn(dir);
  const batch: NewReading[] = Array.from({ length: 1000 }, (_, index) => readingOf(String(index).padEnd(1000, '.')));
  for (let index = 0; index < 120; index += 1) await spool.append(batch);
  expect(segmentsIn(dir).reduce((sum, name) => sum + statSync(join(dir, name)).size, 0)).toBeGreaterThan(120e6);
  const before = heldBytes();
  let peak = 0;
  let after = 0n;
  for (
    let entries = await spool.read('t', after, 1e6);
    entries.length > 0;
    entries = await spool.read('t', after, 1e6)
  ) {
    const last = entries.at(-1);
    expect(last?.kind).toBe('reading');
    after = last?.kind === 'reading' ? last.seq : after;
    peak = Math.max(peak, heldBytes() - before);
  }
  expect(after).toBe(120_000n);
  // A reader that kept the backlog would have 120 MB.
  expect(peak).toBeLessThan(20e6);
});

test('ranges that are delivered before something older free their segments, are told over a restart, and are not dropped', async () => {
  const dir = tempDir();
  const small = { maxBytes: 1_048_576, whenFull: 'dropOldest' as const };
  const spool = await spoolIn(dir, small);
  for (let n = 1; n <= 60; n += 1) await spool.append([readingOf(`${n}:`.padEnd(10_000, '.'))]);
  const before = spool.stats();
  spool.acknowledgeRange('t', 21n, 50n);
  spool.acknowledgeRange('t', 45n, 55n);
  await spool.sync();
  expect(spool.stats().bytes).toBeLessThan(before.bytes - 200_000);
  expect(spool.stats().topics[0]).toMatchObject({ accepted: 60, acknowledged: 35 });
  await spool.close();
  const again = await spoolIn(dir, small);
  expect(again.stats().topics[0]).toMatchObject({ accepted: 60, acknowledged: 35 });
  expect(again.firstOfRun('t')).toBe(61n);
  const entries = await readAll(again);
  expect(contentOf(entries).map((part) => (typeof part === 'string' ? Number.parseInt(part) : part))).toEqual([
    ...Array.from({ length: 20 }, (_, index) => index + 1),
    [21, 55],
    ...[56, 57, 58, 59, 60],
  ]);
  expect(entries[20]).toMatchObject({ kind: 'delivered', fromSeq: 21n, toSeq: 55n });
  // Full: of what is given up, nothing was delivered.
  for (let n = 61; n <= 200; n += 1) await again.append([readingOf(`${n}:`.padEnd(10_000, '.'))]);
  const gaps = (await readAll(again)).filter((entry) => entry.kind === 'gap');
  expect(gaps.map(({ fromSeq, toSeq }) => [Number(fromSeq), Number(toSeq)])[0]).toEqual([1, 20]);
  expect(gaps.some(({ fromSeq, toSeq }) => fromSeq <= 55n && toSeq >= 21n)).toBe(false);
});

test('two readers of a topic, one in its present and one in its past, each go on where they were', async () => {
  const spool = await spoolIn(tempDir(), { segmentBytes: 100_000 });
  for (let n = 1; n <= 100; n += 1) await spool.append([readingOf(`${n}:`.padEnd(5000, '.'))]);
  let past = 0n;
  let present = 60n;
  const read: bigint[] = [];
  for (let step = 0; step < 100; step += 1) {
    for (const entry of await spool.read('t', present, 12_000))
      if (entry.kind === 'reading') read.push((present = entry.seq));
    for (const entry of past < 60n ? await spool.read('t', past, 7000) : []) {
      if (entry.kind === 'reading' && entry.seq <= 60n) read.push((past = entry.seq));
    }
  }
  expect(read.map(Number).sort((a, b) => a - b)).toEqual(Array.from({ length: 100 }, (_, index) => index + 1));
});
