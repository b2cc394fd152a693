/** A snapshot of a table as files that stay: the same rows after compaction and expiry, and gone when they are let go. */
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { formatVolume } from '../../fs-gateway/main.ts';
import type { OpenVolume } from '../../fs-gateway/open-volume.ts';
import { cloneTree } from '../../fs-gateway/tools/clone.ts';
import {
  createDatasetSnapshot,
  deleteDatasetSnapshot,
  listDatasetSnapshots,
} from '../../fs-gateway/tools/dataset-snapshots.ts';
import { collectGarbage } from '../../fs-gateway/tools/gc.ts';
import { Errno } from '../../fs-gateway/vfs/operations.ts';
import { systemClock } from '../../lib/clock.ts';
import { expireSnapshots } from '../../lib/table/maintenance.ts';
import { loadTable } from '../../lib/table/table.ts';
import {
  compactAll,
  DATASET,
  HOUR_MS,
  landOnce,
  openTestPipeline,
  recordOf,
  TestProducer,
  hoursLater,
} from '../compactor/pipeline.ts';
import type { TestPipeline } from '../compactor/pipeline.ts';
import { VolumeKeys } from '../../lib/volume/keys.ts';
import { caller, openTestVolume } from '../support/fs-volume.ts';
import type { TestVolume } from '../support/fs-volume.ts';
import { expectSound } from './volume-bench.ts';
import { contentAt, errnoOf, lookUp, namesIn, walk } from './volume-files.ts';

const HOUR = 'dt=2026-01-31/hour=07';

interface Bench {
  readonly pipeline: TestPipeline;
  readonly volume: TestVolume;
}

async function landed(): Promise<Bench> {
  const pipeline = await openTestPipeline();
  const { dir } = pipeline;
  const metaUrl = `sqlite:${join(dir, 'meta.db')}`;
  const storeDir = join(dir, 'objects');
  await formatVolume({ metaUrl, storeUrl: `dir:${storeDir}`, options: { grace: '0s' } });
  await land(pipeline, 0, 1);
  return { pipeline, volume: { base: dir, metaUrl, storeDir } };
}

async function land(pipeline: TestPipeline, ...parts: readonly number[]): Promise<void> {
  const producer = new TestProducer(pipeline.log);
  for (const part of parts) {
    const records = [0, 1, 2].map((n) =>
      recordOf({ seq: part * 3 + n, value: { sensor: 's', ts: HOUR_MS + n, rms: n } }),
    );
    await producer.append(0, records);
    await landOnce(pipeline);
  }
}

async function filesIn(open: OpenVolume, path: string): Promise<Map<string, Buffer>> {
  const names = await namesIn(open, await walk(open, path));
  return new Map(
    await Promise.all(names.map(async (name) => [name, await contentAt(open, `${path}/${name}`)] as const)),
  );
}

test('the files of a snapshot stay, byte for byte, when the table replaces them and forgets the snapshot', async () => {
  const { pipeline, volume } = await landed();
  const { lake } = pipeline;
  const report = await createDatasetSnapshot(lake, DATASET, null);
  const id = report.snapshot;
  expect(report).toMatchObject({ dataset: DATASET, path: `/lake/${DATASET}/.snapshots/${id}`, files: 2, rows: 6 });
  const first = await openTestVolume(volume, 'a');
  const before = await filesIn(first, `/lake/${DATASET}/${HOUR}`);
  expect(await filesIn(first, `${report.path}/${HOUR}`)).toEqual(before);
  await first.close();

  await land(pipeline, 2);
  await compactAll(pipeline);
  const { lake: later } = hoursLater(pipeline, 30 * 24);
  await expireSnapshots(later, DATASET, { olderThanMs: later.clock.nowMs(), keepLast: 1 });
  expect((await loadTable(lake, DATASET))?.metadata.snapshots).toHaveLength(1);
  await compactAll({ ...pipeline, lake: later });
  await collectGarbage({ uploadMs: 0, engine: lake.engine, store: lake.store, volume: 'lake', clock: later.clock });

  const open = await openTestVolume(volume, 'b');
  expect(await filesIn(open, `${report.path}/${HOUR}`)).toEqual(before);
  expect((await filesIn(open, `/lake/${DATASET}/${HOUR}`)).size).toBe(1);
  await expect(createDatasetSnapshot(lake, DATASET, id)).rejects.toThrow(/has no snapshot .* or it has expired/);
  await expectSound(volume);

  // A character that ends in the byte of a digit is another one, also where names are bytes.
  const alike = String.fromCodePoint(0x100 + id.charCodeAt(0)) + id.slice(1);
  for (const other of [alike, `../.snapshots/${id}`, '']) {
    await expect(deleteDatasetSnapshot(lake, DATASET, other)).rejects.toMatchObject({ code: 'usage' });
  }
  await deleteDatasetSnapshot(lake, DATASET, id);
  expect(await listDatasetSnapshots(lake, DATASET)).toEqual([]);
  await open.close();
  const keys = new VolumeKeys('lake');
  const held = await lake.engine.count(keys.lakeReferences);
  expect(held).toBe(2);
  // What was let go while the table may still read it is asked again by the next one.
  for (let run = 0; run < 2; run++) await collectGarbage({ uploadMs: 0, ...lake, clock: later.clock });
  expect(await lake.engine.count(keys.lakeReferences)).toBe(0);
  await expect(deleteDatasetSnapshot(lake, DATASET, id)).rejects.toThrow(/has no view of snapshot/);
  await expectSound(volume);
});

test('no listing shows them, nothing in them can be changed, and a clone of the dataset has only the dataset', async () => {
  const { pipeline, volume } = await landed();
  const { lake } = pipeline;
  const { path, snapshot } = await createDatasetSnapshot(lake, DATASET, null);
  const open = await openTestVolume(volume);
  const dataset = await walk(open, `/lake/${DATASET}`);
  expect(await namesIn(open, dataset)).toEqual(['dt=2026-01-31']);
  const view = await walk(open, `${path}/${HOUR}`);
  expect(await errnoOf(() => open.operations.create(caller(), view, 'new', 0o644, 2, 0))).toBe(Errno.EROFS);
  const [name = ''] = await namesIn(open, view);
  expect(await errnoOf(() => open.operations.unlink(caller(), view, name))).toBe(Errno.EROFS);
  const { ino } = await lookUp(open, view, name);
  expect(await errnoOf(() => open.operations.setattr(caller(), ino, { size: 0n }))).toBe(Errno.EROFS);
  await cloneTree({ engine: lake.engine, volume: 'lake', clock: systemClock }, `/lake/${DATASET}`, '/copy');
  const other = await openTestVolume(volume, 'b');
  expect(await errnoOf(() => walk(other, '/copy/.snapshots').then(() => 0)).catch(() => 'absent')).toBe('absent');
  expect(await listDatasetSnapshots(lake, DATASET)).toMatchObject([{ dataset: DATASET, snapshot, path }]);
  await expect(createDatasetSnapshot(lake, DATASET, snapshot)).rejects.toThrow(/exists/);
  await expect(createDatasetSnapshot(lake, DATASET, '12')).rejects.toThrow(/has no snapshot 12/);
  await expectSound(volume);
});
