/** Finished files that cannot be read, and what comes between plan and commit: no reading stays twice, none is lost, and no run does the same again. */
import { copyFileSync, renameSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { commitDraft } from '../../lib/table/commit-loop.ts';
import { loadTable } from '../../lib/table/table.ts';
import { openLake, readings, verdicts } from './finished-files.ts';
import { commitDeletes, positions } from './foreign-writer.ts';
import { compactWhile, rollBack } from './meanwhile.ts';
import { compactAll, DATASET, expectAccounts, HOUR_MS, liveFiles, readRows } from './pipeline.ts';

const HOUR = HOUR_MS / 3_600_000;
const NEXT_MS = HOUR_MS + 3_600_000;
const FEW_LATE = ', compaction: { mergeRatio: 0.5, deleteRatio: 0.5 }';

/** Returns what restores it, as from a bucket's versions. */
function damage(location: string): () => void {
  const path = fileURLToPath(location);
  copyFileSync(path, `${path}.kept`);
  writeFileSync(path, 'damaged');
  return () => {
    renameSync(`${path}.kept`, path);
  };
}

test('late readings that could not be compared with a damaged file are compared once it is restored, and not rewritten before', async () => {
  const { pipeline, add, land } = await openLake(FEW_LATE);
  await add(readings(0, 2000));
  const [finished = ''] = await liveFiles(pipeline.lake);
  const restore = damage(finished);
  const late = await add(readings(1990, 20));
  expect(late.problems).toEqual([expect.stringContaining(finished)]);
  expect(late.summary).toMatchObject({ groups: 1, out: 20, duplicates: 0, unreadable: 2000 });
  // As long as it is damaged this is said, and nothing is done.
  const again = await compactAll(pipeline);
  expect(again.problems).toEqual(late.problems);
  expect(again.summary).toMatchObject({ groups: 0 });
  restore();
  expect((await compactAll(pipeline)).summary).toMatchObject({ in: 20, out: 10, duplicates: 10 });
  await expectAccounts(pipeline.lake, { liveRows: 2010 });
  expect(await verdicts(pipeline)).toEqual(['leave: in the size window', 'leave: the only small file']);
  // Neither may a small one that would have been rewritten with the late ones.
  const small = (await liveFiles(pipeline.lake)).find((location) => location !== finished) ?? '';
  const restoreSmall = damage(small);
  await land(readings(2005, 10));
  expect((await compactAll(pipeline)).summary).toMatchObject({ groups: 1, out: 10 });
  expect((await compactAll(pipeline)).summary).toMatchObject({ groups: 0 });
  restoreSmall();
  expect((await compactAll(pipeline)).summary).toMatchObject({ groups: 1, duplicates: 5 });
  await expectAccounts(pipeline.lake, { liveRows: 2015, liveFiles: 2 });
});

test('a late file that is damaged is no reason to rewrite the finished ones that it overlaps', async () => {
  const { pipeline, add, land } = await openLake();
  await add(readings(0, 2000, 'edge-a'));
  await add(readings(0, 2000, 'edge-b'));
  const finished = await liveFiles(pipeline.lake);
  expect(finished).toHaveLength(2);
  await land([...readings(3000, 900, 'edge-a'), ...readings(3000, 900, 'edge-b')]);
  const late = (await liveFiles(pipeline.lake)).find((location) => !finished.includes(location)) ?? '';
  const restore = damage(late);
  const result = await compactAll(pipeline);
  expect(result.problems).toEqual([expect.stringContaining(late)]);
  expect(result.summary).toMatchObject({ groups: 0, unreadable: 1800 });
  restore();
  expect((await compactAll(pipeline)).summary).toMatchObject({ groups: 1, in: 5800, out: 5800, filesBefore: 3 });
});

test('an hour of a table that another program made unordered is compacted once, and has no small files then', async () => {
  const { pipeline, land } = await openLake();
  await land(readings(0, 100));
  // As Spark's WRITE UNORDERED does.
  await commitDraft(pipeline.lake, DATASET, async ({ metadata }) => ({
    metadata: {
      ...metadata,
      'default-sort-order-id': 0,
      'sort-orders': [{ 'order-id': 0, fields: [] }, ...metadata['sort-orders']],
    },
    objects: [],
    extra: {},
  }));
  await land(readings(90, 100));
  await expectAccounts(pipeline.lake, { smallFiles: 2 });
  expect((await compactAll(pipeline)).summary).toMatchObject({ groups: 1, out: 190 });
  await expectAccounts(pipeline.lake, { smallFiles: 0, liveFiles: 1 });
  expect(await compactAll(pipeline)).toMatchObject({ plan: [], summary: { groups: 0 } });
});

test('deletes of a finished file that cannot be applied, made after the plan, hold up what would be compared with it', async () => {
  const { pipeline, add, land } = await openLake(FEW_LATE);
  await add(readings(0, 2000, 'edge-1', NEXT_MS));
  const [finished = ''] = await liveFiles(pipeline.lake);
  const [first] = await readRows(pipeline.lake);
  // It comes again, behind an hour that is compacted before.
  await land([...readings(0, 5, 'edge-2'), ...readings(Number(first?.['_seq']), 1, 'edge-1', NEXT_MS)]);
  const { problems, summary } = await compactWhile(pipeline, () =>
    commitDeletes(pipeline.lake, positions(HOUR + 1, [[finished, 0]], { dataFile: finished, format: 'PUFFIN' })),
  );
  expect(problems).toEqual([expect.stringContaining('deletion vectors')]);
  expect(summary).toMatchObject({ groups: 1, in: 5, duplicates: 0 });
  await expectAccounts(pipeline.lake, { liveRows: 2006 });
});

test('a roll-back meanwhile to before a delete of a compared file: the row that it brings back is there once', async () => {
  const { pipeline, add, land } = await openLake(FEW_LATE);
  const { lake } = pipeline;
  await add(readings(0, 2000));
  const [finished = ''] = await liveFiles(lake);
  const [first] = await readRows(lake);
  await land(readings(Number(first?.['_seq']), 1));
  const before = (await loadTable(lake, DATASET))?.currentSnapshot?.['snapshot-id'] ?? 0n;
  await commitDeletes(lake, positions(HOUR, [[finished, 0]], { dataFile: finished }));
  const { notes, summary } = await compactWhile(pipeline, () => rollBack(lake, before));
  expect(notes).toEqual([expect.stringContaining('no longer deletes rows')]);
  expect(summary.groups).toBe(0);
  expect((await compactAll(pipeline)).summary).toMatchObject({ in: 1, out: 0, duplicates: 1 });
  await expectAccounts(lake, { liveRows: 2000 });
});
