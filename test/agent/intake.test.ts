import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { appendFileSync, existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, onTestFinished, test } from 'vitest';
import { agentSchema } from '../../agent/config.ts';
import { Intake } from '../../agent/intake.ts';
import { Quarantine } from '../../agent/quarantine.ts';
import type { NewReading } from '../../agent/spool/frame.ts';
import { openSpool, type Spool } from '../../agent/spool/spool.ts';
import { Rules } from '../../agent/rules/rules.ts';
import { Taps } from '../../agent/tap.ts';
import { TransformChain } from '../../agent/transforms/chain.ts';
import { systemClock } from '../../lib/clock.ts';
import { HANG_MS } from '../support/hang.ts';
import { tempDir } from '../support/temp.ts';
import { valuesIn } from './log-values.ts';

const childPath = fileURLToPath(new URL('./agent-child.ts', import.meta.url));

interface Line {
  readonly ts: number;
  readonly id: string;
  readonly v?: number;
}

/** Windows of 50 ms of event time; a walk of small steps, so that the door has something to leave out. */
function lineOf(n: number): Line {
  const line = { ts: 1_700_000_000_000 + n, id: `s${n % 5}` };
  return n % 97 === 0 ? line : { ...line, v: Math.round(50 * Math.sin(n / 300)) || 0 };
}

function startAgent(path: string): { child: ChildProcess; lines: string[]; exited: Promise<unknown> } {
  const child = spawn(process.execPath, [childPath, path], { stdio: ['ignore', 'pipe', 'pipe'] });
  onTestFinished(() => void child.kill('SIGKILL'));
  const lines: string[] = [];
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk: Buffer) => lines.push(...chunk.toString().split('\n').filter(Boolean)));
  }
  return { child, lines, exited: once(child, 'close') };
}

test('an agent killed -9 again and again has each reading in one window, one side of the door, or the quarantine', async () => {
  const dir = tempDir();
  const path = join(dir, 'agent.yaml');
  writeFileSync(
    path,
    `agent: { id: edge-7, dataDir: ./agent }
log: file:./log
sources:
  - { type: file, path: ./a.ndjson, sensor: id, to: machine, poll: 10ms }
  - { type: file, path: ./b.ndjson, sensor: id, to: door, poll: 10ms }
transforms:
  - { type: filter, on: machine, keep: value.v > -1000 }
  - { type: aggregate, on: machine, fields: [v], window: 100ms, wait: 300ms, to: windows }
  - { type: swingingDoor, on: door, field: v, by: 2, maxGap: 1s }
`,
  );
  let written = 0;
  const write = (count: number): void => {
    const lines = Array.from({ length: count }, (_, index) => lineOf(written + index));
    appendFileSync(join(dir, 'a.ndjson'), lines.map((line) => `${JSON.stringify(line)}\n`).join(''));
    const complete = lines.filter((line) => line.v !== undefined);
    appendFileSync(join(dir, 'b.ndjson'), complete.map((line) => `${JSON.stringify(line)}\n`).join(''));
    written += count;
  };
  for (let round = 0; round < 5; round += 1) {
    const { child, lines, exited } = startAgent(path);
    const start = written;
    // A slow start must not make the work longer: each status, of which there are some a second, opens a portion more.
    const writer = setInterval(() => {
      if (written - start < 6000 * (lines.length + 1)) write(60);
    }, 5);
    try {
      await expect.poll(() => lines.length, { interval: 20 }).toBeGreaterThan(1 + (round % 2));
    } finally {
      clearInterval(writer);
    }
    child.kill('SIGKILL');
    await exited;
  }
  write(500);
  const all = Array.from({ length: written }, (_, n) => lineOf(n));
  const complete = all.filter((line) => line.v !== undefined);
  const { child, exited } = startAgent(path);
  const counted = async (): Promise<number> =>
    (await valuesIn(dir, 'windows')).reduce((sum, { count = 0 }) => sum + count, 0);
  await expect.poll(counted, { interval: 100 }).toBe(complete.length);
  const lastOf = async (): Promise<number> => Math.max(...(await valuesIn(dir, 'door')).map(({ ts = 0 }) => ts));
  await expect.poll(lastOf, { interval: 100 }).toBe(complete.at(-1)?.ts);
  child.kill('SIGTERM');
  await exited;
  expect(child.exitCode).toBe(0);

  const quarantine = join(dir, 'agent', 'quarantine', 'filter_machine.ndjson');
  const items = readFileSync(quarantine, 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, string>);
  expect(new Set(items.map(({ reason }) => reason))).toEqual(new Set(['No such key: v']));
  expect(new Set(items.map(({ text = '' }) => (JSON.parse(text) as Line).ts))).toEqual(
    new Set(all.filter((line) => line.v === undefined).map(({ ts }) => ts)),
  );
  const windows = await valuesIn(dir, 'windows');
  for (const [start, lines] of Map.groupBy(complete, ({ ts, id }) => `${id} ${ts - (ts % 100)}`)) {
    const parts = windows.filter(({ sensor, ts = 0 }) => `${sensor} ${ts}` === start);
    expect(parts.reduce((sum, { count = 0 }) => sum + count, 0)).toBe(lines.length);
    expect(Math.max(...parts.map((part) => part['v_max'] ?? NaN))).toBe(Math.max(...lines.map(({ v = NaN }) => v)));
  }
  const kept = (await valuesIn(dir, 'door')) as unknown as Required<Line>[];
  expect(kept.length).toBeLessThan(complete.length / 2);
  for (const [id, lines] of Map.groupBy(complete as Required<Line>[], (line) => line.id)) {
    // In the log the present may lie before the past.
    const stayed = kept.filter((line) => line.id === id).toSorted((a, b) => a.ts - b.ts);
    expect(new Set(stayed.map(({ ts }) => ts)).size).toBe(stayed.length);
    for (const { ts, v } of lines) {
      const before = stayed.findLast((line) => line.ts <= ts);
      const after = stayed.find((line) => line.ts >= ts);
      if (before === undefined || after === undefined) throw new Error(`nothing stands for ${id} at ${ts}`);
      if (before === after) continue;
      const onLine = before.v + ((after.v - before.v) * (ts - before.ts)) / (after.ts - before.ts);
      expect(Math.abs(onLine - v)).toBeLessThanOrEqual(2 + 1e-6);
    }
  }
});

async function intakeOn(
  dir: string,
  transforms: readonly Record<string, unknown>[],
  whenFull: 'reject' | 'dropLowestPriority' = 'reject',
): Promise<{ intake: Intake; spool: Spool; quarantined: () => string[] }> {
  const spool = await openSpool({ dir: join(dir, 'spool'), agent: 'a', maxBytes: 1_048_576, whenFull });
  const quarantine = new Quarantine(join(dir, 'quarantine'), systemClock);
  const config = agentSchema.parse({ agent: { id: 'a' }, log: 'file:x', sources: [{ type: 'host' }], transforms });
  const intake = new Intake(
    spool,
    { chain: await TransformChain.open(config.transforms, '.'), rules: new Rules(config.rules), taps: new Taps() },
    quarantine,
    systemClock,
  );
  await intake.start();
  onTestFinished(async () => {
    await intake.close();
    await quarantine.close();
    await spool.close();
  });
  const file = join(dir, 'quarantine', 'filter_t.ndjson');
  return {
    intake,
    spool,
    quarantined: () => (existsSync(file) ? readFileSync(file, 'utf8').trimEnd().split('\n') : []),
  };
}

function reading(value: object | string): NewReading {
  const text = typeof value === 'string' ? value : JSON.stringify(value);
  return { topic: 't', key: 's', value: text, eventUs: 1, arrivalUs: 1, priority: 4 };
}

const DEADBAND = { type: 'deadband', on: 't', field: 'v', by: 1 };
const large = (count: number, topic: string, priority: number): NewReading[] =>
  Array.from({ length: count }, () => ({ ...reading('x'.repeat(10_000)), topic, priority }));

test('a batch that a full spool refuses leaves no trace in states, counters or quarantine, however often it is tried', async () => {
  const { intake, spool, quarantined } = await intakeOn(tempDir(), [
    { type: 'filter', on: 't', keep: 'value.v > 0.0' },
    { type: 'deadband', on: 't', field: 'v', by: 1 },
  ]);
  const large = { ...reading('x'.repeat(100_000)), topic: 'other' };
  let stored = 0;
  for (; ; stored += 1) {
    const full = await intake.store([large], []).then(
      () => false,
      (error: unknown) => error,
    );
    if (full === false) continue;
    expect(full).toMatchObject({ code: 'full' });
    break;
  }
  for (let attempt = 0; attempt < 3; attempt += 1) {
    await expect(intake.store([reading({}), reading({ v: 5 })], [])).rejects.toMatchObject({ code: 'full' });
  }
  expect(quarantined()).toEqual([]);
  expect(intake.counters()).toMatchObject([{ seen: 0, failed: 0 }, { seen: 0 }]);
  spool.acknowledge('other', BigInt(stored));
  await spool.sync();
  await intake.store([reading({}), reading({ v: 5 }), reading({ v: 5.5 })], []);
  expect(quarantined()).toHaveLength(1);
  expect(intake.counters()).toMatchObject([
    { seen: 3, failed: 1 },
    { seen: 2, dropped: 1 },
  ]);
  expect(spool.stats().topics.find(({ topic }) => topic === 't')?.accepted).toBe(1);
});

test('a batch that is refused after its bad reading was quarantined does not quarantine it again when it comes again', async () => {
  const transforms = [{ type: 'filter', on: 't', keep: 'value.v > 0.0' }];
  const { intake, spool, quarantined } = await intakeOn(tempDir(), transforms, 'dropLowestPriority');
  const batch = [reading({}), reading({ v: 5, text: 'x'.repeat(100_000) })];
  // Alarms are not given up for other readings: these are refused when they are to be written, not before.
  const alarm = { ...reading('x'.repeat(100_000)), topic: 'other', priority: 9 };
  const fill = async (): Promise<void> => {
    for (;;) await intake.store([alarm], []);
  };
  await expect(fill()).rejects.toMatchObject({ code: 'full' });
  for (let attempt = 0; attempt < 3; attempt += 1) {
    await expect(intake.store(batch, [])).rejects.toMatchObject({ code: 'full' });
  }
  expect(quarantined()).toHaveLength(1);
  spool.acknowledge('other', spool.lastSeq('other'));
  await expect.poll(() => spool.topics()).toEqual([]);
  await intake.store(batch, []);
  expect(quarantined()).toHaveLength(1);
  expect(intake.counters()).toMatchObject([{ seen: 2, failed: 1 }]);
  // Once it is settled, another one like it is a reading of its own.
  await intake.store([reading({}), reading({ v: 6 })], []);
  expect(quarantined()).toHaveLength(2);
});

test('a reading that no record can carry is refused alone, not with what other sources deliver at the same time', async () => {
  const { intake } = await intakeOn(tempDir(), [{ type: 'deadband', on: 't', field: 'v', by: 1 }]);
  const results = await Promise.allSettled([
    intake.store([reading({ v: 1 })], []),
    intake.store([reading('x'.repeat(1_100_000))], []),
    intake.store([reading({ v: 9 })], []),
  ]);
  expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled']);
});

test('dropLowestPriority: behind a transform with states too, the lowest that come beside an alarm push out nothing above them', async () => {
  const { intake, spool } = await intakeOn(tempDir(), [DEADBAND], 'dropLowestPriority');
  for (let n = 0; n < 10; n += 1) await intake.store(large(10, 'middle', 5), []);
  // While the first one is under way, the others wait, and went together.
  const first = intake.store([reading({ v: 1 })], []);
  const low = intake.store(large(30, 'low', 0), []);
  const alarm = intake.store([{ ...reading('fire'), topic: 'alarm', priority: 9 }], []);
  await expect(low).rejects.toMatchObject({ code: 'full' });
  await Promise.all([first, alarm]);
  expect(spool.stats().dropped).toBe(0);
  expect(spool.lastSeq('alarm')).toBe(1n);
});

test('a topic that the log refuses is refused alone, not with what other sources deliver at the same time behind a transform with states', async () => {
  const { intake, spool } = await intakeOn(tempDir(), [DEADBAND]);
  spool.room.isRefused = (topic) => topic === 'refused';
  await intake.store(large(60, 'other', 4), []);
  const results = await Promise.allSettled([
    intake.store([reading({ v: 1 })], []),
    intake.store(large(1, 'refused', 4), []),
    intake.store([reading({ v: 9 })], []),
  ]);
  expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled']);
});

test('windows of a topic that the log refuses do not hold up those of the others', async () => {
  const aggregate = { type: 'aggregate', fields: ['v'], window: '1s', wait: '0s' };
  const { intake, spool } = await intakeOn(tempDir(), [
    { ...aggregate, on: 't', to: 'refused' },
    { ...aggregate, on: 'u', to: 'fine' },
  ]);
  spool.room.isRefused = (topic) => topic === 'refused';
  await spool.append(large(60, 'other', 4));
  await intake.store([reading({ v: 1 }), { ...reading({ v: 1 }), topic: 'u' }], []);
  await expect.poll(() => spool.lastSeq('fine'), { timeout: HANG_MS }).toBe(1n);
  expect(spool.lastSeq('refused')).toBe(0n);
});
