/** What a compaction replaced can be opened by name for `keepReplaced`, stays while a backup needs it, and is gone after that. */
import { readdirSync, utimesSync } from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { runErase } from '../../compactor/erase/erase.ts';
import { formatVolume } from '../../fs-gateway/main.ts';
import { createBackup } from '../../fs-gateway/tools/backup.ts';
import { loadVolume } from '../../fs-gateway/tools/load.ts';
import { fetchBackup, fsckVolume } from '../../fs-gateway/tools/main.ts';
import type { LoadReport } from '../../fs-gateway/tools/load.ts';
import { systemClock } from '../../lib/clock.ts';
import { openMeta, openStore } from '../../lib/registry.ts';
import { loadTable } from '../../lib/table/table.ts';
import type { Backup } from '../../lib/volume/backups.ts';
import {
  compactAll,
  DATASET,
  HOUR_MS,
  hoursLater,
  landOnce,
  liveFiles,
  openTestPipeline,
  readRows,
  recordOf,
  TestProducer,
  type TestPipeline,
} from './pipeline.ts';

const MS_PER_HOUR = 3_600_000;

/** Two small files, landed `hours` ago. */
async function landed(pipeline: TestPipeline, hours: number): Promise<readonly string[]> {
  const producer = new TestProducer(pipeline.log);
  for (const seq of [0, 1]) {
    await producer.append(0, [recordOf({ seq, value: { sensor: 's', ts: HOUR_MS + seq, rms: 1 } })]);
    await landOnce(hoursLater(pipeline, -hours));
  }
  const objects = join(pipeline.dir, 'objects');
  for (const entry of readdirSync(objects, { recursive: true, withFileTypes: true })) {
    const timeS = (Date.now() - hours * MS_PER_HOUR) / 1000;
    if (entry.isFile()) utimesSync(join(entry.parentPath, entry.name), timeS, timeS);
  }
  return (await liveFiles(pipeline.lake)).map((location) => pipeline.lake.store.keyOf(location) ?? '');
}

async function there(pipeline: TestPipeline, keys: readonly string[]): Promise<number> {
  const found = await Promise.all(keys.map((key) => pipeline.lake.store.head(key)));
  return found.filter((info) => info !== null).length;
}

test('files of a dataset that had been at rest stay for as long as those of any other', async () => {
  const pipeline = await openTestPipeline();
  const replaced = await landed(pipeline, 48);
  expect((await compactAll(pipeline)).summary).toMatchObject({ groups: 1, filesBefore: 2, filesAfter: 1 });
  expect(await there(pipeline, replaced)).toBe(2);
  await compactAll(hoursLater(pipeline, 23));
  expect(await there(pipeline, replaced)).toBe(2);
  await compactAll(hoursLater(pipeline, 25));
  expect(await there(pipeline, replaced)).toBe(0);
  expect(
    await there(
      pipeline,
      (await liveFiles(pipeline.lake)).map((l) => pipeline.lake.store.keyOf(l) ?? ''),
    ),
  ).toBe(1);
});

test('a clock that is ahead of the metadata engine ends no grace period, and is named', async () => {
  const pipeline = await openTestPipeline();
  const replaced = await landed(pipeline, 48);
  await compactAll(pipeline);
  const before = await readState(pipeline);
  const clock = { ...systemClock, nowMs: () => Date.now() + 48 * MS_PER_HOUR };
  const { problems } = await compactAll({ ...pipeline, lake: { ...pipeline.lake, clock } });
  expect(problems).toEqual([
    expect.stringMatching(/replaced files were not removed: the clock of this machine .* differ by \d+ s/),
  ]);
  expect(await there(pipeline, replaced)).toBe(2);
  expect(await readState(pipeline)).toEqual(before);
});

/** What older readers of the table can still go to. */
async function readState({ lake }: TestPipeline): Promise<readonly bigint[]> {
  const table = await loadTable(lake, DATASET);
  return (table?.metadata.snapshots ?? []).map((snapshot) => snapshot['snapshot-id']);
}

async function backUp({ lake, dir }: TestPipeline): Promise<Backup> {
  return createBackup({ engine: lake.engine, store: lake.store, volume: 'lake', clock: systemClock, directory: dir });
}

/** Beside the original, as volume `restored`, in an engine of its own. */
async function load(
  { dir }: TestPipeline,
  { key }: Backup,
): Promise<{ report: LoadReport; lake: TestPipeline['lake'] }> {
  const name = `restored-${Math.random()}`;
  const storeUrl = `dir:${join(dir, 'objects')}`;
  await fetchBackup(storeUrl, key, join(dir, name));
  const metaUrl = `sqlite:${join(dir, `${name}.db`)}`;
  const engine = await openMeta(metaUrl, { kind: 'test' });
  const store = await openStore(storeUrl);
  onTestFinished(async () => {
    await engine.close();
    await store.close();
  });
  const report = await loadVolume({ engine, volume: 'lake', path: join(dir, name), openStore });
  const missing = (await fsckVolume({ metaUrl })).findings.filter(({ kind }) => kind === 'missing-object');
  expect(missing).toHaveLength(report.missingLakeObjects);
  return { report, lake: { engine, store, volume: 'lake', clock: systemClock } };
}

async function volumeWithLake(): Promise<TestPipeline> {
  const pipeline = await openTestPipeline();
  const { dir } = pipeline;
  await formatVolume({ metaUrl: `sqlite:${join(dir, 'meta.db')}`, storeUrl: `dir:${join(dir, 'objects')}` });
  return pipeline;
}

test('nothing of the lake is deleted that a kept backup needs; it goes when the last of these is gone', async () => {
  const pipeline = await volumeWithLake();
  const replaced = await landed(pipeline, 48);
  const backup = await backUp(pipeline);
  await compactAll(pipeline);
  // Names and snapshots go in their time, twice over: what they referred to waits for the backup.
  for (const hours of [25, 26, 50]) {
    await compactAll(hoursLater(pipeline, hours));
    expect(await there(pipeline, replaced)).toBe(2);
  }
  const { report, lake } = await load(pipeline, backup);
  expect(report).toMatchObject({ consistent: true, missingLakeObjects: 0, missing: [] });
  expect(await readRows(lake)).toHaveLength(2);
  // The load began all waiting anew.
  await compactAll(hoursLater(pipeline, 51));
  const younger = await backUp(pipeline);
  await pipeline.lake.store.delete([backup.key]);
  await compactAll(hoursLater(pipeline, 52));
  expect(await there(pipeline, replaced)).toBe(0);
  expect((await load(pipeline, younger)).report).toMatchObject({ missingLakeObjects: 0 });
  expect(await readRows(pipeline.lake)).toHaveLength(2);
});

test('rows that are erased are gone from backups, too, and a load names the files that are', async () => {
  const pipeline = await volumeWithLake();
  const [first = '', second = ''] = await landed(pipeline, 48);
  const backup = await backUp(pipeline);
  await runErase({
    config: pipeline.config,
    lake: pipeline.lake,
    dataset: DATASET,
    where: 'true',
    signal: new AbortController().signal,
    scratchRoot: join(pipeline.dir, 'scratch'),
  });
  expect(await there(pipeline, [first, second])).toBe(0);
  const { report } = await load(pipeline, backup);
  expect(report.missingLakeObjects).toBe(2);
  expect([...report.missing].sort()).toEqual([first, second].sort());
});
