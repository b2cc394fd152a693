import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { agentSchema } from '../../../agent/config.ts';
import { loadAgentConfig, runAgent, validateAgent } from '../../../agent/main.ts';
import { batteryPercent, CpuMeter } from '../../../agent/rules/resources.ts';
import { Rules, type Measurements } from '../../../agent/rules/rules.ts';
import type { NewReading } from '../../../agent/spool/frame.ts';
import type { AgentStatus } from '../../../agent/status.ts';
import { tempDir } from '../../support/temp.ts';

function rulesOf(...rules: readonly Record<string, unknown>[]): Rules {
  const source = { type: 'simulator', to: 'machine' };
  return new Rules(agentSchema.parse({ agent: { id: 'a' }, log: 'file:x', sources: [source], rules }).rules);
}

const CALM: Measurements = { spoolUsed: 10, cpu: 5, battery: 90, isUplinkUp: true };

function reading(n: number, more: Partial<NewReading> = {}): NewReading {
  return { topic: 'machine', key: `s${n % 7}`, value: '{}', eventUs: n * 1000, arrivalUs: 1, priority: 4, ...more };
}

test('a rule begins when all conditions have held for its time, and ends when one has not, beyond its hysteresis, as long', () => {
  const rules = rulesOf({ when: { spoolUsed: '>80%', uplink: 'down' }, do: { sample: 0.5 }, for: '10s' });
  const isActiveAt = (seconds: number, measured: Partial<Measurements>): boolean => {
    rules.judge({ ...CALM, ...measured }, seconds * 1000);
    return rules.states()[0]?.active ?? false;
  };
  expect(isActiveAt(0, { spoolUsed: 81 })).toBe(false);
  expect(isActiveAt(60, { spoolUsed: 81 })).toBe(false);
  expect(isActiveAt(61, { spoolUsed: 81, isUplinkUp: false })).toBe(false);
  // A moment without it starts the time anew.
  expect(isActiveAt(70, { spoolUsed: 81 })).toBe(false);
  expect(isActiveAt(71, { spoolUsed: 81, isUplinkUp: false })).toBe(false);
  expect(isActiveAt(80.9, { spoolUsed: 81, isUplinkUp: false })).toBe(false);
  expect(isActiveAt(81, { spoolUsed: 81, isUplinkUp: false })).toBe(true);
  // Within five percent on the other side it stands, however long.
  expect(isActiveAt(100, { spoolUsed: 76, isUplinkUp: false })).toBe(true);
  expect(isActiveAt(200, { spoolUsed: 76, isUplinkUp: false })).toBe(true);
  expect(isActiveAt(201, { spoolUsed: 74, isUplinkUp: false })).toBe(true);
  expect(isActiveAt(211, { spoolUsed: 74, isUplinkUp: false })).toBe(false);
  // And has to pass the threshold itself again.
  expect(isActiveAt(300, { spoolUsed: 79, isUplinkUp: false })).toBe(false);
  expect(isActiveAt(311, { spoolUsed: 79, isUplinkUp: false })).toBe(false);
  expect(rules.states()).toEqual([{ when: 'spoolUsed >80%, uplink down', active: false, times: 1 }]);
});

test('what cannot be measured meets no condition', () => {
  const rules = rulesOf({ when: { battery: '<20%' }, do: { sample: 0.5 }, for: '0s' });
  rules.judge({ ...CALM, battery: null }, 0);
  rules.judge({ ...CALM, battery: null }, 1);
  expect(rules.states()[0]?.active).toBe(false);
  rules.judge({ ...CALM, battery: 19 }, 2);
  expect(rules.states()[0]?.active).toBe(true);
});

test('active rules sample, route and re-prioritise what they are about, and never an alarm', () => {
  const rules = rulesOf(
    { when: { uplink: 'down' }, do: { sample: 0.1 }, on: ['machine'], for: '0s' },
    { when: { uplink: 'down' }, do: { route: 'later', priority: 1 }, on: ['machine'], for: '0s' },
    { when: { uplink: 'up' }, do: { sample: 0.0001 }, for: '0s' },
  );
  const readings = Array.from({ length: 5000 }, (_, n) => reading(n));
  const others = [reading(1, { topic: 'other' }), reading(1, { priority: 9 })];
  expect(rules.apply(readings)).toBe(readings);
  rules.judge({ ...CALM, isUplinkUp: false }, 0);
  const left = [...rules.apply([...readings, ...others])];
  expect(left.slice(-2)).toEqual(others);
  const sampled = left.slice(0, -2);
  expect(sampled.length).toBeGreaterThan(300);
  expect(sampled.length).toBeLessThan(700);
  expect(new Set(sampled.map(({ topic, priority }) => `${topic} ${priority}`))).toEqual(new Set(['later 1']));
  expect(rules.disables(['machine'])).toBe(false);
});

test('rules that make no sense are refused with line and remedy', async () => {
  const path = join(tempDir(), 'agent.yaml');
  writeFileSync(
    path,
    `agent: { id: a }
log: file:x
sources: [{ type: file, path: x, to: machine }]
rules:
  - { when: { spoolUsed: 80 }, do: { sample: 0.1 } }
  - { when: { cpu: '>120%' }, do: { disable: [motor] } }
  - { when: {}, do: { sample: 2 } }
  - { when: { uplink: down }, do: {} }
`,
  );
  const problems = (await validateAgent(path)).map(({ line, key, message }) => `${line} ${key}: ${message}`);
  expect(problems).toEqual([
    expect.stringContaining('5 rules[0].when.spoolUsed:'),
    "6 rules[1].when.cpu: expected > or < and percent, as '>80%' (in quotes)",
    '7 rules[2].when: expected at least one of spoolUsed, cpu, battery, uplink',
    expect.stringContaining('7 rules[2].do.sample:'),
    '8 rules[3].do: expected at least one of sample, disable, route, priority',
  ]);
  writeFileSync(
    path,
    `agent: { id: a }
log: file:x
sources: [{ type: file, path: x, to: machine }]
rules:
  - { when: { uplink: down }, do: { disable: [motor] } }
`,
  );
  expect(await validateAgent(path)).toMatchObject([
    { line: 5, message: 'no source is called motor: expected the `to` or the `type` of one, as file, machine' },
  ]);
});

test('the emptiest battery counts, and the CPU is that of the time since the last look', async () => {
  const dir = tempDir();
  for (const [name, capacity] of [
    ['BAT0', '55\n'],
    ['BAT1', '12\n'],
    ['AC', ''],
  ] as const) {
    mkdirSync(join(dir, name));
    writeFileSync(join(dir, name, 'capacity'), capacity);
  }
  expect(await batteryPercent(dir)).toBe(12);
  expect(await batteryPercent(join(dir, 'none'))).toBeNull();
  const cpu = new CpuMeter();
  expect(cpu.sample()).toBeNull();
  let busy: number | null = null;
  // Ticks of the system are 10 ms: until one has passed there is nothing to tell.
  await expect.poll(() => (busy = cpu.sample()), { interval: 30 }).not.toBeNull();
  expect(busy).toBeGreaterThanOrEqual(0);
  expect(busy).toBeLessThanOrEqual(100);
});

test('while the link is down a source rests and the others are sampled; when it is up again all go on, and the status tells', async () => {
  const dir = tempDir();
  // A file where the log's folder should be.
  writeFileSync(join(dir, 'log'), '');
  const path = join(dir, 'agent.yaml');
  const yaml = (log: string): string => `agent: { id: edge-7, dataDir: ./agent }
log: file:./${log}
sources:
  - { type: simulator, rate: 500, to: machine }
  - { type: host, interval: 100ms, to: host }
rules:
  - { when: { uplink: down }, do: { sample: 0.1, disable: [host] }, for: 0s }
`;
  writeFileSync(path, yaml('log'));
  /** The status in which it was so. */
  const run = async (until: (status: AgentStatus) => boolean): Promise<AgentStatus> => {
    const { config, baseDir } = await loadAgentConfig(path);
    const controller = new AbortController();
    let found: AgentStatus | undefined;
    onTestFinished(() => controller.abort());
    await runAgent({
      config,
      baseDir,
      signal: controller.signal,
      drainMs: 100,
      onStatus: (status) => {
        if (!until(status)) return;
        found ??= status;
        controller.abort();
      },
    });
    if (found === undefined) throw new Error('it never was so');
    return found;
  };
  const readingsOf = ({ sources }: AgentStatus, name: string): number =>
    sources.find((source) => source.name.startsWith(name))?.readings ?? 0;
  const down = await run((status) => status.sampledOut > 500);
  expect(down.rules).toEqual([{ when: 'uplink down', active: true, times: 1 }]);
  expect(down.readings).toBeLessThan(down.spooled);
  expect(readingsOf(down, 'host')).toBeLessThan(100);
  writeFileSync(path, yaml('log2'));
  const goesOn = ({ uplinkProblem, rules }: AgentStatus): boolean =>
    uplinkProblem === null && rules[0]?.active === false;
  const up = await run((status) => goesOn(status) && readingsOf(status, 'host') > 30);
  expect(up.sampledOut).toBeLessThan(up.spooled);
});
