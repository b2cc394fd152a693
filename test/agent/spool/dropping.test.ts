import { expect, test } from 'vitest';
import type { NewReading } from '../../../agent/spool/frame.ts';
import { tempDir } from '../../support/temp.ts';
import { contentOf, readAll, readingOf, spoolIn } from './support.ts';

const MIB = 1_048_576;
const some = (count: number, topic: string, priority = 4): NewReading[] =>
  Array.from({ length: count }, (_, index) => readingOf(`${index}`.padEnd(10_000, '.'), topic, priority));

test.for(['dropOldest', 'dropLowestPriority'] as const)(
  '%s: many sources that deliver at the same moment do not refuse each other for ever, though together they are larger than the spool',
  async (whenFull) => {
    const spool = await spoolIn(tempDir(), { maxBytes: MIB, whenFull });
    for (let round = 0; round < 3; round += 1) {
      const appends = Array.from({ length: 8 }, (_, source) => spool.append(some(20, `t${source}`)));
      expect((await Promise.allSettled(appends)).map(({ status }) => status)).toEqual(Array(8).fill('fulfilled'));
    }
    expect(spool.stats().bytes).toBeLessThanOrEqual(MIB);
    expect(contentOf(await readAll(spool, 't7')).at(-1)).toContain('19.');
  },
);

test.for(['dropOldest', 'dropLowestPriority'] as const)(
  '%s: a delivery that is larger than the spool is taken, and so is what follows it',
  async (whenFull) => {
    const spool = await spoolIn(tempDir(), { maxBytes: MIB, whenFull });
    await spool.append(some(150, 'large'));
    expect(contentOf(await readAll(spool, 'large')).length).toBe(150);
    // Fills most of the spool, in one segment, which is given up as a whole.
    await spool.append(some(90, 'large'));
    expect(contentOf(await readAll(spool, 'large')).slice(0, 2)).toEqual([[1, 150], '0'.padEnd(10_000, '.')]);
    await spool.append(some(20, 'large'));
    const content = contentOf(await readAll(spool, 'large'));
    expect(content[0]).toEqual([1, 240]);
    expect(content.length).toBe(1 + 20);
    expect(spool.stats().bytes).toBeLessThan(MIB);
  },
);

test('dropLowestPriority: the lowest that come at the same moment as an alarm push out nothing above them, and the alarm is stored without them', async () => {
  const spool = await spoolIn(tempDir(), { maxBytes: MIB, whenFull: 'dropLowestPriority' });
  for (let index = 0; index < 10; index += 1) await spool.append(some(10, 'middle', 5));
  const low = spool.append(some(30, 'low', 0));
  const alarm = spool.append([readingOf('fire', 'alarm', 9)]);
  await expect(low).rejects.toMatchObject({ code: 'full' });
  await alarm;
  expect(contentOf(await readAll(spool, 'middle')).length).toBe(100);
  expect(contentOf(await readAll(spool, 'alarm'))).toEqual(['fire']);
});
