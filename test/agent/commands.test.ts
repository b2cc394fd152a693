/** `penstock agent run|test|tap|top` as a person uses them: the real command line, beside a real agent. */
import { execFile, execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { appendFileSync, chmodSync, existsSync, mkdirSync, readFileSync, statfsSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, onTestFinished, test } from 'vitest';
import { runReloading } from '../../agent/reload.ts';
import { Spool } from '../../agent/spool/spool.ts';
import type { AgentStatus } from '../../agent/status.ts';
import { eventually } from '../support/processes.ts';
import { replaceMethod } from '../support/replace-method.ts';
import { tempDir } from '../support/temp.ts';
import { valuesIn } from './log-values.ts';
import { HANG_MS } from '../support/hang.ts';
import { freePort } from '../support/ports.ts';

const penstock = fileURLToPath(new URL('../../bin/penstock.ts', import.meta.url));

interface Ended {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

function run(args: readonly string[], input = ''): Promise<Ended> {
  return new Promise((resolve) => {
    const child = execFile(process.execPath, [penstock, ...args], { timeout: HANG_MS }, (error, out, err) => {
      resolve({ code: typeof error?.code === 'number' ? error.code : error === null ? 0 : -1, out, err });
    });
    child.stdin?.end(input);
  });
}

const jsonLines = (text: string): Record<string, unknown>[] =>
  text
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>);

function startAgent(path: string, env: NodeJS.ProcessEnv = {}): { child: ChildProcess; errors: () => string } {
  const child = spawn(process.execPath, [penstock, 'agent', 'run', '-c', path, '--json'], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...env },
  });
  onTestFinished(() => void child.kill('SIGKILL'));
  let errors = '';
  child.stderr.on('data', (chunk: Buffer) => (errors += chunk.toString()));
  return { child, errors: () => errors };
}

async function endAgent(child: ChildProcess): Promise<Record<string, unknown>> {
  let out = '';
  child.stdout?.on('data', (chunk: Buffer) => (out += chunk.toString()));
  child.kill('SIGTERM');
  await once(child, 'close');
  expect(child.exitCode).toBe(0);
  return JSON.parse(out) as Record<string, unknown>;
}

function configIn(dir: string, port: number, rate: number, more = ''): string {
  const path = join(dir, 'agent.yaml');
  writeFileSync(
    path,
    `agent: { id: edge-7, dataDir: ./agent, listen: "127.0.0.1:${port}" }
log: file:./log
sources: [{ type: simulator, rate: ${rate}, sensors: 5, to: machine }]
${more}`,
  );
  return path;
}

test('agent test: readings in, what would be spooled or quarantined out, held back ones at the end, exit status 3', async () => {
  const path = join(tempDir(), 'agent.yaml');
  writeFileSync(
    path,
    `agent: { id: edge-7 }
log: file:./log
sources: [{ type: file, path: x, sensor: id, to: machine }]
transforms:
  - { type: convert, on: machine, field: t, from: degF, to: degC }
  - { type: route, on: machine, when: value.t > 90, to: alarms, priority: 9 }
  - { type: aggregate, on: machine, fields: [t], window: 1m, to: minutes }
`,
  );
  const input = ['{"id":"a","ts":60000,"t":212}', '{"id":"a","ts":61000,"t":32}', '{"id":"a"}', 'no json', ''].join(
    '\n',
  );
  const { code, out, err } = await run(['agent', 'test', '-c', path], input);
  expect(err).toBe('');
  expect(jsonLines(out)).toEqual([
    { topic: 'alarms', sensor: 'a', priority: 9, eventUs: 60_000_000, value: { id: 'a', ts: 60_000, t: 100 } },
    { failed: 'No such key: t', transform: 'route machine', value: '{"id":"a"}' },
    { failed: expect.stringContaining('the line is not JSON') as string, line: 4 },
    expect.objectContaining({ topic: 'minutes', value: expect.objectContaining({ count: 1, t_last: 0 }) as unknown }),
  ]);
  expect(code).toBe(3);
  expect((await run(['agent', 'test', '-c', path, '--topic', 'other'])).err).toContain('expected one of machine');
});

test('test shows what is made of the lines of a container, joined and parsed', async () => {
  const dir = tempDir();
  const path = join(dir, 'agent.yaml');
  writeFileSync(
    path,
    `agent: { id: edge-7 }
log: file:./log
sources: [{ type: file, path: '/var/log/containers/*.log', format: cri, sensor: pod, to: logs }]
transforms: [{ type: parse, on: logs, field: message, format: json }]
`,
  );
  const log = join(dir, `web-0_shop_nginx-${'0f'.repeat(32)}.log`);
  const time = '2026-11-28T10:11:12.123456789Z';
  writeFileSync(log, `${time} stdout P {"level":\n${time} stdout F "info"}\nnone\n${time} stderr F plain\n`);
  const { code, out } = await run(['agent', 'test', '-c', path, log]);
  const fields = { ts: time, namespace: 'shop', pod: 'web-0', container: 'nginx', containerId: '0f'.repeat(32) };
  expect(jsonLines(out)).toEqual([
    expect.objectContaining({ sensor: 'web-0', value: { ...fields, stream: 'stdout', level: 'info' } }),
    { failed: expect.stringContaining('the line is none of a CRI log') as string, line: 3 },
    expect.objectContaining({
      value: {
        ...fields,
        stream: 'stderr',
        message: 'plain',
        parseProblem: 'message is no JSON object, or nested more than 512 deep',
      },
    }),
  ]);
  expect(code).toBe(3);
});

test('tap shows readings at both stages, top their rates; both say what is missing when they cannot', async () => {
  const dir = tempDir();
  const port = await freePort();
  const transforms = 'transforms: [{ type: filter, on: machine, keep: value.n % 2.0 == 0.0 }]\n';
  const path = configIn(dir, port, 200, transforms.replace('value.n % 2.0 == 0.0', 'int(value.n) % 2 == 0'));
  expect(await run(['agent', 'top', '-c', path, '--once'])).toMatchObject({
    code: 1,
    err: expect.stringContaining(`no agent answers on 127.0.0.1:${port}`) as string,
  });
  const { child } = startAgent(path);
  await expect
    .poll(() =>
      fetch(`http://127.0.0.1:${port}/readyz`).then(
        ({ ok }) => ok,
        () => false,
      ),
    )
    .toBe(true);
  const numbersAt = async (stage: string): Promise<number[]> => {
    const { out, code } = await run([
      'agent',
      'tap',
      '-c',
      path,
      '--stage',
      stage,
      '--topic',
      'machine',
      '--limit',
      '20',
    ]);
    expect(code).toBe(0);
    return jsonLines(out).map(({ value }) => (JSON.parse(String(value)) as { n: number }).n);
  };
  const before = await numbersAt('in');
  const after = await numbersAt('out');
  expect([before.length, after.length]).toEqual([20, 20]);
  expect(before.some((n) => n % 2 === 1)).toBe(true);
  expect(after.every((n) => n % 2 === 0)).toBe(true);
  const [top] = jsonLines((await run(['agent', 'top', '-c', path, '--once', '--json'])).out);
  expect(top).toMatchObject({
    agent: 'edge-7',
    sources: [{ name: 'simulator:0:machine', heldUp: false, problem: null }],
    topics: [{ topic: 'machine' }],
    uplink: { problem: null, budget: null },
    rules: [],
  });
  const [source] = top?.['sources'] as { readingsPerSecond: number }[];
  expect(source?.readingsPerSecond).toBeGreaterThan(0);
  const { out: screen } = await run(['agent', 'top', '-c', path, '--once']);
  expect(screen).toMatch(/machine +\d/);
  expect(screen).toMatch(/^disk +(.* written a day at this rate|writes are not counted)/m);
  const bad = await fetch(`http://127.0.0.1:${port}/tap?stage=middle`);
  expect([bad.status, await bad.text()]).toEqual([400, 'stage: expected in or out\n']);
  await endAgent(child);
});

test('top tells an uplink that takes the readings of some topics only from one that is up or down', async () => {
  const dir = tempDir();
  const port = await freePort();
  const path = configIn(dir, port, 10);
  appendFileSync(path, 'transforms: [{ type: route, on: machine, when: int(value.n) % 2 == 0, to: broken }]\n');
  // Not a folder, as a topic's is.
  mkdirSync(join(dir, 'log', 'topics'), { recursive: true });
  writeFileSync(join(dir, 'log', 'topics', 'broken'), '');
  startAgent(path);
  const top = async (...more: string[]): Promise<string> =>
    (await run(['agent', 'top', '-c', path, '--once', ...more])).out;
  await expect.poll(() => top('--json')).toMatch(/"uplink":\{.*"state":"partly"/);
  await expect.poll(() => top()).toMatch(/^uplink partly up: 1 of 2 topics are held up /m);
});

/** A file system in memory has no disk that writes could be counted for. */
const TMPFS_MAGIC = 0x01021994;
const hasDisk = process.platform === 'linux' && statfsSync(tmpdir()).type !== TMPFS_MAGIC;

test.skipIf(!hasDisk)(
  'what is written to the disk is told: about what came in one request, a page for each reading by itself',
  async () => {
    const dir = tempDir();
    const [port, httpPort, nobody] = [await freePort(), await freePort(), await freePort()];
    const path = join(dir, 'agent.yaml');
    // Without a log to deliver to, only the spool is written.
    writeFileSync(
      path,
      `agent: { id: edge-7, dataDir: ./agent, listen: "127.0.0.1:${port}" }
log: kafka://127.0.0.1:${nobody}
sources: [{ type: http, listen: "127.0.0.1:${httpPort}", to: machine }]
`,
    );
    startAgent(path);
    const status = async (): Promise<AgentStatus> =>
      (await (await fetch(`http://127.0.0.1:${port}/status`)).json()) as AgentStatus; // our own agent's
    const post = async (lines: readonly string[]): Promise<void> => {
      const answer = await fetch(`http://127.0.0.1:${httpPort}/`, {
        method: 'POST',
        headers: { 'content-type': 'application/x-ndjson' },
        body: lines.join('\n'),
      });
      expect([answer.status, await answer.json()]).toMatchObject([200, { accepted: lines.length }]);
    };
    const isThere = (): Promise<boolean> =>
      fetch(`http://127.0.0.1:${httpPort}/`).then(
        () => true,
        () => false,
      );
    await expect.poll(isThere).toBe(true);
    // The first reading makes the reserve and a segment.
    await post(['{"n":0}']);
    const atFirst = await status();
    const lines = Array.from({ length: 4000 }, (_, n) => JSON.stringify({ n, text: 'x'.repeat(500) }));
    await post(lines);
    const inOne = await status();
    const single = 40;
    for (let n = 0; n < single; n += 1) await post([JSON.stringify({ n })]);
    const byThemselves = await status();
    const spent = (before: AgentStatus, after: AgentStatus): number =>
      (after.diskWritten ?? NaN) - (before.diskWritten ?? NaN);
    const content = lines.reduce((sum, line) => sum + line.length, 0);
    expect(inOne.spool.storedBytes - atFirst.spool.storedBytes).toBe(content);
    expect(spent(atFirst, inOne)).toBeGreaterThan(content);
    expect(spent(atFirst, inOne)).toBeLessThan(content * 1.25);
    const pageBytes = Number(execFileSync('getconf', ['PAGESIZE'], { encoding: 'utf8' }));
    expect(spent(inOne, byThemselves)).toBeGreaterThanOrEqual(single * pageBytes);
    // One that lies over the end of a page costs two.
    expect(spent(inOne, byThemselves)).toBeLessThan(single * pageBytes * 2);
    const metrics = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text();
    expect(metrics).toContain(`\npenstock_agent_stored_bytes_total ${byThemselves.spool.storedBytes}\n`);
    const written = Number(/^penstock_agent_disk_written_bytes_total (\d+)$/m.exec(metrics)?.[1]);
    expect(written).toBeGreaterThanOrEqual(byThemselves.diskWritten ?? NaN);
    const [top] = jsonLines((await run(['agent', 'top', '-c', path, '--once', '--json'])).out);
    const disk = top?.['disk'] as { written: number; writtenPerDay: number; writtenPerStored: number };
    expect(disk.written).toBeGreaterThanOrEqual(written);
    expect(disk.writtenPerStored).toBeCloseTo(disk.written / byThemselves.spool.storedBytes, 1);
  },
);

test('a changed file and SIGHUP take effect without a lost or doubled reading; one with problems changes nothing', async () => {
  const dir = tempDir();
  const port = await freePort();
  const path = configIn(dir, port, 100);
  const { child, errors } = startAgent(path);
  const metric = async (name: string): Promise<string | undefined> => {
    const text = await fetch(`http://127.0.0.1:${port}/metrics`).then(
      (response) => response.text(),
      () => '',
    );
    return new RegExp(`^penstock_agent_${name} (.*)$`, 'm').exec(text)?.[1];
  };
  await expect.poll(() => metric('topic_readings_total{topic="machine"}')).toBeDefined();
  const rule = 'rules: [{ when: { uplink: down }, do: { sample: 0.5 } }]\n';
  configIn(dir, port, 100, rule);
  await expect.poll(() => metric('rule_active{rule="0: uplink down"}')).toBe('0');
  writeFileSync(path, 'agent: { id: edge-7 }\nlog: nowhere\n');
  await eventually('the refusal', () => errors().includes('the agent goes on with the one before'));
  expect(errors()).toContain(`${path}:2: log: expected the URL of a log`);
  expect(await metric('rule_active{rule="0: uplink down"}')).toBe('0');
  // On another spool, what waits in this one would be left behind.
  configIn(dir, port, 300);
  writeFileSync(path, readFileSync(path, 'utf8').replace('./agent', './other'));
  child.kill('SIGHUP');
  await eventually('the other refusal', () => errors().includes(`${path}: agent.dataDir cannot change`));
  expect(await metric('rule_active{rule="0: uplink down"}')).toBe('0');
  configIn(dir, port, 300);
  child.kill('SIGHUP');
  await expect.poll(() => metric('rule_sampled_out_total')).toBe('0');
  // Nobody answers while the agent starts anew.
  const answers = async (): Promise<boolean> => (await metric('topic_readings_total{topic="machine"}')) !== undefined;
  await expect
    .poll(async () => (await metric('rule_active{rule="0: uplink down"}')) === undefined && (await answers()))
    .toBe(true);
  const summary = await endAgent(child);
  expect(summary['delivered']).toBe(summary['readings']);
  // The simulator counts over the life of the data directory.
  const numbers = (await valuesIn(dir, 'machine')).map(({ n = NaN }) => n).sort((a, b) => a - b);
  expect(numbers).toEqual(Array.from({ length: Number(summary['readings']) }, (_, index) => index));
});

test('a SIGTERM in the middle of a reload has the time that any has: what is in the spool is delivered', async () => {
  const dir = tempDir();
  const path = join(dir, 'agent.yaml');
  const nobody = `kafka://127.0.0.1:${await freePort()}`;
  const configure = (log: string): void =>
    writeFileSync(
      path,
      `agent: { id: edge-7, dataDir: ./agent }
log: ${log}
sources: [{ type: simulator, rate: 1000, sensors: 5, count: 100, to: machine }]
`,
    );
  const terminated = new AbortController();
  const stored = Promise.withResolvers<unknown>();
  configure(nobody);
  const running = runReloading({
    path,
    signal: terminated.signal,
    log: () => undefined,
    onStatus: ({ readings }) => readings === 100 && stored.resolve(undefined),
  });
  await stored.promise;
  // Behind the last delivery of the old configuration, in front of the start of the new one.
  replaceMethod(
    Spool.prototype,
    'close',
    (close) =>
      async function (this: Spool) {
        terminated.abort();
        await close.call(this);
      },
  );
  configure('file:./log');
  process.emit('SIGHUP');
  const summary = await running;
  expect([summary.readings, summary.delivered]).toEqual([100, 100]);
  expect((await valuesIn(dir, 'machine')).length).toBe(100);
});

test('a SIGTERM ends an agent whose log cannot be opened, as its password is not there: it does not start again', async () => {
  const path = join(tempDir(), 'agent.yaml');
  writeFileSync(
    path,
    `agent: { id: edge-7, dataDir: ./agent }
log: kafka://127.0.0.1:${await freePort()}?sasl=plain&user=edge&passwordFile=/nowhere
sources: [{ type: simulator, rate: 1000, sensors: 5, count: 100, to: machine }]
`,
  );
  const terminated = new AbortController();
  let ends = 0;
  replaceMethod(
    Spool.prototype,
    'close',
    (close) =>
      async function (this: Spool) {
        await close.call(this);
        ends += 1;
        if (ends > 2) throw new Error('the agent starts again and again');
      },
  );
  const summary = await runReloading({
    path,
    signal: terminated.signal,
    log: () => undefined,
    onStatus: ({ readings, uplinkProblem }) => {
      if (readings === 100 && uplinkProblem?.includes('cannot read the password file')) terminated.abort();
    },
  });
  expect([summary.readings, summary.delivered, ends]).toEqual([100, 0, 1]);
});

test('a file that is being written takes effect when it is whole: what its first half lacks keeps its state', async () => {
  const dir = tempDir();
  const port = await freePort();
  const door = 'transforms: [{ type: aggregate, on: machine, fields: [n], window: 1h, to: hours }]\n';
  const path = configIn(dir, port, 100, door);
  const { child } = startAgent(path);
  const metrics = async (): Promise<string> => {
    try {
      return await (await fetch(`http://127.0.0.1:${port}/metrics`)).text();
    } catch {
      return '';
    }
  };
  const value = async (name: string): Promise<number> =>
    Number(new RegExp(`^penstock_agent_${name} (.*)$`, 'm').exec(await metrics())?.[1] ?? NaN);
  await expect.poll(() => value('transform_readings_total{transform="0: aggregate machine.n"}')).toBeGreaterThan(50);
  // Other bytes at every look for more than two looks, each of them valid, and the transforms come last.
  const whole = readFileSync(path, 'utf8').replace('rate: 100', 'rate: 101');
  const first = whole.slice(0, whole.indexOf('transforms:'));
  const writing = setInterval(() => writeFileSync(path, `${first}# ${Date.now()}\n`), 100);
  onTestFinished(() => clearInterval(writing));
  const seen = await value('transform_readings_total{transform="0: aggregate machine.n"}');
  await expect
    .poll(() => value('transform_readings_total{transform="0: aggregate machine.n"}'))
    .toBeGreaterThan(seen + 450);
  clearInterval(writing);
  const before = await value('transform_readings_total{transform="0: aggregate machine.n"}');
  writeFileSync(path, whole);
  await expect.poll(() => value('transform_readings_total{transform="0: aggregate machine.n"}')).toBeLessThan(before);
  expect(await value('transform_made_total{transform="0: aggregate machine.n"}')).toBe(0);
  await endAgent(child);
  expect(await valuesIn(dir, 'hours')).toEqual([]);
});

test('systemd is told ready, alive and stopping, by what it brings for that', async () => {
  const dir = tempDir();
  const path = configIn(dir, await freePort(), 10);
  const told = join(dir, 'told');
  mkdirSync(join(dir, 'bin'));
  writeFileSync(join(dir, 'bin', 'systemd-notify'), `#!/bin/sh\necho "$@" >> ${told}\n`);
  chmodSync(join(dir, 'bin', 'systemd-notify'), 0o755);
  const { child } = startAgent(path, {
    PATH: `${join(dir, 'bin')}:${process.env['PATH'] ?? ''}`,
    NOTIFY_SOCKET: join(dir, 'socket'),
    WATCHDOG_USEC: '1000000',
  });
  const lines = (): string[] => (existsSync(told) ? readFileSync(told, 'utf8').trim().split('\n') : []);
  await eventually('two signs of life', () => lines().filter((line) => line === 'WATCHDOG=1').length >= 2);
  expect(lines()[0]).toBe(`--ready --pid=${child.pid}`);
  await endAgent(child);
  await eventually('the end', () => lines().at(-1) === 'STOPPING=1');
});
