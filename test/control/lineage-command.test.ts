/** Which data trained this model, and which models saw this file, asked without a server. */
import { expect, test } from 'vitest';
import { askLineage, recordUse } from '../../control/lake/lineage-command.ts';
import { expireSnapshots } from '../../lib/table/maintenance.ts';
import {
  compactAll,
  DATASET,
  HOUR_MS,
  landOnce,
  liveFiles,
  openTestPipeline,
  recordOf,
  TestProducer,
} from '../compactor/pipeline.ts';

test('the models that saw a file are those whose snapshot had it; of an expired one nobody can say', async () => {
  const pipeline = await openTestPipeline();
  const { config, dir, lake, log } = pipeline;
  const producer = new TestProducer(log);
  for (const seq of [0, 1]) {
    await producer.append(0, [recordOf({ seq, value: { sensor: 's', ts: HOUR_MS + seq, rms: seq } })]);
    await landOnce(pipeline);
    await recordUse(config, dir, { dataset: DATASET, job: `train-${seq}`, model: `model-${seq}` });
  }
  const [first = '', second = ''] = await liveFiles(lake);
  await compactAll(pipeline);
  const [merged = ''] = await liveFiles(lake);
  await recordUse(config, dir, { dataset: DATASET, job: 'train-2', model: 'model-2' });

  const modelsOf = async (file: string): Promise<string[]> => {
    const { uses, unknown } = await askLineage(config, dir, { file });
    expect(unknown).toEqual([]);
    return uses.map(({ model }) => model ?? '').sort();
  };
  const path = (key: string): string =>
    `/mnt/lake/${DATASET}/dt=2026-01-31/hour=07/${key.slice(key.lastIndexOf('/') + 1)}`;
  const [early, late] = (await modelsOf(path(first))).length === 2 ? [first, second] : [second, first];
  expect(await modelsOf(path(early))).toEqual(['model-0', 'model-1']);
  expect(await modelsOf(path(late))).toEqual(['model-1']);
  expect(await modelsOf(path(merged))).toEqual(['model-2']);
  // A volume that is mounted at /lake.
  expect(await modelsOf(`/lake${path(merged).slice('/mnt'.length)}`)).toEqual(['model-2']);
  const { uses } = await askLineage(config, dir, { model: 'model-1' });
  expect(uses).toMatchObject([{ dataset: DATASET, job: 'train-1', model: 'model-1' }]);

  await expireSnapshots(lake, DATASET, { olderThanMs: Date.now() + 1000, keepLast: 1 });
  const after = await askLineage(config, dir, { file: path(early) });
  expect(after.uses).toEqual([]);
  expect(after.unknown).toHaveLength(2);
  await expect(askLineage(config, dir, { file: 'x.parquet', model: 'm' })).rejects.toThrow(/--dataset/);
  await expect(askLineage(config, dir, { file: 'x.parquet' })).rejects.toThrow(/--dataset/);
  await expect(recordUse(config, dir, { dataset: 'other', job: 'j' })).rejects.toThrow(
    /expected one of plant.vibration/,
  );
  for (const names of [{ job: '' }, { job: 'j', model: '' }, { job: 'j'.repeat(201) }]) {
    await expect(recordUse(config, dir, { dataset: DATASET, ...names })).rejects.toMatchObject({ code: 'usage' });
  }
  await expect(recordUse(config, dir, { dataset: DATASET, snapshotId: '7', job: 'j' })).rejects.toThrow(
    /has no snapshot 7/,
  );
});

test('a file of one dataset is not looked for in another one', async () => {
  const { config, dir } = await openTestPipeline();
  const [dataset] = config.datasets;
  if (dataset === undefined) throw new Error('the pipeline has no dataset');
  const two = { ...config, datasets: [dataset, { ...dataset, name: 'lake' }] };
  const question = { dataset: 'lake', file: `/mnt/lake/${DATASET}/dt=2026-01-31/hour=07/x.parquet` };
  await expect(askLineage(two, dir, question)).rejects.toThrow(/is of the dataset plant.vibration, not of lake/);
  const answer = await askLineage(two, dir, { file: '/mnt/lake/lake/dt=2026-01-31/hour=07/x.parquet' });
  expect(answer).toEqual({ uses: [], unknown: [] });
});
