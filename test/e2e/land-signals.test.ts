/** `penstock land` as a process that is told to end: what its exit status says of what it did. */
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
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
import { type RunningCommand, startCommand, statusOf } from './command.ts';

const RECORDS = 3000;
/** With the least that a commit stages, 4 MB: fifteen commits of one file each, so that the first one leaves something to do. */
const TEXT = 'x'.repeat(20_000);

function startLand(dir: string, ...more: readonly string[]): RunningCommand {
  return startCommand(['land', '-c', join(dir, 'pipeline.yaml'), '--json', ...more]);
}

async function openManyCommits() {
  const pipeline = await openTestPipeline('', 'lander: { fileBytes: 1MB }');
  writeFileSync(join(pipeline.dir, 'pipeline.yaml'), pipeline.yaml);
  const producer = new TestProducer(pipeline.log);
  for (let from = 0; from < RECORDS; from += 30) {
    const records = Array.from({ length: 30 }, (_, n) =>
      recordOf({ seq: from + n, value: { sensor: 's', ts: HOUR_MS + from + n, text: TEXT } }),
    );
    await producer.append(0, records);
  }
  return pipeline;
}

test('`land --once` ended between two commits exits 3 and names what it left; the next run lands exactly that', async () => {
  const pipeline = await openManyCommits();
  const landing = startLand(pipeline.dir, '--once');
  await statusOf(landing, 'commit');
  landing.child.kill('SIGTERM');
  expect(await landing.exit, landing.stderr()).toBe(3);
  const summary = JSON.parse(landing.stdout()) as { readonly records: number };
  expect(summary.records).toBeGreaterThan(0);
  expect(summary.records).toBeLessThan(RECORDS);
  expect(landing.stderr()).toBe(
    `penstock: ${DATASET}: vibration/0: offsets ${summary.records} to ${RECORDS - 1} have not landed: ended by SIGTERM\n`,
  );

  const rest = startLand(pipeline.dir, '--once');
  expect(await rest.exit, rest.stderr()).toBe(0);
  expect(JSON.parse(rest.stdout())).toMatchObject({ records: RECORDS - summary.records });
  await expectAccounts(pipeline.lake, { landed: RECORDS });
});

test('`land` without --once that is ended commits what it has read and exits 0', async () => {
  const pipeline = await openManyCommits();
  const landing = startLand(pipeline.dir);
  await statusOf(landing, 'commit');
  landing.child.kill('SIGTERM');
  expect(await landing.exit, landing.stderr()).toBe(0);
  const { records } = JSON.parse(landing.stdout()) as { readonly records: number };
  expect(landing.stderr()).toBe('');
  await expectAccounts(pipeline.lake, { landed: records });
});

test.each([
  ['land', []],
  ['land --once', ['--once']],
])(
  '`%s` that is told to end while its session is lost exits 3 and names it; the next one lands the rest',
  async (_what, args) => {
    const pipeline = await openManyCommits();
    const landing = startLand(pipeline.dir, ...args);
    await statusOf(landing, 'commit');
    // Both are there when it goes on.
    landing.child.kill('SIGSTOP');
    const { engine } = pipeline.lake;
    for (const { id, kind } of await engine.sessions()) if (kind === 'lander') await engine.endSession(id);
    landing.child.kill('SIGTERM');
    landing.child.kill('SIGCONT');
    expect(await landing.exit, landing.stderr()).toBe(3);
    const { records } = JSON.parse(landing.stdout()) as { readonly records: number };
    expect(records).toBeGreaterThan(0);
    const left = `vibration/0: offsets ${records} to ${RECORDS - 1} have not landed: ended by SIGTERM`;
    if (args.length > 0) expect(landing.stderr()).toContain(left);
    expect(landing.stderr()).toMatch(/the cost of this run was not recorded: .* session \d+ was ended\n$/);

    const rest = startLand(pipeline.dir, '--once');
    expect(await rest.exit, rest.stderr()).toBe(0);
    expect(JSON.parse(rest.stdout())).toMatchObject({ records: RECORDS - records });
    await expectAccounts(pipeline.lake, { landed: RECORDS });
  },
);

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
