/** Dead letters that fit after a change of the schema land once, as the rows they would have been; the others stay. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { OPEN_HOURS_MAX } from '../../../compactor/lander/staging.ts';
import { runReplay, type ReplayOptions, type ReplayResult } from '../../../compactor/quarantine/replay.ts';
import { listQuarantine, showQuarantine } from '../../../compactor/quarantine/show.ts';
import { parseConfig } from '../../../lib/config/load.ts';
import { pipelineSchema } from '../../../lib/config/pipeline.ts';
import { FaultPlan } from '../../support/fault.ts';
import type { TestRecord } from '../../support/log-batches.ts';
import { faultPoints, withFaults } from '../fault-points.ts';
import { runKilledAt } from '../kill-points.ts';
import {
  compactAll,
  DATASET,
  expectAccounts,
  foreignRecord,
  HOUR_MS,
  type LakeRow,
  landOnce,
  openTestPipeline,
  pipelineYaml,
  readRows,
  recordOf,
  TestProducer,
  type TestPipeline,
} from '../pipeline.ts';

const NARROW = ', schema: [{ name: sensor, type: string }, { name: ts, type: long }]';
const WIDE = ', schema: [{ name: sensor, type: string }, { name: ts, type: long }, { name: rms, type: double }]';

/** The same pipeline under another configuration of the dataset. */
function withDataset(pipeline: TestPipeline, dataset: string): TestPipeline {
  const yaml = pipelineYaml(pipeline.dir, dataset);
  writeFileSync(join(pipeline.dir, 'pipeline.yaml'), yaml);
  return { ...pipeline, yaml, config: parseConfig(yaml, 'pipeline.yaml', pipelineSchema) };
}

function replay(pipeline: TestPipeline, changed: Partial<ReplayOptions> = {}): Promise<ReplayResult> {
  return runReplay({
    config: pipeline.config,
    lake: pipeline.lake,
    signal: new AbortController().signal,
    scratchRoot: join(pipeline.dir, 'scratch'),
    ...changed,
  });
}

/** Even ones fit the narrow schema, odd ones the wide one, every tenth none. */
function record(n: number): TestRecord {
  if (n % 10 === 9) return foreignRecord(`bad ${n}`);
  const value = { sensor: `s-${n % 4}`, ts: HOUR_MS + (n % 3) * 3_600_000 + n };
  return recordOf({ seq: n, value: n % 2 === 0 ? value : { ...value, rms: n / 4 } });
}
const RECORDS = 60;
const FITTING = 24;
const BAD = 6;

async function quarantined(): Promise<TestPipeline> {
  const pipeline = withDataset(await openTestPipeline(NARROW), NARROW);
  const producer = new TestProducer(pipeline.log);
  const records = Array.from({ length: RECORDS }, (_, n) => record(n));
  await producer.append(0, records.slice(0, 25));
  await producer.append(1, records.slice(25));
  expect((await landOnce(pipeline)).summary).toMatchObject({ rows: 30, quarantined: FITTING + BAD });
  return withDataset(pipeline, WIDE);
}

const inOrder = (rows: readonly LakeRow[]): LakeRow[] =>
  rows.toSorted(
    (a, b) => Number(a['_log_partition']) - Number(b['_log_partition']) || Number(a['_offset']) - Number(b['_offset']),
  );

/** What the records would be had the schema been the wide one from the start. */
let oracleRows: Promise<LakeRow[]> | undefined;
const oracle = (): Promise<LakeRow[]> => (oracleRows ??= landWide());

async function landWide(): Promise<LakeRow[]> {
  const pipeline = await openTestPipeline(WIDE);
  const producer = new TestProducer(pipeline.log);
  const records = Array.from({ length: RECORDS }, (_, n) => record(n));
  await producer.append(0, records.slice(0, 25));
  await producer.append(1, records.slice(25));
  await landOnce(pipeline);
  return inOrder(await readRows(pipeline.lake));
}

/** The rows of files from before the change have no column for the new field. */
const withColumns = (rows: readonly LakeRow[]): LakeRow[] => rows.map((row) => ({ rms: null, ...row }));

async function expectReplayed(pipeline: TestPipeline): Promise<void> {
  await expectAccounts(pipeline.lake, { landed: RECORDS, quarantined: BAD, liveRows: RECORDS - BAD });
  expect(inOrder(withColumns(await readRows(pipeline.lake)))).toEqual(await oracle());
  const left = await showQuarantine(pipeline.config, pipeline.lake, {
    dataset: DATASET,
    limit: 100,
    scratchRoot: join(pipeline.dir, 'scratch'),
  });
  const bad = Array.from({ length: BAD }, (_, n) => `bad ${10 * n + 9}`);
  expect(left.map(({ value }) => value).sort()).toEqual(bad.sort());
}

test('letters that fit the new schema become the rows they would have been, and compact with the others', async () => {
  const pipeline = await quarantined();
  const before = await listQuarantine(pipeline.config, pipeline.lake, DATASET);
  expect((await replay(pipeline, { dryRun: true })).summary).toMatchObject({
    rows: FITTING,
    quarantined: BAD,
    files: 0,
  });
  expect(await listQuarantine(pipeline.config, pipeline.lake, DATASET)).toEqual(before);

  const { summary, problems } = await replay(pipeline);
  expect(summary).toEqual({ objects: 1, records: FITTING + BAD, rows: FITTING, quarantined: BAD, files: 3 });
  expect(problems).toEqual([`${DATASET}: ${BAD} of the records in quarantine still do not fit: not JSON`]);
  await expectReplayed(pipeline);
  expect((await replay(pipeline)).summary).toEqual({ objects: 1, records: BAD, rows: 0, quarantined: BAD, files: 0 });

  expect((await compactAll(pipeline)).problems).toEqual([]);
  await expectReplayed(pipeline);
});

test('what show gives: reason, place and the raw bytes, of the newest objects first', async () => {
  const pipeline = await quarantined();
  await new TestProducer(pipeline.log).append(0, [{ ...foreignRecord(''), value: Buffer.from([0xff, 0x00]) }]);
  await landOnce(pipeline);
  const options = { dataset: DATASET, scratchRoot: join(pipeline.dir, 'scratch') };
  const [newest, next] = await showQuarantine(pipeline.config, pipeline.lake, { ...options, limit: 2 });
  expect(newest).toMatchObject({
    reason: 'value is not UTF-8',
    topic: 'vibration',
    partition: 0,
    offset: 25,
    value: 'base64:/wA=',
  });
  expect(next).toMatchObject({
    reason: 'field rms is not in the declared schema',
    offset: 1,
    headers: { agent: 'edge-1', seq: '1' },
    value: JSON.stringify({ sensor: 's-1', ts: HOUR_MS + 3_600_001, rms: 0.25 }),
  });
  const notJson = await showQuarantine(pipeline.config, pipeline.lake, { ...options, reason: 'not JSON', limit: 100 });
  expect(notJson.map(({ value }) => value)).toHaveLength(BAD);
  await expect(
    showQuarantine(pipeline.config, pipeline.lake, { ...options, object: 'other', limit: 1 }),
  ).rejects.toThrow('has no quarantine object other');
});

test.each(faultPoints)('a fault at every %s, %s its effect', async (operation, moment) => {
  for (let call = 0; ; call++) {
    const pipeline = await quarantined();
    const plan = new FaultPlan({ call, moment, operation });
    // It may survive the fault or report it; silence is no sign of either.
    await replay(withFaults(pipeline, plan)).catch(() => undefined);
    await replay(pipeline);
    await expectReplayed(pipeline);
    if (plan.fired > 0) continue;
    expect(call).toBeGreaterThan(1);
    return;
  }
});

test('killed -9 before and after the commit', async () => {
  for (const moment of ['before', 'after'] as const) {
    const pipeline = await quarantined();
    let kills = 0;
    while (await runKilledAt(pipeline.dir, 'replay', { operation: 'commit', call: kills, moment })) {
      kills++;
      await expectSomeReplayed(pipeline);
    }
    expect(kills).toBeGreaterThan(0);
    await expectReplayed(pipeline);
  }
});

async function expectSomeReplayed({ lake }: TestPipeline): Promise<void> {
  const places = (await readRows(lake)).map((row) => `${String(row['_log_partition'])}:${String(row['_offset'])}`);
  expect(new Set(places).size).toBe(places.length);
  expect([RECORDS - BAD - FITTING, RECORDS - BAD]).toContain(places.length);
}

test('two replays and a lander at once', async () => {
  const pipeline = await quarantined();
  await new TestProducer(pipeline.log).append(0, [record(0)]);
  const [a, b, landed] = await Promise.all([replay(pipeline), replay(pipeline), landOnce(pipeline)]);
  expect(landed.summary.rows).toBe(1);
  expect(a.summary.rows + b.summary.rows).toBe(FITTING);
  await expectAccounts(pipeline.lake, { landed: RECORDS + 1, quarantined: BAD, liveRows: RECORDS + 1 - BAD });
});

test('letters of more hours than a commit holds', async () => {
  const pipeline = withDataset(await openTestPipeline(NARROW), NARROW);
  const hours = OPEN_HOURS_MAX + 20;
  await new TestProducer(pipeline.log).append(
    0,
    Array.from({ length: hours }, (_, n) =>
      recordOf({ seq: n, value: { sensor: 's', ts: HOUR_MS + n * 3_600_000, rms: n } }),
    ),
  );
  expect((await landOnce(pipeline)).summary.quarantined).toBe(hours);
  const wide = withDataset(pipeline, WIDE);
  expect((await replay(wide)).summary).toMatchObject({ rows: hours, quarantined: 0, files: hours });
  await expectAccounts(pipeline.lake, { landed: hours, quarantined: 0, liveRows: hours });
  expect(await listQuarantine(wide.config, wide.lake, DATASET)).toEqual([]);
});
