/** Which files of an hour are rewritten: only those that must be, and no reading stays twice. */
import { expect, test } from 'vitest';
import { planGroups } from '../../compactor/compact/plan.ts';
import { limitsOf } from '../../compactor/compact/selection.ts';
import { commitTable } from '../../lib/table/commit.ts';
import type { LiveFile } from '../../lib/table/data-file.ts';
import { loadTable } from '../../lib/table/table.ts';
import { collect } from '../support/collect.ts';
import { openLake, reading, readings, verdicts } from './finished-files.ts';
import { commitDeletes, positions } from './foreign-writer.ts';
import { compactAll, DATASET, expectAccounts, HOUR_MS, liveFiles, readRows, type TestPipeline } from './pipeline.ts';

const HOUR = HOUR_MS / 3_600_000;

async function files({ lake }: TestPipeline): Promise<LiveFile[]> {
  const table = await loadTable(lake, DATASET);
  return table === null ? [] : collect(table.liveFiles());
}

test('late readings are compared with a finished file, and only they are written', async () => {
  const { pipeline, add, land } = await openLake(', compaction: { mergeRatio: 0.5 }');
  await add(readings(0, 2000));
  const [finished = ''] = await liveFiles(pipeline.lake);
  expect(await verdicts(pipeline)).toEqual(['leave: in the size window']);

  await land(readings(1990, 20));
  expect(await verdicts(pipeline)).toEqual(['compare: may hold the same readings', 'rewrite: unsorted']);
  const { plan } = await compactAll(pipeline, { dryRun: true });
  expect(plan).toMatchObject([{ files: 1, rows: 20, compared: 1, left: 0, reason: '1 unsorted' }]);
  const late = await compactAll(pipeline);
  expect(late.summary).toMatchObject({ in: 20, out: 10, duplicates: 10, filesBefore: 1, filesAfter: 1 });
  expect(await liveFiles(pipeline.lake)).toContain(finished);
  await expectAccounts(pipeline.lake, { landed: 2020, duplicates: 10, liveFiles: 2, smallFiles: 0 });
  expect(await verdicts(pipeline)).toEqual(['leave: in the size window', 'leave: the only small file']);

  // Repeats of the finished file, of the late one, and of themselves.
  const more = await add([...readings(0, 5), ...readings(2005, 10), ...readings(2012, 3)]);
  expect(more.summary).toMatchObject({ in: 28, out: 15, duplicates: 13, filesBefore: 2, filesAfter: 1 });
  expect(await liveFiles(pipeline.lake)).toContain(finished);
  await expectAccounts(pipeline.lake, { landed: 2038, duplicates: 23, liveRows: 2015 });
  // Nothing but repeats leaves no file.
  const nothing = await add(readings(100, 4));
  expect(nothing.summary).toMatchObject({ duplicates: 4 });
  await expectAccounts(pipeline.lake, { liveRows: 2015 });
});

test('what comes to a tenth of what it overlaps is sorted in with it', async () => {
  const { pipeline, add } = await openLake();
  await add(readings(0, 2000));
  const [finished = ''] = await liveFiles(pipeline.lake);
  const result = await add(readings(2000, 600));
  expect(result.plan).toMatchObject([{ files: 2, reason: '1 overlaps, 1 unsorted' }]);
  expect(await liveFiles(pipeline.lake)).not.toContain(finished);
  const order = (await readRows(pipeline.lake)).map(
    (row) => `${String(row['sensor'])} ${String(row['ts']).padStart(14, '0')}`,
  );
  expect(order).toHaveLength(2600);
  expect(order).toEqual([...order].sort());
});

test('a file that cannot hold the same readings is not read, and readings without an identity are compared with nothing', async () => {
  const { pipeline, add, land } = await openLake(', compaction: { mergeRatio: 0.5 }');
  await add(readings(0, 2000, 'edge-a'));
  await land(readings(0, 20, 'edge-b'));
  expect(await verdicts(pipeline)).toEqual(['leave: in the size window', 'rewrite: unsorted']);
  expect((await compactAll(pipeline)).summary).toMatchObject({ in: 20, out: 20, duplicates: 0 });
  const foreign = { ...reading(1, 'edge-a'), headers: [] };
  await land([foreign, foreign]);
  expect(await verdicts(pipeline)).toEqual(['leave: in the size window', 'rewrite: too small', 'rewrite: unsorted']);
  expect((await compactAll(pipeline)).summary).toMatchObject({ duplicates: 0 });
  await expectAccounts(pipeline.lake, { liveRows: 2022 });
});

test('the same files give the same new bytes, whatever they are compared with', async () => {
  const fingerprints: string[] = [];
  for (let run = 0; run < 2; run++) {
    const { pipeline, add } = await openLake(', compaction: { mergeRatio: 0.5 }');
    await add(readings(0, 2000));
    await add(readings(1990, 20));
    const names = (await liveFiles(pipeline.lake)).map((location) => /-([0-9a-f]{16})-/.exec(location)?.[1]);
    fingerprints.push(names.sort().join());
  }
  expect(fingerprints[0]).toBe(fingerprints[1]);
});

test('of an hour only the files with deleted rows are rewritten, from the ratio of the dataset on', async () => {
  for (const [ratio, isDue] of [
    [0, true],
    [0.5, false],
  ] as const) {
    const { pipeline, add, land } = await openLake(`, compaction: { mergeRatio: 0.5, deleteRatio: ${ratio} }`);
    await add(readings(0, 2000, 'edge-a'));
    const [first = ''] = await liveFiles(pipeline.lake);
    await add(readings(0, 1900, 'edge-b'));
    const second = (await liveFiles(pipeline.lake)).find((location) => location !== first) ?? '';
    await commitDeletes(pipeline.lake, positions(HOUR, [[first, 0]], { dataFile: first }));
    if (isDue) {
      expect(await verdicts(pipeline)).toEqual(['leave: in the size window', 'rewrite: deleted rows']);
      expect((await compactAll(pipeline)).summary).toMatchObject({ in: 2000, out: 1999, deleted: 1, filesBefore: 1 });
      expect(await liveFiles(pipeline.lake)).toContain(second);
      expect(await verdicts(pipeline)).toEqual(['leave: in the size window', 'leave: in the size window']);
      continue;
    }
    expect(await verdicts(pipeline)).toEqual(['leave: in the size window', 'leave: in the size window']);
    // Row 0 was deleted: when it comes again it is no repeat, as in an hour that is rewritten whole; row 1 is one.
    const rows = (await readRows(pipeline.lake)).filter((row) => row['_agent'] === 'edge-a').slice(0, 2);
    await land(rows.map((row) => reading(Number(row['_seq']), 'edge-a')));
    const late = await compactAll(pipeline);
    expect([...late.problems, ...late.notes]).toEqual([]);
    expect(late.summary).toMatchObject({ in: 2, out: 1, duplicates: 1, deleted: 0 });
    expect((await loadTable(pipeline.lake, DATASET).then((table) => table?.rowDeletes()))?.files).toHaveLength(1);
  }
});

test('a sorted file of another writer is looked at for repeats once, unless the dataset tolerates them', async () => {
  const { pipeline, add } = await openLake();
  const { lake, config } = pipeline;
  await add(readings(0, 2000));
  // As a sorted rewrite by another engine leaves it: no name of ours.
  const [ours] = await files(pipeline);
  if (ours === undefined) throw new Error('no file');
  const location = ours.location.replace(/[^/]*$/, 'part-0.parquet');
  await lake.store.put(lake.store.keyOf(location) ?? '', await lake.store.get(lake.store.keyOf(ours.location) ?? ''));
  await commitTable(lake, DATASET, () =>
    Promise.resolve({
      change: { operation: 'replace', add: [{ ...ours, location }], remove: [ours.location] },
      extra: {},
    }),
  );
  expect(await verdicts(pipeline)).toEqual(['rewrite: possible repeats']);
  const table = await loadTable(lake, DATASET);
  const [dataset] = config.datasets;
  if (table === null || dataset === undefined) throw new Error('no table');
  const limits = { ...limitsOf(config, dataset), duplicateRatio: 1 };
  expect(await planGroups(table, { dataset, limits, endedBeforeMs: Infinity })).toEqual([]);
  expect((await compactAll(pipeline)).summary).toMatchObject({ in: 2000, out: 2000, filesBefore: 1 });
  expect(await verdicts(pipeline)).toEqual(['leave: in the size window']);
  // And asked for it takes what needs nothing.
  expect((await compactAll(pipeline, { rewriteAll: true })).summary).toMatchObject({ groups: 1, in: 2000, out: 2000 });
});

test('a commit fails when a file that it was compared with is gone', async () => {
  const { pipeline, add } = await openLake();
  await add(readings(0, 2000));
  const [ours] = await files(pipeline);
  if (ours === undefined) throw new Error('no file');
  const commit = (require: string): Promise<unknown> =>
    commitTable(pipeline.lake, DATASET, () =>
      Promise.resolve({
        change: { operation: 'append', add: [], remove: [], require: [require], removeHours: [HOUR] },
        extra: {},
      }),
    );
  await commit(ours.location);
  await expect(commit(`${ours.location}x`)).rejects.toThrow(`${ours.location}x is not a live file`);
});
