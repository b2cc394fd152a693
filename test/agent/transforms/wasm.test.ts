import { appendFileSync, copyFileSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, onTestFinished, test, vi } from 'vitest';
import { agentSchema } from '../../../agent/config.ts';
import { loadAgentConfig } from '../../../agent/main.ts';
import type { NewReading } from '../../../agent/spool/frame.ts';
import type { Checkpoint } from '../../../agent/spool/spool-state.ts';
import { TransformChain, type ChainRun } from '../../../agent/transforms/chain.ts';
import { AgentProcess } from '../../support/agent-process.ts';
import { buildBehaving, buildExample, smoothModule } from '../../support/wasm.ts';
import { makeTempDir, tempDir } from '../../support/temp.ts';
import { valuesIn } from '../log-values.ts';
import { HANG_MS } from '../../support/hang.ts';

const WAIT = { timeout: HANG_MS, interval: 20 };

const dir = makeTempDir('wasm');
const behaving = join(dir, 'behaving.wasm');
beforeAll(() => buildBehaving(dir));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

function reading(value: unknown, more: Partial<NewReading> = {}): NewReading {
  const text = typeof value === 'string' ? value : JSON.stringify(value);
  return { topic: 't', key: 's', value: text, eventUs: 1_000_000, arrivalUs: 2_000_000, priority: 4, ...more };
}

/** Its time runs by the wall: only a test that is about it makes it short. */
async function chainOf(module: string, more: Record<string, unknown> = {}): Promise<TransformChain> {
  const transforms = [{ type: 'wasm', on: 't', module, timeout: '1m', ...more }];
  const config = agentSchema.parse({ agent: { id: 'a' }, log: 'file:x', sources: [{ type: 'host' }], transforms });
  const chain = await TransformChain.open(config.transforms, dir);
  onTestFinished(() => chain.close());
  return chain;
}

const values = ({ readings }: ChainRun): unknown[] => readings.map(({ value }) => JSON.parse(String(value)) as unknown);
const reasons = ({ failed }: ChainRun): unknown[] => failed.map(({ reading: { value }, reason }) => [value, reason]);
const [keep, count] = [{ do: 'keep' }, { do: 'count' }];

test('a module keeps, drops, changes, multiplies and refuses readings; identity, times and order are kept', async () => {
  const chain = await chainOf(behaving);
  const run = await chain.run([
    reading(keep, { key: null }),
    reading({ do: 'drop' }),
    reading({ do: 'text', text: { über: 1 } }, { key: 'a', eventUs: -5 }),
    reading({ do: 'twice' }, { priority: 9 }),
    reading({ do: 'refuse' }),
    reading(' {"do":"keep", "digits":12345678901234567890}'),
    reading(keep, { topic: 'other' }),
  ]);
  run.commit();
  expect(run.readings.map(({ value }) => String(value))).toEqual([
    '{"do":"keep"}',
    '{"über":1}',
    '{"do":"twice"}',
    '{"do":"twice"}',
    '{"made":4}',
    ' {"do":"keep", "digits":12345678901234567890}',
    '{"do":"keep"}',
  ]);
  expect(run.readings[1]).toMatchObject({ topic: 't', key: 'a', eventUs: -5, arrivalUs: 2_000_000, priority: 4 });
  expect(run.readings[4]).toMatchObject({ priority: 9, key: 's' });
  expect(reasons(run)).toEqual([['{"do":"refuse"}', 'the module refuses it: schlecht für mich']]);
  const name = `wasm t ${behaving}`;
  expect(chain.counters()).toEqual([{ name, seen: 6, dropped: 1, missed: 0, made: 2, failed: 1 }]);
});

test.each<[what: Record<string, unknown>, reason: string]>([
  [{ do: 'trap' }, 'the module trapped: unreachable'],
  [{ do: 'grow' }, 'the module trapped: unreachable'],
  [{ do: 'stack' }, 'the module trapped: Maximum call stack size exceeded'],
  [{ do: 'outside' }, 'penstock_process of the module gives 100 bytes at 4294967280, which is outside its memory'],
  [{ do: 'cut' }, "the module's output is wrong: the record at byte 0 is cut off"],
  [{ do: 'backwards' }, "the module's output is wrong: the record at byte 0 is of reading 1, there were 1"],
  [
    { do: 'many' },
    "the module's output is wrong: the record at byte 1200000 is more than the 100000 that one call may give",
  ],
  [{ do: 'other' }, "the module's output is wrong: the record at byte 0 is of reading 12345, there were 1"],
  [{ do: 'text', text: 'a' }, 'the value that the module gave is no JSON object'],
  [{ do: 'text' }, 'the value that the module gave is no JSON: '],
  [{ do: 'latin1' }, 'the value that the module gave is no UTF-8'],
  [{ do: 'state', bytes: 20_000 }, 'the state of the module has 20004 bytes, `state` is 16384'],
])('what comes of %s goes to the quarantine with the reason, and no other reading does', async (what, reason) => {
  const chain = await chainOf(behaving);
  const others = Array.from({ length: 50 }, () => reading(count));
  const run = await chain.run([...others.slice(0, 20), reading(what), ...others.slice(20)]);
  run.commit();
  expect(reasons(run)).toEqual([[JSON.stringify(what), expect.stringContaining(reason)]]);
  expect(run.readings).toHaveLength(50);
  // The state goes on as if the reading had not been; one that the module could judge is counted.
  const seen = values(run).map((value) => (value as { seen: number }).seen);
  expect(seen.slice(0, 20)).toEqual(Array.from({ length: 20 }, (_, n) => n + 1));
  expect([50, 51]).toContain(seen.at(-1));
  expect(seen).toEqual(seen.toSorted((a, b) => a - b));
});

test('an endless loop is ended after the timeout; its reading goes to the quarantine, and the module goes on', async () => {
  const chain = await chainOf(behaving, { timeout: '2s' });
  (await chain.run([reading(count), reading(count)])).commit();
  const run = await chain.run([reading(keep), reading({ do: 'loop' }), reading(count), reading(keep)]);
  expect(reasons(run)).toEqual([['{"do":"loop"}', 'the module took longer than 2000 ms (timeout)']]);
  expect(values(run)).toEqual([keep, { sensor: 's', seen: 4 }, keep]);
});

test('a module that hangs on every reading costs a bounded number of timeouts', async () => {
  const chain = await chainOf(behaving, { timeout: '200ms' });
  const run = await chain.run(Array.from({ length: 1000 }, () => reading({ do: 'loop' })));
  expect(run.readings).toEqual([]);
  expect(run.failed).toHaveLength(1000);
  expect(new Set(reasons(run).map(String)).size).toBeLessThan(15);
  expect(reasons(run).at(-1)).toEqual([
    '{"do":"loop"}',
    expect.stringMatching(/^the module took longer than 200 ms \(timeout\), on this or on one of \d+ others$/),
  ]);
});

test('the memory of a module is bounded: it cannot grow beyond it, and one that begins with more is refused', async () => {
  for (const [memory, pages] of [
    ['1MiB', 16],
    ['16MiB', 256],
  ] as const) {
    const chain = await chainOf(behaving, { memory });
    expect(values(await chain.run([reading({ do: 'pages' })]))).toEqual([{ pages }]);
  }
  const begins = join(dir, 'begins.wasm');
  writeFileSync(begins, Buffer.from([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0, 5, 3, 1, 0, 2]));
  await expect(chainOf(begins, { memory: '64KiB' })).rejects.toThrow(
    'begins with 131072 bytes of memory, and `memory` is 65536',
  );
});

test('a state is stored with its readings, survives a restart, and goes back with a batch that the spool refused', async () => {
  const first = await chainOf(behaving);
  const stored = new Map<string, Checkpoint['state']>();
  const store = (run: ChainRun): unknown[] => {
    for (const { source, state } of run.checkpoints) stored.set(source, state);
    run.commit();
    return values(run);
  };
  expect(store(await first.run([reading(count), reading(count)]))).toMatchObject([{ seen: 1 }, { seen: 2 }]);
  const refused = await first.run([reading(count)]);
  expect(values(refused)).toMatchObject([{ seen: 3 }]);
  refused.rollback();
  expect(store(await first.run([reading(count)]))).toMatchObject([{ seen: 3 }]);
  const restore = (chain: TransformChain) =>
    chain.restore({
      checkpoint: (key) => stored.get(key),
      checkpointSources: (prefix) => [...stored.keys()].filter((key) => key.startsWith(prefix)),
    });
  const second = await chainOf(behaving);
  expect(restore(second)).toEqual({ readings: [], checkpoints: [] });
  expect(store(await second.run([reading(count)]))).toMatchObject([{ seen: 4 }]);
  // Configured otherwise it is another one, and what the old one kept is forgotten.
  const other = await chainOf(behaving, { config: { do: 'nothing' } });
  expect(restore(other)).toEqual({ readings: [], checkpoints: [{ source: [...stored.keys()][0], state: null }] });
  expect(values(await other.run([reading(count)]))).toMatchObject([{ seen: 1 }]);
});

test('a module counts each reading once, over kill -9 of the agent', async () => {
  const folder = tempDir();
  const agent = new AgentProcess(
    folder,
    `
agent: { id: edge, dataDir: ./data }
log: file:./log
sources: [{ type: file, path: ./in.ndjson, to: machine, poll: 10ms }]
transforms: [{ type: wasm, on: machine, module: ${behaving}, timeout: 1m }]
`,
  );
  const line = `${JSON.stringify(count)}\n`;
  writeFileSync(join(folder, 'in.ndjson'), '');
  let written = 0;
  const append = (lines: number): void => {
    appendFileSync(join(folder, 'in.ndjson'), line.repeat(lines));
    written += lines;
  };
  for (const signal of ['SIGKILL', 'SIGKILL', 'SIGTERM'] as const) {
    append(700);
    const accepted = written;
    agent.start();
    // What is appended last is under way when the signal comes.
    await vi.waitFor(() => expect(Number(agent.output.trim().split('\n').at(-1)), agent.output).toBe(accepted), WAIT);
    append(signal === 'SIGTERM' ? 0 : 2000);
    await agent.end(signal);
  }
  const seen = (await valuesIn(folder, 'machine')).map((value) => value['seen'] ?? NaN);
  expect(seen.toSorted((one, other) => one - other)).toEqual(Array.from({ length: written }, (_, n) => n + 1));
});

test('a state that the module does not know is left', async () => {
  const chain = await chainOf(behaving);
  const source = `transform:wasm:${JSON.stringify(['t', behaving, null])}|`;
  chain.restore({ checkpoint: () => 'AAAA', checkpointSources: () => [source] });
  expect(values(await chain.run([reading(count)]))).toMatchObject([{ seen: 1 }]);
});

test('many readings, and large ones, go through in their order', async () => {
  const chain = await chainOf(behaving);
  const large = 'x'.repeat(900_000);
  const readings = [
    ...Array.from({ length: 2500 }, (_, n) => reading({ ...keep, n })),
    ...Array.from({ length: 4 }, (_, n) => reading({ ...keep, n: 2500 + n, large })),
  ];
  const run = await chain.run(readings);
  expect(run.failed).toEqual([]);
  expect(run.readings.map(({ value }) => value)).toEqual(readings.map(({ value }) => value));
});

test('the prebuilt example is what its build script makes, and smooths over a restart', async () => {
  const built = join(dir, 'built.wasm');
  await buildExample(built);
  expect(readFileSync(built).equals(readFileSync(smoothModule))).toBe(true);
  const config = { config: { field: 'rms', alpha: 0.5 } };
  const chain = await chainOf(smoothModule, config);
  const first = await chain.run([
    reading('{ "a":{"rms":[7,"}"]}, "rms" : 4 , "id":12345678901234567890}'),
    reading({ rms: 8 }, { key: 'ü' }),
    reading({ rms: 1e300, text: 'a"b\\' }),
    reading('{"rms":1e999}'),
    reading({ rms: 'x' }),
    reading('{}'),
  ]);
  expect(first.readings.map(({ value }) => String(value))).toEqual([
    '{ "a":{"rms":[7,"}"]}, "rms" : 4 , "id":12345678901234567890,"rms_smooth":4.0}',
    '{"rms":8,"rms_smooth":8.0}',
    '{"rms":1e+300,"text":"a\\"b\\\\","rms_smooth":5e+299}',
    '{"rms":"x"}',
    '{}',
  ]);
  expect(reasons(first)).toEqual([['{"rms":1e999}', 'the module refuses it: rms is too large']]);
  const restarted = await chainOf(smoothModule, config);
  const stored = new Map(first.checkpoints.map(({ source, state }) => [source, state]));
  restarted.restore({ checkpoint: (key) => stored.get(key), checkpointSources: () => [...stored.keys()] });
  const second = await restarted.run([reading({ rms: 4 }, { key: 'ü' })]);
  expect(values(second)).toEqual([{ rms: 4, rms_smooth: 6 }]);
});

test('what is wrong with a module is said when the configuration is read, with line, key and remedy', async () => {
  const folder = tempDir();
  const empty = Buffer.from([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0]);
  writeFileSync(join(folder, 'empty.wasm'), empty);
  writeFileSync(join(folder, 'torn.wasm'), Buffer.concat([empty, Buffer.from([1, 0x80])]));
  writeFileSync(join(folder, 'text.wasm'), 'no module');
  writeFileSync(join(folder, 'cut.wasm'), readFileSync(behaving).subarray(0, 500));
  // One memory of 0 to 1 pages that is not exported.
  writeFileSync(join(folder, 'bare.wasm'), Buffer.concat([empty, Buffer.from([5, 4, 1, 1, 0, 1])]));
  // A function of no parameters that is imported from env.now.
  const imports = [1, 4, 1, 0x60, 0, 0, 2, 11, 1, 3, 0x65, 0x6e, 0x76, 3, 0x6e, 0x6f, 0x77, 0, 0, 5, 3, 1, 0, 0];
  writeFileSync(join(folder, 'imports.wasm'), Buffer.concat([empty, Buffer.from(imports)]));
  copyFileSync(behaving, join(folder, 'good.wasm'));
  copyFileSync(smoothModule, join(folder, 'smooth.wasm'));
  const path = join(folder, 'agent.yaml');
  const cases: [module: string, message: string][] = [
    ['missing.wasm', 'cannot be read or compiled: ENOENT'],
    ['text.wasm', 'is no WebAssembly module (a core module, not a component)'],
    ['empty.wasm', 'has no memory of its own'],
    ['cut.wasm', 'cannot be read or compiled: WebAssembly.compile(): '],
    ['torn.wasm', 'is a damaged WebAssembly module'],
    ['bare.wasm', 'does not export memory, penstock_abi, penstock_alloc, penstock_process (docs/WASM.md)'],
    ['imports.wasm', 'imports env.now: a module gets nothing from the agent'],
    ['good.wasm, config: { do: refuse }', 'the module refuses its configuration: not today'],
    ['good.wasm, config: { do: trap }', 'the module trapped: unreachable'],
    ['good.wasm, config: { do: loop }, timeout: 2s', 'the module took longer than 2000 ms'],
    ['smooth.wasm, config: { field: rms }', 'refuses its configuration: expected an `alpha` above 0 and up to 1'],
  ];
  const head = 'agent: { id: a }\nlog: file:x\nsources: [{ type: host }]\ntransforms:\n';
  const lines = cases.map(([module], index) => {
    const timeout = module.includes('timeout') ? '' : ', timeout: 1m';
    return `  - { type: wasm, on: t${index}, module: ${module}${timeout} }\n`;
  });
  writeFileSync(path, head + lines.join(''));
  const message = await loadAgentConfig(path).then(String, String);
  cases.forEach(([module, text], index) => {
    const [file = ''] = module.split(',');
    const line = message.split('\n').find((each) => each.includes(`transforms[${index}].module: `));
    expect(line).toContain(`${path}:${index + 5}: transforms[${index}].module: ${join(folder, file)}`);
    expect(line).toContain(text);
  });
  writeFileSync(path, `${head}  - { type: wasm, on: t, module: good.wasm, memory: 1KiB, timeout: 0s, state: 2MiB }\n`);
  const keys = await loadAgentConfig(path).then(String, String);
  for (const key of [
    'memory: expected 64KiB to 1GiB',
    'timeout: expected 10ms to 1m',
    'state: expected at most 1MiB',
  ]) {
    expect(keys).toContain(`:5: transforms[0].${key}`);
  }
});
