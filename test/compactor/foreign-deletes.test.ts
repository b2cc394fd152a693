/** A table with row-level deletes of another writer is left as it is, by name: a rewrite would bring the deleted rows back. */
import { expect, test } from 'vitest';
import { formatManifestList, parseManifestList } from '../../lib/table/manifest-list.ts';
import { loadTable } from '../../lib/table/table.ts';
import {
  compactAll,
  DATASET,
  foreignRecord,
  HOUR_MS,
  landOnce,
  liveFiles,
  openTestPipeline,
  TestProducer,
} from './pipeline.ts';

test('the group stays, and the run ends with the reason', async () => {
  const pipeline = await openTestPipeline();
  const { store } = pipeline.lake;
  await new TestProducer(pipeline.log).append(0, [foreignRecord({ sensor: 's', ts: HOUR_MS })]);
  await landOnce(pipeline);
  const snapshot = (await loadTable(pipeline.lake, DATASET))?.currentSnapshot;
  const list = snapshot?.['manifest-list'] ?? '';
  const key = store.keyOf(list) ?? '';
  const [data] = parseManifestList(await store.get(key), list);
  if (data === undefined || snapshot == null) throw new Error('no manifest');
  const deletes = { ...data, location: store.location('plant.vibration/metadata/deletes.avro'), content: 1 };
  const identity = { id: snapshot['snapshot-id'], parentId: null, sequenceNumber: snapshot['sequence-number'] };
  await store.put(key, formatManifestList([data, deletes], identity));
  const before = await liveFiles(pipeline.lake);
  const { problems, summary } = await compactAll(pipeline);
  expect(problems[0]).toContain('has delete files of another writer');
  expect(summary).toMatchObject({ groups: 0, in: 0 });
  expect(await liveFiles(pipeline.lake)).toEqual(before);
});
