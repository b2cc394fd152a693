/** What a spool tells of that it cannot deliver, and what it does when the disk refuses a group. */
import { renameSync } from 'node:fs';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { expect, onTestFinished, test, vi } from 'vitest';
import { PenstockError } from '../../../lib/errors.ts';
import { tempDir } from '../../support/temp.ts';
import { readAll, readingOf, spoolIn } from './support.ts';

test('a gap that was met is told of by a reading of its own, once, also over a restart, and in a full spool', async () => {
  const dir = tempDir();
  const spool = await spoolIn(dir, { maxBytes: 1_048_576, whenFull: 'dropOldest' });
  for (let n = 1; n <= 200; n += 1) await spool.append([readingOf(`${n}:`.padEnd(10_000, '.'))]);
  const [gap] = await spool.read('t', 0n, 1);
  if (gap?.kind !== 'gap') throw new Error('nothing was dropped');
  await spool.recordGap(gap);
  expect((await spool.read('t', 0n, 1))[0]).toMatchObject({ kind: 'delivered', fromSeq: 1n, toSeq: gap.toSeq });
  await spool.close();
  const again = await spoolIn(dir);
  expect((await again.read('t', 0n, 1))[0]).toMatchObject({ kind: 'delivered', toSeq: gap.toSeq });
  const told = (await readAll(again, 'penstock.gaps')).flatMap((entry) => (entry.kind === 'reading' ? [entry] : []));
  expect(told.map(({ value, priority }) => [priority, JSON.parse(value.toString()) as unknown])).toEqual([
    [
      9,
      expect.objectContaining({
        ...{ agent: 'a', topic: 't', fromSeq: 1, toSeq: Number(gap.toSeq), readings: Number(gap.toSeq) },
        reason: 'dropped: the spool was full',
      }),
    ],
  ]);
});

test('a gap whose record was refused is still a gap, until its record is on the disk', async () => {
  const dir = tempDir();
  const spool = await spoolIn(dir, { maxBytes: 1_048_576, whenFull: 'dropLowestPriority' });
  const append = (priority: number): Promise<void> => spool.append([readingOf('.'.repeat(10_000), 't', priority)]);
  for (let n = 1; n <= 50; n += 1) await append(1);
  // Alarms take all the room there is: a group with a reading is refused then, with all that is in it.
  const fill = async (): Promise<void> => {
    for (;;) await append(9);
  };
  await expect(fill()).rejects.toMatchObject({ code: 'full' });
  const [gap] = await spool.read('t', 0n, 1);
  if (gap?.kind !== 'gap') throw new Error('nothing was dropped');
  const both = await Promise.allSettled([append(1), spool.recordGap(gap)]);
  expect(both.map(({ status }) => status)).toEqual(['rejected', 'rejected']);
  // Written with what the refused group leaves to the next one.
  spool.acknowledgeRange('t', gap.toSeq + 5n, gap.toSeq + 5n);
  await expect.poll(() => spool.stats().topics[0]?.acknowledged).toBeGreaterThan(0);
  expect((await spool.read('t', 0n, 1))[0]).toEqual(gap);
  expect(await readAll(spool, 'penstock.gaps')).toEqual([]);
  await spool.recordGap(gap);
  await spool.close();
  const again = await spoolIn(dir);
  expect((await again.read('t', 0n, 1))[0]).toMatchObject({ kind: 'delivered', toSeq: gap.toSeq });
  expect(await readAll(again, 'penstock.gaps')).toHaveLength(1);
});

test('sync writes the acknowledgements that a refused group has left over, too', async () => {
  const dir = join(tempDir(), 'spool');
  const spool = await spoolIn(dir);
  await spool.append([readingOf('x')]);
  // A topic that is new needs a new segment, which cannot be made now.
  renameSync(dir, `${dir}.away`);
  spool.acknowledge('t', 1n);
  const refused = spool.append([readingOf('y', 'u')]);
  const synced = spool.sync();
  await expect(refused).rejects.toBeInstanceOf(PenstockError);
  await synced;
  expect(spool.durablyAcknowledged('t')).toBe(1n);
  renameSync(`${dir}.away`, dir);
  await spool.append([readingOf('y', 'u')]);
});

test('an acknowledgement whose time came while a group was being refused is written all the same', async () => {
  const dir = join(tempDir(), 'spool');
  const spool = await spoolIn(dir);
  await spool.append([readingOf('x')]);
  renameSync(dir, `${dir}.away`);
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  onTestFinished(() => void vi.useRealTimers());
  const refused = spool.append([readingOf('y', 'u')]);
  // The writer has taken the group, and waits for the disk.
  await setImmediate();
  spool.acknowledge('t', 1n);
  vi.advanceTimersByTime(10_000);
  await expect(refused).rejects.toBeInstanceOf(PenstockError);
  await setImmediate();
  expect(spool.durablyAcknowledged('t')).toBe(0n);
  vi.advanceTimersByTime(10_000);
  await expect.poll(() => spool.durablyAcknowledged('t')).toBe(1n);
  renameSync(`${dir}.away`, dir);
});

test('no append waits for the timer of acknowledgements, whenever it comes', async () => {
  const spool = await spoolIn(join(tempDir(), 'spool'), { maxBytes: 1_048_576 });
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  onTestFinished(() => void vi.useRealTimers());
  // Each as the answer to the one before, with acknowledgements between them, and half full, where segments are written anew.
  for (let n = 1; n <= 300; n += 1) {
    await spool.append([readingOf('.'.repeat(3000)), ...(n % 10 === 0 ? [readingOf('.'.repeat(20_000), 'held')] : [])]);
    spool.acknowledge('t', spool.lastSeq('t'));
    for (let turn = 0; turn < n % 7; turn += 1) await Promise.resolve();
  }
  expect(spool.lastSeq('t')).toBe(300n);
});

test('a spool with all the topics it may have can still tell of a gap', async () => {
  const spool = await spoolIn(tempDir());
  await spool.append(Array.from({ length: 10_000 }, (_, index) => readingOf('x', `t${index}`)));
  await expect(spool.append([readingOf('x', 'one more')])).rejects.toMatchObject({ code: 'full' });
  await spool.recordGap({ kind: 'gap', topic: 't0', fromSeq: 1n, toSeq: 1n, reason: 'r' });
  expect(await readAll(spool, 'penstock.gaps')).toHaveLength(1);
});
