/**
 * The main job as its user runs it: `penstock demo` as a process tree, its accounting, and the same accounting after kill -9 of each of its
 * processes and of its head in each phase. Lines with numbers in the inbox are the oracle: each number is in the table exactly once.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { appendFileSync, mkdirSync, readdirSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { expect, it, onTestFinished } from 'vitest';
import { fetchStatus, tapReadings } from '../../agent/look.ts';
import { loadAgentConfig } from '../../agent/main.ts';
import { openLake } from '../../compactor/main.ts';
import { liveFilePaths } from '../../bin/demo/query.ts';
import { loadConfig } from '../../lib/config/load.ts';
import { pipelineSchema } from '../../lib/config/pipeline.ts';
import { defaultScratchRoot, makeScratch } from '../../lib/sql/scratch.ts';
import { SqlWorker } from '../../lib/sql/sql-worker-client.ts';
import { descendants, eventually, isAlive, kill, processes } from '../support/processes.ts';
import { HANG_MS } from '../support/hang.ts';
import { tempDir } from '../support/temp.ts';

/** Each further demo reads on where the one before was. */
const RUNS_MAX = 10;
/** Seconds, of a demo that its test ends when it has seen what it came for. */
const UNTIL_TOLD = 600;

interface Summary {
  readonly readings: number;
  readonly landedRows: number;
  readonly duplicates: number;
  readonly quarantined: number;
  readonly compactedRows: number;
  readonly compactedFiles: number;
  readonly smallFiles: number;
  readonly queryRows: number;
  readonly mountpoint: string | null;
}

class Demo {
  readonly child: ChildProcess;
  readonly pid: number;
  stdout = '';
  stderr = '';
  readonly exited: Promise<number | null>;

  constructor(dir: string, seconds: number, rate = 2000) {
    const args = ['demo', '--dir', dir, '--for', `${seconds}s`, '--rate', `${rate}`, '--json'];
    this.child = spawn(join(import.meta.dirname, '../../bin/penstock'), args, { stdio: ['ignore', 'pipe', 'pipe'] });
    this.pid = this.child.pid ?? 0;
    this.child.stdout?.on('data', (text: Buffer) => (this.stdout += text.toString()));
    this.child.stderr?.on('data', (text: Buffer) => (this.stderr += text.toString()));
    this.exited = new Promise((resolve) => this.child.once('close', resolve));
    onTestFinished(() => {
      for (const entry of [...descendants(this.pid), { pid: this.pid }]) kill(entry.pid);
    });
  }

  async summary(): Promise<Summary> {
    const status = await this.exited;
    expect(`${this.stderr}\nstatus ${status}`).toMatch(/status 0$/);
    // The shape is the documented one; the tests check its numbers.
    return JSON.parse(this.stdout.trim().split('\n').at(-1) ?? '') as Summary;
  }

  /** A process of the tree by a part of its command line. */
  find(part: string): Promise<number> {
    return eventually(
      `a process with '${part}'\n${this.stderr}`,
      () => descendants(this.pid).find((entry) => entry.command.includes(part))?.pid,
    );
  }
}

function expectAccounted(summary: Summary): void {
  expect(summary.landedRows).toBe(summary.compactedRows + summary.duplicates + summary.quarantined);
  expect(summary.readings).toBe(summary.landedRows - summary.duplicates);
  expect(summary.queryRows).toBe(summary.compactedRows);
  expect(summary.compactedFiles).toBeGreaterThan(0);
  expect(summary.compactedFiles).toBeLessThanOrEqual(summary.smallFiles);
}

/** Numbered lines into the inbox, as a machine's log would grow. */
class NumberedLines {
  count = 0;
  readonly #path: string;

  constructor(dir: string) {
    mkdirSync(join(dir, 'inbox'), { recursive: true });
    this.#path = join(dir, 'inbox', 'numbers.ndjson');
  }

  append(lines: number): void {
    const text = Array.from({ length: lines }, (_, i) => `{"n":${this.count + i}}\n`).join('');
    appendFileSync(this.#path, text);
    this.count += lines;
  }
}

async function numbersInTable(dir: string): Promise<{ rows: number; distinct: number; max: number }> {
  const { config, baseDir } = await loadConfig(join(dir, 'pipeline.yaml'), pipelineSchema);
  const ports = await openLake(config, baseDir, 'test');
  const scratch = await makeScratch(defaultScratchRoot(), 'test');
  const worker = await SqlWorker.start({ memoryBytes: 1e9, threads: 1, scratchDir: scratch.path, scratchBytes: 1e9 });
  try {
    const files = await liveFilePaths(ports.lake, 'plant.inbox');
    if (files.length === 0) return { rows: 0, distinct: 0, max: -1 };
    const list = files.map((path) => `'${path}'`).join(',');
    const [row] = await worker.query(
      `SELECT count(*) AS rows, count(DISTINCT n) AS distinct_n, max(n) AS max FROM read_parquet([${list}])`,
    );
    return { rows: Number(row?.['rows']), distinct: Number(row?.['distinct_n']), max: Number(row?.['max']) };
  } finally {
    await worker.close();
    scratch.remove();
    await ports.close();
  }
}

/** Further demos until every line is in the table: how much one of two seconds reads is the machine's. */
async function expectAllNumbers(dir: string, lines: NumberedLines): Promise<void> {
  let seen: unknown;
  for (let run = 0; run < RUNS_MAX; run++) {
    expectAccounted(await new Demo(dir, 2).summary());
    const numbers = await numbersInTable(dir);
    expect(numbers.rows, 'a line is there twice').toBe(numbers.distinct);
    seen = numbers;
    if (numbers.rows === lines.count) break;
  }
  expect(seen).toEqual({ rows: lines.count, distinct: lines.count, max: lines.count - 1 });
}

const isMounted = (dir: string): boolean => readFileSync('/proc/self/mounts', 'utf8').includes(dir);

it('accounts for every reading, goes on where it was, and tells a second demo who holds the directory', async () => {
  const dir = tempDir('demo');
  const first = new Demo(dir, UNTIL_TOLD);
  await first.find('agent run');
  // As `penstock agent top` and `tap` do, with the file that the demo has written.
  const { config } = await loadAgentConfig(join(dir, 'agent.yaml'));
  const agent = (): Promise<string | undefined> =>
    fetchStatus(config).then(
      (status) => status.agent,
      () => undefined,
    );
  await expect.poll(agent, { timeout: HANG_MS, interval: 50 }).toBe('demo');
  const tapped: string[] = [];
  const of = { stage: 'out', topic: 'vibration', limit: 3 } as const;
  await tapReadings(config, of, (line) => tapped.push(line), AbortSignal.timeout(HANG_MS));
  expect(tapped).toHaveLength(3);
  const rival = new Demo(dir, 1);
  expect(await rival.exited).toBe(1);
  expect(rival.stderr).toMatch(new RegExp(`${dir} is held by process ${first.pid} \\(penstock demo\\)`));

  const url = await eventually('the address of the page', () => /admin page is at (\S+)/.exec(first.stderr)?.[1]);
  expect(await (await fetch(url)).text()).toContain('<title>Penstock');
  for (let agents = ''; !agents.includes('"demo"');) {
    await delay(100);
    expect(first.child.exitCode, 'the agent did not report while the demo ran').toBeNull();
    agents = await (await fetch(new URL('v1/agents', `${url}/`))).text();
  }

  first.child.kill('SIGTERM');
  const one = await first.summary();
  expectAccounted(one);
  expect(one.readings).toBeGreaterThan(200);
  const two = await new Demo(dir, 2).summary();
  expectAccounted(two);
  expect(two.readings).toBeGreaterThan(one.readings);
  expect(processes().filter((entry) => entry.command.includes(dir))).toEqual([]);
});

it('loses and doubles nothing when each of its processes is killed with -9', async () => {
  const dir = tempDir('demo-kill');
  const lines = new NumberedLines(dir);
  lines.append(500);
  const demo = new Demo(dir, UNTIL_TOLD);
  for (const part of ['agent run', 'land -c', 'serve -c', 'fs mount', 'worker.ts', 'compact -c', 'sql-worker']) {
    // What has no compactor under way compacts, and queries, at its end.
    if (part === 'sql-worker') demo.child.kill('SIGTERM');
    const pid = await demo.find(part);
    lines.append(500);
    kill(pid);
    await eventually(`the end of ${pid}`, () => !isAlive(pid));
    lines.append(500);
  }
  expectAccounted(await demo.summary());
  // The last process is only there at the end, when the agent has stopped: a second run takes the lines that came after.
  await expectAllNumbers(dir, lines);
});

it.each(['collecting', 'draining', 'landing', 'compacting', 'querying'])(
  'loses and doubles nothing when the whole tree loses its head while %s',
  async (phase) => {
    const dir = tempDir('demo-head');
    const lines = new NumberedLines(dir);
    lines.append(1000);
    const demo = new Demo(dir, 3);
    await eventually(`the phase ${phase}\n${demo.stderr}`, () => demo.stderr.includes(`${phase}:`));
    if (phase === 'collecting') await eventually('a landed row', () => /landed [1-9]/.test(demo.stderr));
    kill(demo.pid);
    await demo.exited;
    lines.append(1000);
    await eventually('the end of the tree', () => !processes().some((entry) => entry.command.includes(dir)));
    await eventually('the end of the mount', () => !isMounted(dir));
    await expectAllNumbers(dir, lines);
  },
);

it.each([
  ['npm is killed', { npm_lifecycle_event: 'start' }, (npm: number) => kill(npm)],
  ['its terminal is closed', {}, (_npm: number, head: number) => process.kill(head, 'SIGHUP')],
] as const)('drains and takes its tree and its mount along when %s', async (_when, env, end) => {
  const dir = tempDir('demo-orphan');
  const script = '"$0" demo --dir "$1" --for 600s --rate 500 & wait';
  const npm = spawn('sh', ['-c', script, join(import.meta.dirname, '../../bin/penstock'), dir], {
    stdio: 'ignore',
    env: { ...process.env, ...env },
  });
  const ours = (): ReturnType<typeof processes> => processes().filter((entry) => entry.command.includes(dir));
  onTestFinished(() => ours().forEach((entry) => kill(entry.pid)));
  const head = await eventually('the demo', () => ours().find((one) => one.command.includes('penstock.ts demo'))?.pid);
  await eventually('the lander', () => ours().find((one) => one.command.includes('land -c')));
  end(npm.pid ?? 0, head);
  await eventually('nothing of it runs any more', () => ours().length === 0);
  kill(npm.pid ?? 0);
  await eventually('the end of the mount', () => !isMounted(dir));
  const { readings, compactedRows, duplicates } = await new Demo(dir, 3).summary();
  expect(readings).toBeGreaterThan(0);
  expect(compactedRows).toBe(readings);
  expect(duplicates).toBe(0);
});

it('uses a changed configuration as it is, refuses a directory that is not its own, and names a damaged file', async () => {
  const foreign = tempDir('demo-foreign');
  writeFileSync(join(foreign, 'pipeline.yaml'), 'log: kafka://broker:9092\n');
  const refused = new Demo(foreign, 1);
  expect(await refused.exited).toBe(2);
  expect(refused.stderr).toContain(`${foreign}/pipeline.yaml was not written by penstock demo`);
  expect(readdirSync(foreign)).toEqual(['pipeline.yaml']);

  const dir = tempDir('demo-changed');
  await new Demo(dir, 5, 500).summary();
  const agentYaml = join(dir, 'agent.yaml');
  const changed = readFileSync(agentYaml, 'utf8').replace('rate: 500', 'rate: 100');
  writeFileSync(agentYaml, changed);
  const objects = readdirSync(join(dir, 'objects'), { recursive: true, encoding: 'utf8' });
  const sizeOf = (name: string): number => statSync(join(dir, 'objects', name)).size;
  const files = objects.filter((name) => name.endsWith('.parquet')).sort((one, two) => sizeOf(two) - sizeOf(one));
  // A slow machine may have landed one small file, which nothing was merged with.
  const live = files.find((name) => name.includes('-compacted-')) ?? files[0] ?? 'none';
  truncateSync(join(dir, 'objects', live), 1000);
  const second = new Demo(dir, 2, 500);
  expect(await second.exited).toBe(3);
  expect(readFileSync(agentYaml, 'utf8')).toBe(changed);
  expect(second.stderr).toContain(`${agentYaml} was changed: used as it is`);
  // By the compaction where there was something to merge it with, and by the query in any case.
  expect(second.stderr).toContain(basename(live));
  const summary = JSON.parse(second.stdout.trim().split('\n').at(-1) ?? '') as Summary;
  expect(summary.queryRows).toBeLessThan(summary.compactedRows);
  expect(summary.queryRows).toBeGreaterThan(0);
});
