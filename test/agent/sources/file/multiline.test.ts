import { appendFileSync, mkdirSync, renameSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { validateAgent } from '../../../../agent/main.ts';
import { fileSource } from '../../../../agent/sources/file/file-source.ts';
import type { Spool } from '../../../../agent/spool/spool.ts';
import { systemClock } from '../../../../lib/clock.ts';
import { AgentProcess } from '../../../support/agent-process.ts';
import { tempDir } from '../../../support/temp.ts';
import { valuesIn } from '../../log-values.ts';
import { contentOf, readAll, spoolIn } from '../../spool/support.ts';
import { fileConfig, quarantinedIn, runSource } from '../support.ts';

/** A message with its stack, of 1 to 5 lines; every 50th is longer than a chunk that is read. */
function traceOf(n: number): string {
  const frames = Array.from({ length: n % 5 }, (_, index) => `    at f${index} (file.js:${n})`);
  if (n % 50 === 49) frames.push(`    ${'x'.repeat(300_000)}`);
  return [`[${n}] it failed`, ...frames].join('\n');
}
const traces = (from: number, to: number): string =>
  Array.from({ length: to - from + 1 }, (_, index) => `${traceOf(from + index)}\n`).join('');

async function textsIn(spool: Spool): Promise<string[]> {
  return contentOf(await readAll(spool)).map((value) => (JSON.parse(String(value)) as { value: string }).value);
}

function setUp(): { dir: string; path: string } {
  const dir = tempDir();
  mkdirSync(join(dir, 'logs'));
  return { dir, path: join(dir, 'logs', 'app.log') };
}

test.each([{ start: String.raw`^\[\d+\] ` }, { continuation: String.raw`^\s` }])(
  'lines are joined by %o, over restarts at any moment, rotation and truncation, and the last one after its timeout',
  async (rule) => {
    const { dir, path } = setUp();
    // It passes when the test says so: not while the rest of a line is on its way, however slow the machine is.
    const config = fileConfig(path, { format: 'text', multiline: { ...rule, timeout: '1h' } });
    let aheadMs = 0;
    const clock = { ...systemClock, monotonicMs: () => systemClock.monotonicMs() + aheadMs };
    const expectAll = (spool: Spool): Promise<void> =>
      expect
        .poll(() => {
          aheadMs += 3_600_000;
          return spool.lastSeq('t');
        })
        .toBe(BigInt(written));
    let written = 0;
    for (let run = 0; run < 4; run += 1) {
      const spool = await spoolIn(join(dir, 'spool'));
      const running = runSource(await fileSource(config, '/'), spool, dir, clock);
      for (let part = 0; part < 10; part += 1) {
        const text = traces(written + 1, (written += 15));
        // Cut within a line, and within a reading.
        appendFileSync(path, text.slice(0, text.length - 20));
        if (part === 5) await expect.poll(() => spool.lastSeq('t')).toBeGreaterThan(0n);
        appendFileSync(path, text.slice(text.length - 20));
      }
      if (run === 1) renameSync(path, `${path}.1`);
      if (run === 2) {
        await expectAll(spool);
        truncateSync(path);
      }
      await running.stop();
      await spool.close();
    }
    const spool = await spoolIn(join(dir, 'spool'));
    runSource(await fileSource(config, '/'), spool, dir, clock);
    await expectAll(spool);
    const expected = Array.from({ length: written }, (_, index) => traceOf(index + 1));
    const found = await textsIn(spool);
    // What differs, without the long lines.
    expect(found.filter((text, index) => text !== expected[index]).map((text) => text.slice(0, 100))).toEqual([]);
    expect(found).toHaveLength(written);
  },
);

test('under kill -9, again and again, each reading of several lines is in the log once, whole and in order', async () => {
  const dir = tempDir();
  const path = join(dir, 'app.ndjson');
  const pretty = (n: number): string =>
    `${JSON.stringify({ n, id: 'one', list: [n, n + 1], text: 'x'.repeat(n % 300) }, null, 2)}\n`;
  const agent = new AgentProcess(
    dir,
    `agent: { id: a, dataDir: ./data }
log: file:./log
uplink: { order: oldestFirst }
sources: [{ type: file, path: ./app.ndjson, sensor: id, to: machine, poll: 10ms, multiline: { start: '^\\{', timeout: 1s } }]
`,
  );
  let written = 0;
  const write = (count: number): void => {
    for (let index = 0; index < count; index += 1) appendFileSync(path, pretty(written++));
  };
  const accepted = (): number => Number(agent.output.trim().split('\n').at(-1));
  for (let kill = 0; kill < 5; kill += 1) {
    const before = written;
    write(200);
    agent.start();
    const writer = setInterval(() => write(3), 5);
    await expect.poll(accepted, { interval: 10 }).toBeGreaterThan(before);
    clearInterval(writer);
    await agent.end('SIGKILL');
  }
  agent.start();
  await expect.poll(accepted).toBe(written);
  expect(await agent.end('SIGTERM')).toBe(0);
  const numbers = (await valuesIn(dir, 'machine')).map(({ n }) => n);
  expect(numbers).toEqual(Array.from({ length: written }, (_, n) => n));
});

test('limits end a reading and are counted, an overlong line stands by itself, and a file without a beginning is read', async () => {
  const { dir, path } = setUp();
  const text = [
    '  of before',
    'a',
    ' 1',
    ' 2',
    ' 3',
    'b',
    ` ${'x'.repeat(100)}`,
    'c',
    ` ${'y'.repeat(400)}`,
    ' 4',
    'd',
  ];
  writeFileSync(path, `${text.join('\n')}\n`);
  const multiline = { continuation: '^ ', timeout: '100ms', maxLines: 3, maxBytes: '90B' };
  const spool = await spoolIn(join(dir, 'spool'));
  const config = fileConfig(path, { format: 'text', maxLineBytes: '300B', multiline });
  const { output } = runSource(await fileSource(config, '/'), spool, dir);
  await expect.poll(() => spool.lastSeq('t')).toBe(8n);
  expect(await textsIn(spool)).toEqual(['  of before', 'a\n 1\n 2', ' 3', 'b', text[6], 'c', ' 4', 'd']);
  expect(output.counters.events).toEqual({ multiline_cut: 2 });
  expect(quarantinedIn(dir).map(({ reason }) => reason)).toEqual(['the line is longer than maxLineBytes (300)']);
});

test('a pattern that would backtrack for ever does not stall the agent', async () => {
  const { dir, path } = setUp();
  writeFileSync(path, `${'a'.repeat(100_000)}!\n`.repeat(50));
  const spool = await spoolIn(join(dir, 'spool'));
  const config = fileConfig(path, { format: 'text', multiline: { start: '^(a+)+(a|aa)+$', timeout: '100ms' } });
  runSource(await fileSource(config, '/'), spool, dir);
  await expect.poll(() => spool.lastSeq('t')).toBeGreaterThan(0n);
});

test('what is no rule is refused by name, with the key', async () => {
  const path = join(tempDir(), 'agent.yaml');
  let count = 0;
  const source = (multiline: string, more = ''): string =>
    `  - { type: file, path: ${(count += 1)}.log, to: t, multiline: ${multiline}${more} }\n`;
  const head = 'agent: { id: a }\nlog: file:./log\nsources:\n';
  writeFileSync(path, head + source("{ start: '(?=x)' }") + source("{ continuation: '[' }"));
  expect((await validateAgent(path)).map(({ key, message }) => [key, message.split(':')[0]])).toEqual([
    ['sources[0].multiline.start', 'no pattern of RE2 (backreferences and lookarounds are none)'],
    ['sources[1].multiline.continuation', 'no pattern of RE2 (backreferences and lookarounds are none)'],
  ]);
  writeFileSync(
    path,
    head +
      source('{ start: a, continuation: b }') +
      source('{ start: a }', ', format: csv') +
      source('{ start: a }', ', format: text, sensor: id'),
  );
  expect((await validateAgent(path)).map(({ message }) => message)).toEqual([
    'expected `start` or `continuation`, one of them',
    'a CSV file has one reading a line',
    'text has no fields: expected `path`, or none',
  ]);
});
