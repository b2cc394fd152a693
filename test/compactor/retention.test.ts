/** Hours past the retention leave the table and their directories; their objects follow after the grace. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { systemClock } from '../../lib/clock.ts';
import { loadTable } from '../../lib/table/table.ts';
import { runKilledAt } from './kill-points.ts';
import {
  compactAll,
  DATASET,
  expectAccounts,
  landOnce,
  openTestPipeline,
  readRows,
  recordOf,
  TestProducer,
  type TestPipeline,
} from './pipeline.ts';

const MS_PER_MINUTE = 60_000;
const MS_PER_HOUR = 60 * MS_PER_MINUTE;
const OLD = 4;
const KEPT = 3;

/**
 * Readings of hours in a row, two for each, so that the first OLD of them are past the retention. It ends in the middle
 * of an hour, so that no hour is past it while a test runs that was not before.
 */
async function landed(): Promise<TestPipeline & { readonly firstKept: number }> {
  const minutes = 60 * KEPT + ((new Date().getUTCMinutes() + 30) % 60);
  const firstKept = Math.floor((Date.now() - minutes * MS_PER_MINUTE) / MS_PER_HOUR);
  const pipeline = await openTestPipeline(`, retention: ${minutes}m`);
  writeFileSync(join(pipeline.dir, 'pipeline.yaml'), pipeline.yaml);
  const producer = new TestProducer(pipeline.log);
  for (const half of [0, 1]) {
    await producer.append(
      0,
      Array.from({ length: OLD + KEPT }, (_, k) => {
        const ts = (firstKept - OLD + k) * MS_PER_HOUR + half;
        return recordOf({ seq: 2 * k + half, value: { sensor: 's', ts, rms: k } });
      }),
    );
    await landOnce(pipeline);
  }
  return { ...pipeline, firstKept };
}

test('whole hours are dropped, with the counters, and the rest is compacted', async () => {
  const pipeline = await landed();
  const plan = (await compactAll(pipeline, { dryRun: true })).plan;
  expect(plan).toHaveLength(KEPT);
  const { summary, problems } = await compactAll(pipeline);
  expect(problems).toEqual([]);
  expect(summary).toMatchObject({ expired: 2 * OLD, groups: KEPT, in: 2 * KEPT });
  await expectAccounts(pipeline.lake, {
    landed: 2 * (OLD + KEPT),
    removed: 2 * OLD,
    liveRows: 2 * KEPT,
    liveFiles: KEPT,
  });
  expect((await readRows(pipeline.lake)).every((row) => Number(row['rms']) >= OLD)).toBe(true);
  const snapshots = (await loadTable(pipeline.lake, DATASET))?.metadata.snapshots ?? [];
  expect(snapshots.filter((snapshot) => snapshot.summary.operation === 'delete')).toHaveLength(1);
  expect((await compactAll(pipeline)).summary.expired).toBe(0);

  // A late reading of a dropped hour lands, and goes with the next run.
  const ts = (pipeline.firstKept - 2) * MS_PER_HOUR;
  await new TestProducer(pipeline.log).append(1, [
    recordOf({ agent: 'late', seq: 1, value: { sensor: 's', ts, rms: 0 } }),
  ]);
  await landOnce(pipeline);
  expect((await compactAll(pipeline)).summary.expired).toBe(1);
  await expectAccounts(pipeline.lake, { removed: 2 * OLD + 1, liveRows: 2 * KEPT });
});

test('a clock that jumped drops nothing and says so; one shard of several does not, and a single hour does not', async () => {
  const pipeline = await landed();
  const clock = { ...systemClock, nowMs: () => Date.UTC(2100, 0, 1) };
  const { problems, summary } = await compactAll({ ...pipeline, lake: { ...pipeline.lake, clock } });
  expect(summary.expired).toBe(0);
  expect(problems.some((problem) => problem.includes('the clock of this machine'))).toBe(true);
  await expectAccounts(pipeline.lake, { removed: 0, liveRows: 2 * (OLD + KEPT) });
  expect((await compactAll(pipeline, { shard: { index: 1, count: 2 } })).summary.expired).toBe(0);
  expect((await compactAll(pipeline, { shard: { index: 0, count: 2 } })).summary.expired).toBe(2 * OLD);
});

test('killed -9 around the commit', async () => {
  for (const moment of ['before', 'after'] as const) {
    const pipeline = await landed();
    let call = 0;
    while (await runKilledAt(pipeline.dir, 'compact', { operation: 'commit', call, moment })) {
      const { length } = await readRows(pipeline.lake);
      expect([2 * KEPT, 2 * (OLD + KEPT)]).toContain(length);
      call++;
    }
    expect(call).toBeGreaterThan(1);
    await expectAccounts(pipeline.lake, { removed: 2 * OLD, liveRows: 2 * KEPT });
  }
});
