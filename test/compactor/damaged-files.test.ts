/** Damaged Parquet files: named, counted and left as they are; their hour and the others go on; exit status 3. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, onTestFinished, test } from 'vitest';
import { commitTable } from '../../lib/table/commit.ts';
import { dataFileKey } from '../../lib/table/keys.ts';
import { loadTable } from '../../lib/table/table.ts';
import { collect } from '../support/collect.ts';
import {
  compactAll,
  DATASET,
  HOUR_MS,
  landOnce,
  liveFiles,
  openTestPipeline,
  readRows,
  recordOf,
  type TestPipeline,
  TestProducer,
} from './pipeline.ts';
import { HANG_MS } from '../support/hang.ts';

const penstock = fileURLToPath(new URL('../../bin/penstock.ts', import.meta.url));
const FILE_ROWS = 100;

/** Three files of 100 rows in hour 07, three of one row in hour 08. */
async function landTwoHours(): Promise<TestPipeline> {
  const pipeline = await openTestPipeline();
  writeFileSync(join(pipeline.dir, 'pipeline.yaml'), pipeline.yaml);
  const producer = new TestProducer(pipeline.log);
  for (let part = 0; part < 3; part++) {
    const seqs = Array.from({ length: FILE_ROWS }, (_, n) => part * FILE_ROWS + n);
    await producer.append(
      0,
      // Text that compresses, so that a page does not decode when a part of it is gone.
      seqs.map((seq) =>
        recordOf({ seq, value: { sensor: `sensor-${seq % 3}`, ts: HOUR_MS + seq, note: 'a'.repeat(50) } }),
      ),
    );
    await producer.append(0, [recordOf({ seq: 1000 + part, value: { sensor: 'x', ts: HOUR_MS + 3_600_000 } })]);
    await landOnce(pipeline);
  }
  return pipeline;
}

async function victimOf(pipeline: TestPipeline): Promise<{ location: string; path: string }> {
  const location = (await liveFiles(pipeline.lake)).find((name) => name.includes('hour=07')) ?? '';
  return { location, path: fileURLToPath(location) };
}

function flip(path: string, at: (bytes: Buffer) => number): void {
  const bytes = readFileSync(path);
  const position = at(bytes);
  bytes.writeUInt8(bytes.readUInt8(position) ^ 1, position);
  writeFileSync(path, bytes);
}

/** The footer is followed by its length in four bytes and the magic. */
const footerStart = (bytes: Buffer): number => bytes.length - 8 - bytes.readUInt32LE(bytes.length - 8);

const FLAWS: readonly (readonly [string, (path: string) => void])[] = [
  ['a flipped bit in a page', (path) => flip(path, () => 100)],
  ['a flipped bit in the footer', (path) => flip(path, (bytes) => footerStart(bytes) + 20)],
  ['a flipped bit in the length of the footer', (path) => flip(path, (bytes) => bytes.length - 7)],
  ['a cut end', (path) => truncateSync(path, statSync(path).size - 10)],
  ['nothing left', (path) => truncateSync(path, 0)],
  ['no file', (path) => rmSync(path)],
];

test.each(FLAWS)('%s: the file is named and left, its hour and the others go on', async (_flaw, damage) => {
  const pipeline = await landTwoHours();
  const { location, path } = await victimOf(pipeline);
  damage(path);
  const result = await compactAll(pipeline);
  expect(result.problems).toHaveLength(1);
  expect(result.problems[0]).toContain(location);
  expect(result.problems[0]).toContain(`its ${FILE_ROWS} rows stay as they are`);
  expect(result.summary).toMatchObject({ groups: 2, in: 203, out: 203, filesBefore: 5, unreadable: FILE_ROWS });
  expect(await liveFiles(pipeline.lake)).toContain(location);
  expect(await liveFiles(pipeline.lake)).toHaveLength(3);

  // Nothing is left to do in that hour but to say so again.
  const again = await compactAll(pipeline);
  expect(again.problems).toEqual(result.problems);
  expect(again.summary).toMatchObject({ groups: 0, unreadable: FILE_ROWS });
});

test('a page of another writer that does not decode: found after the merge failed on it', async () => {
  const pipeline = await landTwoHours();
  const { location, path } = await victimOf(pipeline);
  // Other writers put no fingerprint into names: the same bytes under such a name, of which a part of the first page is gone.
  const bytes = readFileSync(path);
  bytes.fill(0xff, 60, 120);
  const key = dataFileKey(DATASET, 'foreign.parquet');
  await pipeline.lake.store.put(key, bytes);
  const foreign = pipeline.lake.store.location(key);
  await commitTable(pipeline.lake, DATASET, async (state) => {
    const file = (await collect(state.liveFiles())).find((live) => live.location === location);
    if (file === undefined) throw new Error('the file is live');
    const add = [{ ...file, location: foreign }];
    return { change: { operation: 'replace', add, remove: [location], summary: {} }, extra: {} };
  });
  const result = await compactAll(pipeline);
  expect(result.problems).toHaveLength(1);
  expect(result.problems[0]).toContain(`${foreign} is damaged`);
  expect(result.summary).toMatchObject({ groups: 2, in: 203, out: 203, unreadable: FILE_ROWS });
  expect(await liveFiles(pipeline.lake)).toContain(foreign);
});

test('`penstock compact` says what is damaged once, and ends with status 3', async () => {
  const pipeline = await landTwoHours();
  const { location, path } = await victimOf(pipeline);
  flip(path, () => 100);
  for (const json of [true, false]) {
    const args = [penstock, 'compact', '-c', join(pipeline.dir, 'pipeline.yaml'), '--ignore-lag'];
    const child = spawn(process.execPath, json ? [...args, '--json'] : args, { stdio: ['ignore', 'pipe', 'pipe'] });
    onTestFinished(() => void child.kill('SIGKILL'));
    let [stdout, stderr] = ['', ''];
    child.stdout.on('data', (text: Buffer) => (stdout += text.toString()));
    child.stderr.on('data', (text: Buffer) => (stderr += text.toString()));
    const [code] = (await once(child, 'close', { signal: AbortSignal.timeout(HANG_MS) })) as [number];
    expect(code, stderr).toBe(3);
    expect(stderr.split(location)).toHaveLength(2);
    expect(stdout).toMatch(json ? /"unreadable":100/ : /unreadable +100/);
  }
});

test('a dataset whose metadata vanished is a problem by name; the others land and compact', async () => {
  const pipeline = await openTestPipeline(', dedup: none }\n  - { name: plant.other, topic: other, eventTime: ts');
  await pipeline.log.ensureTopic('other', { partitions: 1, retentionMs: 86_400_000 });
  const producer = new TestProducer(pipeline.log);
  const append = async (seq: number): Promise<void> => {
    const record = recordOf({ seq, value: { sensor: 's', ts: HOUR_MS + seq } });
    await producer.append(0, [record]);
    await producer.append(0, [record], 'other');
  };
  await append(0);
  await landOnce(pipeline);
  const table = await loadTable(pipeline.lake, DATASET);
  const list = table?.metadata.snapshots.at(-1)?.['manifest-list'] ?? '';
  rmSync(fileURLToPath(list));
  const compacted = await compactAll(pipeline);
  expect(compacted.problems).toEqual([expect.stringContaining(list)]);
  expect(compacted.summary).toMatchObject({ groups: 1, in: 1 });

  rmSync(fileURLToPath(table?.metadataLocation ?? ''));
  await append(1);
  const landed = await landOnce(pipeline);
  expect(landed.problems).toEqual([expect.stringContaining(table?.metadataLocation ?? '?')]);
  expect(landed.summary).toMatchObject({ records: 1 });
  expect(await readRows(pipeline.lake, 'plant.other')).toHaveLength(2);
});
