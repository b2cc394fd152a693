/** What the configuration says of the order and of repeats, beside a table that was made when it said something else, or had other columns. */
import { expect, test } from 'vitest';
import { FaultPlan } from '../support/fault.ts';
import { withFaults } from './fault-points.ts';
import { readings } from './finished-files.ts';
import { compactAll, landOnce, openTestPipeline, readRows, recordOf, sortedBy, TestProducer } from './pipeline.ts';

test('a changed sort is named, taken over by --rewrite-all, and costs nothing before and behind that', async () => {
  const pipeline = await openTestPipeline();
  await new TestProducer(pipeline.log).append(0, readings(0, 300));
  await landOnce(pipeline);
  expect(await compactAll(pipeline)).toMatchObject({ summary: { groups: 1 }, notes: [] });

  const changed = sortedBy(pipeline, 'rms', 'sensor');
  const named = await compactAll(changed);
  expect(named.notes).toEqual([
    'plant.vibration: its table is sorted by sensor, ts, the configuration says rms, sensor: `compact --rewrite-all` takes that over, for every hour',
  ]);
  expect(named.summary.groups).toBe(0);
  // A dry run changes nothing, and one hour does not make the others unsorted.
  await compactAll(changed, { rewriteAll: true, dryRun: true });
  await compactAll(changed, { rewriteAll: true, hour: 0 });
  expect((await compactAll(changed)).notes).toHaveLength(1);

  expect(await compactAll(changed, { rewriteAll: true })).toMatchObject({ summary: { groups: 1, in: 300 }, notes: [] });
  const values = (await readRows(pipeline.lake)).map((row) => Number(row['rms']));
  expect(values).toEqual([...values].sort((a, b) => a - b));
  expect(await compactAll(changed)).toMatchObject({ summary: { groups: 0 }, notes: [] });
  // Back to the one that it was made with.
  expect((await compactAll(pipeline, { rewriteAll: true })).notes).toEqual([]);
  expect(await compactAll(pipeline)).toMatchObject({ summary: { groups: 0 }, notes: [] });
});

test('a sort of which the table has no column is named, and --rewrite-all keeps the table’s order', async () => {
  const pipeline = await openTestPipeline();
  await new TestProducer(pipeline.log).append(0, readings(0, 30));
  await landOnce(pipeline);
  const misspelt = sortedBy(pipeline, 'sensr');
  expect((await compactAll(misspelt, { rewriteAll: true })).notes).toEqual([
    'plant.vibration: not sorted by sensr: the table has no such column',
  ]);
  expect(await compactAll(pipeline)).toMatchObject({ summary: { groups: 0 }, notes: [] });
});

test('an order that cannot be taken over is a problem of its dataset, of which nothing is rewritten', async () => {
  const pipeline = await openTestPipeline();
  await new TestProducer(pipeline.log).append(0, readings(0, 30));
  await landOnce(pipeline);
  const changed = sortedBy(pipeline, 'rms');
  const plan = new FaultPlan({ call: 0, moment: 'before', operation: 'put' });
  expect(await compactAll(withFaults(changed, plan), { rewriteAll: true })).toMatchObject({
    summary: { groups: 0 },
    problems: [expect.stringContaining('plant.vibration: the configured order was not taken over: injected fault')],
  });
  expect(await compactAll(changed, { rewriteAll: true })).toMatchObject({ summary: { groups: 1 }, problems: [] });
});

test('columns that came after the table was made, or never, are named', async () => {
  const pipeline = await openTestPipeline(', dedup: { key: [sensr, ts] }');
  const producer = new TestProducer(pipeline.log);
  const land = async (seq: number, value: object): Promise<void> => {
    await producer.append(0, [recordOf({ seq, value })]);
    await landOnce(pipeline);
  };
  await land(0, { rms: 1 });
  const repeats = (missing: string): string =>
    `plant.vibration: no repeats are removed: dedup.key has ${missing}, and the table no such column`;
  expect((await compactAll(pipeline)).notes).toEqual([
    'plant.vibration: not sorted by sensor: the table has no such column',
    'plant.vibration: not sorted by ts: the table has no such column',
    repeats('sensr'),
    repeats('ts'),
  ]);
  await land(1, { rms: 2, sensor: 's' });
  expect((await compactAll(pipeline)).notes).toContain(
    'plant.vibration: its table is sorted by nothing, the configuration says sensor: `compact --rewrite-all` takes that over, for every hour',
  );
});
