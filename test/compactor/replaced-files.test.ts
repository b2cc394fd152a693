/** What a compaction replaced can be opened by name for `keepReplaced`, and is gone after it. */
import { readdirSync, utimesSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { systemClock } from '../../lib/clock.ts';
import {
  compactAll,
  HOUR_MS,
  landOnce,
  liveFiles,
  openTestPipeline,
  recordOf,
  TestProducer,
  type TestPipeline,
} from './pipeline.ts';

const MS_PER_HOUR = 3_600_000;

function at(pipeline: TestPipeline, hours: number): TestPipeline {
  const clock = { ...systemClock, nowMs: () => Date.now() + hours * MS_PER_HOUR };
  return { ...pipeline, lake: { ...pipeline.lake, clock } };
}

/** Two small files, landed `hours` ago. */
async function landed(pipeline: TestPipeline, hours: number): Promise<readonly string[]> {
  const producer = new TestProducer(pipeline.log);
  for (const seq of [0, 1]) {
    await producer.append(0, [recordOf({ seq, value: { sensor: 's', ts: HOUR_MS + seq, rms: 1 } })]);
    await landOnce(at(pipeline, -hours));
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
  await compactAll(at(pipeline, 23));
  expect(await there(pipeline, replaced)).toBe(2);
  await compactAll(at(pipeline, 25));
  expect(await there(pipeline, replaced)).toBe(0);
  expect(
    await there(
      pipeline,
      (await liveFiles(pipeline.lake)).map((l) => pipeline.lake.store.keyOf(l) ?? ''),
    ),
  ).toBe(1);
});
