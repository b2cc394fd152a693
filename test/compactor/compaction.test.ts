import { readFileSync } from 'node:fs';
import { createHash } from 'node:crypto';
import { describe, expect, onTestFinished, test, vi } from 'vitest';
import { ROW_GROUP_ROWS } from '../../compactor/compact/group-sql.ts';
import { datasetStats } from '../../compactor/main.ts';
import { SqlWorker } from '../../lib/sql/sql-worker-client.ts';
import type { TestRecord } from '../support/log-batches.ts';
import {
  compactAll,
  DATASET,
  expectAccounts,
  foreignRecord,
  HOUR_MS,
  landOnce,
  liveFiles,
  openTestPipeline,
  readRows,
  recordOf,
  TestProducer,
} from './pipeline.ts';

const reading = (seq: number, agent = 'edge-1'): TestRecord =>
  recordOf({ agent, seq, value: { sensor: `s-${(seq * 7) % 5}`, ts: HOUR_MS + seq * 1000, rms: seq / 8 } });
const readings = (from: number, count: number): TestRecord[] =>
  Array.from({ length: count }, (_, n) => reading(from + n));

describe('compaction', () => {
  test('small files of an hour become one sorted file without duplicates', async () => {
    const pipeline = await openTestPipeline();
    const producer = new TestProducer(pipeline.log);
    await producer.append(0, readings(0, 500));
    await landOnce(pipeline);
    await producer.append(1, [...readings(400, 200), foreignRecord({ sensor: 's-1', ts: HOUR_MS, rms: 1 })]);
    await producer.append(0, [foreignRecord({ sensor: 's-1', ts: HOUR_MS, rms: 1 }), reading(0), reading(1, 'edge-2')]);
    await landOnce(pipeline);
    expect(await liveFiles(pipeline.lake)).toHaveLength(2);

    const result = await compactAll(pipeline);
    expect(result.problems).toEqual([]);
    expect(result.summary).toEqual({
      groups: 1,
      in: 704,
      out: 603,
      expired: 0,
      duplicates: 101,
      deleted: 0,
      quarantined: 0,
      filesBefore: 2,
      filesAfter: 1,
      unreadable: 0,
    });
    const rows = await readRows(pipeline.lake);
    const identities = new Set(rows.map((row) => `${String(row['_agent'])}/${String(row['_seq'])}`));
    expect(identities.size).toBe(602); // 600 of edge-1, one of edge-2, and null for both foreign rows
    const order = rows.map((row) => `${String(row['sensor'])} ${String(row['ts']).padStart(14, '0')}`);
    expect(order).toEqual([...order].sort());
    await expectAccounts(pipeline.lake, { landed: 704, duplicates: 101, liveFiles: 1, smallFiles: 0 });
    expect((await compactAll(pipeline)).summary.groups).toBe(0);
  });

  test('late data is compared with what was compacted before', async () => {
    const pipeline = await openTestPipeline();
    const producer = new TestProducer(pipeline.log);
    await producer.append(0, readings(0, 300));
    await landOnce(pipeline);
    await compactAll(pipeline);
    await producer.append(0, readings(290, 20));
    await landOnce(pipeline);
    const late = await compactAll(pipeline);
    expect(late.summary).toMatchObject({ groups: 1, in: 320, out: 310, duplicates: 10, filesBefore: 2, filesAfter: 1 });
    await expectAccounts(pipeline.lake, { landed: 320, duplicates: 10, liveRows: 310 });
  });

  test('the same input gives the same bytes', async () => {
    const digests: string[] = [];
    for (let run = 0; run < 2; run++) {
      const pipeline = await openTestPipeline();
      const producer = new TestProducer(pipeline.log);
      await producer.append(0, readings(0, 3000));
      await producer.append(1, readings(2500, 1000));
      await landOnce(pipeline);
      await compactAll(pipeline);
      const [location = ''] = await liveFiles(pipeline.lake);
      digests.push(
        createHash('sha256')
          .update(readFileSync(new URL(location)))
          .digest('hex'),
      );
    }
    expect(digests[0]).toBe(digests[1]);
  });

  test('what does not read back as it was written is not committed', async () => {
    const pipeline = await openTestPipeline();
    const producer = new TestProducer(pipeline.log);
    for (const from of [0, 100]) {
      await producer.append(0, readings(from, 100));
      await landOnce(pipeline);
    }
    const before = await liveFiles(pipeline.lake);
    // Whoever is to blame: one column is written with other values.
    const { run } = Object.getOwnPropertyDescriptors(SqlWorker.prototype);
    const altered = vi.spyOn(SqlWorker.prototype, 'run').mockImplementation(async function (this: SqlWorker, sql) {
      return (await run.value?.call(this, sql.replace(/(p\d+) AS "rms"/, '$1 + 1 AS "rms"'))) ?? 0;
    });
    onTestFinished(() => altered.mockRestore());
    const { problems, summary } = await compactAll(pipeline);
    expect(summary.groups).toBe(0);
    expect(problems).toEqual([expect.stringContaining('(200 rows, expected 200): nothing was committed')]);
    expect(await liveFiles(pipeline.lake)).toEqual(before);
    altered.mockRestore();
    expect((await compactAll(pipeline)).summary).toMatchObject({ groups: 1, in: 200, out: 200 });
  });

  test('large hours become several files in the order of the sort', async () => {
    const pipeline = await openTestPipeline('', 'compactor: { targetBytes: 400kB }');
    const producer = new TestProducer(pipeline.log);
    // A file has at least one row group, and that many rows.
    const count = ROW_GROUP_ROWS + 120;
    const noisy = Array.from({ length: count }, (_, n) =>
      recordOf({ seq: n, value: { ts: HOUR_MS + n, rms: Math.sin(n * n) } }),
    );
    await producer.append(0, noisy);
    await landOnce(pipeline);
    const result = await compactAll(pipeline);
    expect(result.summary).toMatchObject({ in: count, out: count, filesAfter: 2 });
    await expectAccounts(pipeline.lake, { liveRows: count });
    const seqs = (await readRows(pipeline.lake, DATASET, ['_seq'])).map((row) => Number(row['_seq']));
    expect(seqs.length).toBe(count);
    expect(seqs.every((seq, n) => seq === n)).toBe(true);
  });

  test('only hours that are over are compacted, and a dry run changes nothing', async () => {
    const pipeline = await openTestPipeline();
    const producer = new TestProducer(pipeline.log);
    await producer.append(0, readings(0, 10));
    const nowMs = Date.now();
    await producer.append(0, [recordOf({ seq: 10, value: { sensor: 's', ts: nowMs, rms: 1 } })]);
    await landOnce(pipeline);
    const dry = await compactAll(pipeline, { dryRun: true, ignoreLag: false });
    expect(dry.plan).toMatchObject([{ dataset: DATASET, hour: '2026-01-31T07', files: 1, rows: 10 }]);
    expect((await datasetStats(pipeline.lake, DATASET)).smallFiles).toBe(2);
    const due = await compactAll(pipeline, { ignoreLag: false });
    expect(due.summary.groups).toBe(1);
    expect((await datasetStats(pipeline.lake, DATASET)).smallFiles).toBe(1);
  });

  test('shards are disjoint and cover everything', async () => {
    const pipeline = await openTestPipeline();
    const producer = new TestProducer(pipeline.log);
    const hours = Array.from({ length: 12 }, (_, n) =>
      recordOf({ seq: n, value: { sensor: 's', ts: HOUR_MS + n * 3_600_000, rms: 1 } }),
    );
    await producer.append(0, hours);
    await landOnce(pipeline);
    const plans = [];
    for (let index = 0; index < 3; index++) {
      const { plan } = await compactAll(pipeline, { dryRun: true, shard: { index, count: 3 } });
      plans.push(plan.map((group) => group.hour));
    }
    expect(plans.flat().sort()).toHaveLength(12);
    expect(new Set(plans.flat()).size).toBe(12);
    expect(plans.every((plan) => plan.length > 0)).toBe(true);
  });
});
