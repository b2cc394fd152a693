import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test, vi } from 'vitest';
import { agentSchema, type AgentConfig } from '../../../agent/config.ts';
import { DesiredConfig } from '../../../agent/control/desired-config.ts';
import { systemClock } from '../../../lib/clock.ts';
import { parseConfig, type Loaded } from '../../../lib/config/load.ts';
import { PenstockError } from '../../../lib/errors.ts';
import { tempDir } from '../../support/temp.ts';

const configOf = (to: string): Record<string, unknown> => ({ sources: [{ type: 'simulator', to }] });
const GOOD = { version: 'v1', config: configOf('good') };
const TRIED = { version: 'v2', config: configOf('tried') };

interface Opened {
  readonly path: string;
  readonly desired: DesiredConfig;
  readonly log: readonly string[];
  readonly state: () => unknown;
}

/** With this state on the disk, as an earlier process left it. */
async function open(state: unknown, control = 'control: { url: "http://127.0.0.1:9" }'): Promise<Opened> {
  const baseDir = tempDir();
  const path = join(baseDir, 'agent', 'desired.json');
  await mkdir(join(baseDir, 'agent'));
  writeFileSync(path, typeof state === 'string' ? state : JSON.stringify(state));
  const yaml = `agent: { id: edge-1, dataDir: ./agent }\n${control}\nlog: file:./log\nsources: [{ type: simulator, to: own }]\n`;
  const own: Loaded<AgentConfig> = {
    config: parseConfig(yaml, 'agent.yaml', agentSchema),
    path: 'agent.yaml',
    baseDir,
  };
  const log: string[] = [];
  const desired = await DesiredConfig.open(own, systemClock, (line) => log.push(line));
  return { path, desired, log, state: () => JSON.parse(readFileSync(path, 'utf8')) as unknown };
}

const topicOf = ({ config }: Loaded<AgentConfig>): string | undefined => config.sources[0]?.to;

test('what was good is run again; what is tried goes before it, and each start is on the disk before it happens', async () => {
  const good = await open({ good: GOOD, trying: null });
  expect(topicOf(await good.desired.choose())).toBe('good');
  expect(good.desired.status).toMatchObject({ version: 'v1', refused: null });
  const { desired, state } = await open({ good: GOOD, trying: { ...TRIED, starts: 0 } });
  const chosen = await desired.choose();
  expect([topicOf(chosen), chosen.config.agent.id, chosen.config.log]).toEqual(['tried', 'edge-1', 'file:./log']);
  expect(state()).toEqual({ good: GOOD, trying: { ...TRIED, starts: 1 } });
  // Ended in order: that says nothing against it.
  await desired.ended();
  expect(state()).toMatchObject({ trying: { starts: 0 } });
});

test('a configuration that the agent did not survive three times is refused, and the last good one is back', async () => {
  const { desired, state } = await open({ good: GOOD, trying: { ...TRIED, starts: 3 } });
  expect(topicOf(await desired.choose())).toBe('good');
  expect(desired.status?.refused).toEqual({
    version: 'v2',
    reason: expect.stringContaining('ended 3 times') as string,
  });
  expect(state()).toEqual({ good: GOOD, trying: null });
});

test('one that ends the agent with an error is refused with it; an error of what has proved itself is the agent’s own', async () => {
  const { desired, log } = await open({ good: GOOD, trying: { ...TRIED, starts: 0 } });
  await desired.choose();
  expect(await desired.failed(new PenstockError('held', 'another process has the spool'))).toBe(false);
  expect(await desired.failed(new PenstockError('config', 'no such broker'))).toBe(true);
  expect(topicOf(await desired.choose())).toBe('good');
  expect(desired.status).toMatchObject({ version: 'v1', refused: { version: 'v2', reason: 'no such broker' } });
  expect(log.join()).toContain('no such broker');
  expect(await desired.failed(new PenstockError('io', 'the disk is gone'))).toBe(false);
});

test('one that this agent does not know, or whose environment is missing, is refused by key; without anything good, agent.yaml is run', async () => {
  const unknown = { version: 'v3', config: { ...configOf('x'), speed: 3, agent: { id: 'other' } } };
  const { desired } = await open({ good: unknown, trying: null });
  expect(topicOf(await desired.choose())).toBe('own');
  const { refused, version } = desired.status ?? {};
  expect(version).toBeNull();
  expect(refused).toMatchObject({
    version: 'v3',
    reason: expect.stringContaining('agent: stays in agent.yaml') as string,
  });
  const referring = { version: 'v4', config: { ...configOf('x'), log: 'file:${PENSTOCK_TEST_LOG}' } };
  const missing = await open({ good: null, trying: { ...referring, starts: 0 } });
  expect(topicOf(await missing.desired.choose())).toBe('own');
  expect(missing.desired.status?.refused?.reason).toContain('PENSTOCK_TEST_LOG is not set');
  vi.stubEnv('PENSTOCK_TEST_LOG', '/elsewhere');
  const present = await open({ good: referring, trying: null });
  expect((await present.desired.choose()).config.log).toBe('file:/elsewhere');
  vi.unstubAllEnvs();
});

test('a damaged state is set aside by name; without a control plane in agent.yaml it is not looked at', async () => {
  const damaged = await open('{"good":');
  expect(topicOf(await damaged.desired.choose())).toBe('own');
  expect(readdirSync(join(damaged.path, '..'))).toEqual(['desired.json.corrupt-1']);
  expect(damaged.log.join()).toContain('desired.json.corrupt-1');
  const alone = await open({ good: GOOD, trying: null }, '');
  expect(topicOf(await alone.desired.choose())).toBe('own');
  expect(alone.desired.status).toBeUndefined();
});
