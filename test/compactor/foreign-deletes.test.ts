/** Row-level deletes of other writers: a compaction applies them, whatever comes meanwhile, and deletes that it cannot apply hold up their hour alone. */
import { writeFileSync } from 'node:fs';
import { utimes } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { datasetStats } from '../../compactor/main.ts';
import { stringifyJson } from '../../lib/table/json.ts';
import { expireSnapshots, removeOrphans } from '../../lib/table/maintenance.ts';
import { newSnapshotId } from '../../lib/table/metadata.ts';
import { openRestServer } from '../../lib/table/rest/rest-server.ts';
import type { LiveFile } from '../../lib/table/data-file.ts';
import { type LakeContext, loadTable } from '../../lib/table/table.ts';
import { collect } from '../support/collect.ts';
import { commitDeletes, type Deletes, draft, equals, positions, rowsWithoutDeleted, write } from './foreign-writer.ts';
import { runKilledAt } from './kill-points.ts';
import { compactWhile, rollBack } from './meanwhile.ts';
import {
  compactAll,
  DATASET,
  HOUR_MS,
  landOnce,
  openTestPipeline,
  readRows,
  recordOf,
  TestProducer,
  type TestPipeline,
} from './pipeline.ts';

const HOURS = 3;
const HOUR = HOUR_MS / 3_600_000;
const PER_LANDING = 60;

/** Readings of four sensors and of none, over three hours. */
function records(from: number): ReturnType<typeof recordOf>[] {
  return Array.from({ length: PER_LANDING }, (_, k) => {
    const n = from + k;
    const sensor = n % 5 === 4 ? null : `s-${n % 4}`;
    return recordOf({ seq: n, value: { sensor, ts: HOUR_MS + (n % HOURS) * 3_600_000 + n, rms: n / 4 } });
  });
}

/** Two landings; in the first hour a compacted file and a small one. */
async function landed(): Promise<{ readonly pipeline: TestPipeline; readonly producer: TestProducer }> {
  const pipeline = await openTestPipeline();
  writeFileSync(join(pipeline.dir, 'pipeline.yaml'), pipeline.yaml);
  const producer = new TestProducer(pipeline.log);
  await producer.append(0, records(0));
  await landOnce(pipeline);
  await compactAll(pipeline, { hour: HOUR });
  await producer.append(0, records(PER_LANDING));
  await landOnce(pipeline);
  return { pipeline, producer };
}

async function files(lake: LakeContext, hour = HOUR): Promise<LiveFile[]> {
  const table = await loadTable(lake, DATASET);
  return table === null ? [] : collect(table.liveFiles({ hour }));
}

async function deleteFiles(lake: LakeContext): Promise<number> {
  return (await loadTable(lake, DATASET))?.rowDeletes().then((deletes) => deletes.files.length) ?? 0;
}

const identities = (rows: readonly Readonly<Record<string, unknown>>[]): string[] =>
  rows.map((row) => `${String(row['_seq'])} ${String(row['sensor'])} ${String(row['rms'])}`).sort();

/** What is live is what the naive reader says, now without any delete file; and the accounts hold. */
async function expectApplied(lake: LakeContext, expected: readonly string[]): Promise<void> {
  expect(identities(await readRows(lake))).toEqual(expected);
  expect(await deleteFiles(lake)).toBe(0);
  const stats = await datasetStats(lake, DATASET);
  expect(stats.landed).toBe(stats.liveRows + stats.duplicates + stats.quarantined + stats.removed);
}

test('positions and equal values, of one hour and of all, by the rules of sequence numbers', async () => {
  const { pipeline, producer } = await landed();
  const { lake } = pipeline;
  const [first, second] = (await files(lake)).map(({ location }) => location);
  const [elsewhere] = (await files(lake, HOUR + 1)).map(({ location }) => location);
  await commitDeletes(
    lake,
    positions(HOUR, [
      [first ?? '', 0],
      [first ?? '', 3],
      [second ?? '', 1],
      [second ?? '', 1],
      [first ?? '', 100_000],
    ]),
    positions(HOUR + 1, [[elsewhere ?? '', 2]], { dataFile: elsewhere ?? '' }),
    // Of the wrong partition: it is about no file.
    positions(HOUR + 2, [[first ?? '', 5]]),
    await equals(lake, HOUR, ['sensor'], [['s-1'], [null]]),
    await equals(
      lake,
      null,
      ['sensor', 'rms'],
      [
        ['s-2', 0.5],
        ['s-2', 1000],
        ['s-3', 4.75],
      ],
    ),
  );
  // What lands later is not deleted, though it is equal, and neither is what a later position delete does not name.
  await producer.append(0, records(2 * PER_LANDING));
  await landOnce(pipeline);
  const expected = identities(await rowsWithoutDeleted(lake));
  expect(expected.length).toBeLessThan(3 * PER_LANDING - 15);
  expect(expected.some((row) => row.includes('s-1'))).toBe(true);
  const { problems, notes, summary } = await compactAll(pipeline);
  expect([...problems, ...notes]).toEqual([]);
  expect(summary).toMatchObject({ groups: HOURS, in: 3 * PER_LANDING, out: expected.length, duplicates: 0 });
  expect(summary.deleted).toBe(3 * PER_LANDING - expected.length);
  await expectApplied(lake, expected);
  const snapshot = (await loadTable(lake, DATASET))?.currentSnapshot;
  expect(snapshot?.summary).toMatchObject({ 'total-delete-files': '0', 'total-position-deletes': '0' });
  // Nothing is left to do.
  expect((await compactAll(pipeline)).plan).toEqual([]);
});

test('one sorted file is compacted for its deletes alone; one whose rows are all deleted is gone', async () => {
  const { pipeline } = await landed();
  const { lake } = pipeline;
  await compactAll(pipeline);
  const [file] = await files(lake);
  const before = (await files(lake, HOUR + 1)).map(({ location }) => location);
  await commitDeletes(lake, positions(HOUR, [[file?.location ?? '', 7]]));
  expect((await compactAll(pipeline, { dryRun: true })).plan).toMatchObject([{ reason: '1 deleted rows' }]);
  const expected = identities(await rowsWithoutDeleted(lake));
  await compactAll(pipeline);
  await expectApplied(lake, expected);
  expect((await files(lake, HOUR + 1)).map(({ location }) => location)).toEqual(before);
  await commitDeletes(lake, await equals(lake, HOUR, ['sensor'], [[null], ...[0, 1, 2, 3].map((n) => [`s-${n}`])]));
  await compactAll(pipeline);
  expect(await files(lake)).toEqual([]);
  await expectApplied(lake, identities(await rowsWithoutDeleted(lake)));
});

test('positions deleted meanwhile: the commit gives up by name, and no row comes back', async () => {
  const { pipeline } = await landed();
  const { lake } = pipeline;
  const [file] = await files(lake);
  const { notes, summary } = await compactWhile(
    pipeline,
    () => commitDeletes(lake, positions(HOUR, [[file?.location ?? '', 2]])),
    { hour: HOUR },
  );
  expect(notes.join()).toContain('came to delete rows');
  expect(summary.groups).toBe(0);
  const expected = identities(await rowsWithoutDeleted(lake));
  expect(expected).toHaveLength(2 * PER_LANDING - 1);
  await compactAll(pipeline);
  await expectApplied(lake, expected);
});

test('equal values deleted meanwhile still take their rows out of the new file', async () => {
  const { pipeline } = await landed();
  const { lake } = pipeline;
  const { problems, notes, summary } = await compactWhile(
    pipeline,
    async () => commitDeletes(lake, await equals(lake, HOUR, ['sensor'], [['s-1']])),
    { hour: HOUR },
  );
  expect([...problems, ...notes]).toEqual([]);
  expect(summary).toMatchObject({ groups: 1, deleted: 0 });
  const expected = identities(await rowsWithoutDeleted(lake));
  expect(expected.length).toBeLessThan(2 * PER_LANDING);
  expect((await readRows(lake)).length).toBe(2 * PER_LANDING);
  await compactAll(pipeline);
  await expectApplied(lake, expected);
});

test('a roll-back meanwhile to before the deletes: the rows that it brings back stay', async () => {
  const { pipeline } = await landed();
  const { lake } = pipeline;
  const before = (await loadTable(lake, DATASET))?.currentSnapshot?.['snapshot-id'] ?? 0n;
  await commitDeletes(lake, await equals(lake, HOUR, ['sensor'], [['s-1']]));
  const { notes, summary } = await compactWhile(pipeline, () => rollBack(lake, before), { hour: HOUR });
  expect(notes.join()).toContain('no longer deletes rows');
  expect(summary.groups).toBe(0);
  expect(await readRows(lake)).toHaveLength(2 * PER_LANDING);
  await compactAll(pipeline);
  expect(await readRows(lake)).toHaveLength(2 * PER_LANDING);
});

const refused: readonly (readonly [what: string, deletes: (location: string) => Deletes, message: string])[] = [
  ['a deletion vector', (location) => positions(HOUR, [[location, 1]], { format: 'PUFFIN' }), 'deletion vectors'],
  ['ORC', (location) => positions(HOUR, [[location, 1]], { format: 'ORC' }), 'format ORC'],
  [
    'a column that the file does not have',
    () => ({
      content: 2,
      hour: HOUR,
      columns: [{ name: 'x', type: 'string', id: 77 }],
      rows: [['x']],
      equalityIds: [1],
    }),
    'no column with field id 1',
  ],
  [
    'equality without ids',
    () => ({ content: 2, hour: HOUR, columns: [{ name: 'x', type: 'string', id: 77 }], rows: [['x']] }),
    'without the ids',
  ],
];

test.each(refused)('%s holds up its hour by name, and no other', async (_, deletes, message) => {
  const { pipeline } = await landed();
  const { lake } = pipeline;
  const before = (await files(lake)).map(({ location }) => location);
  await commitDeletes(lake, deletes(before[0] ?? ''));
  const { problems, summary } = await compactAll(pipeline);
  expect(problems).toHaveLength(1);
  expect(problems[0]).toContain(message);
  expect(summary.groups).toBe(HOURS - 1);
  expect((await files(lake)).map(({ location }) => location)).toEqual(before);
  expect(await deleteFiles(lake)).toBe(1);
});

test('a delete file that is cut short or gone is named, and nothing of its hour is rewritten', async () => {
  const { pipeline } = await landed();
  const { lake } = pipeline;
  const before = (await files(lake)).map(({ location }) => location);
  const [key = ''] = await commitDeletes(lake, positions(HOUR, [[before[0] ?? '', 1]]));
  const bytes = await lake.store.get(key);
  await lake.store.put(key, bytes.subarray(0, -10));
  expect((await compactAll(pipeline)).problems).toEqual([expect.stringContaining(key)]);
  await lake.store.delete([key]);
  expect((await compactAll(pipeline)).problems).toEqual([expect.stringContaining(key)]);
  expect((await files(lake)).map(({ location }) => location)).toEqual(before);
});

test('delete files outlive orphan removal as long as something needs them, and no longer', async () => {
  const { pipeline } = await landed();
  const { lake } = pipeline;
  const [file] = await files(lake);
  const [key = ''] = await commitDeletes(lake, positions(HOUR, [[file?.location ?? '', 1]]));
  const removeAged = async (): Promise<void> => {
    const old = new Date(Date.now() - 2 * 3_600_000);
    await utimes(lake.store.localPath(key) ?? '', old, old);
    await expireSnapshots(lake, DATASET, { olderThanMs: Infinity, keepLast: 1 });
    await removeOrphans(lake, DATASET, { graceMs: 3_600_000 });
  };
  await removeAged();
  const expected = identities(await rowsWithoutDeleted(lake));
  await compactAll(pipeline);
  expect(await lake.store.head(key)).not.toBeNull();
  await removeAged();
  expect(await lake.store.head(key)).toBeNull();
  await expectApplied(lake, expected);
});

test('killed -9 at every write of the metadata engine and of the store, the next run applies them once', async () => {
  for (const operation of ['commit', 'put', 'putFile']) {
    for (let call = 0; ; call++) {
      const pipeline = await openTestPipeline();
      const { lake } = pipeline;
      writeFileSync(join(pipeline.dir, 'pipeline.yaml'), pipeline.yaml);
      const ofOneHour = records(0).filter((_, n) => n % HOURS === 0);
      await new TestProducer(pipeline.log).append(0, ofOneHour);
      await landOnce(pipeline);
      const [file] = await files(lake);
      await commitDeletes(
        lake,
        positions(HOUR, [[file?.location ?? '', 1]]),
        await equals(lake, null, ['sensor'], [['s-2']]),
      );
      const expected = identities(await rowsWithoutDeleted(lake));
      const moment = call % 2 === 0 ? 'before' : 'after';
      const killed = await runKilledAt(pipeline.dir, 'compact', { operation, call, moment });
      expect(identities(await rowsWithoutDeleted(lake))).toEqual(expected);
      await compactAll(pipeline);
      await expectApplied(lake, expected);
      if (!killed) break;
      expect(call).toBeLessThan(20);
    }
  }
});

test('the REST catalog takes delete files only where the table says so, and none that cannot be applied', async () => {
  const { pipeline } = await landed();
  const { lake } = pipeline;
  const server = await openRestServer(lake, { host: '127.0.0.1', port: 0, token: null, onProblem: () => undefined });
  onTestFinished(() => server.close());
  const post = async (updates: unknown): Promise<string> => {
    const url = `${server.url}/v1/namespaces/plant/tables/vibration`;
    const answer = await fetch(url, { method: 'POST', body: stringifyJson({ requirements: [], updates }) });
    return `${answer.status} ${await answer.text()}`;
  };
  const commit = async (format: string): Promise<string> => {
    const { metadata } = (await loadTable(lake, DATASET)) ?? {};
    if (metadata === undefined) throw new Error('no table');
    const [file] = await files(lake);
    const deletes = positions(HOUR, [[file?.location ?? '', 1]], { format });
    const { objects, snapshot } = await draft(lake, metadata, newSnapshotId(), [
      { file: deletes, ...(await write(lake, deletes)) },
    ]);
    for (const { key, bytes } of objects) await lake.store.put(key, bytes);
    const ref = { 'ref-name': 'main', type: 'branch', 'snapshot-id': snapshot['snapshot-id'] };
    return post([
      { action: 'add-snapshot', snapshot },
      { action: 'set-snapshot-ref', ...ref },
    ]);
  };
  const answer = await commit('PARQUET');
  expect(answer).toMatch(/^400 .*penstock\.row-deletes=accept/);
  expect(await deleteFiles(lake)).toBe(0);
  const property = { action: 'set-properties', updates: { 'penstock.row-deletes': 'accept' } };
  expect(await post([property])).toMatch(/^200/);
  expect(await commit('PUFFIN')).toMatch(/^400 .*deletion vectors/);
  expect(await commit('PARQUET')).toMatch(/^200/);
  expect(await deleteFiles(lake)).toBe(1);
  const expected = identities(await rowsWithoutDeleted(lake));
  await compactAll(pipeline);
  await expectApplied(lake, expected);
});
