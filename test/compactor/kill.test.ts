/**
 * Landers and compactors killed -9 at random moments while records keep coming and a reader looks at every snapshot: no snapshot has
 * a gap or a double, and in the end every record is there once.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, onTestFinished, test } from 'vitest';
import { datasetStats } from '../../compactor/main.ts';
import { checkSnapshot, countRepeats, knownRecord } from './known-records.ts';
import {
  compactAll,
  DATASET,
  expectAccounts,
  landOnce,
  openTestPipeline,
  TestProducer,
  type TestPipeline,
} from './pipeline.ts';
import { HANG_MS } from '../support/hang.ts';

const KILLS = 10;
const RUN_MS_MAX = 700;

function startChild(pipeline: TestPipeline, role: 'land' | 'compact'): ChildProcess {
  const child = fork(join(import.meta.dirname, 'pipeline-child.ts'), [pipeline.dir, role], {
    stdio: ['ignore', 'ignore', 'ignore', 'ipc'],
    execArgv: [],
  });
  onTestFinished(() => void child.kill('SIGKILL'));
  return child;
}

test('killed at random, again and again', async () => {
  const pipeline = await openTestPipeline();
  writeFileSync(join(pipeline.dir, 'pipeline.yaml'), pipeline.yaml);
  const producer = new TestProducer(pipeline.log);
  let produced = 0;
  let seed = 20260131;
  const random = (): number => (seed = (seed * 48271) % 2147483647) / 2147483647;
  for (let kill = 0; kill < KILLS; kill++) {
    for (const partition of [0, 1]) {
      await producer.append(
        partition,
        Array.from({ length: 200 }, (_, n) => knownRecord(partition, produced + n)),
      );
    }
    produced += 200;
    const children = [startChild(pipeline, 'land'), startChild(pipeline, 'compact')];
    await Promise.all(children.map((child) => once(child, 'message', { signal: AbortSignal.timeout(HANG_MS) })));
    const exits = children.map((child) => once(child, 'exit', { signal: AbortSignal.timeout(HANG_MS) }));
    // How long they run is the random moment of the kill, not a wait for something.
    await Promise.all([sleep(random() * RUN_MS_MAX), checkSnapshot(pipeline)]);
    for (const child of children) child.kill('SIGKILL');
    await Promise.all(exits);
    await checkSnapshot(pipeline);
  }
  await landOnce(pipeline);
  expect((await compactAll(pipeline)).problems).toEqual([]);
  await checkSnapshot(pipeline);
  const bad = produced / 50;
  const repeated = countRepeats(produced);
  await expectAccounts(pipeline.lake, {
    landed: 2 * produced,
    quarantined: 2 * bad,
    duplicates: 2 * repeated,
    smallFiles: 0,
    liveFiles: 3,
  });
  expect((await datasetStats(pipeline.lake, DATASET)).liveRows).toBe(2 * (produced - bad - repeated));
  // The scratch directories of the killed are gone, their own too; empty ones of those killed before they had the lock stay for an hour.
  const left = readdirSync(join(pipeline.dir, 'scratch')).filter((name) => !name.startsWith('new-'));
  expect(left).toEqual([]);
});
