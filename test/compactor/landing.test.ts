import { expect, test } from 'vitest';
import { readCounters } from '../../lib/lake/counters.ts';
import {
  foreignRecord,
  HOUR_MS,
  landOnce,
  liveFiles,
  openTestPipeline,
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
    _partition: 0,
    _replayed: false,
  });
  expect(third?.['_event_time']).toEqual(new Date(HOUR_MS + 3));
  const foreign = rows.find((row) => row['_partition'] === 1);
  expect(foreign).toMatchObject({ _agent: null, _incarnation: null, _seq: null, _arrival_time: null, _replayed: null });

  const second = await landOnce(pipeline);
  expect(second.summary).toEqual({ records: 0, rows: 0, quarantined: 0, lost: 0, files: 0 });
  expect(await liveFiles(pipeline.lake)).toHaveLength(1);
  expect(await readCounters(pipeline.lake.engine, pipeline.lake.volume, DATASET)).toMatchObject({
    landed: 3001,
    quarantined: 0,
  });
});
