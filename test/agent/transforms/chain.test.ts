import fc from 'fast-check';
import { expect, test } from 'vitest';
import { agentSchema } from '../../../agent/config.ts';
import type { NewReading } from '../../../agent/spool/frame.ts';
import { parseCondition } from '../../../agent/transforms/condition.ts';
import { deadbandStep } from '../../../agent/transforms/deadband.ts';
import type { Step } from '../../../agent/transforms/step.ts';
import { TransformChain, type ChainRun } from '../../../agent/transforms/chain.ts';

function chainOf(...transforms: readonly Record<string, unknown>[]): Promise<TransformChain> {
  return TransformChain.open(
    agentSchema.parse({ agent: { id: 'a' }, log: 'file:x', sources: [{ type: 'host' }], transforms }).transforms,
    '.',
  );
}

function reading(value: unknown, more: Partial<NewReading> = {}): NewReading {
  const text = typeof value === 'string' ? value : JSON.stringify(value);
  return { topic: 't', key: 's', value: text, eventUs: 1_000_000, arrivalUs: 1_000_000, priority: 4, ...more };
}

function commit(run: ChainRun | null): unknown[] {
  run?.commit();
  return (run?.readings ?? []).map(({ value }) => JSON.parse(String(value)) as unknown);
}

async function through(chain: TransformChain, ...readings: readonly NewReading[]): Promise<unknown[]> {
  return commit(await chain.run(readings));
}

test('rename, select and scale change fields; what they cannot be applied to goes on as it came, and is counted', async () => {
  const chain = await chainOf(
    { type: 'rename', on: 't', fields: { a: 'b', c: 'd' } },
    { type: 'scale', on: 't', field: 'b', by: 0.1, offset: -40, as: 'celsius' },
    { type: 'select', on: 't', fields: ['celsius', 'd'] },
  );
  expect(await through(chain, reading({ a: 500, b: 'gives way', c: 1, e: 2 }))).toEqual([{ celsius: 10, d: 1 }]);
  const untouched = [reading('[1, 2]'), reading('no json'), reading(' {"x":1e2} '), reading('{"b":null}')];
  expect((await chain.run(untouched)).readings.map(({ value }) => value)).toEqual(untouched.map(({ value }) => value));
  const other = reading({ a: 1 }, { topic: 'u' });
  expect((await chain.run([other])).readings).toEqual([other]);
});

test('a field called __proto__ is a field like others', async () => {
  const chain = await chainOf({ type: 'rename', on: 't', fields: { a: '__proto__' } });
  const [result] = (await chain.run([reading('{"a":1,"constructor":2}')])).readings;
  expect(result?.value).toBe('{"__proto__":1,"constructor":2}');
});

test('filter and route judge by fields; a route may lead to later transforms', async () => {
  const chain = await chainOf(
    { type: 'filter', on: 't', keep: "value.state != 'idle'" },
    { type: 'route', on: 't', when: 'value.rms > 7', to: 'alarms', priority: 9 },
    { type: 'select', on: 'alarms', fields: ['rms'] },
  );
  const run = await chain.run([
    reading({ state: 'idle', rms: 9 }),
    reading({ state: 'running', rms: 9 }),
    reading({ state: 'running', rms: 1 }),
    reading({ rms: 8 }),
  ]);
  run.commit();
  expect(run.readings.map(({ topic, priority, value }) => [topic, priority, value])).toEqual([
    ['alarms', 9, '{"rms":9}'],
    ['t', 4, '{"state":"running","rms":1}'],
  ]);
  expect(run.failed).toMatchObject([
    { transform: 'filter t', reason: 'No such key: state', reading: { value: '{"rms":8}' } },
  ]);
  expect(chain.counters()).toEqual([
    { name: 'filter t', seen: 4, dropped: 1, missed: 0, made: 0, failed: 1 },
    { name: 'route t', seen: 2, dropped: 0, missed: 0, made: 0, failed: 0 },
    { name: 'select alarms', seen: 1, dropped: 0, missed: 0, made: 0, failed: 0 },
  ]);
});

test('a value of the wrong type fails its reading alone; units are converted; long numbers keep their digits', async () => {
  const chain = await chainOf(
    { type: 'convert', on: 't', field: 'f', from: 'degF', to: 'degC', as: 'c' },
    { type: 'rename', on: 't', fields: { id: 'serial' } },
  );
  const run = await chain.run([reading({ f: 'hot' }), reading('{"f":212,"id":12345678901234567890,"n":[0.1]}')]);
  expect(run.readings.map(({ value }) => value)).toEqual(['{"f":212,"serial":12345678901234567890,"n":[0.1],"c":100}']);
  expect(run.failed).toMatchObject([{ transform: 'convert t', reason: 'f is "hot": expected a number' }]);
});

test('conditions see sensor, topic and priority, and long numbers as numbers', async () => {
  const keep = "value.id > 1e18 && sensor.startsWith('s') && topic == 't' && priority < 5.0 && has(value.rms)";
  const chain = await chainOf({ type: 'filter', on: 't', keep });
  expect(await through(chain, reading('{"id":12345678901234567890,"rms":1}'), reading('{"id":1}'))).toHaveLength(1);
});

test.each([
  ['value.rms >', 'at character 12: Unexpected token: EOF'],
  [
    'rms > 1',
    'at character 1: unknown name rms: a field is value.rms; beside value there are sensor, topic and priority',
  ],
  ['sensor > 5', 'at character 1: no such overload: string > int'],
  ['sensor', 'expected a condition, as value.rms > 0.5; this gives a string'],
  ['x'.repeat(5000), 'expected at most 4096 characters'],
  [`${'('.repeat(100)}value.a > 1${')'.repeat(100)}`, 'at character 65: Exceeded maxDepth (64)'],
])('the condition %s is refused', (text, message) => {
  expect(() => parseCondition(text)).toThrow(message);
});

test('no text makes a condition fail otherwise than by saying what is wrong with it', () => {
  const words = [
    'value',
    '.rms',
    '>',
    '==',
    '1',
    "'a'",
    '&&',
    '||',
    '!',
    '(',
    ')',
    'null',
    '"q"',
    '[',
    '\\',
    '?:',
    'has(',
  ];
  const text = fc.oneof(
    fc.string(),
    fc.array(fc.constantFrom(...words)).map((parts) => parts.join(' ')),
  );
  fc.assert(
    fc.property(text, (condition) => {
      try {
        parseCondition(condition);
      } catch (error) {
        expect(error).toMatchObject({ code: 'config' });
      }
    }),
    { numRuns: 2000 },
  );
});

test('sample keeps about its share, the same readings each time, and every alarm', async () => {
  const readings = Array.from({ length: 10_000 }, (_, n) => reading({ n }, { eventUs: n * 1000, key: `s${n % 7}` }));
  const sample = { type: 'sample', on: 't', rate: 0.1 };
  const kept = await through(await chainOf(sample), ...readings);
  expect(kept.length).toBeGreaterThan(800);
  expect(kept.length).toBeLessThan(1200);
  expect(await through(await chainOf(sample), ...readings)).toEqual(kept);
  const alarms = readings.map((each) => ({ ...each, priority: 9 }));
  expect(await through(await chainOf(sample), ...alarms)).toHaveLength(10_000);
});

const series = fc.array(fc.tuple(fc.integer({ min: 1, max: 50 }), fc.integer({ min: -100, max: 100 })), {
  minLength: 1,
  maxLength: 200,
});

/** Steps of time and values as readings of one sensor; `cuts` says where batches end. */
function batches(steps: readonly (readonly [number, number])[], size: number): NewReading[][] {
  let eventUs = 0;
  const readings = steps.map(([dt, v]) => reading({ v, us: (eventUs += dt * 1000) }, { eventUs, arrivalUs: eventUs }));
  return Array.from({ length: Math.ceil(readings.length / size) }, (_, n) => readings.slice(n * size, (n + 1) * size));
}

interface Point {
  readonly v: number;
  readonly us: number;
}

test('deadband: every dropped reading is within the band of the kept one before it, and no gap is longer than maxGap', async () => {
  await fc.assert(
    fc.asyncProperty(series, fc.integer({ min: 0, max: 50 }), async (steps, by) => {
      const chain = await chainOf({ type: 'deadband', on: 't', field: 'v', by, maxGap: '100ms' });
      const all = batches(steps, 7);
      const kept: Point[] = [];
      for (const batch of all) kept.push(...((await through(chain, ...batch)) as Point[]));
      for (const { value } of all.flat()) {
        const point = JSON.parse(String(value)) as Point;
        const before = kept.findLast(({ us }) => us <= point.us);
        expect(before).toBeDefined();
        if (before === undefined || before.us === point.us) continue;
        expect(Math.abs(before.v - point.v)).toBeLessThanOrEqual(by);
        expect(point.us - before.us).toBeLessThan(100_000);
      }
    }),
  );
});

test('a batch that the spool refused has not been: its readings are judged anew, and counted once', async () => {
  const chain = await chainOf({ type: 'deadband', on: 't', field: 'v', by: 1 });
  (await chain.run([reading({ v: 10 })])).rollback();
  expect(await through(chain, reading({ v: 10 }), reading({ v: 10.5 }))).toEqual([{ v: 10 }]);
  expect(chain.counters()).toEqual([{ name: 'deadband t.v', seen: 2, dropped: 1, missed: 0, made: 0, failed: 0 }]);
});

test('a batch that a step cannot take at present has not been for the steps before it either', async () => {
  const failing: Step = {
    name: 'failing t',
    on: 't',
    prepare: () => Promise.reject(new Error('no thread')),
    apply: (draft, out) => out.pass(draft),
  };
  const deadband = deadbandStep({ type: 'deadband', on: 't', field: 'v', by: 1, sensors: 10 });
  await expect(new TransformChain([deadband, failing]).run([reading({ v: 10 })])).rejects.toThrow('no thread');
  expect(await through(new TransformChain([deadband]), reading({ v: 10 }))).toEqual([{ v: 10 }]);
});

test('a log line of JSON that is nested too deeply to be printed again is one mismatch; the windows behind count each reading once', async () => {
  const deep = `{"a":${'['.repeat(50_000)}${']'.repeat(50_000)}}`;
  const chain = await chainOf(
    { type: 'parse', on: 't', field: 'log', format: 'json', onMismatch: 'quarantine' },
    { type: 'aggregate', on: 't', fields: ['v'], window: '1s' },
  );
  const run = await chain.run([reading({ log: '{"v":1}' }), reading({ log: deep }), reading({ log: '{"v":2}' })]);
  run.commit();
  expect(run.failed).toMatchObject([
    { transform: 'parse t.log json', reason: 'log is no JSON object, or nested more than 512 deep' },
  ]);
  expect(commit(await chain.flush())).toMatchObject([{ count: 2 }]);
  // A value that came so is left as it is.
  const passing = await chainOf({ type: 'rename', on: 't', fields: { a: 'b' } });
  expect((await passing.run([reading(deep)])).readings).toMatchObject([{ value: deep }]);
});

test('a reading that cannot be written behind the transforms fails alone, as it came', async () => {
  const circular: Record<string, unknown> = {};
  circular['self'] = circular;
  const spoiling: Step = {
    name: 'spoiling t',
    on: 't',
    apply: (draft, out) => {
      if (draft.number('v') === 1) draft.replace(circular);
      out.pass(draft);
    },
  };
  const failing: Step = {
    name: 'failing t',
    on: 't',
    apply: (draft, out) => {
      if (draft.field('self') !== undefined && draft.key === 'judged') throw new Error('no');
      out.pass(draft);
    },
  };
  const run = await new TransformChain([spoiling, failing]).run([
    reading({ v: 1 }),
    reading({ v: 2 }),
    reading({ v: 1 }, { key: 'judged' }),
  ]);
  expect(commit(run)).toEqual([{ v: 2 }]);
  expect(run.failed).toMatchObject([
    { transform: 'failing t', reason: 'no', reading: { key: 'judged', value: '{"v":1}' } },
    {
      transform: 'transforms of t',
      reason: expect.stringContaining('circular') as string,
      reading: { value: '{"v":1}' },
    },
  ]);
});

test('swinging door: every reading left out lies within the bound of the line between its kept neighbours; the rest is released', async () => {
  await fc.assert(
    fc.asyncProperty(
      series,
      fc.integer({ min: 1, max: 60 }),
      fc.integer({ min: 1, max: 9 }),
      async (steps, by, size) => {
        let stored = new Map<string, unknown>();
        const config = { type: 'swingingDoor', on: 't', field: 'v', by, maxGap: '1s' };
        const kept: Point[] = [];
        for (const batch of batches(steps, size)) {
          // A new process for each batch: it has only what was stored with the ones before.
          const chain = restored(await chainOf(config), stored);
          const run = await chain.run(batch);
          stored = new Map([...stored, ...run.checkpoints.map(({ source, state }) => [source, state] as const)]);
          kept.push(...(commit(run) as Point[]));
        }
        kept.push(...(commit(await restored(await chainOf(config), stored).flush()) as Point[]));
        const all = batches(steps, 1000)
          .flat()
          .map(({ value }) => JSON.parse(String(value)) as Point);
        expect(kept).toEqual(all.filter(({ us }) => kept.some((point) => point.us === us)));
        expect(kept[0]).toEqual(all[0]);
        expect(kept.at(-1)).toEqual(all.at(-1));
        for (const { v, us } of all) {
          const before = kept.findLast((point) => point.us <= us);
          const after = kept.find((point) => point.us >= us);
          if (before === undefined || after === undefined || before === after) continue;
          const line = before.v + ((after.v - before.v) * (us - before.us)) / (after.us - before.us);
          expect(Math.abs(line - v)).toBeLessThanOrEqual(by + 1e-6);
        }
      },
    ),
  );
});

function restored(chain: TransformChain, stored: ReadonlyMap<string, unknown>): TransformChain {
  const entries = new Map([...stored].filter(([, state]) => state !== null));
  const { checkpoints } = chain.restore({
    checkpoint: (key) => entries.get(key) as never,
    checkpointSources: (prefix) => [...entries.keys()].filter((key) => key.startsWith(prefix)),
  });
  expect(checkpoints).toEqual([]);
  return chain;
}

test('window aggregates: each reading is in one window, whatever the batches, the order and the restarts', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.tuple(fc.integer({ min: 0, max: 5000 }), fc.integer({ min: -100, max: 100 })), { minLength: 1 }),
      fc.integer({ min: 1, max: 9 }),
      async (points, size) => {
        const config = { type: 'aggregate', on: 't', fields: ['v'], window: '1s', to: 'w' };
        let stored = new Map<string, unknown>();
        const windows: Record<string, number>[] = [];
        for (let at = 0; at < points.length; at += size) {
          const chain = restored(await chainOf(config), stored);
          const run = await chain.run(
            points.slice(at, at + size).map(([ms, v]) => reading({ v }, { eventUs: ms * 1000 })),
          );
          stored = new Map([...stored, ...run.checkpoints.map(({ source, state }) => [source, state] as const)]);
          windows.push(...(commit(run) as Record<string, number>[]));
        }
        windows.push(...(commit(await restored(await chainOf(config), stored).flush()) as Record<string, number>[]));
        for (const start of [0, 1000, 2000, 3000, 4000, 5000]) {
          const expected = points.filter(([ms]) => ms >= start && ms < start + 1000).map(([, v]) => v);
          const parts = windows.filter(({ ts }) => ts === start);
          const sum = (pick: (part: Record<string, number>) => number): number =>
            parts.reduce((total, part) => total + pick(part), 0);
          expect(sum((part) => part['count'] ?? 0)).toBe(expected.length);
          if (expected.length === 0) continue;
          expect(Math.min(...parts.map((part) => part['v_min'] ?? NaN))).toBe(Math.min(...expected));
          expect(Math.max(...parts.map((part) => part['v_max'] ?? NaN))).toBe(Math.max(...expected));
          const total = sum((part) => (part['v_mean'] ?? NaN) * (part['count'] ?? NaN));
          expect(total).toBeCloseTo(
            expected.reduce((a, b) => a + b, 0),
            6,
          );
        }
      },
    ),
  );
});

test('a window closes by a later reading of its sensor, or after its wait; last is by event time', async () => {
  const chain = await chainOf({ type: 'aggregate', on: 't', fields: ['v', 'w'], window: '1s', wait: '2s' });
  const at = (ms: number, value: object): NewReading => reading(value, { eventUs: ms * 1000, arrivalUs: ms * 1000 });
  expect(await through(chain, at(1200, { v: 1 }), at(1900, { v: 5, w: 7 }), at(1500, { v: 3 }), at(1600, {}))).toEqual([
    {},
  ]);
  const first = { sensor: 's', ts: 1000, windowMs: 1000, count: 3, v_min: 1, v_max: 5, v_mean: 3, v_last: 5 };
  expect(await through(chain, at(2100, { v: 8 }))).toEqual([{ ...first, w_min: 7, w_max: 7, w_mean: 7, w_last: 7 }]);
  const [holder] = chain.holding;
  if (holder === undefined) throw new Error('the aggregate holds readings back');
  expect(await chain.overdue(4_999_000, holder)).toBeNull();
  expect(commit(await chain.overdue(5_100_000, holder))).toMatchObject([{ ts: 2000, count: 1, v_last: 8 }]);
  expect(await chain.overdue(9e9, holder)).toBeNull();
  expect(chain.counters()).toMatchObject([{ seen: 5, dropped: 4, missed: 1, made: 2 }]);
});

test.each([
  { type: 'aggregate', on: 't', fields: ['v'], window: '1s', wait: '2s' },
  { type: 'swingingDoor', on: 't', field: 'v', by: 1, maxGap: '3s' },
])(
  'what $type holds back of a clock that was ahead is released when the clock is set back, not years later',
  async (config) => {
    const chain = await chainOf(config);
    const at = (ms: number, v: number): NewReading => reading({ v }, { eventUs: ms * 1000, arrivalUs: ms * 1000 });
    const yearMs = 365 * 86_400_000;
    await through(chain, at(yearMs, 1), at(yearMs + 500, 2));
    const [holder] = chain.holding;
    if (holder === undefined) throw new Error('it holds readings back');
    // A small step, as NTP makes them, closes nothing.
    expect(await chain.overdue((yearMs - 1000) * 1000, holder)).toBeNull();
    expect(commit(await chain.overdue(1_000_000, holder))).toHaveLength(1);
    expect(await chain.overdue(2_000_000, holder)).toBeNull();
  },
);

test('a sensor that has to make room for others loses nothing that was held back', async () => {
  const door = await chainOf({ type: 'swingingDoor', on: 't', field: 'v', by: 1, sensors: 2 });
  const of = (key: string, ms: number): NewReading => reading({ key, ms, v: 0 }, { key, eventUs: ms * 1000 });
  expect(await through(door, of('a', 1), of('a', 2), of('b', 3), of('b', 4))).toMatchObject([{ ms: 1 }, { ms: 3 }]);
  expect(await through(door, of('c', 5))).toMatchObject([{ ms: 5 }, { key: 'a', ms: 2 }]);
  const windows = await chainOf({ type: 'aggregate', on: 't', fields: ['v'], window: '1s', sensors: 1 });
  expect(await through(windows, of('a', 1), of('a', 2), of('b', 3))).toMatchObject([{ sensor: 'a', count: 2 }]);
});

test('what a transform held back is released when it is no longer configured', async () => {
  const old = await chainOf(
    { type: 'swingingDoor', on: 't', field: 'v', by: 1 },
    { type: 'aggregate', on: 'u', fields: ['v'], window: '1s' },
  );
  const run = await old.run([
    reading({ v: 1 }, { eventUs: 1 }),
    reading({ v: 1.5 }, { eventUs: 2 }),
    reading({ v: 2 }, { topic: 'u', key: null }),
  ]);
  const stored = new Map(run.checkpoints.map(({ source, state }) => [source, state]));
  const { readings, checkpoints } = (await chainOf()).restore({
    checkpoint: (key) => stored.get(key),
    checkpointSources: () => [...stored.keys()],
  });
  expect(readings.map(({ topic, value }) => [topic, JSON.parse(String(value)) as unknown])).toEqual([
    ['t', { v: 1.5 }],
    ['u', expect.objectContaining({ sensor: null, count: 1, v_last: 2 })],
  ]);
  expect(checkpoints).toEqual([...stored.keys()].map((source) => ({ source, state: null })));
});
