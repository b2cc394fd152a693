/** `penstock compact` as a process that is told to end, as on a spot machine: what it did stays, what it left is named, and nothing lingers. */
import { existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { userInfo } from 'node:os';
import { expect, test } from 'vitest';
import { hourName } from '../../compactor/parquet-object.ts';
import {
  DATASET,
  expectAccounts,
  HOUR_MS,
  landOnce,
  openTestPipeline,
  recordOf,
  TestProducer,
  type TestPipeline,
} from '../compactor/pipeline.ts';
import { descendants, eventually, isAlive } from '../support/processes.ts';
import { type RunningCommand, startCommand, statusOf } from './command.ts';

const HOURS = 24;
const RECORDS = 20 * HOURS;

async function openHours(): Promise<TestPipeline> {
  const pipeline = await openTestPipeline();
  writeFileSync(join(pipeline.dir, 'pipeline.yaml'), pipeline.yaml);
  mkdirSync(join(pipeline.dir, 'tmp'));
  const records = Array.from({ length: RECORDS }, (_, n) =>
    recordOf({ seq: n, value: { sensor: `s${n % 7}`, ts: HOUR_MS + (n % HOURS) * 3_600_000 } }),
  );
  await new TestProducer(pipeline.log).append(0, records);
  await landOnce(pipeline);
  return pipeline;
}

function startCompact({ dir }: TestPipeline): RunningCommand {
  return startCommand(['compact', '-c', join(dir, 'pipeline.yaml'), '--json', '--ignore-lag'], {
    TMPDIR: join(dir, 'tmp'),
  });
}

/** SIGTERM in the middle of a group: its worker stands still, so that the group cannot end before the signal is there. */
async function terminate(compact: RunningCommand): Promise<number> {
  const worker = await eventually('the worker', () =>
    descendants(compact.pid).find((entry) => entry.command.includes('sql-worker')),
  );
  process.kill(worker.pid, 'SIGSTOP');
  compact.child.kill('SIGTERM');
  return worker.pid;
}

/** Neither a worker nor anything in the scratch directory. */
function expectNothingLingers({ dir }: TestPipeline, worker: number): void {
  expect(isAlive(worker)).toBe(false);
  const scratch = join(dir, 'tmp', `penstock-scratch-${userInfo().uid}`);
  expect(existsSync(scratch)).toBe(true);
  expect(readdirSync(scratch)).toEqual([]);
}

test('ended between two groups, it prints what it committed, names what it left and exits 3; the next run does exactly that', async () => {
  const pipeline = await openHours();
  const compact = startCompact(pipeline);
  await statusOf(compact, 'group');
  const worker = await terminate(compact);
  expect(await compact.exit, compact.stderr()).toBe(3);
  const { groups, in: rows } = JSON.parse(compact.stdout()) as { readonly groups: number; readonly in: number };
  expect(groups).toBeGreaterThan(0);
  expect(groups).toBeLessThan(HOURS);
  expect(rows).toBe((groups * RECORDS) / HOURS);
  const [first, last] = [groups, HOURS - 1].map((n) => hourName(HOUR_MS / 3_600_000 + n));
  const left = first === last ? `hour ${first} is` : `${HOURS - groups} hours from ${first} to ${last} are`;
  expect(compact.stderr()).toBe(`penstock: ${DATASET}: ${left} not compacted: ended by SIGTERM\n`);
  expectNothingLingers(pipeline, worker);

  const rest = startCompact(pipeline);
  expect(await rest.exit, rest.stderr()).toBe(0);
  expect(JSON.parse(rest.stdout())).toMatchObject({ groups: HOURS - groups, in: RECORDS - rows, duplicates: 0 });
  await expectAccounts(pipeline.lake, { landed: RECORDS, liveRows: RECORDS, liveFiles: HOURS, smallFiles: 0 });
});

test('ended in its first group, it exits 1 and has changed nothing', async () => {
  const pipeline = await openHours();
  const compact = startCompact(pipeline);
  const worker = await terminate(compact);
  expect(await compact.exit, compact.stderr()).toBe(1);
  expect(compact.stdout()).toBe('');
  expect(compact.stderr()).toBe('penstock: ended by SIGTERM before anything was compacted\n');
  expectNothingLingers(pipeline, worker);
  await expectAccounts(pipeline.lake, { landed: RECORDS, liveRows: RECORDS, liveFiles: HOURS, smallFiles: HOURS });
});
