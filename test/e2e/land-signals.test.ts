/** `penstock land` as a process that is told to end: what its exit status says of what it did. */
import { fork, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, onTestFinished, test } from 'vitest';
import {
  DATASET,
  expectAccounts,
  HOUR_MS,
  openTestPipeline,
  pipelineYaml,
  recordOf,
  TestProducer,
} from '../compactor/pipeline.ts';
import { eventually } from '../support/processes.ts';
import { tempDir } from '../support/temp.ts';

const penstock = fileURLToPath(new URL('../../bin/penstock.ts', import.meta.url));
const HOURS = 600;

interface Landing {
  readonly child: ChildProcess;
  readonly exit: Promise<unknown>;
  readonly stdout: () => string;
  readonly stderr: () => string;
}

/** With a channel, on which the command tells of every commit. */
function startLand(dir: string, ...more: readonly string[]): Landing {
  const child = fork(penstock, ['land', '-c', join(dir, 'pipeline.yaml'), '--json', ...more], {
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
  });
  onTestFinished(() => void child.kill('SIGKILL'));
  let [stdout, stderr] = ['', ''];
  child.stdout?.on('data', (text: Buffer) => (stdout += text.toString()));
  child.stderr?.on('data', (text: Buffer) => (stderr += text.toString()));
  const exit = once(child, 'close', { signal: AbortSignal.timeout(40_000) }).then(([code]) => code as unknown);
  return { child, exit, stdout: () => stdout, stderr: () => stderr };
}

/** Resolves at the next status of that kind. */
function status({ child }: Landing, kind: string): Promise<void> {
  return new Promise((resolve, reject) => {
    child.on('message', (message) => {
      if (typeof message === 'object' && 'kind' in message && message.kind === kind) resolve();
    });
    child.once('exit', () => reject(new Error(`it ended before its first ${kind}`)));
  });
}

/** More event hours than fit into one commit: the first one leaves something to do. */
async function openManyHours() {
  const pipeline = await openTestPipeline();
  writeFileSync(join(pipeline.dir, 'pipeline.yaml'), pipeline.yaml);
  const records = Array.from({ length: HOURS }, (_, n) =>
    recordOf({ seq: n, value: { sensor: 's', ts: HOUR_MS + n * 3_600_000 } }),
  );
  await new TestProducer(pipeline.log).append(0, records);
  return pipeline;
}

test('`land --once` ended between two commits exits 3 and names what it left; the next run lands exactly that', async () => {
  const pipeline = await openManyHours();
  const landing = startLand(pipeline.dir, '--once');
  await status(landing, 'commit');
  landing.child.kill('SIGTERM');
  expect(await landing.exit, landing.stderr()).toBe(3);
  const summary = JSON.parse(landing.stdout()) as { readonly records: number };
  expect(summary.records).toBeGreaterThan(0);
  expect(summary.records).toBeLessThan(HOURS);
  expect(landing.stderr()).toBe(
    `penstock: ${DATASET}: vibration/0: offsets ${summary.records} to ${HOURS - 1} have not landed: ended by SIGTERM\n`,
  );

  const rest = startLand(pipeline.dir, '--once');
  expect(await rest.exit, rest.stderr()).toBe(0);
  expect(JSON.parse(rest.stdout())).toMatchObject({ records: HOURS - summary.records });
  await expectAccounts(pipeline.lake, { landed: HOURS });
});

test('`land` without --once that is ended commits what it has read and exits 0', async () => {
  const pipeline = await openManyHours();
  const landing = startLand(pipeline.dir);
  await status(landing, 'commit');
  landing.child.kill('SIGTERM');
  expect(await landing.exit, landing.stderr()).toBe(0);
  const { records } = JSON.parse(landing.stdout()) as { readonly records: number };
  expect(landing.stderr()).toBe('');
  await expectAccounts(pipeline.lake, { landed: records });
});

test('`land --once` whose log does not answer, ended before anything landed, exits 1 and says so', async () => {
  const dir = tempDir();
  // Port 1 is reserved and closed.
  writeFileSync(join(dir, 'pipeline.yaml'), pipelineYaml(dir).replace(/^log: .*/, 'log: kafka://127.0.0.1:1'));
  const landing = startLand(dir, '--once');
  // Its handlers are there, and it is about to ask the log.
  await eventually('the metadata', () => existsSync(join(dir, 'meta.db')));
  landing.child.kill('SIGTERM');
  expect(await landing.exit, landing.stderr()).toBe(1);
  expect(landing.stdout()).toBe('');
  expect(landing.stderr().trim().split('\n').at(-1)).toBe('penstock: ended by SIGTERM before anything landed');
  expect(landing.stderr()).toContain('topic vibration: what it holds has not landed');
});
