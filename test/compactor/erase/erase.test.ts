/** Erased rows are gone from the live files, the older snapshots, the listings and the store; all others are as they were. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { type EraseOptions, type EraseResult, runErase } from '../../../compactor/erase/erase.ts';
import { loadTable } from '../../../lib/table/table.ts';
import { VolumeKeys } from '../../../lib/volume/keys.ts';
import { commitDeletes, equals, positions, rowsWithoutDeleted } from '../foreign-writer.ts';
import { runKilledAt } from '../kill-points.ts';
import {
  compactAll,
  DATASET,
  expectAccounts,
  foreignRecord,
  HOUR_MS,
  landOnce,
  liveFiles,
  openTestPipeline,
  readParquet,
  readRows,
  recordOf,
  TestProducer,
  type TestPipeline,
} from '../pipeline.ts';

const HOURS = 3;
const PER_LANDING = 24;
const WHERE = "sensor = 's-1' -- a comment ends nothing of ours";

/** Every fourth reading is of the sensor that is erased; every fifth has no sensor. */
function records(from: number): ReturnType<typeof recordOf>[] {
  return Array.from({ length: PER_LANDING }, (_, k) => {
    const n = from + k;
    const sensor = n % 5 === 4 ? null : `s-${n % 4}`;
    return recordOf({ seq: n, value: { sensor, ts: HOUR_MS + (n % HOURS) * 3_600_000 + n, rms: n / 4 } });
  });
}
const isErased = (n: number): boolean => n % 5 !== 4 && n % 4 === 1;

/** Compacted files and small ones in every hour, a quarantined record, and older snapshots with all that was replaced. */
async function landed(): Promise<{ readonly pipeline: TestPipeline; readonly total: number }> {
  const pipeline = await openTestPipeline();
  writeFileSync(join(pipeline.dir, 'pipeline.yaml'), pipeline.yaml);
  const producer = new TestProducer(pipeline.log);
  await producer.append(0, records(0));
  await landOnce(pipeline);
  await compactAll(pipeline);
  await producer.append(0, [...records(PER_LANDING), foreignRecord('?')]);
  await landOnce(pipeline);
  return { pipeline, total: 2 * PER_LANDING };
}

function erase(pipeline: TestPipeline, changed: Partial<EraseOptions> = {}): Promise<EraseResult> {
  return runErase({
    config: pipeline.config,
    lake: pipeline.lake,
    dataset: DATASET,
    where: WHERE,
    signal: new AbortController().signal,
    scratchRoot: join(pipeline.dir, 'scratch'),
    ...changed,
  });
}

async function dataObjects({ lake }: TestPipeline): Promise<string[]> {
  const keys: string[] = [];
  for await (const { key } of lake.store.list(''))
    if (/\.parquet$/.test(key) && !key.startsWith('quarantine/')) keys.push(key);
  return keys;
}

async function expectErased(pipeline: TestPipeline, total: number): Promise<void> {
  const all = Array.from({ length: total }, (_, n) => n);
  const kept = all.filter((n) => !isErased(n));
  await expectAccounts(pipeline.lake, { quarantined: 1, removed: total - kept.length, liveRows: kept.length });
  const rows = await readRows(pipeline.lake);
  expect(rows.map((row) => Number(row['_seq'])).sort((a, b) => a - b)).toEqual(kept);
  // No object that is left has an erased row, whoever refers to it.
  for (const key of await dataObjects(pipeline)) {
    const left = (await readParquet(pipeline.lake, key)).filter((row) => row['sensor'] === 's-1');
    expect(left, key).toEqual([]);
  }
}

test('rows of compacted and of small files, with what only older snapshots had', async () => {
  const { pipeline, total } = await landed();
  const before = await dataObjects(pipeline);
  const files = await liveFiles(pipeline.lake);
  const dry = await erase(pipeline, { dryRun: true });
  expect(dry.summary).toMatchObject({ rows: 10, files: 6, scanned: 6, snapshot: null, objects: 0 });
  expect(await liveFiles(pipeline.lake)).toEqual(files);

  const { summary, problems } = await erase(pipeline);
  expect(problems).toEqual([]);
  // Six files, each once more as it was rewritten; deleted are they and the three that the compaction had replaced.
  expect(summary).toMatchObject({ rows: 10, files: 6, scanned: 12, objects: 9, quarantined: 1 });
  const table = await loadTable(pipeline.lake, DATASET);
  expect(summary.snapshot).toBe(table?.currentSnapshot?.['snapshot-id']);
  expect(table?.metadata.snapshots).toHaveLength(1);
  await expectErased(pipeline, total);
  expect(await dataObjects(pipeline)).toHaveLength(6);
  expect(before.some((key) => files.some((location) => location.endsWith(key)))).toBe(true);

  // What was sorted still is, and a compaction works on what is there.
  expect((await erase(pipeline)).summary).toMatchObject({ rows: 0, files: 0, objects: 0 });
  expect((await compactAll(pipeline)).problems).toEqual([]);
  await expectAccounts(pipeline.lake, { smallFiles: 0, liveRows: total - 10, removed: 10 });
});

test('a file of which nothing is left, and an erasure of everything', async () => {
  const { pipeline, total } = await landed();
  expect((await erase(pipeline, { where: '_seq >= 0' })).summary).toMatchObject({ rows: total });
  await expectAccounts(pipeline.lake, { liveRows: 0, liveFiles: 0, removed: total });
  expect(await dataObjects(pipeline)).toEqual([]);
  await new TestProducer(pipeline.log).append(1, [recordOf({ seq: 1000, value: { sensor: 's-9', ts: HOUR_MS } })]);
  await landOnce(pipeline);
  await expectAccounts(pipeline.lake, { liveRows: 1 });
});

test('killed -9 at every write of the metadata engine and of the store, the next run finishes it', async () => {
  const { pipeline, total } = await landed();
  for (const [operation, moment] of [
    ['commit', 'before'],
    ['commit', 'after'],
    ['delete', 'before'],
  ] as const) {
    // Each kill is followed by a run that gets one write further.
    for (let call = 0; call < 30; call++) {
      if (!(await runKilledAt(pipeline.dir, 'erase', { operation, call, moment }))) break;
      const live = (await readRows(pipeline.lake)).filter((row) => !isErased(Number(row['_seq'])));
      expect(live).toHaveLength(total - 10);
    }
  }
  expect((await erase(pipeline)).problems).toEqual([]);
  await expectErased(pipeline, total);
});

test('an object that a clone refers to is kept and named, and goes once the clone is gone', async () => {
  const { pipeline, total } = await landed();
  const [key = ''] = (await liveFiles(pipeline.lake)).map((location) => pipeline.lake.store.keyOf(location) ?? '');
  const reference = new VolumeKeys(pipeline.lake.volume).lakeReference(key);
  await pipeline.lake.engine.commit({ write: [{ key: reference, value: Buffer.from('clone') }] });
  const { problems } = await erase(pipeline);
  expect(problems).toHaveLength(1);
  expect(problems[0]).toContain(`${key} still holds erased rows`);
  await pipeline.lake.engine.commit({ write: [{ key: reference, value: null }] });
  expect(await erase(pipeline)).toMatchObject({ summary: { rows: 0, objects: 1 }, problems: [] });
  await expectErased(pipeline, total);
});

test('while a lander and a compactor work', async () => {
  const { pipeline, total } = await landed();
  await new TestProducer(pipeline.log).append(1, records(total));
  await Promise.all([
    erase(pipeline),
    landOnce(pipeline),
    compactAll(pipeline, { scratchRoot: join(pipeline.dir, 'scratch-2') }),
  ]);
  // What landed behind the last look is another erasure's.
  await erase(pipeline);
  await expectErasedRows(pipeline, total + PER_LANDING);
});

/** Outputs of a compaction that lost its race are orphans, which have a grace of their own: only what is live is looked at. */
async function expectErasedRows({ lake }: TestPipeline, total: number): Promise<void> {
  const kept = Array.from({ length: total }, (_, n) => n).filter((n) => !isErased(n));
  expect((await readRows(lake)).map((row) => Number(row['_seq'])).sort((a, b) => a - b)).toEqual(kept);
  await expectAccounts(lake, { removed: total - kept.length });
}

test.each([
  'sensor = ',
  'no_such_column = 1',
  "sensor = 's-1'; DROP TABLE x",
  '',
  'true) or (true',
  '1 THEN 2 WHEN true',
  'sensor',
  "_event_time < 'some day'",
])('a condition that is none is refused before anything is read: %s', async (where) => {
  const { pipeline } = await landed();
  await expect(erase(pipeline, { where })).rejects.toMatchObject({ code: 'usage' });
});

test('a condition that cannot be asked of the values that are there is refused with the hour, and nothing is erased', async () => {
  const { pipeline, total } = await landed();
  await expect(erase(pipeline, { where: 'sensor = 5' })).rejects.toMatchObject({
    code: 'usage',
    message: expect.stringMatching(/^--where: .*T07.*TRY_CAST.*Conversion Error/s) as unknown,
  });
  await expectAccounts(pipeline.lake, { liveRows: total, removed: 0 });
});

test('rows that another writer deleted do not come back with a rewrite, and those of the erasure are gone from the objects', async () => {
  const { pipeline, total } = await landed();
  const { lake } = pipeline;
  const [small = '', compacted = ''] = (await liveFiles(lake)).filter((location) => location.includes('hour=07'));
  const hour = HOUR_MS / 3_600_000;
  await commitDeletes(
    lake,
    positions(hour, [
      [small, 0],
      [compacted, 0],
    ]),
    await equals(lake, hour, ['sensor'], [['s-3'], ['s-1']]),
  );
  const kept = (await rowsWithoutDeleted(lake)).filter(({ sensor }) => sensor !== 's-1').map(({ _seq: seq }) => seq);
  const { problems, summary } = await erase(pipeline);
  expect(problems).toEqual([]);
  expect(summary.rows).toBe(Array.from({ length: total }, (_, n) => n).filter(isErased).length);
  expect((await readRows(lake)).filter(({ sensor }) => sensor === 's-1')).toEqual([]);
  expect((await rowsWithoutDeleted(lake)).map(({ _seq: seq }) => seq).sort()).toEqual(kept.sort());
  await compactAll(pipeline);
  expect((await readRows(lake)).map(({ _seq: seq }) => seq).sort()).toEqual(kept.sort());
  await expectAccounts(lake, {});
});
