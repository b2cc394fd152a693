/** The agent and the lander as processes whose clocks are years off, and are then set right. */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { appendFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, onTestFinished, test } from 'vitest';
import { readCounters } from '../../lib/lake/counters.ts';
import { openLake, openPipelineLog } from '../../lib/lake/ports.ts';
import { parseConfig } from '../../lib/config/load.ts';
import { pipelineSchema } from '../../lib/config/pipeline.ts';
import { tempDir } from '../support/temp.ts';
import { HANG_MS } from '../support/hang.ts';

const penstock = fileURLToPath(new URL('../../bin/penstock.ts', import.meta.url));
const YEAR_MS = 365.25 * 86_400_000;

/** Loaded before a program: its wall clock, and only that, is off by CLOCK_SHIFT_MS. */
const CLOCK_SHIM = `
const RealDate = Date;
const now = () => RealDate.now() + Number(process.env.CLOCK_SHIFT_MS);
globalThis.Date = class Date extends RealDate {
  constructor(...args) { super(...(args.length === 0 ? [now()] : args)); }
  static now() { return now(); }
};
`;

function run(dir: string, shiftMs: number, ...args: readonly string[]): { child: ChildProcess; output: () => string } {
  writeFileSync(join(dir, 'clock.mjs'), CLOCK_SHIM);
  const child = spawn(process.execPath, ['--import', join(dir, 'clock.mjs'), penstock, ...args], {
    cwd: dir,
    env: { ...process.env, CLOCK_SHIFT_MS: String(Math.round(shiftMs)) },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  onTestFinished(() => void child.kill('SIGKILL'));
  let output = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (text: Buffer) => (output += text.toString()));
  return { child, output: () => output };
}

async function exitOf(child: ChildProcess): Promise<unknown> {
  if (child.exitCode !== null) return child.exitCode;
  const [code] = (await once(child, 'close', { signal: AbortSignal.timeout(HANG_MS) })) as [number | null];
  return code;
}

test('an agent that starts in 1971, is set right and jumps again: every reading lands', async () => {
  const dir = tempDir('clock');
  const yaml = `log: file:./log?segmentBytes=4KiB
store: dir:./objects
meta: sqlite:./meta.db
datasets: [{ name: plant.machine, topic: machine }]
topics: { partitions: 1, retention: 7d }
`;
  writeFileSync(join(dir, 'pipeline.yaml'), yaml);
  writeFileSync(
    join(dir, 'agent.yaml'),
    `agent: { id: edge-7, dataDir: ./agent }
log: file:./log?segmentBytes=4KiB
sources: [{ type: file, path: ./in.ndjson, sensor: id, to: machine, poll: 10ms }]
`,
  );
  writeFileSync(join(dir, 'in.ndjson'), '');
  const config = parseConfig(yaml, 'pipeline.yaml', pipelineSchema);
  const log = await openPipelineLog(config, dir);
  onTestFinished(() => log.close());
  await log.ensureTopic('machine', { partitions: 1, retentionMs: config.topics.retention });

  let written = 0;
  for (const shiftMs of [-55 * YEAR_MS, 0, 74 * YEAR_MS, 0]) {
    const { child, output } = run(dir, shiftMs, 'agent', 'run', '-c', 'agent.yaml');
    // Lines of several polls, so that the log gets several batches and segments.
    for (let part = 0; part < 4; part++) {
      const lines = Array.from({ length: 50 }, (_, n) => `{"id":"s","n":${written + n}}\n`);
      appendFileSync(join(dir, 'in.ndjson'), lines.join(''));
      written += lines.length;
      const end = async (): Promise<number> => Number((await log.offsets('machine', 0)).end);
      await expect.poll(end, { message: output() }).toBe(written);
    }
    child.kill('SIGTERM');
    expect(await exitOf(child), output()).toBe(0);
  }
  expect(await log.offsets('machine', 0)).toMatchObject({ earliest: 0n, end: 800n });

  const { child, output } = run(dir, 20 * YEAR_MS, 'land', '-c', 'pipeline.yaml', '--once', '--json');
  expect(await exitOf(child), output()).toBe(0);
  expect(JSON.parse(output())).toMatchObject({ records: 800, rows: 800, lost: 0 });
  const ports = await openLake(config, dir, 'test');
  onTestFinished(() => ports.close());
  expect(await readCounters(ports.lake.engine, ports.lake.volume, 'plant.machine')).toMatchObject({
    landed: 800,
    quarantined: 0,
    lost: 0,
  });
});
