import { randomBytes } from 'node:crypto';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished, test, vi } from 'vitest';
import { DuckDb } from '../../lib/sql/duckdb.ts';
import { readCounters } from '../../lib/lake/counters.ts';
import {
  foreignRecord,
  HOUR_MS,
  landOnce,
  liveFiles,
  openTestPipeline,
  readParquet,
  readRows,
  recordOf,
  TestProducer,
  DATASET,
} from './pipeline.ts';

test('records become rows with their identity, and a second run finds nothing new', async () => {
  const pipeline = await openTestPipeline();
  const producer = new TestProducer(pipeline.log);
  const value = (n: number): unknown => ({
    sensor: `s-${n % 7}`,
    ts: HOUR_MS + n,
    rms: n / 4,
    ok: n % 2 === 0,
    note: n === 3 ? 'ä long note with an umlaut and more' : 'short',
  });
  await producer.append(
    0,
    Array.from({ length: 3000 }, (_, n) => recordOf({ seq: n, value: value(n) })),
  );
  await producer.append(1, [foreignRecord(value(5000))]);

  const first = await landOnce(pipeline);
  expect(first).toEqual({ summary: { records: 3001, rows: 3001, quarantined: 0, lost: 0, files: 1 }, problems: [] });
  const rows = await readRows(pipeline.lake);
  expect(rows).toHaveLength(3001);
  const third = rows.find((row) => row['_seq'] === 3n);
  expect(third).toMatchObject({
    sensor: 's-3',
    ts: BigInt(HOUR_MS + 3),
    rms: 0.75,
    ok: false,
    note: 'ä long note with an umlaut and more',
    _agent: 'edge-1',
    _incarnation: 'inc-of-edge-1-0123456789abcdef',
    _offset: 3n,
    _log_partition: 0,
    _replayed: false,
  });
  expect(third?.['_event_time']).toEqual(new Date(HOUR_MS + 3));
  const foreign = rows.find((row) => row['_log_partition'] === 1);
  expect(foreign).toMatchObject({ _agent: null, _incarnation: null, _seq: null, _arrival_time: null, _replayed: null });

  // Shown to the log's own tools, in a group of the dataset.
  expect(readdirSync(join(pipeline.dir, 'log', 'groups'))).toEqual([`penstock-lander-${DATASET}`]);

  const second = await landOnce(pipeline);
  expect(second.summary).toEqual({ records: 0, rows: 0, quarantined: 0, lost: 0, files: 0 });
  expect(await liveFiles(pipeline.lake)).toHaveLength(1);
  expect(await readCounters(pipeline.lake.engine, pipeline.lake.volume, DATASET)).toMatchObject({
    landed: 3001,
    quarantined: 0,
  });
});

test('records of many hours, mixed, go to the file of their hour in the order of the log', async () => {
  const pipeline = await openTestPipeline();
  const producer = new TestProducer(pipeline.log);
  const hours = 12;
  for (const partition of [0, 1]) {
    await producer.append(
      partition,
      Array.from({ length: 600 }, (_, n) =>
        recordOf({ seq: n, agent: `edge-${partition}`, value: { sensor: 's', ts: HOUR_MS + (n % hours) * 3_600_000 } }),
      ),
    );
  }
  expect((await landOnce(pipeline)).summary).toMatchObject({ rows: 1200, files: hours });
  for (const location of await liveFiles(pipeline.lake)) {
    const rows = await readParquet(pipeline.lake, pipeline.lake.store.keyOf(location) ?? '');
    expect(rows).toHaveLength(100);
    const [hour] = rows.map((row) => Number(row['_offset']) % hours);
    for (const partition of [0, 1]) {
      const offsets = rows.filter((row) => row['_log_partition'] === partition).map((row) => Number(row['_offset']));
      expect(offsets).toEqual(Array.from({ length: 50 }, (_, n) => Number(hour) + n * hours));
    }
  }
});

test('rows of many columns count by their width, though their values are short: they land by as many as fit into memory', async () => {
  const pipeline = await openTestPipeline('', 'lander: { fileBytes: 32MB }', 1);
  const producer = new TestProducer(pipeline.log);
  const names = Array.from({ length: 490 }, (_, n) => `f${n}`);
  await producer.append(0, [recordOf({ seq: 0, value: Object.fromEntries(names.map((name) => [name, 1.5])) })]);
  const count = 48_000;
  for (let seq = 1; seq <= count; seq += 1000) {
    const some = Array.from({ length: 1000 }, (_, n) => recordOf({ seq: seq + n, value: { f0: seq + n } }));
    await producer.append(0, some);
  }
  giveDuckDb(160_000_000);
  const { summary, problems } = await landOnce(pipeline);
  expect(problems).toEqual([]);
  expect(summary).toMatchObject({ records: count + 1, rows: count + 1, quarantined: 0 });
});

/** Until the test ends. */
function giveDuckDb(memoryBytes: number): void {
  const open = DuckDb.open.bind(DuckDb);
  const small = vi.spyOn(DuckDb, 'open').mockImplementation((options) => open({ ...options, memoryBytes }));
  onTestFinished(() => small.mockRestore());
}

test('values of nearly a megabyte that do not fit into memory together land by fewer at a time', async () => {
  const pipeline = await openTestPipeline('', 'lander: { fileBytes: 8MB }', 1);
  const records = Array.from({ length: 20 }, (_, seq) =>
    recordOf({ seq, value: { sensor: 's', ts: HOUR_MS, text: randomBytes(600_000).toString('base64') } }),
  );
  const producer = new TestProducer(pipeline.log);
  for (const record of records) await producer.append(0, [record]);
  // As little beside what is staged at a time (16 MB) as with full files of 128 MB.
  giveDuckDb(32_000_000);
  const told: string[] = [];
  const { summary, problems } = await landOnce(pipeline, {
    onStatus: (status) => status.kind === 'problem' && told.push(status.message),
  });
  expect(told[0]).toMatch(/^lands by 8 MB at a time from now on, as more does not fit into memory: .*Out of Memory/);
  expect(problems).toEqual([]);
  expect(summary).toMatchObject({ records: 20, rows: 20, quarantined: 0 });
  const texts = (await readRows(pipeline.lake)).map((row) => String(row['text']).length);
  expect(texts).toEqual(records.map(() => 800_000));
});
